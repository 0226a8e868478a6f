from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image, Segmentation
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology

GRID = Geometry.axis_aligned((2, 3, 4), (3.0, 2.0, 0.5))


def zeros(dtype=np.float32):
    return np.zeros(GRID.shape_zyx, dtype)


def test_an_image_gives_its_channels_in_the_order_asked_for():
    image = Image(GRID, {"t1": zeros(), "t2": zeros() + 1}, "p1")
    assert image.modalities == ("t1", "t2")
    stack = image.stack(["t2", "t1"])
    assert stack.dtype == np.float32
    assert stack.shape == (2, 2, 3, 4)
    assert [float(channel.mean()) for channel in stack] == [1, 0]
    with pytest.raises(InputError, match="p1 lacks flair; needed are flair, t1, found are t1, t2"):
        image.stack(["flair", "t1"])


def test_images_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="p1 has no modality"):
        Image(GRID, {}, "p1")
    with pytest.raises(GeometryError, match=r"p1: modality 't1' has the shape \(4, 3, 2\)"):
        Image(GRID, {"t1": zeros().T}, "p1")


def test_segmentations_that_cannot_be_are_refused():
    scheme = LabelScheme.plain({"a": 1})
    with pytest.raises(GeometryError, match=r"s: the label map has the shape \(4, 3, 2\)"):
        Segmentation(GRID, scheme, zeros(np.uint8).T, "s")
    with pytest.raises(InputError, match="s: a label map holds unsigned integers, not int64"):
        Segmentation(GRID, scheme, zeros(np.int64), "s")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_regions_share_label_values(dtype):
    scheme = LabelScheme(
        (
            Region("WT", (1, 2, 3), (1, 2, 3)),
            Region("TC", (1, 3), (1, 2, 3)),
            Region("ET", (3,), (1, 2, 3)),
        )
    )
    label_map = np.arange(24, dtype=dtype).reshape(GRID.shape_zyx) % 5
    segmentation = Segmentation(GRID, scheme, label_map)
    np.testing.assert_array_equal(segmentation.mask("WT"), (label_map >= 1) & (label_map <= 3))
    np.testing.assert_array_equal(segmentation.mask("TC"), (label_map == 1) | (label_map == 3))
    np.testing.assert_array_equal(segmentation.mask("ET"), label_map == 3)
    assert [region.name for region, _ in segmentation.masks()] == ["WT", "TC", "ET"]
    assert segmentation.volume_ml("ET") == pytest.approx(np.count_nonzero(label_map == 3) * 3.0 / 1000)
    with pytest.raises(InputError, match="no region 'XX'; there are: WT, TC, ET"):
        segmentation.mask("XX")


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=6))
def test_any_masks_come_back(bits):
    masks = {
        f"m{i}": np.array([value >> bit & 1 for bit in range(24)], bool).reshape(GRID.shape_zyx)
        for i, value in enumerate(bits)
    }
    segmentation = Segmentation.from_masks(GRID, masks)
    assert segmentation.scheme.names == tuple(masks)
    outside = ~np.any(list(masks.values()), axis=0)
    np.testing.assert_array_equal(segmentation.label_map == 0, outside)
    for name, mask in masks.items():
        np.testing.assert_array_equal(segmentation.mask(name), mask)


def test_more_combinations_than_eight_bits_hold():
    grid = Geometry.axis_aligned((8, 8, 8))
    index = np.arange(512).reshape(8, 8, 8)
    masks = {f"m{bit}": (index >> bit & 1).astype(bool) for bit in range(9)}
    segmentation = Segmentation.from_masks(grid, masks)
    assert segmentation.label_map.dtype == np.uint16
    for name, mask in masks.items():
        np.testing.assert_array_equal(segmentation.mask(name), mask)


def test_masks_take_names_colours_and_codes_from_a_scheme():
    code = Terminology(Code("SCT", "1", "a"), Code("SCT", "2", "b"))
    scheme = LabelScheme((Region("a", (7,), (9, 8, 7), code), Region("b", (8,), (1, 2, 3))))
    segmentation = Segmentation.from_masks(GRID, {"b": zeros(bool), "a": zeros(bool)}, scheme=scheme)
    assert segmentation.scheme.names == ("b", "a")
    assert segmentation.scheme["a"].colour_rgb == (9, 8, 7)
    assert segmentation.scheme["a"].terminology == code
    assert not segmentation.mask("a").any()


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="there is no mask"):
        Segmentation.from_masks(GRID, {})
    with pytest.raises(GeometryError, match="mask 'a' has the shape"):
        Segmentation.from_masks(GRID, {"a": np.zeros((2, 2, 2), bool)})
