"""Scores a tracker on whole volumes: from the true mask on each object's key slice, both ways, with the usual rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...geometry import Geometry
from ...metrics import dice
from ...progress import Progress
from ...prompts import PLANES, Prompt, slices_first
from ...scores import CaseScore
from ...training_volumes import TrainingVolume
from .config import TrackingSettings
from .lesions import key_slice
from .rules import reach_of
from .tracking import Target, track

if TYPE_CHECKING:
    from ...backends.sam2 import Sam2Tracker

TITLE = "Cross-validation, tracked from the true mask on the key slice"
NOTE = (
    "Dice coefficient of each whole volume under the network that has not seen the case. Each piece of a region is "
    "tracked, up and down, from the reference's mask on the axial slice where it is largest; pieces too small "
    "to be objects are not tracked but count as missed. Mean over the cases that have the region in the last row."
)
_PLANE = "axial"


def tracked_mask(
    tracker: Sam2Tracker, volume: TrainingVolume, region: int, *, settings: TrackingSettings, progress: Progress
) -> NDArray[np.bool_] | None:
    """All objects of a region, each tracked from its true mask on its key slice.

    Args:
        tracker: to score.
        volume: with the reference.
        region: number of the region.
        settings: rules of the tracking.
        progress: may cancel.

    Returns:
        bool (z, y, x); None where the volume has no object of the region.
    """
    geometry = Geometry.axis_aligned(volume.shape_zyx, volume.spacing_zyx_mm)
    targets: list[Target] = []
    for item in volume.objects:
        if item.region == region:
            whole = item.inside(volume.shape_zyx)
            index = key_slice(whole, _PLANE)
            mask = np.ascontiguousarray(slices_first(whole, _PLANE)[index])
            prompt = Prompt(len(targets) + 1, _PLANE, index, mask=mask)
            sides = [(0, size) for size in volume.shape_zyx]
            sides[PLANES[_PLANE]] = (index, index + 1)
            extent = (sides[0], sides[1], sides[2])
            targets.append(Target(prompt, reach_of(extent, geometry, _PLANE, settings, from_prior=False)))
    if not targets:
        return None
    size = tracker.architecture.image_size
    listening = Progress(lambda _update: progress.check())
    found = track(
        tracker, volume.pictures, geometry, targets, image_size=size, settings=settings, progress=listening
    )
    return np.asarray(found.owner > 0)


def score_volumes(
    tracker: Sam2Tracker,
    volumes: Sequence[TrainingVolume],
    regions: Mapping[int, str],
    *,
    fold: int,
    progress: Progress,
) -> list[CaseScore]:
    """Track every region of some volumes.

    Args:
        tracker: to score.
        volumes: that it has not seen.
        regions: number → name of those to score.
        fold: for the table.
        progress: may cancel.
    """
    scores = []
    for volume in volumes:
        found: dict[str, float | None] = {}
        for number, name in regions.items():
            mask = tracked_mask(tracker, volume, number, settings=TrackingSettings(), progress=progress)
            found[name] = None if mask is None else dice(mask, volume.truth[number])
        scores.append(CaseScore(volume.case_id, fold, found))
    return scores
