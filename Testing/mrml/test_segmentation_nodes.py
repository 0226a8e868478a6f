"""Segmentation ↔ segmentation node in a real scene; Slicer's own logic, storage and transforms are the oracles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.mrml import (
    labelmaps,
    node_to_segmentation,
    read_volume_node,
    segmentation_to_node,
    segmentation_to_node_in_parts,
)
from BrainSegSAMLib.mrml.labelmaps import finished
from BrainSegSAMLib.volumes import read_volume

slicer = pytest.importorskip("slicer")
vtk = pytest.importorskip("vtk")

SHAPE = (16, 20, 24)  # z, y, x, of the case in conftest


def ball(centre, radius, shape=SHAPE):
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def world_points_by_vtk(volume_node, mask):
    """World RAS of the mask's voxels by VTK's own matrix and transform nodes."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    points, world = [], [0.0, 0.0, 0.0]
    for k, j, i in np.argwhere(mask):
        volume_node.TransformPointToWorld(list(matrix.MultiplyPoint([float(i), float(j), float(k), 1.0])[:3]), world)
        points.append(tuple(world))
    return np.array(points)


def segment_world_points(node, name):
    """World RAS of a segment's voxels by VTK.

    Not by vtkSlicerSegmentationsModuleLogic::GetSegmentBinaryLabelmapRepresentation with the parent transform applied:
    it gives all segments of a shared layer, and concatenates nested transforms in another order than
    vtkMRMLTransformNode does (5.12.4).
    """
    from vtk.util.numpy_support import vtk_to_numpy

    image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    assert node.GetBinaryLabelmapRepresentation(node.GetSegmentation().GetSegmentIdBySegmentName(name), image)
    image.GetImageToWorldMatrix(matrix)
    first = image.GetExtent()[::2]
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    points, world = [], [0.0, 0.0, 0.0]
    for k, j, i in np.argwhere(values):
        ijk = [float(i + first[0]), float(j + first[1]), float(k + first[2])]
        node.TransformPointToWorld(list(matrix.MultiplyPoint([*ijk, 1.0])[:3]), world)
        points.append(tuple(world))
    return np.array(points)


def names(node):
    contents = node.GetSegmentation()
    return [contents.GetNthSegment(i).GetName() for i in range(contents.GetNumberOfSegments())]


def voxels(node, name):
    """Extent, matrix and values of a segment, whatever layer it lies in: for bit-identity."""
    contents = node.GetSegmentation()
    image = slicer.vtkOrientedImageData()
    assert node.GetBinaryLabelmapRepresentation(contents.GetSegmentIdBySegmentName(name), image)
    from vtk.util.numpy_support import vtk_to_numpy

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    values = vtk_to_numpy(image.GetPointData().GetScalars())
    return image.GetExtent(), [matrix.GetElement(r, c) for r in range(4) for c in range(4)], values.tolist()


def snapshot(scene, apart_from=()):
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    return {node.GetID(): node.GetMTime() for node in nodes if node not in apart_from and
            not node.IsA("vtkMRMLSubjectHierarchyNode")}


# ---- into a new node ------------------------------------------------------------------------------------------------


def test_segments_lie_on_the_anatomy_in_world_space(case, ijk_to_ras, parent):
    volume, segmentation = case(ijk_to_ras, parent)
    node = segmentation_to_node(segmentation, volume)
    assert node.GetParentTransformNode() is parent
    for region, mask in segmentation.masks():
        expected, found = world_points_by_vtk(volume, mask), segment_world_points(node, region.name)
        # The same voxels in the same places: Dice 1, and far below half a millimetre.
        assert found.shape == expected.shape
        order = [np.lexsort(np.round(points, 4).T) for points in (expected, found)]
        np.testing.assert_allclose(found[order[1]], expected[order[0]], atol=1e-4)
        np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=1e-6)
    centre = [0.0, 0.0, 0.0]
    node.GetSegmentCenterRAS(node.GetSegmentation().GetSegmentIdBySegmentName("Whole tumour"), centre)
    np.testing.assert_allclose(centre, world_points_by_vtk(volume, segmentation.label_map > 0).mean(axis=0), atol=0.5)


def test_segments_move_with_their_volume(case, make, rotation):
    parent = make.transform(rotation((0, 0, 1), 20))
    volume, segmentation = case(None, parent)
    node = segmentation_to_node(segmentation, volume)
    parent.SetMatrixTransformToParent(volume_matrix := vtk.vtkMatrix4x4())
    volume_matrix.SetElement(0, 3, 17.0)
    parent.SetMatrixTransformToParent(volume_matrix)
    expected = world_points_by_vtk(volume, segmentation.mask("Enhancing tumour"))
    np.testing.assert_allclose(segment_world_points(node, "Enhancing tumour").mean(axis=0), expected.mean(axis=0))


def test_export_with_slicer_gives_the_masks_back(case, scene, ijk_to_ras, parent):
    """Oracle: Slicer's own export of a segment onto the reference volume."""
    volume, segmentation = case(ijk_to_ras, parent)
    node = segmentation_to_node(segmentation, volume)
    from vtk.util.numpy_support import vtk_to_numpy

    for region, mask in segmentation.masks():
        ids = vtk.vtkStringArray()
        ids.InsertNextValue(node.GetSegmentation().GetSegmentIdBySegmentName(region.name))
        labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        assert slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(node, ids, labelmap, volume)
        exported = vtk_to_numpy(labelmap.GetImageData().GetPointData().GetScalars()).reshape(SHAPE)
        np.testing.assert_array_equal(exported > 0, mask)


def test_names_colours_terminology_geometry_and_display(case, scene):
    volume, segmentation = case()
    node = segmentation_to_node(segmentation, volume, name="Result")
    assert node.GetName() == "Result"
    assert names(node) == list(segmentation.scheme.names)
    contents = node.GetSegmentation()
    for index, region in enumerate(segmentation.scheme.regions):
        segment = contents.GetNthSegment(index)
        assert segment.GetColor() == pytest.approx([c / 255 for c in region.colour_rgb])
        assert not segment.GetNameAutoGenerated()
        entry = vtk.reference("")
        assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
        if region.terminology is not None:
            assert str(entry) == region.terminology.slicer_entry() == segment.GetTerminology()
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    expected = slicer.vtkSegmentationConverter.SerializeImageGeometry(matrix, volume.GetImageData())
    assert contents.GetConversionParameter(parameter) == expected
    display = node.GetDisplayNode()
    assert display is not None
    assert display.GetSegmentVisibility(contents.GetNthSegmentID(0))
    assert segmentation_to_node(segmentation, volume, name="Result").GetName() != "Result"
    assert segmentation_to_node(segmentation, volume).GetName() == "glioma"


def test_slicer_reads_our_terminology(case, tmp_path):
    """Oracle: Slicer's terminologies logic takes the entry apart."""
    if not hasattr(slicer, "vtkSlicerTerminologiesModuleLogic"):
        pytest.skip("this build has no terminologies logic")
    volume, segmentation = case()
    node = segmentation_to_node(segmentation, volume)
    logic, entry = slicer.vtkSlicerTerminologiesModuleLogic(), slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(node.GetSegmentation().GetNthSegment(0).GetTerminology(), entry)
    assert entry.GetTerminologyContextName() == "Segmentation category and type - DICOM master list"
    assert (entry.GetCategoryObject().GetCodingSchemeDesignator(), entry.GetCategoryObject().GetCodeValue()) == (
        "SCT", "49755003")
    assert (entry.GetTypeObject().GetCodeValue(), entry.GetTypeObject().GetCodeMeaning()) == ("108369006", "Neoplasm")
    assert entry.GetRegionObject().GetCodeValue() == "12738006"
    assert entry.GetRegionContextName() == "Anatomic codes - DICOM master list"


def test_overlapping_segments_survive_and_disjoint_ones_share_a_layer(case, make):
    volume, segmentation = case()
    node = segmentation_to_node(segmentation, volume)
    assert node.GetSegmentation().GetNumberOfLayers() == 3
    plain = Segmentation(segmentation.geometry, LabelScheme.plain({"a": 1, "b": 2, "c": 3}), segmentation.label_map)
    flat = segmentation_to_node(plain, volume)
    assert flat.GetSegmentation().GetNumberOfLayers() == 1
    for region, mask in plain.masks():
        np.testing.assert_array_equal(len(segment_world_points(flat, region.name)), mask.sum())


def test_nothing_else_in_the_scene_changes(case, scene, make, rotation):
    parent = make.transform(rotation((0, 0, 1), 20))
    volume, segmentation = case(None, parent)
    case(None, parent, name="another")
    before = snapshot(scene)
    node = segmentation_to_node(segmentation, volume)
    after = snapshot(scene, apart_from=(node, node.GetDisplayNode()))
    assert after == before
    assert set(snapshot(scene)) - set(before) == {node.GetID(), node.GetDisplayNodeID()}


def test_failure_leaves_no_node_behind(case, scene):
    volume, segmentation = case()
    before = snapshot(scene)

    class Broken:
        """The volume, with a door that fails after the node was added to the scene."""

        def __getattr__(self, name):
            return getattr(volume, name)

        def GetParentTransformNode(self):
            assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
            raise MemoryError

    from BrainSegSAMLib.mrml import segmentations

    with pytest.raises(MemoryError):
        segmentations._new_node(scene, finished(segmentations._segments(segmentation, volume, None)), Broken(), "x")
    assert snapshot(scene) == before


def test_region_without_a_voxel_becomes_an_empty_segment(case):
    _, segmentation = case()
    labels = np.where(segmentation.label_map == 3, np.uint8(1), segmentation.label_map)
    volume, segmentation = case(labels=labels)
    node = segmentation_to_node(segmentation, volume)
    assert names(node) == list(segmentation.scheme.names)
    back = node_to_segmentation(node)
    np.testing.assert_array_equal(back.label_map, labels)
    empty = Segmentation(segmentation.geometry, segmentation.scheme, np.zeros(SHAPE, np.uint8))
    back = node_to_segmentation(segmentation_to_node(empty, volume))
    assert not back.label_map.any()
    assert back.geometry.is_same_grid(segmentation.geometry)


def test_segmentation_on_another_grid_is_put_on_the_reference_volume(case, make):
    """E.g. predicted on a reoriented grid: the voxels are the same, stored in another order."""
    volume, segmentation = case()
    geometry, order = segmentation.geometry.reoriented("SRA")
    turned = Segmentation(geometry, segmentation.scheme, np.ascontiguousarray(order.apply(segmentation.label_map)))
    node = segmentation_to_node(turned, volume)
    back = node_to_segmentation(node)
    assert back.geometry.is_same_grid(segmentation.geometry)
    np.testing.assert_array_equal(back.label_map, segmentation.label_map)


def test_reference_that_cannot_be_used_is_refused(case, make, scene, rotation):
    volume, segmentation = case()
    with pytest.raises(InputError, match="No volume was chosen"):
        segmentation_to_node(segmentation, None)
    alone = slicer.vtkMRMLScalarVolumeNode()
    alone.SetAndObserveImageData(volume.GetImageData())
    alone.SetName("alone")
    with pytest.raises(InputError, match="'alone' is in no scene"):
        segmentation_to_node(segmentation, alone)
    bend = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bend")
    volume.SetAndObserveTransformNodeID(bend.GetID())
    with pytest.raises(GeometryError, match="non-linear transform 'bend'"):
        segmentation_to_node(segmentation, volume)
    stretch = make.transform(rotation((0, 0, 1), 0) @ np.diag([1, 3.0, 1, 1]), name="stretch")
    volume.SetAndObserveTransformNodeID(stretch.GetID())
    tilted = Geometry.from_ijk_to_ras(rotation((0, 0, 1), 30), segmentation.geometry.size_ijk)
    oblique = Segmentation(tilted, segmentation.scheme, segmentation.label_map)
    with pytest.raises(GeometryError, match="not perpendicular"):
        segmentation_to_node(oblique, volume)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


# ---- into an existing node ------------------------------------------------------------------------------------------


@pytest.fixture
def existing(case, scene):
    """A node as a user has it: two segments that share a layer, and one that overlaps them."""
    volume, segmentation = case()
    brain, vessel, cyst = ball((8, 10, 12), 7), ball((3, 3, 3), 2), ball((6, 8, 15), 2)
    mine = Segmentation.from_masks(segmentation.geometry, {"brain": brain, "vessel": vessel, "Tumour core": cyst})
    node = segmentation_to_node(mine, volume, name="mine")
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    return volume, segmentation, node


def test_other_segments_stay_bit_identical(existing, scene):
    volume, segmentation, node = existing
    before = {name: voxels(node, name) for name in names(node)}
    others = snapshot(scene, apart_from=(node, node.GetDisplayNode()))
    assert segmentation_to_node(segmentation, volume, node=node) is node
    assert names(node) == ["brain", "vessel", "Tumour core", "Whole tumour", "Tumour core_1", "Enhancing tumour"]
    assert {name: voxels(node, name) for name in before} == before
    assert snapshot(scene, apart_from=(node, node.GetDisplayNode())) == others
    np.testing.assert_array_equal(
        np.sort(segment_world_points(node, "Tumour core_1"), axis=0),
        np.sort(world_points_by_vtk(volume, segmentation.mask("Tumour core")), axis=0),
    )
    segmentation_to_node(segmentation, volume, node=node)
    assert names(node)[-3:] == ["Whole tumour_1", "Tumour core_2", "Enhancing tumour_1"]


def test_replace_takes_the_place_of_the_same_name_only(existing):
    volume, segmentation, node = existing
    before = {name: voxels(node, name) for name in ("brain", "vessel")}
    segmentation_to_node(segmentation, volume, node=node, replace=True)
    assert names(node) == ["brain", "vessel", "Tumour core", "Whole tumour", "Enhancing tumour"]
    assert {name: voxels(node, name) for name in before} == before
    for name in segmentation.scheme.names:
        assert len(segment_world_points(node, name)) == segmentation.mask(name).sum()
    segmentation_to_node(segmentation, volume, node=node, replace=True)
    assert names(node) == ["brain", "vessel", "Tumour core", "Whole tumour", "Enhancing tumour"]


def test_replacing_a_segment_of_a_shared_layer_leaves_its_neighbours(case):
    volume, segmentation = case()
    plain = Segmentation(segmentation.geometry, LabelScheme.plain({"a": 1, "b": 2, "c": 3}), segmentation.label_map)
    node = segmentation_to_node(plain, volume)
    new = Segmentation.from_masks(segmentation.geometry, {"b": ball((12, 4, 4), 2)})
    segmentation_to_node(new, volume, node=node, replace=True)
    assert names(node) == ["a", "b", "c"]
    back = node_to_segmentation(node)
    for name, expected in (("a", plain.mask("a")), ("b", ball((12, 4, 4), 2)), ("c", plain.mask("c"))):
        np.testing.assert_array_equal(back.mask(name), expected)


def test_a_refused_segment_leaves_an_existing_node_as_it_was(existing):
    _, segmentation, node = existing
    from BrainSegSAMLib.mrml import segmentations

    before = {name: voxels(node, name) for name in names(node)}
    good = finished(segmentations._segments(segmentation, node, None))

    class Fussy:
        def __getattr__(self, name):
            return getattr(node.GetSegmentation(), name)

        def AddSegment(self, segment, segment_id):
            return segment.GetName() != "Enhancing tumour" and node.GetSegmentation().AddSegment(segment, segment_id)

    with pytest.raises(InputError, match="refused the segment 'Enhancing tumour'"):
        segmentations._add_segments(Fussy(), good, replace=True)
    assert {name: voxels(node, name) for name in names(node)} == before


def test_existing_node_under_another_transform_keeps_it(case, make, rotation):
    volume, segmentation = case(None, make.transform(rotation((1, 1, 0), 35, (10, 20, 30))))
    other_parent = make.transform(rotation((0, 0, 1), 90, (5, 0, 0)), name="other")
    node = segmentation_to_node(segmentation, volume, name="moved")
    node.RemoveSegment(node.GetSegmentation().GetNthSegmentID(0))
    node.SetAndObserveTransformNodeID(other_parent.GetID())
    segmentation_to_node(segmentation, volume, node=node)
    assert node.GetParentTransformNode() is other_parent
    # Its voxel grid now lies obliquely to the volume's: nearest neighbour, so near but not the same voxels.
    expected = world_points_by_vtk(volume, segmentation.mask("Whole tumour"))
    found = segment_world_points(node, "Whole tumour")
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.2)
    assert len(found) == pytest.approx(len(expected), rel=0.05)


def test_existing_node_on_a_finer_grid_gets_resampled_segments(case, make):
    volume, segmentation = case()
    fine = make.volume(np.ones((32, 40, 48), np.int16), np.array(
        [[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]), name="fine")
    _, fine_geometry = read_volume_node(fine)
    node = segmentation_to_node(Segmentation.from_masks(fine_geometry, {"own": ball((9, 9, 9), 4, (32, 40, 48))}), fine)
    before = voxels(node, "own")
    segmentation_to_node(segmentation, volume, node=node)
    assert voxels(node, "own") == before
    back = node_to_segmentation(node)
    assert back.geometry.is_same_grid(fine_geometry)
    for name in segmentation.scheme.names:  # each voxel is eight now
        np.testing.assert_array_equal(back.mask(name), segmentation.mask(name).repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_existing_empty_node_gets_the_reference_geometry(case, scene):
    volume, segmentation = case()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    segmentation_to_node(segmentation, volume, node=node)
    assert node.GetNodeReference("referenceImageGeometryRef") is volume
    np.testing.assert_array_equal(node_to_segmentation(node).label_map, segmentation.label_map)


def test_nodes_without_voxels_are_refused(case, scene):
    volume, segmentation = case()
    node = segmentation_to_node(segmentation, volume, name="surfaces")
    assert node.CreateClosedSurfaceRepresentation()
    assert node.SetSourceRepresentationToClosedSurface()
    before = names(node)
    for action in (lambda: segmentation_to_node(segmentation, volume, node=node), lambda: node_to_segmentation(node)):
        with pytest.raises(InputError, match="'surfaces' is stored as 'Closed surface', not as voxels"):
            action()
    assert names(node) == before
    for wrong in (volume, None):
        with pytest.raises(InputError, match="not a segmentation node"):
            node_to_segmentation(wrong)
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    with pytest.raises(InputError, match="'empty' has no segment"):
        node_to_segmentation(empty)
    empty.GetSegmentation().AddEmptySegment("", "hollow")
    with pytest.raises(InputError, match="only empty segments and no reference volume"):
        node_to_segmentation(empty)


def test_surfaces_made_for_display_follow_new_segments(existing):
    volume, segmentation, node = existing
    assert node.CreateClosedSurfaceRepresentation()
    segmentation_to_node(segmentation, volume, node=node)
    surface = vtk.vtkPolyData()
    assert node.GetClosedSurfaceRepresentation(
        node.GetSegmentation().GetSegmentIdBySegmentName("Whole tumour"), surface)
    assert surface.GetNumberOfPoints() > 0


# ---- in parts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(labelmaps, "_PART", 500)
    monkeypatch.setattr(labelmaps, "_RESAMPLED_PART", 500)


@pytest.mark.parametrize("into", ["new", "existing"])
def test_the_scene_is_touched_after_the_last_part(existing, scene, small_parts, into):
    volume, segmentation, node = existing
    before, kept = snapshot(scene), names(node)
    steps = segmentation_to_node_in_parts(lambda: segmentation, volume, node=node if into == "existing" else None)
    for _part in range(5):
        next(steps)
        assert (snapshot(scene), names(node)) == (before, kept)
    finished(steps)
    assert (snapshot(scene), names(node)) != (before, kept)
    steps = segmentation_to_node_in_parts(lambda: segmentation, volume)
    next(steps)
    before = snapshot(scene)
    steps.close()
    assert snapshot(scene) == before


@pytest.mark.parametrize("moved", ["volume", "node", "grid"])
def test_what_is_moved_between_two_parts_is_found_where_it_is(case, scene, make, rotation, small_parts, moved):
    volume, segmentation = case()
    node = segmentation_to_node(Segmentation.from_masks(segmentation.geometry, {"mine": ball((8, 10, 12), 7)}), volume)
    fine = make.volume(np.ones((32, 40, 48), np.int16), np.array(
        [[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]), name="fine")

    def current():
        _array, geometry = read_volume_node(volume)
        return Segmentation(geometry, segmentation.scheme, segmentation.label_map)

    steps = segmentation_to_node_in_parts(current, volume, node=node)
    next(steps)
    if moved == "grid":
        node.RemoveSegment(node.GetSegmentation().GetNthSegmentID(0))
        node.SetReferenceImageGeometryParameterFromVolumeNode(fine)
    else:
        parent = make.transform(rotation((0, 0, 1), 90, (5, 0, 0)))
        {"volume": volume, "node": node}[moved].SetAndObserveTransformNodeID(parent.GetID())
    finished(steps)
    expected = world_points_by_vtk(volume, segmentation.mask("Whole tumour"))
    found = segment_world_points(node, "Whole tumour")
    if moved == "grid":
        assert len(found) == 8 * len(expected)
    else:
        np.testing.assert_allclose(sorted(found.tolist()), sorted(expected.tolist()), atol=1e-3)


# ---- a real volume --------------------------------------------------------------------------------------------------


def test_a_real_volume_stored_inferior_left_anterior(make, scene, rotation):
    """The T1 of `deep_gray` is stored I, L, A. Slicer's own reader and VTK say where its segments must lie."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "deep_gray"
    files = sorted(folder.rglob("*t1*.nii*"))
    if not files:
        pytest.skip("../shared/data/deep_gray is not there")
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(files[0]))
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "t1")
    assert storage.ReadData(volume) == 1
    parent = make.transform(rotation((1, 2, 3), 30, (10, -20, 30)))
    volume.SetAndObserveTransformNodeID(parent.GetID())
    voxels_, geometry = read_volume_node(volume)
    from_file, _ = read_volume(files[0])
    np.testing.assert_array_equal(voxels_, from_file)
    bright = voxels_ >= np.partition(voxels_.ravel(), -400)[-400]
    segmentation = Segmentation.from_masks(geometry, {"bright": bright})
    node = segmentation_to_node(segmentation, volume)
    expected, found = world_points_by_vtk(volume, bright), segment_world_points(node, "bright")
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=1e-3)
    np.testing.assert_array_equal(node_to_segmentation(node).mask("bright"), bright)
