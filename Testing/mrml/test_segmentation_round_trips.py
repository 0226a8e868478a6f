"""Node and back, through files and Slicer's own storage: identical."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.mrml import node_to_segmentation, segmentation_to_node
from BrainSegSAMLib.segmentation_files import read_segmentation, write_label_map, write_seg_nrrd

slicer = pytest.importorskip("slicer")
vtk = pytest.importorskip("vtk")

SHAPE = (16, 20, 24)  # z, y, x, of the case in conftest


def ball(centre, radius, shape=SHAPE):
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def same(found, expected):
    assert found.geometry.is_same_grid(expected.geometry), found.geometry.difference(expected.geometry)
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert found.label_map.dtype == expected.label_map.dtype
    assert found.scheme == expected.scheme


def test_node_and_back_is_identical(case, ijk_to_ras, parent):
    volume, segmentation = case(ijk_to_ras, parent)
    node = segmentation_to_node(segmentation, volume)
    before = node.GetMTime(), node.GetSegmentation().GetMTime()
    same(node_to_segmentation(node), segmentation)
    same(node_to_segmentation(node, geometry=segmentation.geometry), segmentation)
    assert (node.GetMTime(), node.GetSegmentation().GetMTime()) == before


def test_seg_nrrd_through_slicers_own_storage(case, scene, tmp_path):
    """Oracle: vtkMRMLSegmentationStorageNode writes, and another one reads into a fresh scene node."""
    volume, segmentation = case(np.array([[0, -1.0, 0, 40], [0, 0, 1.5, -60], [-1.0, 0, 0, 70], [0, 0, 0, 1]]))
    node = segmentation_to_node(segmentation, volume)
    path = str(tmp_path / "glioma.seg.nrrd")
    for action, target in (("WriteData", node), ("ReadData", scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "r"))):
        storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetFileName(path)
        assert getattr(storage, action)(target) == 1
    same(node_to_segmentation(target), segmentation)


def test_edited_segments_keep_their_masks_where_the_label_values_no_longer_fit(case):
    volume, segmentation = case()
    node = segmentation_to_node(segmentation, volume)
    stray = Segmentation.from_masks(segmentation.geometry, {"Enhancing tumour": ball((2, 2, 2), 1)})
    segmentation_to_node(stray, volume, node=node, replace=True)  # enhancing tumour outside the whole tumour
    back = node_to_segmentation(node)
    np.testing.assert_array_equal(back.mask("Enhancing tumour"), ball((2, 2, 2), 1))
    np.testing.assert_array_equal(back.mask("Whole tumour"), segmentation.mask("Whole tumour"))


def test_segments_drawn_by_a_user_are_read(case, scene):
    """No tag of ours, Slicer's placeholder as terminology, the same name twice, outside of the reference volume."""
    volume, segmentation = case()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for first in (-3, 5):
        image = slicer.vtkOrientedImageData()
        image.SetExtent(first, first + 4, 0, 2, 0, 1)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        image.GetPointData().GetScalars().Fill(1)
        assert node.AddSegmentFromBinaryLabelmapRepresentation(image, "blob", [0.2, 0.4, 0.6])
    back = node_to_segmentation(node)
    assert back.scheme.names == ("blob", "blob_1")
    assert back.scheme["blob"].terminology is None
    assert back.scheme["blob"].colour_rgb == (51, 102, 153)
    assert back.geometry.size_ijk == (24 + 3, 20, 16)
    assert [int(mask.sum()) for _, mask in back.masks()] == [30, 30]
    lps_of_first = back.geometry.to_lps(np.argwhere(back.mask("blob"))[0][::-1])
    np.testing.assert_allclose(lps_of_first, [3.0, 0.0, 0.0], atol=1e-9)
    cut = node_to_segmentation(node, geometry=segmentation.geometry)
    assert int(cut.mask("blob").sum()) == 2 * 3 * 2


def test_wide_label_values_come_back(case):
    volume, segmentation = case()
    labels = segmentation.label_map.astype(np.uint16) * 300
    wide = Segmentation(segmentation.geometry, LabelScheme.plain({"a": 300, "b": 600, "c": 900}), labels)
    same(node_to_segmentation(segmentation_to_node(wide, volume)), wide)


# ---- through our own files ------------------------------------------------------------------------------------------


def test_node_to_files_and_back_to_a_node(case, tmp_path, ijk_to_ras, parent):
    """Node → our files → node: identical, wherever the volume lies."""
    volume, segmentation = case(ijk_to_ras, parent)
    found = node_to_segmentation(segmentation_to_node(segmentation, volume))
    for name, write in (("a.seg.nrrd", write_seg_nrrd), ("a.nii.gz", write_label_map)):
        write(found, tmp_path / name)
        read = read_segmentation(tmp_path / name, segmentation.scheme)
        same(node_to_segmentation(segmentation_to_node(read, volume), geometry=segmentation.geometry), segmentation)


def test_our_seg_nrrd_is_read_by_slicer(case, scene, tmp_path):
    _, segmentation = case(np.array([[0, -1.0, 0, 40], [0, 0, 1.5, -60], [-1.0, 0, 0, 70], [0, 0, 0, 1]]))
    write_seg_nrrd(segmentation, tmp_path / "ours.seg.nrrd")
    node, storage = (scene.AddNewNodeByClass(f"vtkMRMLSegmentation{kind}Node") for kind in ("", "Storage"))
    storage.SetFileName(str(tmp_path / "ours.seg.nrrd"))
    assert storage.ReadData(node) == 1
    back = node_to_segmentation(node, geometry=segmentation.geometry)
    assert [(r.name, r.colour_rgb, r.terminology) for r in back.scheme.regions] == [
        (r.name, r.colour_rgb, r.terminology) for r in segmentation.scheme.regions]
    for region, mask in segmentation.masks():
        np.testing.assert_array_equal(back.mask(region.name), mask)


def test_slicers_seg_nrrd_is_read_by_us(case, scene, tmp_path):
    volume, segmentation = case(np.array([[0, -1.0, 0, 40], [0, 0, 1.5, -60], [-1.0, 0, 0, 70], [0, 0, 0, 1]]))
    node = segmentation_to_node(segmentation, volume)
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "slicers.seg.nrrd"))
    assert storage.WriteData(node) == 1
    back = read_segmentation(tmp_path / "slicers.seg.nrrd", segmentation.scheme)
    assert back.geometry.is_same_grid(segmentation.geometry)
    np.testing.assert_array_equal(back.label_map, segmentation.label_map)
