from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.resample import resample_channel, resample_segmentation


def onto(array, source, target):
    return resample_channel(array, source, target, name="t1", target_name="flair")


def ramp(grid):
    """A linear function of place, which linear interpolation keeps exactly."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij")
    x, y, z = np.moveaxis(grid.to_lps(np.stack([i, j, k], axis=-1)), -1, 0)
    return (2 * x - 3 * y + 5 * z + 7).astype(np.float32)


def test_one_grid_leaves_the_array_untouched(oblique_grid, oblique_array):
    found, action = onto(oblique_array, oblique_grid, oblique_grid)
    assert found is oblique_array
    assert action == ""


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAR", "PIR"])
def test_the_same_voxels_in_another_order_are_reordered_exactly(orientation, oblique_grid, oblique_array):
    target, order = oblique_grid.reoriented(orientation)
    found, action = onto(oblique_array, oblique_grid, target)
    np.testing.assert_array_equal(found, order.apply(oblique_array))
    assert found.flags.c_contiguous
    assert action == f"t1: axes reordered from ILA to {orientation}, the order of flair"


def test_a_linear_function_of_place_stays_itself(oblique_grid):
    source = Geometry.axis_aligned((40, 50, 60), (1.0, 1.5, 0.7))
    turned = oblique_grid.direction_lps
    target = Geometry((9, 8, 7), (2.0, 1.1, 3.0), source.centre_lps_mm - turned @ (8, 4, 9), turned)
    found, action = onto(ramp(source), source, target)
    np.testing.assert_allclose(found, ramp(target), atol=1e-3)
    assert action == "t1: resampled linearly onto the grid of flair (60×50×40 against 9×8×7 voxels)"


def test_what_is_not_covered_is_zero_and_said():
    grid = Geometry.axis_aligned((4, 4, 8))
    shifted = Geometry.axis_aligned((4, 4, 8), origin_lps_mm=(4, 0, 0))
    found, action = onto(np.ones((4, 4, 8), np.float32), shifted, grid)
    np.testing.assert_array_equal(found[..., :4], 0)
    np.testing.assert_array_equal(found[..., 4:], 1)
    assert action.endswith("; it covers 50% of that grid, the rest is 0")


@pytest.mark.parametrize("shift", [7, 100])
def test_too_little_overlap_is_refused(shift):
    grid = Geometry.axis_aligned((4, 4, 8))
    with pytest.raises(GeometryError, match=r"t1 covers only \d+% of the grid of flair \(at least 25% is needed\)"):
        onto(np.ones((4, 4, 8), np.float32), Geometry.axis_aligned((4, 4, 8), origin_lps_mm=(shift, 0, 0)), grid)


@given(st.tuples(*[st.integers(0, 3)] * 3), st.sampled_from(["LPS", "RAI", "SPR"]))
def test_a_cropped_segmentation_goes_back_exactly(start, orientation):
    whole = Geometry.axis_aligned((6, 7, 8), (3.0, 1.0, 0.5), (-3.0, 5.0, 9.0))
    label_map = np.zeros((6, 7, 8), np.uint8)
    i, j, k = start
    part = np.arange(1, 28, dtype=np.uint8).reshape(3, 3, 3)
    label_map[k : k + 3, j : j + 3, i : i + 3] = part
    crop = Geometry((3, 3, 3), whole.spacing_ijk_mm, tuple(whole.to_lps(start)), np.eye(3))
    crop, order = crop.reoriented(orientation)
    scheme = LabelScheme.plain({str(value): value for value in range(1, 28)})
    found = resample_segmentation(Segmentation(crop, scheme, order.apply(part), record={"a": 1}), whole)
    np.testing.assert_array_equal(found.label_map, label_map)
    assert found.label_map.dtype == np.uint8
    assert found.record == {"a": 1}


def test_a_segmentation_on_its_own_grid_is_returned_as_it_is():
    segmentation = Segmentation(
        Geometry.axis_aligned((2, 3, 4)), LabelScheme.plain({"a": 1}), np.ones((2, 3, 4), np.uint8)
    )
    assert resample_segmentation(segmentation, Geometry.axis_aligned((2, 3, 4))) is segmentation
