"""Arrays and segmentations moved from one grid to another."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import GeometryError
from .geometry import Geometry
from .image import Segmentation
from .itk import image_of, simpleitk

MINIMUM_OVERLAP: Final = 0.25
"""Smallest share of a grid that another image must cover to be resampled onto it; with less it shows something else."""


def resample_channel(
    array_zyx: NDArray[np.float32], source: Geometry, target: Geometry, *, name: str, target_name: str
) -> tuple[NDArray[np.float32], str]:
    """Bring one channel onto another grid: untouched, with its axes reordered, or linearly interpolated.

    Args:
        array_zyx: float32 (z, y, x) on `source`.
        source: its grid.
        target: the grid wanted.
        name: of the channel, for the message.
        target_name: of the channel that has the target grid, for the message.

    Returns:
        float32 (z, y, x) on `target`, 0 where `source` has no voxel; and what was done in words, "" for nothing.

    Raises:
        GeometryError: where the source covers less than `MINIMUM_OVERLAP` of the target.
    """
    if source.is_same_grid(target):
        return array_zyx, ""
    reordered, order = source.reoriented(target.orientation)
    if reordered.is_same_grid(target):
        action = f"{name}: axes reordered from {source.orientation} to {target.orientation}, the order of {target_name}"
        return np.ascontiguousarray(order.apply(array_zyx)), action
    share = target.overlap_fraction(source)
    if share < MINIMUM_OVERLAP:
        raise GeometryError(
            f"{name} covers only {share:.0%} of the grid of {target_name} (at least {MINIMUM_OVERLAP:.0%} is needed): "
            f"{source.difference(target)}. Check that both are of the same examination, or choose another reference "
            "modality."
        )
    action = f"{name}: resampled linearly onto the grid of {target_name} ({source.difference(target)})"
    if share < 1:
        action += f"; it covers {share:.0%} of that grid, the rest is 0"
    return _resampled(array_zyx, source, target, simpleitk().sitkLinear), action


def resample_segmentation(segmentation: Segmentation, target: Geometry) -> Segmentation:
    """The segmentation on another grid by nearest neighbour; 0 outside its own. Exact between grids of one lattice."""
    if segmentation.geometry.is_same_grid(target):
        return segmentation
    label_map = _resampled(segmentation.label_map, segmentation.geometry, target, simpleitk().sitkNearestNeighbor)
    return Segmentation(target, segmentation.scheme, label_map, segmentation.name, segmentation.record)


def _resampled(array_zyx: NDArray[Any], source: Geometry, target: Geometry, interpolator: int) -> NDArray[Any]:
    sitk = simpleitk()
    grid = sitk.Image(target.size_ijk, sitk.sitkUInt8)
    grid.SetSpacing(target.spacing_ijk_mm)
    grid.SetOrigin(target.origin_lps_mm)
    grid.SetDirection(target.direction_lps.ravel().tolist())
    moved = sitk.Resample(image_of(array_zyx, source), grid, sitk.Transform(), interpolator, 0.0)
    array: NDArray[Any] = sitk.GetArrayFromImage(moved)
    return array
