"""Volume nodes → arrays and grids in world space; VTK's own transforms are the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.mrml import image_from_volume_nodes, read_volume_node, volume_node_geometry

slicer = pytest.importorskip("slicer")
vtk = pytest.importorskip("vtk")

LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])


def shiny(shape=(9, 11, 13), at=(2, 7, 4), dtype=np.int16):
    array = np.random.default_rng(5).integers(0, 100, shape).astype(dtype)
    array[at] = 1000
    return array


def world_ras_by_vtk(node, ijk):
    """IJK → RAS → world, by VTK's own matrices and transform nodes alone."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    point = list(matrix.MultiplyPoint([*map(float, ijk), 1.0])[:3])
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(point, world)
    return np.array(world)


def test_brightest_voxel_lies_where_vtk_puts_it(make, ijk_to_ras, parent):
    array = shiny()
    node = make.volume(array, ijk_to_ras)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    before = node.GetMTime()
    voxels, geometry = read_volume_node(node)
    assert node.GetMTime() == before
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, array)
    k, j, i = np.unravel_index(int(voxels.argmax()), voxels.shape)
    np.testing.assert_allclose(geometry.to_lps([i, j, k]) * LPS_FROM_RAS, world_ras_by_vtk(node, (i, j, k)), atol=1e-9)
    corner = (12, 0, 8)
    np.testing.assert_allclose(geometry.to_lps(corner) * LPS_FROM_RAS, world_ras_by_vtk(node, corner), atol=1e-9)


def test_the_array_is_a_copy(make):
    node = make.volume(shiny(dtype=np.float32))
    voxels, _ = read_volume_node(node)
    voxels[:] = -1
    assert read_volume_node(node)[0].max() == 1000


def test_image_of_several_nodes_on_one_grid(make, rotation):
    parent = make.transform(rotation((0, 0, 1), 30, (5, 5, 5)))
    nodes = {}
    for modality in ("flair", "t1"):
        nodes[modality] = make.volume(shiny(), name=modality)
        nodes[modality].SetAndObserveTransformNodeID(parent.GetID())
    image = image_from_volume_nodes(nodes, name="case")
    assert (image.modalities, image.name) == (("flair", "t1"), "case")
    assert image.geometry.is_same_grid(volume_node_geometry(nodes["t1"]))


def test_hardening_in_slicer_gives_the_same_grid(make, rotation):
    """Oracle: Slicer's own HardenTransform on a twin."""
    matrix = rotation((1, 2, 3), 33, (4, -5, 6))
    node, twin = make.volume(shiny(), name="a"), make.volume(shiny(), name="b")
    parent = make.transform(matrix)
    for each in (node, twin):
        each.SetAndObserveTransformNodeID(parent.GetID())
    assert twin.HardenTransform()
    assert twin.GetParentTransformNode() is None
    assert image_from_volume_nodes({"a": node, "b": twin}).modalities == ("a", "b")
    assert volume_node_geometry(node).is_same_grid(volume_node_geometry(twin))


def test_image_data_that_does_not_start_at_index_zero(make):
    node = make.volume(shiny(), np.diag([2.0, 1.0, 1.0, 1.0]))
    node.GetImageData().SetExtent(3, 15, 0, 10, 0, 8)
    _, geometry = read_volume_node(node)
    assert geometry.origin_lps_mm[0] == pytest.approx(-6.0)


def test_different_grids_are_named(make):
    small = make.volume(shiny((4, 4, 4), (1, 1, 1)), name="B")
    nodes = {"flair": make.volume(shiny(), name="Brain FLAIR"), "t1": small}
    with pytest.raises(GeometryError, match=r"'Brain FLAIR' and Volume 'B' lie on different grids: .*voxels"):
        image_from_volume_nodes(nodes)
    with pytest.raises(InputError, match="no volume was chosen"):
        image_from_volume_nodes({})
    with pytest.raises(InputError, match="No volume was chosen"):
        image_from_volume_nodes({"flair": None})


def refused(node, error, words):
    with pytest.raises(error, match=words) as caught:
        read_volume_node(node)
    assert node.GetName() in str(caught.value)
    assert str(caught.value).endswith(".")


def test_what_is_no_grey_volume_is_refused(make, scene):
    array = shiny()
    refused(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing"), InputError, "empty")
    refused(make.volume(array, name="labels", node_class="vtkMRMLLabelMapVolumeNode"), InputError, "label map")
    refused(make.volume(np.zeros((3, 4, 5, 3), np.uint8), name="photo", node_class="vtkMRMLVectorVolumeNode"),
            InputError, "3 components")
    refused(make.volume(array[:1], name="slice"), InputError, "13×11×1 voxels: a single slice")
    refused(scene.AddNewNodeByClass("vtkMRMLModelNode", "skull"), InputError, "not a volume")
    refused(scene.AddNewNodeByClass("vtkMRMLSequenceNode", "series"), InputError, "not a volume")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_intensities_that_are_not_finite_are_refused(make, value):
    array = shiny(dtype=np.float64)
    array[1, 1, 1] = value
    refused(make.volume(array, name="broken"), InputError, "1 voxels that are not a finite number")


def test_time_point_of_a_sequence_is_refused(make, scene):
    node = make.volume(shiny(), name="frame")
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine")
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine data")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    sequence.SetDataNodeAtValue(node, "0")
    proxy = browser.AddProxyNode(node, sequence, False)
    refused(proxy, InputError, "one time point of the sequence in 'cine'")


def test_degenerate_and_sheared_grids_are_refused(make):
    refused(make.volume(shiny(), np.diag([1.0, 0.0, 1.0, 1.0]), name="flat"), GeometryError, "zero length")
    shear = np.eye(4)
    shear[0, 1] = 0.3
    refused(make.volume(shiny(), shear, name="skewed"), GeometryError, "not perpendicular")


def test_shearing_parent_transform_is_refused(make, rotation):
    """A scaling that differs by axis shears an oblique volume; an axis-aligned one only gets another spacing."""
    stretch = make.transform(np.diag([1.0, 2.0, 1.0, 1.0]), name="stretch")
    oblique = make.volume(shiny(), rotation((0, 0, 1), 30), name="tilted")
    oblique.SetAndObserveTransformNodeID(stretch.GetID())
    refused(oblique, GeometryError, "not perpendicular")
    straight = make.volume(shiny(), name="straight")
    straight.SetAndObserveTransformNodeID(stretch.GetID())
    assert volume_node_geometry(straight).spacing_ijk_mm == pytest.approx((1, 2, 1))


@pytest.mark.parametrize("node_class", ["vtkMRMLGridTransformNode", "vtkMRMLBSplineTransformNode", "thin plate"])
def test_non_linear_parent_transforms_are_refused_with_advice(make, scene, rotation, node_class):
    node = make.volume(shiny(), name="warped")
    if node_class == "thin plate":
        bend = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bend")
        transform = vtk.vtkThinPlateSplineTransform()
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for point in np.random.default_rng(0).random((6, 3)) * 50:
            source.InsertNextPoint(point)
            target.InsertNextPoint(*point[:2], point[2] + point[0] ** 2 / 100)
        transform.SetSourceLandmarks(source)
        transform.SetTargetLandmarks(target)
        transform.SetBasisToR()
        bend.SetAndObserveTransformToParent(transform)
    else:
        bend = scene.AddNewNodeByClass(node_class, "bend")
        if node_class == "vtkMRMLGridTransformNode":
            grid = vtk.vtkImageData()
            grid.SetDimensions(3, 3, 3)
            grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
            grid.GetPointData().GetScalars().Fill(1.0)
            warp = slicer.vtkOrientedGridTransform()
            warp.SetDisplacementGridData(grid)
            bend.SetAndObserveTransformToParent(warp)
    # Also where the bend is not the nearest parent.
    inner = make.transform(rotation((1, 0, 0), 10), parent=bend)
    for parent in (bend, inner):
        node.SetAndObserveTransformNodeID(parent.GetID())
        refused(node, GeometryError, "non-linear transform 'bend'.*Harden")
