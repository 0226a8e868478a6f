"""The tracker that ships, on a synthetic case that it has not seen: it follows what the prompt shows, and stops."""

from __future__ import annotations

from functools import cache

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


def followed(index: int, mask: BoolArray, settings: TrackingSettings) -> Tracked:
    geometry, picture, _ = case()
    prompt = Prompt(1, "axial", index, mask=mask)
    reach = reach_of(prompt_extent(prompt, geometry), geometry, "axial", settings, from_prior=False)
    return track(
        tracker().network, picture, geometry, [Target(prompt, reach)], image_size=tracker().image_size,
        settings=settings,
    )  # fmt: skip


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
    disc = (rows - rows[lesion[index]].mean()) ** 2 + (columns - column) ** 2 < 14**2
    assert not (disc & lesion[index]).any()
    tracked = followed(index, disc, TrackingSettings(range_mm=2.0, stop_rules=False, drop_detached=False))
    for neighbour in (index - 1, index + 1):
        found = tracked.owner[neighbour] > 0
        assert dice(found, disc) > 0.5
        assert np.count_nonzero(found & lesion[neighbour]) < 0.1 * np.count_nonzero(lesion[neighbour])
