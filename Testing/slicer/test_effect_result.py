"""What becomes of a result: masks, overwriting, undo, other geometries, transforms, and targets that are gone."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.labels import Region
from Testing.slicer.results import BLOCK, EFFECT, OTHER, SHAPE, box, fill, rotation, transform, voxels

WHOLE, CORE = Region("Whole", (1, 2), (0, 255, 0)), Region("Core", (2,), (255, 0, 0))


@pytest.fixture
def effect(editor):
    """The host of an active effect."""
    editor.setActiveEffectByName(EFFECT)
    return editor.activeEffect()


@pytest.fixture
def door(editor):
    from BrainSegSAMEffects import EffectResult

    return EffectResult


@pytest.fixture
def occupied(editor, effect, door):
    """Segment B holds OTHER; A is selected."""
    editor.setCurrentSegmentID("B")
    fill(effect, door, OTHER)
    editor.setCurrentSegmentID("A")
    return editor


# ---- one segment


def test_a_result_fills_the_selected_segment_and_undo_takes_it_back(editor, effect, door):
    fill(effect, door, BLOCK)
    assert np.array_equal(voxels(editor, "A"), BLOCK)
    editor.undo()
    assert not voxels(editor, "A").any()
    editor.redo()
    assert np.array_equal(voxels(editor, "A"), BLOCK)


def test_a_result_replaces_or_is_added(editor, effect, door):
    fill(effect, door, BLOCK)
    fill(effect, door, OTHER, add=True)
    assert np.array_equal(voxels(editor, "A"), BLOCK | OTHER)
    fill(effect, door, OTHER)
    assert np.array_equal(voxels(editor, "A"), OTHER)


def test_an_empty_result_empties_the_segment(editor, effect, door):
    fill(effect, door, BLOCK)
    fill(effect, door, np.zeros(SHAPE, dtype=bool))
    assert not voxels(editor, "A").any()


@pytest.mark.parametrize(("mode", "left"), [("OverwriteAllSegments", OTHER & ~BLOCK), ("OverwriteNone", OTHER),
                                            ("OverwriteVisibleSegments", OTHER)])
def test_overwrite_mode_is_honoured(occupied, effect, door, mode, left):
    parameters = occupied.mrmlSegmentEditorNode()
    parameters.SetOverwriteMode(getattr(parameters, mode))
    occupied.segmentationNode().GetDisplayNode().SetSegmentVisibility("B", False)
    fill(effect, door, BLOCK)
    assert np.array_equal(voxels(occupied, "A"), BLOCK)
    assert np.array_equal(voxels(occupied, "B"), left)


@pytest.mark.parametrize(("mode", "expected"), [("EditAllowedInsideSingleSegment", BLOCK & OTHER),
                                                ("EditAllowedOutsideAllSegments", BLOCK & ~OTHER)])
def test_editable_area_is_honoured(occupied, effect, door, mode, expected):
    import slicer

    parameters = occupied.mrmlSegmentEditorNode()
    parameters.SetMaskMode(getattr(slicer.vtkMRMLSegmentationNode, mode))
    parameters.SetMaskSegmentID("B")
    parameters.SetOverwriteMode(parameters.OverwriteNone)
    fill(effect, door, BLOCK)
    assert np.array_equal(voxels(occupied, "A"), expected)
    assert np.array_equal(voxels(occupied, "B"), OTHER)


def test_editable_intensity_range_is_honoured(editor, effect, door):
    from BrainSegSAMLib import mrml

    parameters = editor.mrmlSegmentEditorNode()
    parameters.SetSourceVolumeIntensityMask(True)
    parameters.SetSourceVolumeIntensityMaskRange(90.0, 110.0)
    fill(effect, door, BLOCK)
    intensities, _ = mrml.read_volume_node(editor.sourceVolumeNode())
    expected = BLOCK & (intensities >= 90) & (intensities <= 110)
    assert 0 < expected.sum() < BLOCK.sum()
    assert np.array_equal(voxels(editor, "A"), expected)


def test_an_undo_step_is_made_only_where_something_is_written(editor, effect, door, scene):
    fill(effect, door, OTHER)
    fill(effect, door, BLOCK)
    node = transform(scene, rotation(0, (200, 0, 0)))
    editor.sourceVolumeNode().SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(InputError, match="outside the voxel grid"):
        fill(effect, door, BLOCK, add=True)
    editor.undo()
    assert not voxels_of_node(editor)[~OTHER].any(), "one Undo takes back what was written last"


def voxels_of_node(editor):
    from BrainSegSAMLib import mrml

    editor.sourceVolumeNode().SetAndObserveTransformNodeID(None)
    return next(mask for region, mask in mrml.node_to_segmentation(
        editor.segmentationNode(), geometry=mrml.volume_node_geometry(editor.sourceVolumeNode())).masks()
        if region.name == "A")


# ---- places


@pytest.mark.parametrize(("moved", "matrix"), [
    (("volume", "segmentation"), rotation(77, (4, -2, 6))), (("volume",), rotation(0, (-3, 2, 4))),
    (("segmentation",), rotation(0, (-3, 2, 4))), (("segmentation",), rotation(180, (29, 49, 0))),
])
def test_parent_transforms_on_either_node(editor, effect, door, scene, moved, matrix):
    """What is found on the volume is filled where it lies in the world, as far as the segmentation has voxels there."""
    node = transform(scene, matrix)
    nodes = {"volume": editor.sourceVolumeNode(), "segmentation": editor.segmentationNode()}
    for name in moved:
        nodes[name].SetAndObserveTransformNodeID(node.GetID())
    expected = BLOCK & inside_grid(editor)
    assert expected.sum() > 0.5 * BLOCK.sum()
    fill(effect, door, BLOCK)
    assert np.array_equal(voxels(editor, "A"), expected)


def test_a_result_outside_the_grid_is_refused(editor, effect, door, scene):
    fill(effect, door, OTHER)
    node = transform(scene, rotation(0, (200, 0, 0)))
    editor.sourceVolumeNode().SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(InputError, match="outside the voxel grid"):
        fill(effect, door, BLOCK)
    editor.sourceVolumeNode().SetAndObserveTransformNodeID(None)
    assert np.array_equal(voxels(editor, "A"), OTHER)


def inside_grid(editor):
    """Voxels of the volume that the segmentation's grid can hold."""
    from BrainSegSAMEffects.EffectResult import Target

    from BrainSegSAMLib import mrml

    grid = Target.of(editor.activeEffect()).gridGeometry()
    volume = mrml.volume_node_geometry(editor.sourceVolumeNode())
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in volume.size_ijk], indexing="ij"), -1).reshape(-1, 3)
    found = grid.to_ijk(volume.to_lps(indices))
    ok = np.all((found > -0.5) & (found < np.asarray(grid.size_ijk) - 0.5), axis=1)
    return ok.reshape(volume.size_ijk).transpose(2, 1, 0)


def test_another_grid_than_the_volumes(editor, effect, door, volume):
    """On a grid of twice the voxels along each axis, each voxel of the result becomes eight."""
    fine = volume("fine", size=(80, 72, 40))
    source = editor.sourceVolumeNode()
    fine.SetSpacing(*[s / 2 for s in source.GetSpacing()])
    fine.SetOrigin(*[o - s / 4 for o, s in zip(source.GetOrigin(), source.GetSpacing(), strict=True)])
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(fine)
    target = door.Target.of(effect)
    assert target.gridGeometry().size_ijk == (80, 72, 40)
    door.fillSegment(effect, target, target.labelmap(BLOCK, target.sourceGeometry))
    stored = editor.segmentationNode().GetSegmentation().GetSegment("A").GetRepresentation("Binary labelmap")
    from vtk.util.numpy_support import vtk_to_numpy

    assert vtk_to_numpy(stored.GetPointData().GetScalars()).sum() == 8 * BLOCK.sum()
    assert np.array_equal(voxels(editor, "A"), BLOCK)


def test_a_result_on_a_grid_of_its_own(editor, effect, door):
    """A part of the volume's grid, given with its own geometry."""
    target = door.Target.of(effect)
    whole = target.sourceGeometry
    part = Geometry.from_ijk_to_lps(
        whole.ijk_to_lps @ np.array([[1, 0, 0, 10], [0, 1, 0, 5], [0, 0, 1, 3], [0, 0, 0, 1.0]]), (20, 15, 6)
    )
    door.fillSegment(effect, target, target.labelmap(np.ones((6, 15, 20), dtype=bool), part))
    assert np.array_equal(voxels(editor, "A"), BLOCK)


def test_a_non_linear_transform_is_refused(editor, effect, door, scene):
    import vtk

    landmarks = vtk.vtkPoints()
    for point in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)):
        landmarks.InsertNextPoint(point)
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(landmarks)
    spline.SetTargetLandmarks(landmarks)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    node.SetAndObserveTransformToParent(spline)
    editor.segmentationNode().SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(GeometryError, match="non-linear transform 'bent'"):
        door.Target.of(effect)


def test_a_segmentation_of_surfaces_is_refused(editor, effect, door):
    fill(effect, door, BLOCK)
    node = editor.segmentationNode()
    assert node.CreateClosedSurfaceRepresentation()
    assert node.SetSourceRepresentationToClosedSurface()
    for per_segment in (True, False):
        with pytest.raises(InputError, match="is stored as 'Closed surface', not as voxels"):
            door.Target.of(effect, perSegment=per_segment)


# ---- targets that are gone


def test_without_a_segment_or_volume(editor, effect, door):
    editor.setCurrentSegmentID("")
    with pytest.raises(InputError, match="Select the segment"):
        door.Target.of(effect)
    door.Target.of(effect, perSegment=False)
    editor.setSourceVolumeNode(None)
    with pytest.raises(InputError, match="source volume"):
        door.Target.of(effect, perSegment=False)


def gone_segment(editor, scene):
    editor.segmentationNode().GetSegmentation().RemoveSegment("A")


def other_segment(editor, scene):
    editor.setCurrentSegmentID("B")


def other_segmentation(editor, scene):
    editor.setSegmentationNode(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "another"))


def gone_volume(editor, scene):
    scene.RemoveNode(editor.sourceVolumeNode())


def moved_volume(editor, scene):
    editor.sourceVolumeNode().SetOrigin(1, 2, 3)


def moved_segmentation(editor, scene):
    node = transform(scene, rotation(3))
    editor.segmentationNode().SetAndObserveTransformNodeID(node.GetID())


@pytest.mark.parametrize(
    ("change", "message"),
    [(gone_segment, "was removed"), (other_segment, "Select 'A' again"), (other_segmentation, "Another segmentation"),
     (gone_volume, "'source' was removed"), (moved_volume, "was moved"), (moved_segmentation, "was moved")],
)
def test_nothing_is_written_where_the_target_has_changed(editor, effect, door, scene, change, message):
    target = door.Target.of(effect)
    node = target.segmentationNode
    labelmap = target.labelmap(BLOCK, target.sourceGeometry)
    change(editor, scene)
    with pytest.raises(InputError, match=message):
        door.fillSegment(effect, target, labelmap)
    segments = node.GetSegmentation()
    for name in segments.GetSegmentIDs():
        labelmap = segments.GetSegment(name).GetRepresentation("Binary labelmap")
        assert labelmap is None or labelmap.IsEmpty()


@pytest.mark.parametrize("found", ["before", "after"])
def test_moving_both_together_does_no_harm(editor, effect, door, scene, found):
    """Whether the result is found before they are moved, or on the place where the volume was, and shown after."""
    target = door.Target.of(effect)
    labelmap = target.labelmap(BLOCK, target.sourceGeometry)
    node = transform(scene, rotation(33, (5, 6, 7)))
    for moved in (editor.segmentationNode(), editor.sourceVolumeNode()):
        moved.SetAndObserveTransformNodeID(node.GetID())
    if found == "after":
        labelmap = target.labelmap(BLOCK, target.sourceGeometry)
    door.fillSegment(effect, target, labelmap)
    assert np.array_equal(voxels(editor, "A"), BLOCK)


# ---- new segments


def add(effect, door, whole, core):
    target = door.Target.of(effect, perSegment=False)
    masks = ((WHOLE, whole), (CORE, core))
    results = [(region, target.labelmap(mask, target.sourceGeometry)) for region, mask in masks]
    return door.addSegments(effect, target, results)


INNER = box(SHAPE, (4, 8), (8, 16), (12, 20))


def test_added_segments_overlap_and_are_one_step(editor, effect, door):
    segment_ids = add(effect, door, BLOCK, INNER)
    assert np.array_equal(voxels(editor, "Whole"), BLOCK)
    assert np.array_equal(voxels(editor, "Core"), INNER)
    segment = editor.segmentationNode().GetSegmentation().GetSegment(segment_ids[1])
    assert segment.GetColor() == (1.0, 0.0, 0.0)
    assert editor.mrmlSegmentEditorNode().GetSelectedSegmentID() == "A"
    editor.undo()
    assert editor.segmentationNode().GetSegmentation().GetSegmentIDs() == ("A", "B")


def test_added_segments_get_names_of_their_own(editor, effect, door):
    add(effect, door, BLOCK, INNER)
    add(effect, door, OTHER, INNER)
    segments = editor.segmentationNode().GetSegmentation()
    names = [segments.GetNthSegment(index).GetName() for index in range(segments.GetNumberOfSegments())]
    assert names == ["A", "B", "Whole", "Core", "Whole_1", "Core_1"]


@pytest.mark.parametrize("mode", ["OverwriteAllSegments", "OverwriteNone"])
def test_added_segments_honour_the_overwrite_mode(occupied, effect, door, mode):
    parameters = occupied.mrmlSegmentEditorNode()
    parameters.SetOverwriteMode(getattr(parameters, mode))
    add(effect, door, BLOCK, INNER)
    assert np.array_equal(voxels(occupied, "Whole"), BLOCK)
    assert np.array_equal(voxels(occupied, "Core"), INNER)
    assert np.array_equal(voxels(occupied, "B"), OTHER if mode == "OverwriteNone" else OTHER & ~BLOCK)
    occupied.undo()
    assert np.array_equal(voxels(occupied, "B"), OTHER)


@pytest.mark.parametrize(("area", "intensities"), [(True, True), (True, False), (False, True)])
def test_added_segments_honour_the_masks(occupied, effect, door, area, intensities):
    import slicer

    from BrainSegSAMLib import mrml

    parameters = occupied.mrmlSegmentEditorNode()
    if area:  # which protects B, although all segments may be overwritten
        parameters.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    else:
        parameters.SetOverwriteMode(parameters.OverwriteNone)
    parameters.SetSourceVolumeIntensityMask(intensities)
    parameters.SetSourceVolumeIntensityMaskRange(90.0, 200.0)
    several(effect, door, {"inner": INNER, "block": BLOCK, "right": RIGHT})
    values, _ = mrml.read_volume_node(occupied.sourceVolumeNode())
    allowed = ((values >= 90) | (not intensities)) & ~(OTHER & area)
    for name, mask in (("inner", INNER), ("block", BLOCK), ("right", RIGHT)):
        assert (mask & ~allowed).any() or name == "right"
        assert np.array_equal(voxels(occupied, name), mask & allowed)
    assert np.array_equal(voxels(occupied, "B"), OTHER)


def stored(editor, name):
    """The image that holds a segment, and its value there."""
    contents = editor.segmentationNode().GetSegmentation()
    segment = contents.GetSegment(contents.GetSegmentIdBySegmentName(name))
    return segment.GetRepresentation("Binary labelmap"), segment.GetLabelValue()


def several(effect, door, masks):
    target = door.Target.of(effect, perSegment=False)
    return door.addSegments(effect, target, [
        (Region(name, (number + 1,), (9, 9, 9)), target.labelmap(mask, target.sourceGeometry))
        for number, (name, mask) in enumerate(masks.items())
    ])  # fmt: skip


RIGHT, FAR = box(SHAPE, (3, 9), (5, 20), (31, 39)), box(SHAPE, (10, 12), (21, 30), (10, 30))


def test_a_first_region_that_does_not_hold_the_others_is_written_as_it_is(editor, effect, door):
    masks = {"inner": INNER, "block": BLOCK, "other": OTHER, "none": np.zeros(SHAPE, dtype=bool), "right": RIGHT}
    several(effect, door, masks)
    for name, mask in masks.items():
        assert np.array_equal(voxels(editor, name), mask), name
    editor.undo()
    assert editor.segmentationNode().GetSegmentation().GetSegmentIDs() == ("A", "B")
    editor.redo()
    for name, mask in masks.items():
        assert np.array_equal(voxels(editor, name), mask), name


def test_nothing_found_makes_empty_segments(editor, effect, door):
    nothing = np.zeros(SHAPE, dtype=bool)
    several(effect, door, {"first": nothing, "second": nothing})
    assert not voxels(editor, "first").any()
    assert not voxels(editor, "second").any()


def test_segments_apart_share_an_image_that_ends_with_them(editor, effect, door):
    """As Slicer keeps segments: each image more is gone through again whenever something is overwritten."""
    several(effect, door, {"whole": BLOCK | RIGHT | FAR, "block": BLOCK, "right": RIGHT, "far": FAR, "inner": INNER})
    images = {name: stored(editor, name) for name in ("whole", "block", "right", "far", "inner")}
    assert images["block"][0] is images["right"][0] is images["far"][0]
    assert len({images[name][1] for name in ("block", "right", "far")}) == 3
    assert len({id(images[name][0]) for name in ("whole", "block", "inner")}) == 3
    assert images["whole"][0] is stored(editor, "A")[0], "as Slicer's own button adds a segment"
    assert images["inner"][0].GetDimensions() == (8, 8, 4)


def test_more_segments_than_an_image_has_values(editor, effect, door):
    places = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    masks = {f"s{number}": places == 7 * number for number in range(300)}
    several(effect, door, masks)
    for number in (0, 1, 254, 255, 256, 299):
        assert np.array_equal(voxels(editor, f"s{number}"), masks[f"s{number}"])


def test_added_segments_on_another_grid_than_the_volumes(editor, effect, door, volume):
    fine = volume("fine", size=(80, 72, 40))
    source = editor.sourceVolumeNode()
    fine.SetSpacing(*[s / 2 for s in source.GetSpacing()])
    fine.SetOrigin(*[o - s / 4 for o, s in zip(source.GetOrigin(), source.GetSpacing(), strict=True)])
    add(effect, door, OTHER, INNER)  # remains on the volume's grid
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(fine)
    parameters = editor.mrmlSegmentEditorNode()
    parameters.SetOverwriteMode(parameters.OverwriteNone)
    add(effect, door, BLOCK, INNER)
    expected = {"Whole": OTHER, "Core": INNER, "Whole_1": BLOCK, "Core_1": INNER}
    for name, mask in expected.items():
        assert np.array_equal(voxels(editor, name), mask), name
    assert np.array_equal(stored(editor, "Core_1")[0].GetSpacing(), fine.GetSpacing())


def test_added_segments_are_cut_off_at_the_grids_edge_and_refused_beyond_it(editor, effect, door, volume):
    part = volume("part", size=(12, 36, 20))  # the first voxels along i
    part.SetSpacing(*editor.sourceVolumeNode().GetSpacing())
    part.SetOrigin(*editor.sourceVolumeNode().GetOrigin())
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(part)
    with pytest.raises(InputError, match="outside the voxel grid"):
        add(effect, door, BLOCK, INNER)  # INNER begins at 12
    assert editor.segmentationNode().GetSegmentation().GetNumberOfSegments() == 2
    inside = box(SHAPE, (0, 20), (0, 36), (0, 12))
    several(effect, door, {"block": BLOCK, "other": OTHER})
    assert np.array_equal(voxels(editor, "block"), BLOCK & inside)
    assert np.array_equal(voxels(editor, "other"), OTHER & inside)


def test_added_segments_are_shown_in_3d_where_the_others_are(editor, effect, door):
    fill(effect, door, OTHER)
    contents = editor.segmentationNode().GetSegmentation()
    assert contents.CreateRepresentation("Closed surface")
    parameters = editor.mrmlSegmentEditorNode()
    parameters.SetOverwriteMode(parameters.OverwriteNone)
    several(effect, door, {"inner": INNER, "block": BLOCK})
    for name in ("A", "inner", "block"):
        segment = contents.GetSegment(contents.GetSegmentIdBySegmentName(name))
        bounds = np.reshape(segment.GetRepresentation("Closed surface").GetBounds(), (3, 2))
        image, _value = stored(editor, name)
        extent = np.reshape(image.GetExtent(), (3, 2))
        assert np.allclose(np.ptp(bounds, axis=1), (np.ptp(extent, axis=1) + 1) * image.GetSpacing(), atol=3), name


# ---- preview


def node_names(scene):
    return sorted(scene.GetNthNode(index).GetID() or "" for index in range(scene.GetNumberOfNodes()))


def test_a_preview_is_seen_and_leaves_nothing(editor, effect, door, scene, layout):
    from BrainSegSAMEffects.Preview import Preview

    view = layout.sliceWidget("Red").sliceView()
    before, plain = node_names(scene), view.pixels().astype(int)
    target, preview = door.Target.of(effect), Preview()
    for _ in range(2):
        preview.show(target.segmentationNode, [((255, 0, 0), target.labelmap(OTHER, target.sourceGeometry))])
        assert preview.visible
        drawn = view.pixels().astype(int)
        red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60) & (drawn[..., 2] < 60)
        assert 100 < red.sum() < 4000  # an outline, not an area
        assert not voxels(editor, "A").any()
        preview.clear()
        assert not preview.visible
        assert node_names(scene) == before
        assert np.abs(view.pixels().astype(int) - plain).max() <= 1


def test_a_preview_follows_the_transform_and_survives_a_closed_scene(editor, effect, door, scene):
    from BrainSegSAMEffects.Preview import Preview

    node = transform(scene, rotation(20))
    editor.segmentationNode().SetAndObserveTransformNodeID(node.GetID())
    target, preview = door.Target.of(effect), Preview()
    preview.show(target.segmentationNode, [((255, 0, 0), target.labelmap(BLOCK, target.sourceGeometry))])
    shown = next(scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode") for i in range(2)
                 if scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode").GetHideFromEditors())
    assert shown.GetParentTransformNode() is node
    assert not shown.GetSaveWithScene()
    scene.Clear(False)
    assert not preview.visible
    preview.clear()
