from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import Geometry

ORIENTATIONS = [
    "".join(letters) for order in permutations(("RL", "AP", "IS")) for letters in product(*order)
]


def rotation(x: float, y: float, z: float) -> np.ndarray:
    transform = sitk.Euler3DTransform((0, 0, 0), x, y, z)
    return np.reshape(transform.GetMatrix(), (3, 3))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any grid: axes in any order and direction, then turned by less than 25 degrees, so that the nearest is plain."""
    angle = st.floats(-0.25, 0.25)
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    axes = np.eye(3)[:, draw(st.permutations([0, 1, 2]))] * signs
    return Geometry(
        tuple(draw(st.integers(1, 5)) for _ in range(3)),
        tuple(draw(st.floats(0.2, 7)) for _ in range(3)),
        tuple(draw(st.floats(-300, 300)) for _ in range(3)),
        rotation(draw(angle), draw(angle), draw(angle)) @ axes,
    )


def as_sitk(geometry: Geometry, array: np.ndarray | None = None) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(geometry.shape_zyx, np.int32) if array is None else array)
    image.SetSpacing(geometry.spacing_ijk_mm)
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetDirection(geometry.direction_lps.ravel().tolist())
    return image


def numbered(geometry: Geometry) -> np.ndarray:
    return np.arange(np.prod(geometry.shape_zyx), dtype=np.int32).reshape(geometry.shape_zyx)


@given(geometries(), st.tuples(*[st.floats(-10, 10)] * 3))
def test_index_and_place_agree_with_simpleitk(geometry: Geometry, index: tuple[float, float, float]) -> None:
    place = geometry.to_lps(index)
    np.testing.assert_allclose(place, as_sitk(geometry).TransformContinuousIndexToPhysicalPoint(index), atol=1e-9)
    np.testing.assert_allclose(geometry.to_ijk(place), index, atol=1e-9)


@given(geometries())
def test_matrices_describe_the_same_grid(geometry: Geometry) -> None:
    assert Geometry.from_ijk_to_lps(geometry.ijk_to_lps, geometry.size_ijk).is_same_grid(geometry)
    assert Geometry.from_ijk_to_ras(geometry.ijk_to_ras, geometry.size_ijk).is_same_grid(geometry)
    np.testing.assert_array_equal(geometry.ijk_to_ras[:2], -geometry.ijk_to_lps[:2])
    np.testing.assert_array_equal(geometry.ijk_to_ras[2], geometry.ijk_to_lps[2])


@given(geometries())
def test_orientation_agrees_with_simpleitk(geometry: Geometry) -> None:
    direction = geometry.direction_lps.ravel().tolist()
    assert geometry.orientation == sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)


@given(geometries(), st.sampled_from(ORIENTATIONS))
def test_reorienting_keeps_every_voxel_in_its_place(geometry: Geometry, orientation: str) -> None:
    array = numbered(geometry)
    grid, order = geometry.reoriented(orientation)
    moved = order.apply(array)
    assert grid.orientation == orientation
    assert moved.shape == grid.shape_zyx
    new = np.array(list(np.ndindex(moved.shape)))[:, ::-1]
    old = np.rint(geometry.to_ijk(grid.to_lps(new))).astype(int)
    np.testing.assert_allclose(geometry.to_lps(old), grid.to_lps(new), atol=1e-8)
    np.testing.assert_array_equal(moved[tuple(new.T[::-1])], array[tuple(old.T[::-1])])
    np.testing.assert_array_equal(order.undo(moved), array)

    oracle = sitk.DICOMOrient(as_sitk(geometry, array), orientation)
    np.testing.assert_array_equal(moved, sitk.GetArrayViewFromImage(oracle))
    np.testing.assert_allclose(grid.origin_lps_mm, oracle.GetOrigin(), atol=1e-8)
    np.testing.assert_allclose(grid.direction_lps.ravel(), oracle.GetDirection(), atol=1e-8)


def test_reorienting_moves_channels_along() -> None:
    geometry = Geometry.axis_aligned((2, 3, 4))
    array = np.arange(48).reshape(2, 2, 3, 4)
    _, order = geometry.reoriented("SAR")
    moved = order.apply(array)
    assert moved.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(moved[1], order.apply(array[1]))
    np.testing.assert_array_equal(order.undo(moved), array)


@given(geometries(), st.floats(-3, 3), st.tuples(*[st.floats(-50, 50)] * 3))
def test_moving_a_grid_moves_its_points(geometry: Geometry, angle: float, shift: tuple[float, float, float]) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(angle, 0.3, -0.2)
    matrix[:3, 3] = shift
    corner = np.asarray(geometry.size_ijk) - 1
    place_lps = geometry.to_lps(corner)
    expected = matrix[:3, :3] @ place_lps + matrix[:3, 3]
    np.testing.assert_allclose(geometry.moved_lps(matrix).to_lps(corner), expected, atol=1e-8)
    place_ras = place_lps * (-1, -1, 1)
    expected = (matrix[:3, :3] @ place_ras + matrix[:3, 3]) * (-1, -1, 1)
    np.testing.assert_allclose(geometry.moved_ras(matrix).to_lps(corner), expected, atol=1e-8)


@given(geometries(), st.sampled_from(ORIENTATIONS), st.tuples(*[st.integers(-9, 9)] * 3))
def test_a_grid_grows_to_hold_another_of_its_lattice(
    geometry: Geometry, orientation: str, start: tuple[int, int, int]
) -> None:
    other, _ = geometry.window(start, (2, 3, 4)).reoriented(orientation)
    assert geometry.shares_lattice(other)
    grown = geometry.grown_to_hold(other)
    low, high = np.minimum(start, 0), np.maximum(np.add(start, (2, 3, 4)), geometry.size_ijk)
    assert grown.is_same_grid(geometry.window(low, high - low))
    assert grown.grown_to_hold(geometry) is grown
    between = Geometry(other.size_ijk, other.spacing_ijk_mm, tuple(other.to_lps((0.4, 0, 0))), other.direction_lps)
    assert not geometry.shares_lattice(between)


def test_a_grid_grows_to_hold_one_of_another_lattice() -> None:
    grid = Geometry.axis_aligned((4, 4, 4))
    other = Geometry.axis_aligned((2, 2, 2), (0.7, 0.7, 0.7), (3.0, -1.0, 3.6))
    assert not grid.shares_lattice(other)
    grown = grid.grown_to_hold(other)
    # x from 2.65 to 4.05 mm, y from -1.35 to 0.05, z from 3.25 to 4.65; voxels reach 0.5 mm around their centres.
    assert (grown.size_ijk, grown.origin_lps_mm) == ((5, 5, 6), (0.0, -1.0, 0.0))


def test_a_scaled_grid_has_the_scaled_spacing() -> None:
    grid = Geometry.axis_aligned((2, 3, 4), (3.0, 2.0, 1.0)).moved_lps(np.diag([2.0, 1.0, 0.5, 1.0]))
    assert grid.spacing_zyx_mm == (1.5, 2.0, 2.0)


def test_a_shearing_transform_is_refused() -> None:
    matrix = np.eye(4)
    matrix[0, 1] = 0.2
    with pytest.raises(GeometryError, match="not perpendicular"):
        Geometry.axis_aligned((2, 3, 4)).moved_lps(matrix)


def test_views() -> None:
    grid = Geometry.axis_aligned((4, 6, 10), (3.0, 2.0, 1.0), (5.0, 6.0, 7.0))
    assert grid.size_ijk == (10, 6, 4)
    assert grid.shape_zyx == (4, 6, 10)
    assert grid.spacing_ijk_mm == (1.0, 2.0, 3.0)
    assert grid.voxel_volume_mm3 == 6.0
    assert grid.orientation == "LPS"
    assert grid.obliqueness_degrees == 0.0
    np.testing.assert_allclose(grid.centre_lps_mm, (9.5, 11.0, 11.5))
    np.testing.assert_allclose(grid.corners_lps_mm().min(axis=0), (4.5, 5.0, 5.5))
    np.testing.assert_allclose(grid.corners_lps_mm().max(axis=0), (14.5, 17.0, 17.5))
    record = grid.as_dict()
    assert record["orientation"] == "LPS"
    assert record["size_ijk"] == [10, 6, 4]


def test_obliqueness_is_the_angle_of_the_turn() -> None:
    grid = Geometry((3, 3, 3), (1, 1, 1), (0, 0, 0), rotation(0, 0, np.radians(20)))
    assert grid.obliqueness_degrees == pytest.approx(20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size_ijk": (3, 0, 3)}, "one or more voxels"),
        ({"size_ijk": (3, 3)}, "three axes"),
        ({"spacing_ijk_mm": (1, 0, 1)}, "not positive"),
        ({"spacing_ijk_mm": (1, -1, 1)}, "not positive"),
        ({"spacing_ijk_mm": (1, np.nan, 1)}, "not positive"),
        ({"origin_lps_mm": (0, np.inf, 0)}, "not a finite number"),
        ({"direction_lps": np.diag([1, np.nan, 1])}, "not a finite number"),
        ({"direction_lps": [[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]}, "not perpendicular"),
        ({"direction_lps": np.zeros((3, 3))}, "not perpendicular"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(change: dict, words: str) -> None:
    good = {"size_ijk": (3, 3, 3), "spacing_ijk_mm": (1, 1, 1), "origin_lps_mm": (0, 0, 0), "direction_lps": np.eye(3)}
    with pytest.raises(GeometryError, match=words):
        Geometry(**(good | change))


def test_a_matrix_with_an_axis_of_zero_length_is_refused() -> None:
    with pytest.raises(GeometryError, match="zero length"):
        Geometry.from_ijk_to_lps(np.diag([1.0, 0.0, 1.0, 1.0]), (2, 2, 2))


@pytest.mark.parametrize("orientation", ["LLS", "LP", "XPS", "LRS", "lps"])
def test_a_word_that_is_no_orientation_is_refused(orientation: str) -> None:
    with pytest.raises(GeometryError, match=r"orientation|anatomical direction"):
        Geometry.axis_aligned((2, 2, 2)).reoriented(orientation)


def test_differences_are_named() -> None:
    grid = Geometry.axis_aligned((4, 6, 10), (3.0, 2.0, 1.0))
    assert grid.is_same_grid(Geometry.axis_aligned((4, 6, 10), (3.0, 2.0, 1.0), (0.0, 0.0, 0.009)))
    assert "voxels" in grid.difference(Geometry.axis_aligned((4, 6, 11), (3.0, 2.0, 1.0)))
    assert "spacing" in grid.difference(Geometry.axis_aligned((4, 6, 10), (3.0, 2.0, 1.1)))
    shifted = Geometry.axis_aligned((4, 6, 10), (3.0, 2.0, 1.0), (0.0, 0.0, 0.5))
    assert "0.50 mm apart" in grid.difference(shifted)


@given(geometries(), st.floats(0, 1))
def test_overlap_is_the_share_inside(geometry: Geometry, share: float) -> None:
    assume(min(geometry.size_ijk) > 1)
    along_i = geometry.direction_lps[:, 0] * geometry.spacing_ijk_mm[0] * geometry.size_ijk[0] * share
    matrix = np.eye(4)
    matrix[:3, 3] = along_i
    assert geometry.overlap_fraction(geometry.moved_lps(matrix)) == pytest.approx(1 - share, abs=0.051)


def test_grids_apart_do_not_overlap() -> None:
    grid = Geometry.axis_aligned((4, 4, 4))
    assert grid.overlap_fraction(Geometry.axis_aligned((4, 4, 4), origin_lps_mm=(100, 0, 0))) == 0.0
    assert grid.overlap_fraction(grid) == 1.0
