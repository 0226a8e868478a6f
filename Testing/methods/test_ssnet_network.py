"""Objects followed through volumes by a SAM 2 network: how the driver shows it slices, and keeps their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.backends import sam2_session
from BrainSegSAMLib.backends.sam2_session import Seed
from BrainSegSAMLib.backends.slice_features import SliceFeatures
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.encoded import EncodedSlices
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracker import Tracker, load_tracker
from BrainSegSAMLib.methods.ssnet.tracking import ABSENT, Target, Tracked, track
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.prompts import Prompt
from Testing.synthetic_lesions import (
    SHAPE,
    Volume,
    moving_branching_ending,
    on,
    pictured,
)


@pytest.fixture(scope="module")
def sam2(random_tracker: Path) -> Tracker:
    return load_tracker(load_model(random_tracker), device="cpu", trust=False)


def followed(sam2: Tracker, picture: Volume, prompt: Prompt, **settings: Any) -> Tracked:
    grid = Geometry.axis_aligned(picture.shape[1:])  # type: ignore[arg-type]
    chosen = TrackingSettings(**{"stop_rules": False, "range_mm": 6.0, **settings})
    target = Target(prompt, reach_of(prompt_extent(prompt, grid), grid, "axial", chosen, from_prior=False))
    return track(sam2.network, picture, grid, [target], image_size=sam2.image_size, settings=chosen)


def test_a_networks_directions_are_independent_and_flip_with_the_volume(sam2: Tracker) -> None:
    truth = moving_branching_ending()
    picture = pictured(truth)
    both = followed(sam2, picture, on(truth, 15))
    tracked = np.flatnonzero((both.logits != ABSENT).any(axis=(1, 2)))
    assert list(tracked) == list(range(9, 22))
    for direction, slices in (("forward", slice(16, 22)), ("backward", slice(9, 15))):
        alone = followed(sam2, picture, on(truth, 15), direction=direction)
        np.testing.assert_allclose(alone.logits[slices], both.logits[slices], atol=1e-3)
    flipped = followed(sam2, np.ascontiguousarray(picture[:, ::-1]), on(truth[::-1], 39 - 15))
    np.testing.assert_allclose(flipped.logits[::-1], both.logits, atol=1e-3)


def test_a_prompt_is_computed_once_for_both_directions(sam2: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Seed] = []
    original = sam2_session.Session._prompt

    def counting(self: sam2_session.Session, seed: Seed) -> Any:
        computed.append(seed)
        return original(self, seed)

    monkeypatch.setattr(sam2_session.Session, "_prompt", counting)
    truth = moving_branching_ending()
    followed(sam2, pictured(truth), on(truth, 15), range_mm=1.0)
    assert len(computed) == 1


def test_the_memory_budget_holds_for_all_planes_together(sam2: Tracker) -> None:
    picture = pictured(moving_branching_ending())
    progress, part = Progress(), (slice(0, 20), slice(0, 20))
    with EncodedSlices(sam2.network, picture, TrackingSettings(memory_budget_mib=0)) as encoded:
        with encoded.features("axial", part, progress, keep=True) as axial:
            before = [level.clone() for level in axial.gather([3, 4])]
        assert axial.bytes_in_memory > 0
        with encoded.features("coronal", part, progress, keep=True):
            assert axial.bytes_in_memory == 0
        with encoded.features("axial", part, progress, keep=True) as again:
            assert again is axial
            for one, other in zip(before, again.gather([3, 4]), strict=True):
                np.testing.assert_array_equal(one, other)
        with encoded.features("axial", (slice(0, 9), slice(0, 9)), progress, keep=False):
            assert axial.bytes_in_memory == 0


@pytest.mark.parametrize("kept", [True, False])
def test_many_small_lesions_keep_to_the_memory_budget(
    sam2: Tracker, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Each has features of its own, of all slices: together more than twice the budget; the rest is in files."""
    truth = np.zeros(SHAPE, dtype=np.uint8)
    prompts = []
    for number in range(1, 13):
        row, column = 6 + 12 * ((number - 1) // 4), 6 + 12 * ((number - 1) % 4)
        truth[18:22, row : row + 3, column : column + 3] = number
        prompts.append(on(truth, 20, number=number))
    stores: list[SliceFeatures[Any]] = []
    most = [0, 0]
    gather = SliceFeatures.gather

    def noted(self: SliceFeatures[Any], indices: Sequence[int]) -> Any:
        stores.extend([] if self in stores else [self])
        found = gather(self, indices)
        for place, now in enumerate(("bytes_in_memory", "bytes_on_disk")):
            most[place] = max(most[place], sum(getattr(store, now) for store in stores))
        return found

    monkeypatch.setattr(SliceFeatures, "gather", noted)
    settings = TrackingSettings(stop_rules=False, zoom_minimum_mm=12.0, memory_budget_mib=1)
    grid = Geometry.axis_aligned(SHAPE)
    targets = [Target(one, reach_of(prompt_extent(one, grid), grid, "axial", settings, from_prior=False))
               for one in prompts]  # fmt: skip

    def tracked(settings: TrackingSettings) -> Tracked:
        with EncodedSlices(sam2.network, pictured(truth), settings, keep_crops=kept) as encoded:
            return track(
                sam2.network, pictured(truth), grid, targets, image_size=sam2.image_size, settings=settings,
                encoded=encoded,
            )  # fmt: skip

    found = tracked(settings)
    assert found.zoomed == tuple(range(1, 13))
    assert len(stores) == 12
    assert 0 < most[0] <= 2**20
    assert (most[1] > 2**20) is kept, "those of one lesion alone fit"
    np.testing.assert_array_equal(tracked(replace(settings, memory_budget_mib=64)).owner, found.owner)


def test_a_network_sees_a_small_object_enlarged(sam2: Tracker) -> None:
    truth = np.zeros(SHAPE, dtype=bool)
    truth[10:14, 20:23, 30:33] = True
    found = followed(sam2, pictured(truth), on(truth, 11), zoom_minimum_mm=12.0)
    assert found.zoomed == (1,)
    np.testing.assert_array_equal(found.owner[11] == 1, truth[11])
    rows, columns = np.nonzero(found.logits[12] != ABSENT)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (12, 12)
