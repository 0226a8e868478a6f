"""Planes of slice views, of any orientation, and what is marked on them as voxels; against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.prompts import PLANES, slices_first
from BrainSegSAMLib.view_planes import (
    Block,
    as_plane,
    as_volume,
    box_between,
    pixels,
    places,
    plane_name,
    slice_index,
    united,
    view_plane,
    volume_slice,
    voxels_of,
)

RAS = np.array([-1.0, -1.0, 1.0])
# The columns are what Slicer's slice node has: right to left on the screen, up on the screen, towards the viewer.
VIEWS = {
    "axial": np.array([[-1, 0, 0], [0, 1, 0], [0, 0, 1.0]]).T,
    "coronal": np.array([[-1, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]).T,
    "sagittal": np.array([[0, -1, 0], [0, 0, 1.0], [1.0, 0, 0]]).T,
}


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = (a for a in range(3) if a != axis)
        step = np.eye(3)
        step[one, one] = step[other, other] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        turned = turned @ step
    return turned


def slice_to_ras(axes: NDArray[np.float64], point_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, point_lps * RAS
    return matrix


def aligned_view(grid: Geometry, plane: str, index: float, *, quarter_turns: int = 0) -> NDArray[np.float64]:
    """A view that is aligned with a volume, as after "Rotate to volume plane", turned on the screen."""
    upright = grid.reoriented("LPS")[0]
    axis = 2 - PLANES[plane]
    first, second = (upright.direction_lps[:, a] * RAS for a in range(3) if a != axis)
    for _ in range(quarter_turns):
        first, second = second, -first
    at = (np.array(upright.size_ijk) - 1) / 2
    at[axis] = index
    return slice_to_ras(np.stack([first, second, np.cross(first, second)], axis=1), upright.to_lps(at))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("turns", range(4))
def test_an_aligned_view_has_the_voxels_of_the_volume(oblique_grid: Geometry, plane: str, turns: int) -> None:
    upright = oblique_grid.reoriented("LPS")[0]
    count = upright.shape_zyx[PLANES[plane]]
    for index in range(count):
        grid = view_plane(oblique_grid, aligned_view(oblique_grid, plane, index + 0.3, quarter_turns=turns))
        assert grid.is_same_grid(volume_slice(oblique_grid, plane, index)), "wherever it is cut"
        assert plane_name(grid) == plane
        assert slice_index(oblique_grid, grid) == index
        mask = np.zeros(slices_first(np.zeros(upright.shape_zyx), plane).shape[1:], dtype=bool)
        mask[1:3, 2:4] = True
        block = voxels_of(mask, grid, upright)
        assert block is not None
        found = np.zeros(upright.shape_zyx, dtype=bool)
        found[block.sides] = block.mask
        expected = np.zeros_like(found)
        slices_first(expected, plane)[index] = mask
        np.testing.assert_array_equal(found, expected)


def test_slicers_own_views_are_aligned_with_an_upright_volume() -> None:
    grid = Geometry.axis_aligned((6, 8, 10), (3.0, 1.0, 1.0), (-4.0, 2.0, 7.0))
    for plane, axes in VIEWS.items():
        for index in range(grid.shape_zyx[PLANES[plane]]):
            at = grid.centre_lps_mm
            at[2 - PLANES[plane]] = volume_slice(grid, plane, index).origin_lps_mm[2 - PLANES[plane]]
            shown = view_plane(grid, slice_to_ras(axes, at))
            assert (plane_name(shown), slice_index(grid, shown)) == (plane, index)
            assert shown.is_same_grid(volume_slice(grid, plane, index))


def brute_force(mask: NDArray[np.bool_], plane: Geometry, target: Geometry) -> NDArray[np.bool_]:
    """Each voxel by itself, by the definition."""
    normal_axis = plane.size_ijk.index(1)
    normal = plane.direction_lps[:, normal_axis]
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    extent = np.ptp((corners * target.spacing_ijk_mm) @ target.direction_lps.T @ normal) / 2
    extent = max(extent, plane.spacing_ijk_mm[normal_axis] / 2)
    found = np.zeros(target.shape_zyx, dtype=bool)
    for k, j, i in np.ndindex(target.shape_zyx):
        centre = target.to_lps((i, j, k))
        if not -extent <= (centre - plane.origin_lps_mm) @ normal < extent:
            continue
        column, row = np.rint(pixels(plane, centre * RAS)).astype(int)
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            found[k, j, i] = mask[row, column]
    return found


@pytest.mark.parametrize("degrees", [(10, 0, 0), (0, 35, 20), (44, 44, 44), (-20, 70, 5)])
def test_an_oblique_view_marks_the_voxels_that_it_cuts(
    oblique_grid: Geometry, degrees: tuple[float, float, float]
) -> None:
    axes = rotation(degrees)
    grid = view_plane(oblique_grid, slice_to_ras(axes, oblique_grid.centre_lps_mm + 0.123))
    assert slice_index(oblique_grid, grid) is None
    thick = np.abs(oblique_grid.direction_lps.T @ grid.direction_lps[:, grid.size_ijk.index(1)]) @ (0.8, 1.5, 3.0)
    assert sorted(grid.spacing_ijk_mm) == pytest.approx([0.8, 0.8, thick]), "as thick as the voxels that it cuts"
    shape = as_plane(np.zeros(grid.shape_zyx, dtype=bool), grid).shape
    mask = np.random.default_rng(3).random(shape) > 0.4
    other = Geometry.axis_aligned((14, 12, 10), (1.5, 1.1, 0.9), (-30.0, 10.0, 30.0))
    for target in (oblique_grid, other, finer(oblique_grid, (1, 2, 4))):
        block = voxels_of(mask, grid, target)
        found = np.zeros(target.shape_zyx, dtype=bool)
        if block is not None:
            found[block.sides] = block.mask
        np.testing.assert_array_equal(found, brute_force(mask, grid, target))
        assert target is not oblique_grid or found.any()


def finer(grid: Geometry, factors: tuple[int, int, int]) -> Geometry:
    """Each voxel (i, j, k) cut into so many."""
    i, j, k = (n * factor for n, factor in zip(grid.size_ijk, factors, strict=True))
    corner = np.array([0.5 / factor - 0.5 for factor in factors])
    small = np.diag([*(1 / factor for factor in factors), 1.0])
    small[:3, 3] = corner
    return Geometry.from_ijk_to_lps(grid.ijk_to_lps @ small, (i, j, k))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("factors", [(4, 4, 4), (1, 1, 3), (3, 1, 1), (1, 5, 1)])
def test_a_slice_fills_its_whole_thickness_on_a_finer_grid(
    oblique_grid: Geometry, plane: str, factors: tuple[int, int, int]
) -> None:
    """Of voxels of three different spacings, each one is filled that lies in a marked voxel of the volume."""
    upright = oblique_grid.reoriented("LPS")[0]
    target = finer(oblique_grid, factors)
    mask = np.random.default_rng(5).random(slices_first(np.zeros(upright.shape_zyx), plane).shape[1:]) > 0.4
    marked = np.zeros(upright.shape_zyx, dtype=bool)
    slices_first(marked, plane)[2] = mask
    block = voxels_of(mask, view_plane(oblique_grid, aligned_view(oblique_grid, plane, 2.3)), target)
    assert block is not None
    found = np.zeros(target.shape_zyx, dtype=bool)
    found[block.sides] = block.mask
    centres = target.to_lps(np.stack(np.meshgrid(*map(np.arange, target.size_ijk), indexing="ij"), axis=-1))
    i, j, k = np.moveaxis(np.rint(upright.to_ijk(centres)).astype(int), -1, 0)
    np.testing.assert_array_equal(found, marked[k, j, i].transpose(2, 1, 0))


@pytest.mark.parametrize("spacing", [0.4, 0.9, 2.0])
def test_neighbouring_slices_leave_no_gaps_on_a_turned_grid(oblique_grid: Geometry, spacing: float) -> None:
    upright = oblique_grid.reoriented("LPS")[0]
    middle = oblique_grid.centre_lps_mm
    count = round(12 / spacing)
    target = Geometry.axis_aligned((count,) * 3, (spacing,) * 3, tuple(middle - (count - 1) / 2 * spacing))
    mask = np.ones(slices_first(np.zeros(upright.shape_zyx), "axial").shape[1:], dtype=bool)
    found = np.zeros(target.shape_zyx, dtype=bool)
    for index in (2, 3, 4):
        block = voxels_of(mask, volume_slice(oblique_grid, "axial", index), target)
        assert block is not None
        found[block.sides] |= block.mask
    centres = upright.to_ijk(target.to_lps(np.argwhere(np.ones(target.shape_zyx))[:, ::-1]))
    inside = ((centres > -0.49) & (centres < np.array(upright.size_ijk) - 0.51)).all(axis=1)
    axial = centres[:, 2 - PLANES["axial"]]
    inside &= (axial > 1.51) & (axial < 4.49)
    assert found.ravel()[inside].all()
    assert np.count_nonzero(inside) > 20


def test_an_oblique_plane_holds_all_that_it_cuts(oblique_grid: Geometry) -> None:
    """With the whole plane marked, no voxel that the plane cuts is missing."""
    grid = view_plane(oblique_grid, slice_to_ras(rotation((15, 25, -40)), oblique_grid.centre_lps_mm))
    mask = np.ones(as_plane(np.zeros(grid.shape_zyx, dtype=bool), grid).shape, dtype=bool)
    block = voxels_of(mask, grid, oblique_grid)
    assert block is not None
    normal = grid.direction_lps[:, grid.size_ijk.index(1)]
    centres = oblique_grid.to_lps(np.argwhere(np.ones(oblique_grid.shape_zyx))[:, ::-1])
    near = np.abs((centres - grid.origin_lps_mm) @ normal) < 0.3 * min(oblique_grid.spacing_ijk_mm)
    found = np.zeros(oblique_grid.shape_zyx, dtype=bool)
    found[block.sides] = block.mask
    assert found.ravel()[near].all()
    assert near.any()


def test_points_and_boxes_go_there_and_back(oblique_grid: Geometry) -> None:
    grid = view_plane(oblique_grid, slice_to_ras(rotation((5, 25, -40)), oblique_grid.centre_lps_mm))
    there = places(grid, [(2.25, 1.5), (0.0, 3.0)])
    np.testing.assert_allclose(pixels(grid, there), [(2.25, 1.5), (0.0, 3.0)], atol=1e-9)
    assert box_between(grid, there[0] + 0, there[1]) == pytest.approx((0.0, 1.5, 2.25, 3.0))
    assert box_between(grid, *places(grid, [(-9, -9), (2, 2)])) == pytest.approx((-0.5, -0.5, 2, 2))
    with pytest.raises(InputError, match="drag it around"):
        box_between(grid, there[0], there[0])
    with pytest.raises(InputError, match="outside"):
        box_between(grid, *places(grid, [(-9, -9), (-2, 2)]))


def test_masks_go_there_and_back(oblique_grid: Geometry) -> None:
    for plane in PLANES:
        grid = volume_slice(oblique_grid, plane, 1)
        mask = np.random.default_rng(1).random(as_plane(np.zeros(grid.shape_zyx, bool), grid).shape) > 0.5
        np.testing.assert_array_equal(as_plane(as_volume(mask, grid), grid), mask)


def test_nothing_marked_is_no_voxel(oblique_grid: Geometry) -> None:
    grid = volume_slice(oblique_grid, "axial", 1)
    assert voxels_of(np.zeros(as_plane(np.zeros(grid.shape_zyx, bool), grid).shape, bool), grid, oblique_grid) is None


@pytest.mark.parametrize("far", [60.0, -60.0])
def test_a_view_beside_the_volume_is_said(oblique_grid: Geometry, far: float) -> None:
    for axes in (rotation((10, 20, 30)), oblique_grid.direction_lps * RAS[:, None]):
        with pytest.raises(GeometryError, match="move the slice into the volume"):
            view_plane(oblique_grid, slice_to_ras(axes, oblique_grid.centre_lps_mm + far * axes[:, 2] * RAS))


def test_what_is_no_view_is_refused(oblique_grid: Geometry) -> None:
    for axes in (np.zeros((3, 3)), np.array([[1, 0, 0], [1, 1, 0], [0.2, 0, 1.0]])):
        with pytest.raises(GeometryError, match="orientation"):
            view_plane(oblique_grid, slice_to_ras(axes, oblique_grid.centre_lps_mm))
    with pytest.raises(GeometryError, match="not a slice"):
        plane_name(oblique_grid)


def test_blocks_are_put_together() -> None:
    rng = np.random.default_rng(2)
    blocks = [Block((2, 5, 1), rng.random((2, 3, 4)) > 0.5), Block((3, 1, 2), rng.random((4, 5, 1)) > 0.5)]
    expected = np.zeros((9, 9, 9), dtype=bool)
    for block in blocks:
        expected[block.sides] |= block.mask
    whole = united(blocks)
    found = np.zeros_like(expected)
    found[whole.sides] = whole.mask
    np.testing.assert_array_equal(found, expected)
    assert (whole.start_zyx, whole.mask.shape) == ((2, 1, 1), (5, 7, 4))
