"""Tracks as the worker gives them to the effect: slice by slice, corrected, stopped, cancelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.errors import Cancelled
from BrainSegSAMLib.interactive import images, track
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracker import load_tracker
from BrainSegSAMLib.methods.ssnet.tracking import Target
from BrainSegSAMLib.methods.ssnet.tracking import track as follow
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.prompts import Prompt
from Testing.interactive_bench import (
    Bench,
    make_bench,
    tracked,
    upright,
)


@pytest.fixture
def bench() -> Bench:
    return make_bench()


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


def test_a_track_is_cancelled_and_can_be_asked_for_again(bench: Bench, random_tracker: Path) -> None:
    pytest.importorskip("sam2")
    context = bench.fresh()
    send = bench.sent.append
    context._send = lambda message: (send(message), context.progress.cancel() if bench.partials else None)[0]
    with pytest.raises(Cancelled):
        track(tracked(random_tracker), context)
    assert len(bench.partials) < 6
    assert track(tracked(random_tracker), bench.fresh())["mask"].any()
