"""How far apart the surfaces of two masks are: Hausdorff distances, mean distances and the surface Dice.

Two discretisations of a surface are in use, and each metric is computed on that of its source:

* *border voxels*, those of a mask that have a face in common with what is outside (voxels at the edge of the grid
  have), for Hausdorff and mean distances, as in MONAI and medpy; distances are between voxel centres, each voxel
  counts alike;
* *surface elements*, one at each corner where eight voxels meet and are not all alike, with the area of the marching
  cubes' surface there, for the surface Dice of Nikolov et al. 2021. Of two surfaces that marching cubes could draw
  through the same corner (of the eight voxels, or of their complement), the smaller one counts; so the area is the same
  after any flip or permutation of axes, and equals that of DeepMind's table.

On voxels of very different spacings the first counts surfaces across the short axes more; the second does not.

Nearest voxels are found with a k-d tree of the border, not with a distance transform of the volume: there are tens of
thousands of border voxels in millions. Those that both borders share are at distance 0 and are not looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Spacing = tuple[float, float, float]

# Distances are sums of rounded products; one that is exactly the tolerance must not fall out for the last bit.
_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class BorderDistances:
    """Distances between the borders of two masks that both have voxels.

    Attributes:
        from_reference: mm, of each border voxel of the reference to the nearest of the prediction.
        from_prediction: mm, the other way.
    """

    from_reference: FloatArray
    from_prediction: FloatArray

    @property
    def hausdorff(self) -> float:
        """The longest of all distances."""
        return float(max(self.from_reference.max(), self.from_prediction.max()))

    @property
    def hausdorff_95(self) -> float:
        """The 95th percentile of each direction (interpolated linearly), the larger of the two.

        medpy takes the percentile of both directions together, which is another number.
        """
        return float(max(np.percentile(self.from_reference, 95), np.percentile(self.from_prediction, 95)))

    @property
    def average(self) -> float:
        """Mean distance from the prediction to the reference (ASD)."""
        return float(self.from_prediction.mean())

    @property
    def average_symmetric(self) -> float:
        """Mean of all distances of both directions together (ASSD)."""
        total = self.from_reference.sum() + self.from_prediction.sum()
        return float(total / (self.from_reference.size + self.from_prediction.size))


def border(mask: BoolArray) -> BoolArray:
    """Voxels of a mask (z, y, x) that share a face with a voxel outside; outside the grid all is outside."""
    inner = np.zeros_like(mask)
    core = (slice(1, -1),) * 3
    inside = inner[core]
    inside |= mask[core]
    for axis in range(3):
        for start in (0, 2):
            beside = list(core)
            beside[axis] = slice(start, mask.shape[axis] - 2 + start)
            inside &= mask[tuple(beside)]
    np.greater(mask, inner, out=inner)
    return inner


def border_distances(reference: BoolArray, prediction: BoolArray, spacing_zyx_mm: Spacing) -> BorderDistances:
    """Distances between the borders of two masks (z, y, x) of one shape, each with at least one voxel."""
    of_reference, of_prediction = border(reference), border(prediction)
    shared = of_reference & of_prediction
    return BorderDistances(
        _distances(of_reference, of_prediction, shared, spacing_zyx_mm),
        _distances(of_prediction, of_reference, shared, spacing_zyx_mm),
    )


def surface_dice(
    reference: BoolArray, prediction: BoolArray, spacing_zyx_mm: Spacing, *, tolerance_mm: float
) -> float:
    """Share of the area of both surfaces that lies within the tolerance of the other surface (NSD).

    Args:
        reference: bool (z, y, x), with at least one voxel.
        prediction: of the same shape, with at least one voxel.
        spacing_zyx_mm: of voxel centres.
        tolerance_mm: 0 or more.

    Source: Nikolov et al. 2021, https://doi.org/10.2196/26151.
    """
    codes = (_corner_codes(reference), _corner_codes(prediction))
    surfaces = [(code != 0) & (code != 255) for code in codes]
    shared = surfaces[0] & surfaces[1]
    areas = _element_areas(spacing_zyx_mm)
    beyond = total = 0.0
    for code, own, other in zip(codes, surfaces, reversed(surfaces), strict=True):
        total += float(areas[code[own]].sum())
        lonely = own & ~shared
        within = _within(lonely, other, spacing_zyx_mm, tolerance_mm)
        beyond += float(areas[code[lonely]][~within].sum())
    return 1 - beyond / total


def _distances(own: BoolArray, other: BoolArray, shared: BoolArray, spacing_zyx_mm: Spacing) -> FloatArray:
    """Of each voxel of `own`, the distance in mm to the nearest of `other`; those that are shared come first."""
    distances = np.zeros(int(np.count_nonzero(own)))
    points = _points_mm(own & ~shared, spacing_zyx_mm)
    if len(points):
        found, _ = _tree(other, spacing_zyx_mm).query(points)
        distances[len(distances) - len(points):] = found
    return distances


def _within(own: BoolArray, other: BoolArray, spacing_zyx_mm: Spacing, tolerance_mm: float) -> BoolArray:
    """Of each element of `own`, in order, whether one of `other` is within the tolerance."""
    points = _points_mm(own, spacing_zyx_mm)
    if tolerance_mm == 0 or not len(points):
        return np.zeros(len(points), dtype=bool)
    # The tree looks strictly below its bound.
    bound = tolerance_mm * (1 + 2 * _SLACK)
    found, _ = _tree(other, spacing_zyx_mm).query(points, distance_upper_bound=bound)
    return np.asarray(found <= tolerance_mm * (1 + _SLACK))


def _tree(mask: BoolArray, spacing_zyx_mm: Spacing):  # type: ignore[no-untyped-def]  # scipy has no types
    from scipy.spatial import cKDTree

    # Points on a grid fill space evenly, so that halving boxes is as good as finding medians, and faster to build.
    return cKDTree(_points_mm(mask, spacing_zyx_mm), leafsize=32, compact_nodes=False, balanced_tree=False)


def _points_mm(mask: BoolArray, spacing_zyx_mm: Spacing) -> FloatArray:
    # Three times as fast as `nonzero` of three axes.
    places = np.unravel_index(np.flatnonzero(mask), mask.shape)
    points: FloatArray = np.stack(places, axis=1) * np.asarray(spacing_zyx_mm)
    return points


def _corner_codes(mask: BoolArray) -> NDArray[np.uint8]:
    """Of each corner of a voxel, which of the eight voxels around it are set, as bits: one more along each axis."""
    code = np.pad(mask, 1).view(np.uint8)
    for axis, bits in ((2, 1), (1, 2), (0, 4)):
        lower = [slice(None)] * 3
        upper = [slice(None)] * 3
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        code = code[tuple(lower)] | (code[tuple(upper)] << np.uint8(bits))
    return code


@lru_cache(maxsize=16)
def _element_areas(spacing_zyx_mm: Spacing) -> FloatArray:
    """Area in mm² of the surface element of each code, float64 (256,)."""
    numbers, triangles = _triangles()
    sides = (triangles[:, 1:] - triangles[:, :1]) * np.asarray(spacing_zyx_mm)
    of_triangles = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2
    drawn = np.bincount(numbers, of_triangles, minlength=256)
    return np.minimum(drawn, drawn[::-1])  # 255 − code is the complement


@lru_cache(maxsize=1)
def _triangles() -> tuple[NDArray[np.intp], FloatArray]:
    """The triangles that marching cubes draws for all codes: code of each, and its vertices in voxels, (n, 3, 3) zyx.

    One call for all: the 256 blocks of 2×2×2 voxels stand in a row, and what is drawn between two blocks is left out.
    """
    from skimage.measure import marching_cubes

    codes = np.arange(256, dtype=np.uint8)
    row = np.zeros((2, 2, 512), dtype=np.float32)
    for z, y, x in np.ndindex(2, 2, 2):
        row[z, y, x::2] = codes >> (x + 2 * y + 4 * z) & 1
    vertices, faces, _, _ = marching_cubes(row, 0.5, method="lorensen", allow_degenerate=False)
    triangles = vertices[faces].astype(np.float64)
    cell = np.floor(triangles[:, :, 2].mean(axis=1)).astype(np.intp)
    own = cell % 2 == 0
    return cell[own] // 2, triangles[own]
