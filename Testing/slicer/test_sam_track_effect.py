"""The SAM tracking effect, on real nodes and views, with a real worker process."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from Testing.slicer.interactive import (
    SHAPE,
    ball,
    centre_view,
    done,
    expected_on,
    let_qt_work,
    previewed,
    ras_of,
    voxels,
)


@pytest.fixture
def effect(choose_effect):
    return choose_effect("BrainSegSAM SAM tracking", "c-tracks")


@pytest.fixture
def source(ball_volume):
    return ball_volume


def draw(editor, mask, name="A"):
    """Fill a segment with a mask on the source volume's voxels, without the editor."""
    import slicer

    from BrainSegSAMLib import mrml

    node, source = editor.segmentationNode(), editor.sourceVolumeNode()
    grid = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        node.GetSegmentation().GetConversionParameter(
            slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        ),
        grid,
        False,
    )
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    labelmap = mrml.mask_to_labelmap(mask, mrml.volume_node_geometry(source), node, grid)
    if mask.any():
        logic.SetBinaryLabelmapToSegment(labelmap, node, name, logic.MODE_REPLACE)
    else:
        logic.ClearSegment(node, name)


@pytest.fixture
def drawn(editor, source):
    """The ball's middle slice, in segment A."""
    draw(editor, expected_on(SHAPE, 0, 10))
    return source


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_an_object_is_followed_both_ways(bench, editor, layout, effect, source, plane, axis):
    draw(editor, expected_on(SHAPE, axis, (10, 18, 20)[axis]))
    effect.scriptedEffect.setParameter("Plane", plane)
    for view in ("Red", "Green", "Yellow"):
        centre_view(layout, source, view)
    before = voxels(editor)
    effect.trackButton.click()
    assert effect.preview.visible or effect.job is not None
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), ball())
    np.testing.assert_array_equal(voxels(editor), before), "a preview changes no segment"
    assert effect.stopsLabel.visible
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball())
    assert not effect.preview.visible
    assert not effect.stopsLabel.visible
    editor.undo()
    np.testing.assert_array_equal(voxels(editor), before)


def test_slices_come_one_by_one(bench, editor, layout, effect, drawn, monkeypatch):
    centre_view(layout, drawn)
    seen = []
    show = effect.showPreview
    monkeypatch.setattr(effect, "showPreview", lambda: (seen.append(set(effect._followed.shown)), show())[0])
    monkeypatch.setattr(effect, "refreshSoon", effect.showPreview)
    effect.trackButton.click()
    done(bench, effect)
    assert len(seen) > 8
    assert seen[0] == {10}
    assert all(before <= after for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize(("direction", "kept"), [("forward", slice(10, None)), ("backward", slice(None, 11))])
def test_a_direction_and_a_range(bench, editor, layout, effect, drawn, direction, kept):
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("Direction", direction)
    effect.trackButton.click()
    done(bench, effect)
    expected = np.zeros(SHAPE, bool)
    expected[kept] = ball()[kept]
    np.testing.assert_array_equal(previewed(editor, effect), expected)
    effect.scriptedEffect.setParameter("Direction", "both")
    effect.scriptedEffect.setParameter("Range", 2)
    assert effect.rangeLabel.text == "4.0 mm"
    effect.trackButton.click()
    done(bench, effect)
    assert np.flatnonzero(previewed(editor, effect).any(axis=(1, 2))).tolist() == [8, 9, 10, 11, 12]
    assert "the range ended" in effect.statusLabel.text


def test_the_slice_to_begin_at(bench, editor, layout, effect, drawn, dialogs):
    centre_view(layout, drawn, index=4)
    effect.trackButton.click()
    assert "empty on this slice" in dialogs.messages.pop()[1]
    effect.scriptedEffect.setParameter("From", "largest")
    effect.trackButton.click()
    done(bench, effect)
    assert effect._followed.begin == 10
    draw(editor, np.zeros(SHAPE, bool))
    effect.trackButton.click()
    assert "is empty in the volume" in dialogs.messages.pop()[1]


def test_a_correction_goes_on_from_its_slice(bench, editor, layout, effect, drawn, mouse):
    """A wrong slice is painted over; only what lies beyond it is followed anew, and nothing is encoded again."""
    centre_view(layout, drawn)
    effect.trackButton.click()
    done(bench, effect)
    assert not effect.againButton.enabled
    assert "Correct a slice" in effect.againButton.toolTip
    view, *_ = centre_view(layout, drawn, index=13)
    effect.scriptedEffect.setParameter("Brush", 30.0)
    mouse.click(view, ras_of(drawn, (20, 18, 13)), "control")
    effect.scriptedEffect.setParameter("Brush", 2.0)
    mouse.click(view, ras_of(drawn, (20, 18, 13)), "shift")
    let_qt_work()
    painted = np.array(effect._followed.masks[13])
    assert 9 <= painted.sum() <= 14, "a disc of 2 mm on pixels of 1 mm, around where the mouse was"
    assert effect.againButton.enabled
    below = previewed(editor, effect)[:13]
    effect.againButton.click()
    done(bench, effect)
    found = previewed(editor, effect)
    np.testing.assert_array_equal(found[:13], below)
    assert found[13].sum() == painted.sum()
    assert found[13, 18, 20]
    assert painted.sum() < found[14].sum() < ball()[14].sum(), "what is near the disc"
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), found)


def test_a_slice_that_was_not_followed_cannot_be_corrected(bench, layout, effect, drawn, mouse):
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("Range", 1)
    effect.trackButton.click()
    done(bench, effect)
    view, *_ = centre_view(layout, drawn, index=15)
    mouse.click(view, ras_of(drawn, (20, 18, 15)), "shift")
    assert "Nothing was followed onto this slice" in effect.statusLabel.text
    assert not effect.againButton.enabled


@pytest.mark.parametrize("replace", [True, False])
def test_what_was_on_followed_slices_is_replaced_or_kept(bench, editor, layout, effect, drawn, replace):
    mask = expected_on(SHAPE, 0, 10)
    mask[11, 2, 2] = mask[0, 3, 3] = True  # on a slice that is followed, and on one that is not
    draw(editor, mask)
    centre_view(layout, drawn)
    effect.scriptedEffect.setParameter("Range", 2)
    effect.scriptedEffect.setParameter("Replace", int(replace))
    effect.trackButton.click()
    done(bench, effect)
    effect.applyButton.click()
    found = voxels(editor)
    assert bool(found[11, 2, 2]) is not replace
    assert found[0, 3, 3]
    np.testing.assert_array_equal(found[8:13, 5:], ball()[8:13, 5:])
    editor.undo()
    np.testing.assert_array_equal(voxels(editor), mask)


def test_masking_is_honoured(bench, editor, layout, effect, drawn):
    import slicer

    allowed = np.zeros(SHAPE, bool)
    allowed[:, :, 20:] = True
    draw(editor, allowed, "B")
    node = editor.mrmlSegmentEditorNode()
    node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    node.SetMaskSegmentID("B")
    node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
    centre_view(layout, drawn)
    effect.trackButton.click()
    done(bench, effect)
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), (ball() & allowed) | expected_on(SHAPE, 0, 10))
    np.testing.assert_array_equal(voxels(editor, "B"), allowed)


def test_transforms_and_another_grid(bench, editor, layout, effect, drawn, scene):
    """The segmentation's voxels are finer and turned against the volume's, which lies under a transform."""
    import slicer
    import vtk

    matrix = vtk.vtkTransform()
    matrix.Translate(3, -4, 5)
    matrix.RotateWXYZ(12, 1, 2, 3)
    for node in (drawn, editor.segmentationNode()):
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(matrix.GetMatrix())
        node.SetAndObserveTransformNodeID(transform.GetID())
    draw(editor, expected_on(SHAPE, 0, 10))
    effect.scriptedEffect.setParameter("From", "largest")
    effect.trackButton.click()
    done(bench, effect)
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball())
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


@pytest.mark.parametrize("how", ["effect", "segment", "scene", "cancel", "volume moved"])
def test_what_is_left_leaves_nothing(bench, editor, layout, effect, drawn, scene, how, dialogs):
    nodes = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    before = voxels(editor)
    centre_view(layout, drawn)
    effect.trackButton.click()
    if how == "volume moved":
        done(bench, effect)
        drawn.SetOrigin(1, 2, 3)
        effect.applyButton.click()
        assert "start again" in dialogs.messages.pop()[1]
        effect.cancelButton.click()
    elif how == "effect":
        editor.setActiveEffect(None)
    elif how == "segment":
        editor.segmentationNode().GetSegmentation().RemoveSegment("A")
    elif how == "scene":
        scene.Clear(False)
    else:
        effect.cancelButton.click()
    let_qt_work()
    assert not effect.preview.visible
    assert effect.job is None
    assert effect._followed is None
    assert effect._observations == []
    assert not effect.stopsLabel.visible
    if how in ("effect", "cancel"):
        np.testing.assert_array_equal(voxels(editor), before)
    if how != "scene":
        assert {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())} <= nodes
    assert bench.wait_until(lambda: not effect.worker.busy)


def test_options_are_kept_in_the_scene(editor, effect):
    effect.rangeSpin.setValue(7)
    effect.directionCombo.setCurrentIndex(1)
    node = editor.mrmlSegmentEditorNode()
    assert node.GetAttribute("BrainSegSAM SAM tracking.Range") == "7"
    assert node.GetAttribute("BrainSegSAM SAM tracking.Direction") == "forward"
    effect.scriptedEffect.setParameter("Range", 3)
    assert effect.rangeSpin.value == 3


def test_an_applied_object_is_followed_on_without_a_new_look(bench, editor, layout, effect, drawn, monkeypatch):
    """Track, Apply, correct a slice with any other effect, Track again; another object is looked at anew."""
    asked = []
    start = effect.startJob

    def listen(kind, arguments, target, **rest):
        asked.append(arguments.get("again"))
        start(kind, arguments, target, **rest)

    monkeypatch.setattr(effect, "startJob", listen)
    centre_view(layout, drawn)
    effect.trackButton.click()
    done(bench, effect)
    effect.applyButton.click()
    corrected = ball()
    corrected[12, :, 20:] = False
    draw(editor, corrected)
    centre_view(layout, drawn, index=12)
    effect.scriptedEffect.setParameter("Direction", "forward")
    effect.trackButton.click()
    done(bench, effect)
    effect.applyButton.click()
    found = voxels(editor)
    np.testing.assert_array_equal(found[:13], corrected[:13])
    assert found[13].sum() < ball()[13].sum(), "what was there before is replaced"
    other = np.zeros(SHAPE, bool)
    other[11, 2:5, 2:5] = True
    draw(editor, other)
    centre_view(layout, drawn, index=11)
    effect.trackButton.click()
    done(bench, effect)
    assert [one for one in asked if one is not None][-3:] == [False, True, False]
