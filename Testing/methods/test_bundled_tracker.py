"""The tracker that ships, on synthetic cases that it has not seen: it follows what the prompt shows, and stops."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.intensity import windowed
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.lesions import key_slice
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracker import Tracker, load_tracker
from BrainSegSAMLib.methods.ssnet.tracking import Target, Tracked, track
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.models.catalogue import find_model
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.phantom import ORIGIN_LPS_MM, make_phantom
from BrainSegSAMLib.prompts import Prompt
from Testing.synthetic_lesions import disc, moving_branching_ending, on, pictured, slices_of

pytest.importorskip("sam2")

SEED = 900
BoolArray = NDArray[np.bool_]


@cache
def tracker() -> Tracker:
    return load_tracker(load_model(find_model("glioma-sam2-tiny")), device="cpu", trust=False)


@cache
def case() -> tuple[Geometry, NDArray[np.uint8], BoolArray]:
    made = make_phantom(SEED)
    geometry, order = Geometry.axis_aligned(made.labels.shape, made.spacing_zyx_mm, ORIGIN_LPS_MM).reoriented("LPS")
    channels = {name: order.apply(array) for name, array in made.channels.items()}
    picture = windowed(channels, tracker().model.modalities, lower=tracker().lower, upper=tracker().upper)
    return geometry, picture, order.apply(made.labels) > 0


def follow(
    picture: NDArray[np.uint8], geometry: Geometry, prompts: list[Prompt], settings: TrackingSettings
) -> Tracked:
    targets = []
    for prompt in prompts:
        extent = prompt_extent(prompt, geometry)
        targets.append(Target(prompt, reach_of(extent, geometry, prompt.plane, settings, from_prior=False)))
    return track(tracker().network, picture, geometry, targets, image_size=tracker().image_size, settings=settings)


def followed(index: int, mask: BoolArray, settings: TrackingSettings) -> Tracked:
    geometry, picture, _ = case()
    return follow(picture, geometry, [Prompt(1, "axial", index, mask=mask)], settings)


def followed_in(truth: NDArray[Any], prompts: list[Prompt]) -> Tracked:
    return follow(pictured(truth), Geometry.axis_aligned(truth.shape), prompts, TrackingSettings())


def test_a_lesion_is_found_again_from_one_slice() -> None:
    _, _, lesion = case()
    index = key_slice(lesion, "axial")
    found = followed(index, lesion[index], TrackingSettings()).owner > 0
    assert dice(found, lesion) > 0.7
    slices = np.flatnonzero(found.any(axis=(1, 2)))
    assert slices[-1] - slices[0] < 1.5 * np.count_nonzero(lesion.any(axis=(1, 2))), "it does not run on and on"


def test_it_follows_what_the_prompt_shows_not_what_catches_the_eye() -> None:
    """A disc in healthy tissue, beside the lesion: the next slices must show the disc."""
    _, picture, lesion = case()
    index = key_slice(lesion, "axial")
    rows, columns = np.indices(lesion.shape[1:])
    brain = (picture[:, index] > 0).all(axis=0)
    column = columns[brain].min() + columns[brain].max() - columns[lesion[index]].mean()  # in the other half
    drawn = (rows - rows[lesion[index]].mean()) ** 2 + (columns - column) ** 2 < 14**2
    assert not (drawn & lesion[index]).any()
    tracked = followed(index, drawn, TrackingSettings(range_mm=2.0, stop_rules=False, drop_detached=False))
    for neighbour in (index - 1, index + 1):
        found = tracked.owner[neighbour] > 0
        assert dice(found, drawn) > 0.5
        assert np.count_nonzero(found & lesion[neighbour]) < 0.1 * np.count_nonzero(lesion[neighbour])


def enlarged() -> BoolArray:
    """The moving, branching, ending object on slices of 144×168 pixels: it is on slices 6 to 30."""
    return np.kron(moving_branching_ending(), np.ones((1, 3, 3), dtype=bool))


@pytest.mark.parametrize("key", [8, 15, 22])
def test_a_moving_branching_ending_object_is_followed_and_stopped(key: int) -> None:
    truth = enlarged()
    found = followed_in(truth, [on(truth, key)]).owner == 1
    slices = slices_of(found)
    assert 5 <= min(slices) <= 8
    assert 26 <= max(slices) <= 31, "at most one slice beyond the object's end"
    assert dice(found, truth) > 0.75
    np.testing.assert_array_equal(found[key], truth[key])


@pytest.mark.parametrize("index", [0, 20, 39])
def test_a_lesion_of_one_slice_returns_itself(index: int) -> None:
    truth = np.zeros_like(enlarged())
    truth[index] = enlarged()[15]
    np.testing.assert_array_equal(followed_in(truth, [on(truth, index)]).owner == 1, truth)


def test_lesions_that_share_slices_do_not_merge() -> None:
    shape = enlarged().shape
    truth = np.zeros(shape, dtype=np.uint8)
    truth[8:20] = disc(60, 60, 18, shape[1:])
    truth[12:26][:, disc(60, 97, 18, shape[1:])] = 2  # a pixel apart
    tracked = followed_in(truth, [on(truth, 14, number=number) for number in (1, 2)])
    for number in (1, 2):
        assert dice(tracked.owner == number, truth == number) > 0.9
        np.testing.assert_array_equal(tracked.owner[14] == number, truth[14] == number)
        assert not ((tracked.owner == number) & (truth == 3 - number)).any()


def test_it_is_small_enough_to_be_bundled() -> None:
    assert sum(file.stat().st_size for file in tracker().model.folder.iterdir()) <= 10_000_000
