"""Removes stray components from a label map of nested regions, as the settings of a model ask for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...components import keep_largest as largest_component
from ...components import remove_small
from ...labels import LabelScheme


def clean_up(
    label_map: NDArray[np.unsignedinteger[Any]],
    scheme: LabelScheme,
    spacing_zyx_mm: tuple[float, float, float],
    *,
    minimum_volume_mm3: Mapping[str, float],
    keep_largest: Collection[str] = (),
) -> tuple[NDArray[np.unsignedinteger[Any]], dict[str, int]]:
    """Remove small components of the regions that are named.

    Where a voxel leaves a region, it takes the label of the smallest region that still holds it, or background; regions
    are worked on from the largest set of labels to the smallest, so that what lay inside a removed part goes with it.

    Args:
        label_map: unsigned integer (z, y, x); not changed.
        scheme: what its values mean.
        spacing_zyx_mm: spacing of voxel centres.
        minimum_volume_mm3: region → volume of the smallest component that stays.
        keep_largest: regions of which only the largest component stays.

    Returns:
        The cleaned label map, and how many voxels each named region lost.
    """
    removed: dict[str, int] = {}
    named = set(minimum_volume_mm3) | set(keep_largest)
    for region in sorted(scheme.regions, key=lambda r: -len(r.labels)):
        if region.name not in named:
            continue
        mask = np.isin(label_map, region.labels)
        kept = mask
        if region.name in minimum_volume_mm3:
            kept = remove_small(kept, spacing_zyx_mm, min_volume_mm3=minimum_volume_mm3[region.name])
        if region.name in keep_largest:
            kept = largest_component(kept)
        lost = mask & ~kept
        removed[region.name] = int(np.count_nonzero(lost))
        if removed[region.name]:
            label_map = label_map.copy()
            label_map[lost] = _label_outside(scheme, region.labels)
    return label_map, removed


def _label_outside(scheme: LabelScheme, labels: tuple[int, ...]) -> int:
    """The label for voxels that leave a region: one that belongs to the next larger region only, else 0."""
    larger = [r for r in scheme.regions if set(r.labels) > set(labels)]
    if not larger:
        return 0
    nearest = min(larger, key=lambda r: len(r.labels))
    return min(set(nearest.labels) - set(labels))
