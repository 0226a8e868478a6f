"""Masks as voxels of a segmentation: the same as resampling onto its whole grid, but no more than the mask needs."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import bounding_box
from BrainSegSAMLib.mrml import labelmap_in_parts, labelmaps, mask_to_labelmap
from BrainSegSAMLib.mrml.spaces import image_to_ras, oriented_image
from Testing.mrml.conftest import SHAPE, lesion

slicer = pytest.importorskip("slicer", reason="the MRML libraries of slicer-core are not installed")

OFFSET = (3, 2, 7)  # of the part that is given
WHOLE = Geometry((40, 36, 30), (0.9, 1.1, 3.0), (4.0, -7.0, 12.0), np.eye(3))


def part(orientation):
    """A part of the volume in which a lesion lies, with the volume stored in any order; and the mask on the whole."""
    whole = np.zeros(WHOLE.shape_zyx, bool)
    whole[tuple(slice(first, first + size) for first, size in zip(OFFSET, SHAPE, strict=True))] = lesion() > 0
    geometry, order = WHOLE.reoriented(orientation)
    stored = order.apply(whole)
    first = [max(0, int(np.flatnonzero(stored.any(axis=tuple({0, 1, 2} - {axis})))[0]) - 2) for axis in range(3)]
    return geometry, tuple(first), stored[tuple(slice(one, None) for one in first)]


def places(labelmap):
    """RAS mm of the voxels of a labelmap, to 0.01 mm, sorted."""
    found = np.argwhere(values(labelmap))[:, ::-1] + np.array(labelmap.GetExtent()[::2])
    ras = np.c_[found, np.ones(len(found))] @ image_to_ras(labelmap).T
    return np.array(sorted((np.rint(ras[:, :3] * 100).astype(int) + 0).tolist()))


def values(labelmap):
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(labelmap.GetDimensions()[::-1])


def on_whole_grid(mask, geometry, offset, grid):
    """Slicer's own resampling of all onto all, into as much of the grid as the mask needs."""
    from vtk.util.numpy_support import numpy_to_vtk

    whole = np.zeros(geometry.shape_zyx, np.uint8)
    whole[tuple(slice(first, first + size) for first, size in zip(offset, mask.shape, strict=True))] = mask
    image = oriented_image(geometry.ijk_to_ras, [bound for size in geometry.size_ijk for bound in (0, size - 1)])
    image.GetPointData().SetScalars(numpy_to_vtk(whole.ravel(), deep=True))
    found = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, grid, found, False, True)
    return found


@pytest.fixture(autouse=True, params=["at once", "in many parts"])
def size_of_a_part(request, monkeypatch):
    """Whatever is made in parts is the same as made at once."""
    if request.param == "in many parts":
        monkeypatch.setattr(labelmaps, "_PART", 500)
        monkeypatch.setattr(labelmaps, "_RESAMPLED_PART", 3000)


@pytest.fixture
def segmentation(scene):
    return scene.AddNewNodeByClass("vtkMRMLSegmentationNode")


def grid_of(geometry):
    return oriented_image(geometry.ijk_to_ras, [bound for size in geometry.size_ijk for bound in (0, size - 1)])


def assert_as_large_as_the_mask(labelmap, *, margin=0):
    occupied = np.argwhere(values(labelmap))
    spare = np.array(values(labelmap).shape) - (occupied.max(axis=0) - occupied.min(axis=0) + 1)
    assert (spare <= margin).all(), f"{spare} voxels more than the mask along z, y, x"


@pytest.mark.parametrize("stored", ["LPS", "RAS", "SLP", "AIR"])
@pytest.mark.parametrize("kept", ["LPS", "RAS", "IPR"])
def test_the_same_voxels_in_another_order_are_not_resampled(segmentation, stored, kept, monkeypatch):
    """The volume is stored in one order, the segmentation in another, both on the same voxels."""
    geometry, offset, mask = part(stored)
    grid = grid_of(WHOLE.reoriented(kept)[0])
    expected = on_whole_grid(mask, geometry, offset, grid)
    monkeypatch.setattr(slicer, "vtkOrientedImageDataResample", None)
    labelmap = mask_to_labelmap(mask, geometry, segmentation, grid, offset_zyx=offset)
    assert values(labelmap).sum() == mask.sum()
    np.testing.assert_array_equal(places(labelmap), places(expected))
    np.testing.assert_array_equal(image_to_ras(labelmap), image_to_ras(grid))
    assert_as_large_as_the_mask(labelmap)


@pytest.mark.parametrize("how", ["turned", "finer", "coarser", "half a voxel off", "elsewhere begun", "smaller"])
def test_other_voxels_are_resampled_no_farther_than_the_mask_reaches(segmentation, rotation, how):
    geometry, offset, mask = part("RAS")
    size, spacing, origin = WHOLE.size_ijk, WHOLE.spacing_ijk_mm, WHOLE.origin_lps_mm
    grid = grid_of({
        "turned": WHOLE.moved_ras(rotation((1, 2, 3), 20)),
        "finer": Geometry((80, 72, 90), (0.45, 0.55, 1.0), origin, np.eye(3)),
        "coarser": Geometry((20, 18, 30), (1.8, 2.2, 3.0), origin, np.eye(3)),
        "half a voxel off": Geometry(size, spacing, (origin[0] + 0.4, origin[1], origin[2]), np.eye(3)),
        "elsewhere begun": Geometry(size, spacing, (origin[0] + 9.0, origin[1], origin[2] - 6.0), np.eye(3)),
        "smaller": Geometry((20, 36, 10), spacing, origin, np.eye(3)),
    }[how])  # fmt: skip
    labelmap = mask_to_labelmap(mask, geometry, segmentation, grid, offset_zyx=offset)
    assert values(labelmap).any()
    np.testing.assert_array_equal(places(labelmap), places(on_whole_grid(mask, geometry, offset, grid)))
    assert_as_large_as_the_mask(labelmap, margin=14 if how == "turned" else 4)


def test_a_grid_that_rounding_moved_is_the_same_grid(segmentation):
    """Headers hold a position to about a hundredth of a voxel; nearest neighbour takes the same voxels."""
    geometry, offset, mask = part("RAS")
    grid = grid_of(Geometry(
        WHOLE.size_ijk, (0.90001, 1.1, 3.00003), tuple(at + 0.004 for at in WHOLE.origin_lps_mm), np.eye(3)
    ))  # fmt: skip
    labelmap = mask_to_labelmap(mask, geometry, segmentation, grid, offset_zyx=offset)
    np.testing.assert_array_equal(places(labelmap), places(on_whole_grid(mask, geometry, offset, grid)))
    assert_as_large_as_the_mask(labelmap)
    np.testing.assert_array_equal(image_to_ras(labelmap), image_to_ras(grid))


def test_an_empty_mask_is_an_empty_labelmap(segmentation):
    grid = grid_of(WHOLE)
    labelmap = mask_to_labelmap(np.zeros(WHOLE.shape_zyx, bool), WHOLE, segmentation, grid)
    assert labelmap.IsEmpty()


@pytest.mark.parametrize("spacing", [(0.9, 1.1, 3.0), (0.5, 1.1, 2.0)])
def test_some_labels_of_a_label_map_are_the_same_as_their_mask(segmentation, spacing):
    label_map = np.zeros(WHOLE.shape_zyx, np.uint16)
    there = tuple(slice(first, first + size) for first, size in zip(OFFSET, SHAPE, strict=True))
    label_map[there] = 300 * lesion().astype(int)
    grid = grid_of(Geometry(WHOLE.size_ijk, spacing, WHOLE.origin_lps_mm, np.eye(3)))
    mask = np.isin(label_map, (300, 900))
    expected = mask_to_labelmap(mask, WHOLE, segmentation, grid)
    steps = labelmap_in_parts(label_map, (300, 900), WHOLE, segmentation, grid, box=bounding_box(mask))
    found = labelmaps.finished(steps)
    assert found.GetExtent() == expected.GetExtent()
    np.testing.assert_array_equal(values(found), values(expected))
    assert values(found).any()


@pytest.mark.parametrize("spacing", [None, (0.9, 1.1, 3.0), (0.5, 1.1, 2.0)])
def test_labels_that_share_an_image_keep_their_own_values(spacing):
    """The n-th becomes n; a value that nobody asked for becomes 0. Slicer's resampling of all values is the oracle."""
    rng = np.random.default_rng(3)
    label_map = rng.integers(0, 6, WHOLE.shape_zyx).astype(np.uint8)
    label_map[:, :, :9] = 0
    label_map[:8] *= label_map[:8] < 4
    everywhere = tuple(slice(0, size) for size in WHOLE.shape_zyx)
    labelled = [((5, 2), everywhere), ((4,), bounding_box(label_map == 4)), ((9,), (slice(0, 0),) * 3)]
    grid = spacing and grid_of(Geometry(WHOLE.size_ijk, spacing, WHOLE.origin_lps_mm, np.eye(3)))
    steps = labelmaps.layer_in_parts(label_map, labelled, WHOLE.ijk_to_ras, grid)
    image = labelmaps.finished(steps)
    wanted = np.choose(label_map, [0, 0, 1, 0, 2, 1]).astype(np.uint8)
    expected = on_whole_grid(wanted, WHOLE, (0, 0, 0), grid or grid_of(WHOLE))
    np.testing.assert_array_equal(places(image), places(expected))
    kept = values(image)[values(image) > 0]
    np.testing.assert_array_equal(kept, values(expected)[values(expected) > 0])
