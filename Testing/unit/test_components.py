"""Components and measures against closed formulas and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from BrainSegSAMLib.components import (
    as_rows,
    keep_largest,
    label_components,
    region_statistics,
    remove_small,
    statistics,
)
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation, bounding_box
from BrainSegSAMLib.labels import LabelScheme

SPACING = (3.0, 0.5, 1.25)  # anisotropic, no two alike


def box(shape, low, high):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def flood_labels(mask):
    """26-connected labels by hand: the oracle."""
    labels, count = np.zeros(mask.shape, int), 0
    for seed in zip(*np.nonzero(mask), strict=True):
        if labels[seed]:
            continue
        count += 1
        stack = [seed]
        labels[seed] = count
        while stack:
            z, y, x = stack.pop()
            for dz, dy, dx in np.ndindex(3, 3, 3):
                n = (z + dz - 1, y + dy - 1, x + dx - 1)
                if all(0 <= i < s for i, s in zip(n, mask.shape, strict=True)) and mask[n] and not labels[n]:
                    labels[n] = count
                    stack.append(n)
    return labels, count


masks = st.builds(
    lambda shape, seed, density: np.random.default_rng(seed).random(shape) < density,
    st.tuples(*[st.integers(1, 6)] * 3), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
)


@given(masks)
def test_bounding_box_holds_all_and_no_more(mask):
    box = bounding_box(mask.astype(np.uint8) * 3)
    assert np.count_nonzero(mask[box]) == np.count_nonzero(mask)
    if mask.any():
        found = np.nonzero(mask)
        assert box == tuple(slice(axis.min(), axis.max() + 1) for axis in found)
    else:
        assert mask[box].size == 0


@settings(max_examples=80, deadline=None)
@given(masks)
def test_everything_equals_brute_force(mask):
    expected, count = flood_labels(mask)
    labels, found = label_components(mask)
    assert found == count
    # The same partition, whatever the numbering.
    assert len(set(zip(labels[mask].tolist(), expected[mask].tolist(), strict=True))) == count
    measures = region_statistics(mask, SPACING)
    longest = 0.0
    for index in range(1, count + 1):
        points = np.argwhere(expected == index) * np.asarray(SPACING)
        if len(points) > 1:
            longest = max(longest, float(pdist(points).max()))
    assert measures.largest_diameter_mm == pytest.approx(longest, abs=1e-9)
    assert measures.voxels == mask.sum()
    assert measures.components == count
    assert measures.volume_ml == pytest.approx(mask.sum() * 3.0 * 0.5 * 1.25 / 1000)
    sizes = [int((expected == index).sum()) for index in range(1, count + 1)]
    assert keep_largest(mask).sum() == max(sizes, default=0)
    kept = remove_small(mask, SPACING, min_volume_mm3=3 * 3.0 * 0.5 * 1.25)
    assert kept.sum() == sum(size for size in sizes if size >= 3)
    assert not (kept & ~mask).any()


def test_box_has_the_diagonal_between_its_corner_voxels():
    measures = region_statistics(box((20, 20, 20), (2, 3, 4), (10, 9, 18)), SPACING)
    assert measures.largest_diameter_mm == pytest.approx(np.linalg.norm([7 * 3.0, 5 * 0.5, 13 * 1.25]))
    assert measures.volume_ml == pytest.approx(8 * 6 * 14 * 1.875 / 1000)


@pytest.mark.parametrize(("low", "high", "expected"), [
    ((1, 1, 1), (2, 2, 2), 0.0),                                      # a voxel
    ((1, 1, 1), (9, 2, 2), 7 * 3.0),                                  # a rod along z
    ((1, 1, 1), (2, 2, 9), 7 * 1.25),                                 # a rod along x
    ((1, 1, 1), (9, 9, 2), np.hypot(7 * 3.0, 7 * 0.5)),               # a plate
])
def test_flat_and_straight_pieces(low, high, expected):
    assert region_statistics(box((10, 10, 10), low, high), SPACING).largest_diameter_mm == pytest.approx(expected)


def test_oblique_rod_is_one_piece_of_its_own_length():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[np.arange(9), np.arange(9), np.arange(9)] = True
    measures = region_statistics(mask, SPACING)
    assert measures.components == 1
    assert measures.largest_diameter_mm == pytest.approx(8 * np.linalg.norm(SPACING))


def test_ball_has_its_diameter_and_volume_whatever_the_spacing():
    spacing, radius = (2.0, 0.8, 1.0), 20.0
    centre = np.asarray([15, 30, 25])
    z, y, x = np.indices((31, 61, 51))
    mask = sum(((axis - c) * s) ** 2 for axis, c, s in zip((z, y, x), centre, spacing, strict=True)) <= radius**2
    measures = region_statistics(mask, spacing)
    assert measures.largest_diameter_mm == pytest.approx(2 * radius, abs=1e-9)  # 20 mm is 10, 25 and 20 voxels
    assert measures.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.01)


def test_diameter_is_of_one_piece_not_across_pieces():
    mask = box((5, 5, 40), (1, 1, 0), (2, 2, 4)) | box((5, 5, 40), (1, 1, 33), (2, 2, 40))
    measures = region_statistics(mask, (1.0, 1.0, 1.0))
    assert (measures.components, measures.largest_diameter_mm) == (2, 6.0)
    # The longest piece need not be the one with the most voxels.
    mask |= box((5, 5, 40), (0, 0, 10), (5, 5, 13))
    assert region_statistics(mask, (1.0, 1.0, 1.0)).largest_diameter_mm == pytest.approx(6.0)


def test_statistics_keep_order_overlaps_and_empty_regions():
    geometry = Geometry.axis_aligned((6, 6, 6), (2.0, 1.0, 1.0))
    whole, core = box((6, 6, 6), (1, 1, 1), (5, 5, 5)), box((6, 6, 6), (2, 2, 2), (4, 4, 4))
    segmentation = Segmentation.from_masks(
        geometry, {"whole": whole, "core": core, "none": np.zeros((6, 6, 6), bool)}
    )
    found = statistics(segmentation)
    assert list(found) == ["whole", "core", "none"]
    assert found["whole"].volume_ml == pytest.approx(0.128)
    assert found["core"].volume_ml == pytest.approx(segmentation.volume_ml("core"))
    assert as_rows(found)[2] == {
        "region": "none", "volume_ml": 0.0, "voxels": 0, "components": 0, "largest_diameter_mm": 0.0
    }


def test_plain_label_map():
    geometry = Geometry.axis_aligned((4, 4, 4))
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0], labels[3, 3, 3], labels[2, 2] = 1, 1, 2
    found = statistics(Segmentation(geometry, LabelScheme.plain({"a": 1, "b": 2}), labels))
    assert (found["a"].components, found["a"].largest_diameter_mm) == (2, 0.0)
    assert (found["b"].voxels, found["b"].largest_diameter_mm) == (4, pytest.approx(3.0))


def test_clean_up_leaves_its_input_alone():
    mask = box((6, 6, 6), (0, 0, 0), (1, 1, 1)) | box((6, 6, 6), (3, 3, 3), (6, 6, 6))
    before = mask.copy()
    assert keep_largest(mask).sum() == 27
    assert remove_small(mask, (1.0, 1.0, 1.0), min_volume_mm3=0).sum() == 28
    assert remove_small(mask, (1.0, 1.0, 1.0), min_volume_mm3=27).sum() == 27
    assert remove_small(mask, (0.1, 0.1, 0.1), min_volume_mm3=0.027).sum() == 27
    assert not remove_small(mask, (1.0, 1.0, 1.0), min_volume_mm3=28).any()
    np.testing.assert_array_equal(mask, before)
    single = keep_largest(box((3, 3, 3), (0, 0, 0), (1, 1, 1)))
    assert single.sum() == 1
