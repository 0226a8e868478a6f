"""The default rules on real lesions: what stops a runaway track must not stop a good one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.backends.sam2_session import Seed, Step
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.lesions import find_lesions
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracking import Target, track
from BrainSegSAMLib.prompts import Prompt
from BrainSegSAMLib.segmentation_files import read_segmentation


class Perfect:
    """A tracker that gives each lesion's true mask: whatever is lost, the rules took away."""

    def __init__(self, labels: NDArray[np.int32]) -> None:
        self.labels = labels

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def encode(self, frames: NDArray[np.uint8], **_: Any) -> Perfect:
        return self

    def begin(self, _: object, seeds: Sequence[Seed]) -> PerfectSession:
        return PerfectSession(self.labels, seeds)


class PerfectSession:
    def __init__(self, labels: NDArray[np.int32], seeds: Sequence[Seed]) -> None:
        self.labels, self.seeds, self.offset = labels, seeds, 0
        self.alive = set(range(len(seeds)))

    def stop(self, track: int) -> None:
        self.alive.discard(track)

    def step(self) -> list[Step]:
        steps = []
        for number in sorted(self.alive):
            seed = self.seeds[number]
            index = seed.slice_index + self.offset * seed.direction
            if not 0 <= index < len(self.labels):
                self.alive.discard(number)
                continue
            assert seed.mask is not None
            value = self.labels[seed.slice_index][seed.mask][0]
            mask = self.labels[index] == value
            logits = np.where(mask, 5.0, -5.0).astype(np.float32)
            steps.append(Step(number, index, logits, 5.0 if mask.any() else -5.0))
        self.offset += 1
        return steps


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("glioma/BraTS2021_01482/*seg*", 0.995),
        ("stroke/sub-strokecase0009/**/*msk*", 0.995),
        pytest.param("ms/patient07/**/*GOLD*", 0.985, marks=pytest.mark.slow),
    ],
)
def test_a_perfect_track_is_not_stopped(shared_data: Path, pattern: str, least: float) -> None:
    reference = read_segmentation(next(iter(shared_data.glob(pattern))))
    geometry, order = reference.geometry.reoriented("LPS")
    truth = np.ascontiguousarray(order.apply(reference.label_map > 0))
    labels, found = find_lesions(truth, geometry.spacing_zyx_mm, plane="axial", minimum_volume_mm3=10.0)
    lesions = [lesion for lesion in found if lesion.tracked]
    settings = TrackingSettings(zoom_pixels=None)
    targets = []
    for lesion in lesions:
        prompt = Prompt(lesion.number, "axial", lesion.key_index, mask=labels[lesion.key_index] == lesion.number)
        reach = reach_of(prompt_extent(prompt, geometry), geometry, "axial", settings, from_prior=False)
        targets.append(Target(prompt, reach))
    picture = np.zeros((3, *truth.shape), dtype=np.uint8)
    tracked = track(Perfect(labels), picture, geometry, targets, image_size=256, settings=settings)
    expected = np.isin(labels, [lesion.number for lesion in lesions])
    shared = np.count_nonzero((tracked.owner > 0) & expected)
    dice = 2 * shared / (np.count_nonzero(tracked.owner) + np.count_nonzero(expected))
    assert dice > least, "rules take little from a perfect track"
    early = {firing.rule for firing in tracked.firings if firing.stopped} - {"empty"}
    assert early == set(), "and end it nowhere before its end"
