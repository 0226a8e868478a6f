"""The plane that a slice view shows, as a grid of one slice; and what is marked on it, as voxels of a volume.

Such a grid is a `Geometry` whose axes run near to LPS and one of which has a single voxel, so that it can be used as a
volume of one slice of an anatomical plane (`prompts.PLANES`), whatever the view's own turn. Where the view is aligned
with the volume the plane is the volume's slice that it cuts, voxel by voxel; else its pixels are square, as fine as the
volume's finest spacing. Its spacing across says how thick the voxels are that it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import GeometryError, InputError
from .geometry import FloatArray, Geometry
from .prompts import PLANES, Box, slices_first

BoolArray = NDArray[np.bool_]

# A plane tilted by less leaves its slice by less than 0.2 mm over a whole head.
_ALIGNED: Final = 1 - 1e-6
_LPS_FROM_RAS: Final = np.array([-1.0, -1.0, 1.0])
# Of a voxel: rounding must not put a plane that lies on a border between two slices on both of them, or on none.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Block:
    """Some voxels of a grid.

    Attributes:
        start_zyx: index of the block's first voxel on the grid.
        mask: bool (z, y, x): which voxels of the block.
    """

    start_zyx: tuple[int, int, int]
    mask: BoolArray

    @property
    def sides(self) -> tuple[slice, slice, slice]:
        """Where the block lies in an array on the grid."""
        z, y, x = (slice(first, first + size) for first, size in zip(self.start_zyx, self.mask.shape, strict=True))
        return z, y, x


def view_plane(volume: Geometry, slice_to_ras: ArrayLike) -> Geometry:
    """The grid of what a slice view shows of a volume.

    Args:
        volume: in world space.
        slice_to_ras: 4x4: the view's horizontal, vertical and normal direction and a point on its plane, RAS mm (as
            vtkMRMLSliceNode has it).

    Returns:
        The slice in which an aligned view lies, though that need not go through its middle; else the view's own plane.

    Raises:
        GeometryError: where the plane does not meet the volume, or the matrix is none of a view.
    """
    matrix = np.asarray(slice_to_ras, dtype=np.float64)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not lengths.min() > 0:
        raise GeometryError("The slice view has no orientation; reset its orientation (e.g. to axial).")
    axes = _LPS_FROM_RAS[:, None] * matrix[:3, :3] / lengths
    point = _LPS_FROM_RAS * matrix[:3, 3]
    upright = volume.reoriented("LPS")[0]
    cosines = np.abs(upright.direction_lps.T @ axes)
    if (cosines.max(axis=0) >= _ALIGNED).all():
        return _slice_at(upright, int(cosines[:, 2].argmax()), point)
    return _oblique(volume, axes, point)


def volume_slice(volume: Geometry, plane: str, index: int) -> Geometry:
    """The grid of one slice of a volume.

    Args:
        volume: stored in any way.
        plane: a key of `prompts.PLANES`.
        index: of the slice, on axes LPS.
    """
    return _slice(volume.reoriented("LPS")[0], 2 - PLANES[plane], index)


def plane_name(grid: Geometry) -> str:
    """Which anatomical plane a grid of one slice is nearest to: a key of `prompts.PLANES`.

    Raises:
        GeometryError: where the grid is none of `view_plane` or `volume_slice`.
    """
    thin = [axis for axis, size in enumerate(grid.size_ijk) if size == 1]
    if len(thin) != 1 or grid.orientation != "LPS":
        raise GeometryError(f"A grid of {grid.size_ijk} voxels, axes {grid.orientation}, is not a slice on axes LPS.")
    return next(plane for plane, axis in PLANES.items() if axis == 2 - thin[0])


def slice_index(volume: Geometry, grid: Geometry) -> int | None:
    """Which slice of a volume a plane shows, voxel by voxel; None where it shows none so.

    Args:
        volume: stored in any way.
        grid: the plane.

    Returns:
        The slice's index on axes LPS in the plane of `plane_name`.
    """
    upright = volume.reoriented("LPS")[0]
    axis = 2 - PLANES[plane_name(grid)]
    at = float(upright.to_ijk(grid.origin_lps_mm)[axis])
    index = round(at)
    if not 0 <= index < upright.size_ijk[axis]:
        return None
    return index if _slice(upright, axis, index).is_same_grid(grid) else None


def pixels(grid: Geometry, points_ras: ArrayLike) -> FloatArray:
    """Points (…, 3), RAS mm, as (…, 2): column and row on a plane; where they lie off it, of their feet on it."""
    found = grid.to_ijk(np.asarray(points_ras, dtype=np.float64) * _LPS_FROM_RAS)
    result: FloatArray = found[..., _in_plane(grid)]
    return result


def places(grid: Geometry, points: ArrayLike) -> FloatArray:
    """Points (…, 2), column and row on a plane, as (…, 3), RAS mm; the inverse of `pixels`."""
    given = np.asarray(points, dtype=np.float64)
    indices = np.zeros((*given.shape[:-1], 3))
    indices[..., _in_plane(grid)] = given
    result: FloatArray = grid.to_lps(indices) * _LPS_FROM_RAS
    return result


def box_between(grid: Geometry, corner_ras: ArrayLike, opposite_ras: ArrayLike) -> Box:
    """The box between two points, RAS mm, in pixels of a plane; what lies beyond the plane's edge is cut off.

    Raises:
        InputError: where it lies outside, or is smaller than a pixel.
    """
    first, second = pixels(grid, np.stack([corner_ras, opposite_ras]))
    column_axis, row_axis = _in_plane(grid)
    edge = np.array([grid.size_ijk[column_axis], grid.size_ijk[row_axis]]) - 0.5
    low = np.clip(np.minimum(first, second), -0.5, edge)
    high = np.clip(np.maximum(first, second), -0.5, edge)
    if ((high - low) < 1).any():
        raise InputError("The box is smaller than a pixel of the image, or lies outside it; drag it around the object.")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def as_volume(mask: BoolArray, grid: Geometry) -> BoolArray:
    """A mask (rows, columns) of a plane as (z, y, x) on its grid; a view, not a copy."""
    volume: BoolArray = np.expand_dims(mask, PLANES[plane_name(grid)])
    return volume


def as_plane(volume_zyx: NDArray[np.bool_], grid: Geometry) -> BoolArray:
    """An array (z, y, x) on a plane's grid as (rows, columns); the inverse of `as_volume`."""
    plane: BoolArray = slices_first(volume_zyx, plane_name(grid))[0]
    return plane


def voxels_of(mask: BoolArray, grid: Geometry, target: Geometry) -> Block | None:
    """The voxels of a volume in which a plane shows something: those that the plane cuts, or that lie in what it shows.

    Args:
        mask: bool (rows, columns) on the plane.
        grid: the plane.
        target: grid of the volume, stored in any way; need not be that which the plane was made from.

    Returns:
        Each voxel whose centre is no farther from the plane than half the voxel's extent across it, or half the plane's
        thickness where that is more, and whose foot lies in a pixel of the mask; None where there is none.
    """
    marked = np.argwhere(mask)
    if not len(marked):
        return None
    normal = 2 - PLANES[plane_name(grid)]
    to_plane: FloatArray = np.linalg.inv(grid.ijk_to_lps) @ target.ijk_to_lps  # target's indices → the plane's
    across, offset = to_plane[normal, :3], to_plane[normal, 3]
    # In the grid's own unit, its thickness: half of that; or half a voxel's extent across it, so that none is missed.
    reach = max(float(np.abs(across).sum()), 1.0) / 2
    low, high = _bounds(marked, grid, normal, reach, to_plane, target)
    if (high < low).any():
        return None
    deep = int(np.abs(across).argmax())
    first, second = (axis for axis in range(3) if axis != deep)
    columns = np.stack(np.meshgrid(
        np.arange(low[first], high[first] + 1), np.arange(low[second], high[second] + 1), indexing="ij"
    ))  # fmt: skip
    partial = across[first] * columns[0] + across[second] * columns[1] + offset
    ends = (-reach - partial) / across[deep], (reach - partial) / across[deep]
    start = np.ceil(np.minimum(*ends) - _ROUNDING)
    stop = np.maximum(*ends) - _ROUNDING
    block = np.zeros(tuple((high - low + 1)[::-1]), dtype=bool)
    for step in range(int(np.ceil(2 * reach / abs(across[deep]))) + 1):
        indices = np.empty((3, *columns.shape[1:]))
        indices[first], indices[second], indices[deep] = columns[0], columns[1], start + step
        inside = (indices[deep] < stop) & (indices[deep] >= low[deep]) & (indices[deep] <= high[deep])
        chosen = indices[:, inside]
        chosen = chosen[:, _shown(mask, grid, to_plane, chosen)].astype(int) - low[:, None]
        block[chosen[2], chosen[1], chosen[0]] = True
    return Block((int(low[2]), int(low[1]), int(low[0])), block) if block.any() else None


def united(blocks: Sequence[Block]) -> Block:
    """The smallest block that holds several ones of the same grid."""
    starts = np.array([block.start_zyx for block in blocks])
    stops = starts + np.array([block.mask.shape for block in blocks])
    z, y, x = (int(first) for first in starts.min(axis=0))
    whole = Block((z, y, x), np.zeros(tuple(stops.max(axis=0) - starts.min(axis=0)), dtype=bool))
    for block, start in zip(blocks, starts - starts.min(axis=0), strict=True):
        part = tuple(slice(first, first + size) for first, size in zip(start, block.mask.shape, strict=True))
        whole.mask[part] |= block.mask
    return whole


# ---- inside -------------------------------------------------------------------------------------------------------


def _slice_at(upright: Geometry, axis: int, point_lps: FloatArray) -> Geometry:
    """The slice of a grid in which a point lies."""
    at = float(upright.to_ijk(point_lps)[axis])
    if not -0.5 - _ROUNDING <= at <= upright.size_ijk[axis] - 0.5 + _ROUNDING:
        raise GeometryError("The slice view shows nothing of the volume here; move the slice into the volume.")
    return _slice(upright, axis, int(np.clip(np.ceil(at - 0.5 - _ROUNDING), 0, upright.size_ijk[axis] - 1)))


def _slice(upright: Geometry, axis: int, index: int) -> Geometry:
    """One slice of a grid."""
    corner = np.zeros(3)
    corner[axis] = index
    size = [1 if each == axis else count for each, count in enumerate(upright.size_ijk)]
    origin = upright.to_lps(corner)
    return Geometry(
        (size[0], size[1], size[2]), upright.spacing_ijk_mm, (origin[0], origin[1], origin[2]), upright.direction_lps
    )


def _oblique(volume: Geometry, axes: FloatArray, point: FloatArray) -> Geometry:
    """Square pixels over all that a plane cuts of a volume, as thick as its voxels are across the plane."""
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise GeometryError("The axes of the slice view are not perpendicular; reset its orientation (e.g. to axial).")
    corners = (volume.corners_lps_mm() - point) @ axes  # of the volume, in the view's own frame, mm
    cut = []
    for one in range(8):
        for other in range(one + 1, 8):
            # `corners_lps_mm` counts in binary: neighbours differ in one digit.
            if bin(one ^ other).count("1") == 1 and corners[one, 2] * corners[other, 2] <= 0:
                share = corners[one, 2] / ((corners[one, 2] - corners[other, 2]) or 1.0)
                cut.append(corners[one] + share * (corners[other] - corners[one]))
    if not cut:
        raise GeometryError("The slice view shows nothing of the volume here; move the slice into the volume.")
    low, high = np.min(cut, axis=0)[:2], np.max(cut, axis=0)[:2]
    spacing = min(volume.spacing_ijk_mm)
    counts = np.maximum(2, np.ceil((high - low) / spacing - _ROUNDING).astype(int))
    start = (low + high) / 2 - (counts - 1) / 2 * spacing
    origin = point + axes[:, :2] @ start
    thickness = float(np.abs(axes[:, 2] @ volume.direction_lps) @ volume.spacing_ijk_mm)
    grid = Geometry(
        (int(counts[0]), int(counts[1]), 1), (spacing, spacing, thickness), (origin[0], origin[1], origin[2]), axes
    )
    return grid.reoriented("LPS")[0]


def _in_plane(grid: Geometry) -> list[int]:
    """Index axes along which columns and rows are counted."""
    return [axis for axis in range(3) if axis != 2 - PLANES[plane_name(grid)]]


def _bounds(
    marked: NDArray[np.intp], grid: Geometry, normal: int, reach: float, to_plane: FloatArray, target: Geometry
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last index i, j, k on the target that voxels of marked pixels (row, column) may have."""
    low, high = np.empty(3), np.empty(3)
    low[normal], high[normal] = -reach, reach
    low[_in_plane(grid)] = marked.min(axis=0)[::-1] - 0.5
    high[_in_plane(grid)] = marked.max(axis=0)[::-1] + 0.5
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, 8)
    to_target = np.linalg.inv(to_plane)
    there = to_target[:3, :3] @ corners + to_target[:3, 3:]
    first = np.maximum(0, np.floor(there.min(axis=1))).astype(int)
    last = np.minimum(np.array(target.size_ijk) - 1, np.ceil(there.max(axis=1))).astype(int)
    return first, last


def _shown(mask: BoolArray, grid: Geometry, to_plane: FloatArray, indices: FloatArray) -> BoolArray:
    """Whether the feet of voxels (3, voxel) lie in a pixel of the mask."""
    column_axis, row_axis = _in_plane(grid)
    there = to_plane[:3, :3] @ indices + to_plane[:3, 3:]
    row, column = (np.ceil(there[axis] - 0.5 - _ROUNDING).astype(int) for axis in (row_axis, column_axis))
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    found = np.zeros(indices.shape[1], dtype=bool)
    found[inside] = mask[row[inside], column[inside]]
    return found
