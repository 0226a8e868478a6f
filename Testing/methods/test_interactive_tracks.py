"""Tracks as the worker gives them to the effect: slice by slice, corrected, stopped, cancelled."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.backends.slice_features import SliceFeatures
from BrainSegSAMLib.errors import Cancelled
from BrainSegSAMLib.interactive import images, track
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracker import load_tracker
from BrainSegSAMLib.methods.ssnet.tracking import Target
from BrainSegSAMLib.methods.ssnet.tracking import track as follow
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.prompts import Prompt
from BrainSegSAMLib.worker import Context
from Testing.interactive_bench import (
    GRID,
    Bench,
    load,
    make_bench,
    tracked,
    upright,
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = make_bench()
    yield made
    made.warm.drop("tracks")


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many slices each pass of the tracker's encoder had."""
    from BrainSegSAMLib.backends.sam2_forward import Sam2Forward

    passes: list[int] = []
    encode = Sam2Forward.encode_slices

    def counted(self: Sam2Forward, frames: NDArray[np.uint8]) -> Any:
        passes.append(len(frames))
        return encode(self, frames)

    monkeypatch.setattr(Sam2Forward, "encode_slices", counted)
    return passes


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[SliceFeatures[Any]]]:
    """Gives the stores of features that are still there, in the order in which they were made."""
    made: list[weakref.ref[SliceFeatures[Any]]] = []
    begin = SliceFeatures.__init__

    def noted(self: SliceFeatures[Any], *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        made.append(weakref.ref(self))

    def there() -> list[SliceFeatures[Any]]:
        gc.collect()
        return [store for reference in made if (store := reference()) is not None]

    monkeypatch.setattr(SliceFeatures, "__init__", noted)
    return there


def cancelling(bench: Bench) -> Context:
    """A context whose work is cancelled once two slices have come."""
    context = bench.fresh()
    send = bench.sent.append
    context._send = lambda message: (send(message), context.progress.cancel() if len(bench.partials) > 1 else None)[0]
    return context


def test_a_track_comes_slice_by_slice(bench: Bench, random_tracker: Path) -> None:
    """And is what the library's own call gives."""
    pytest.importorskip("sam2")
    settings = TrackingSettings(stop_rules=False, zoom_pixels=None, range_mm=6.0)
    request = tracked(random_tracker, settings={"range_mm": 6.0})
    answer = track(request, bench.fresh())
    geometry = upright()[0]
    tracker = load_tracker(load_model(random_tracker), device="cpu", trust=False, precision="auto")
    network = images.KeptNetwork(("other",), tracker)
    prompt = Prompt(1, "axial", 14, mask=request["mask"])
    expected = follow(
        tracker.network,
        images.kept_picture(bench.warm.find("image", "one"), network, bench.context),
        geometry,
        [Target(prompt, reach_of(prompt_extent(prompt, geometry), geometry, "axial", settings, from_prior=False))],
        image_size=tracker.image_size,
        settings=settings,
    ).owner > 0  # fmt: skip
    found = np.zeros_like(expected)
    found[answer["start"] : answer["start"] + len(answer["mask"])] = answer["mask"]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found[14], request["mask"])
    partials = {one["index"]: one["mask"] for one in bench.partials}
    assert {index for index in partials if index != 14} == set(range(10, 19)) - {14}
    for index, mask in partials.items():
        if index != 14:
            np.testing.assert_array_equal(mask, expected[index])


@pytest.mark.parametrize("zoom_pixels", [None, 48])
def test_a_correction_encodes_nothing_again(
    bench: Bench, random_tracker: Path, followed: list[int], zoom_pixels: int | None
) -> None:
    """Neither in the whole head nor in the crop of a small object, whatever the corrected mask's size."""
    pytest.importorskip("sam2")
    first = tracked(random_tracker, settings={"zoom_pixels": zoom_pixels, "zoom_minimum_mm": 20.0})
    track(first, bench.fresh())
    assert sum(followed) > 0
    followed.clear()
    corrected = first["mask"].copy()
    corrected[:, : int(np.nonzero(corrected.any(axis=0))[0].mean())] = False
    settings = {**first["settings"], "direction": "forward"}
    answer = track({**first, "index": 17, "mask": corrected, "again": True, "settings": settings}, bench.fresh())
    assert followed == []
    assert answer["start"] == 17
    np.testing.assert_array_equal(answer["mask"][0], corrected)
    assert {one["index"] for one in bench.partials} <= set(range(17, 30))


def test_stops_are_told(bench: Bench, random_tracker: Path) -> None:
    pytest.importorskip("sam2")
    request = tracked(random_tracker, settings={"stop_rules": True, "object_score": 1e9, "empty_slices": 1})
    answer = track(request, bench.fresh())
    assert [(stop["rule"], stop["slice_index"], stop["direction"]) for stop in answer["stops"]] == [
        ("empty", 13, -1), ("empty", 15, 1)
    ]  # fmt: skip
    assert (answer["start"], len(answer["mask"])) == (14, 1)


def test_memory_budget_and_batch_size_are_the_requests(
    bench: Bench, random_tracker: Path, followed: list[int], stores: Callable[[], list[SliceFeatures[Any]]]
) -> None:
    pytest.importorskip("sam2")
    track(tracked(random_tracker), bench.fresh())
    (generous,) = stores()
    assert generous.bytes_on_disk == 0
    del generous
    followed.clear()
    track(tracked(random_tracker, settings={"memory_budget_mib": 0, "batch_size": 1}), bench.fresh())
    assert set(followed) == {1}
    (narrow,) = stores()
    assert narrow.bytes_in_memory == narrow.bytes_per_slice
    assert narrow.bytes_on_disk > 0


def test_a_cancelled_track_frees_what_it_began_and_leaves_what_was_whole(
    bench: Bench, random_tracker: Path, stores: Callable[[], list[SliceFeatures[Any]]]
) -> None:
    pytest.importorskip("sam2")
    with pytest.raises(Cancelled):
        track(tracked(random_tracker), cancelling(bench))
    assert stores() == []
    track(tracked(random_tracker), bench.fresh())
    (whole,) = stores()
    with pytest.raises(Cancelled):
        track(tracked(random_tracker, settings={"zoom_pixels": 48, "zoom_minimum_mm": 20.0}), cancelling(bench))
    assert stores() == [whole]
    with pytest.raises(Cancelled):
        track(tracked(random_tracker), cancelling(bench))
    assert stores() == [whole]
    assert whole.bytes_in_memory > 0


def test_another_volume_frees_all(
    bench: Bench, random_tracker: Path, stores: Callable[[], list[SliceFeatures[Any]]]
) -> None:
    pytest.importorskip("sam2")
    track(tracked(random_tracker), bench.fresh())
    assert len(stores()) == 1
    again = {"flair": np.asarray(bench.warm.find("image", "one").image.channels["flair"])}
    load(bench, "one", again)
    assert len(stores()) == 1, "it is the same"
    load(bench, "two", {"flair": np.ones(GRID.shape_zyx, np.float32)})
    assert stores() == []


def test_while_nothing_is_asked_for_the_memory_is_free_and_yet_nothing_is_encoded_again(
    bench: Bench,
    random_tracker: Path,
    followed: list[int],
    stores: Callable[[], list[SliceFeatures[Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("sam2")
    expected = track(tracked(random_tracker), bench.fresh())["mask"]
    (store,) = stores()
    bench.warm.rest()
    assert store.bytes_in_memory == 0
    assert store.bytes_on_disk > 0
    followed.clear()
    np.testing.assert_array_equal(track(tracked(random_tracker), bench.fresh())["mask"], expected)
    assert followed == []
    del store

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    track(tracked(random_tracker, settings={"batch_size": 2}), bench.fresh())
    bench.warm.rest()
    assert stores() == [], "where there is no room for the file, they go"
    np.testing.assert_array_equal(track(tracked(random_tracker), bench.fresh())["mask"], expected)


def test_a_track_is_cancelled_and_can_be_asked_for_again(bench: Bench, random_tracker: Path) -> None:
    pytest.importorskip("sam2")
    with pytest.raises(Cancelled):
        track(tracked(random_tracker), cancelling(bench))
    assert len(bench.partials) < 6
    assert track(tracked(random_tracker), bench.fresh())["mask"].any()
