"""Connected components of masks, and what a user wants to know of each region: volume, pieces, largest diameter.

Voxels that touch at a face, an edge or a corner belong together (26 neighbours): a thin oblique sheet of tumour is one
piece, as a reader of the images would say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image import Segmentation

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class RegionStatistics:
    """Measures of one region.

    Attributes:
        volume_ml: volume in millilitres.
        voxels: number of voxels.
        components: number of 26-connected pieces.
        largest_diameter_mm: largest distance between the centres of two voxels of the same piece, over all pieces
            (the three-dimensional Feret diameter of the longest piece); 0 for single voxels and for an empty region.
    """

    volume_ml: float
    voxels: int
    components: int
    largest_diameter_mm: float


def label_components(mask: BoolArray) -> tuple[NDArray[np.int32], int]:
    """Number the 26-connected pieces of a bool mask (z, y, x): (int32 map with 0 for background, how many)."""
    from scipy import ndimage

    labels = np.zeros(mask.shape, dtype=np.int32)
    count = int(ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool), output=labels))
    return labels, count


def keep_largest(mask: BoolArray) -> BoolArray:
    """The piece with the most voxels (the first in memory of several equal ones); an empty mask stays empty."""
    labels, count = label_components(mask)
    if count < 2:
        return np.array(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: BoolArray = labels == int(sizes.argmax())
    return largest


def remove_small(mask: BoolArray, spacing_zyx_mm: tuple[float, float, float], *, min_volume_mm3: float) -> BoolArray:
    """Only the pieces of at least `min_volume_mm3`.

    Args:
        mask: bool (z, y, x).
        spacing_zyx_mm: spacing of voxel centres.
        min_volume_mm3: smallest volume that stays; 0 keeps everything.
    """
    labels, _ = label_components(mask)
    sizes = np.bincount(labels.ravel())
    # Half a part in 10⁹: a piece of exactly the given volume stays in spite of rounding.
    keep = sizes * float(np.prod(spacing_zyx_mm)) >= min_volume_mm3 * (1 - 5e-10)
    keep[0] = False
    kept: BoolArray = keep[labels]
    return kept


def region_statistics(mask: BoolArray, spacing_zyx_mm: tuple[float, float, float]) -> RegionStatistics:
    """Measures of one bool mask (z, y, x)."""
    labels, count = label_components(mask)
    voxels = int(np.count_nonzero(mask))
    volume_ml = voxels * float(np.prod(spacing_zyx_mm)) / 1000.0
    return RegionStatistics(volume_ml, voxels, count, _largest_diameter_mm(labels, spacing_zyx_mm))


def statistics(segmentation: Segmentation) -> dict[str, RegionStatistics]:
    """Measures of every region by name, in the order of the scheme; regions without a voxel included."""
    spacing = segmentation.geometry.spacing_zyx_mm
    return {region.name: region_statistics(mask, spacing) for region, mask in segmentation.masks()}


def as_rows(statistics_by_region: Mapping[str, RegionStatistics]) -> list[dict[str, Any]]:
    """One plain dictionary a region, with the key `region` first: for tables, CSV and JSON."""
    return [{"region": name, **asdict(measures)} for name, measures in statistics_by_region.items()]


def _largest_diameter_mm(labels: NDArray[np.int32], spacing_zyx_mm: tuple[float, float, float]) -> float:
    """Pieces are taken by the diagonal of their box, longest first, until no box can hold a longer diameter."""
    from scipy import ndimage

    spacing = np.asarray(spacing_zyx_mm)
    boxes = [(index + 1, box) for index, box in enumerate(ndimage.find_objects(labels)) if box is not None]
    diagonals = [float(np.linalg.norm([(s.stop - s.start - 1) * d for s, d in zip(box, spacing, strict=True)]))
                 for _, box in boxes]
    largest = 0.0
    for position in np.argsort(diagonals)[::-1]:
        if diagonals[position] <= largest:
            break
        index, box = boxes[position]
        largest = max(largest, _diameter(_row_ends(labels[box] == index) * spacing))
    return largest


def _row_ends(mask: BoolArray) -> NDArray[np.intp]:
    """First and last voxel of every row along x, (n, 3) zyx indices: all vertices of the convex hull are among them."""
    rows = mask.any(axis=2)
    z, y = np.nonzero(rows)
    first = mask.argmax(axis=2)[z, y]
    last = mask.shape[2] - 1 - mask[:, :, ::-1].argmax(axis=2)[z, y]
    return np.concatenate([np.stack([z, y, first], axis=1), np.stack([z, y, last], axis=1)])


def _diameter(points_mm: NDArray[np.float64]) -> float:
    """Largest distance between any two of several points, (n, 3): that between two vertices of their convex hull."""
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    centred = points_mm - points_mm.mean(axis=0)
    # Qhull refuses flat sets, so flat and straight pieces are measured in their own plane or line.
    _, extent, axes = np.linalg.svd(centred, full_matrices=False)
    dimensions = int(np.count_nonzero(extent > 1e-9 * extent[0]))
    inside = centred @ axes[:dimensions].T
    if dimensions == 1:
        return float(np.ptp(inside))
    return float(pdist(points_mm[ConvexHull(inside).vertices]).max())
