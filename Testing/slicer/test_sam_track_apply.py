"""What SAM tracking writes and what it leaves alone: masks, overwriting, other objects, other grids, other nodes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from Testing.slicer.interactive import (
    SHAPE,
    ball,
    centre_view,
    done,
    draw,
    expected_on,
    let_qt_work,
    previewed,
    ras_of,
    voxels,
)


@pytest.fixture
def effect(choose_effect):
    return choose_effect("BrainSegSAM SAM tracking", "c-tracks")


def track(bench, layout, effect, source, **options):
    for name, value in options.items():
        effect.scriptedEffect.setParameter(name, value)
    centre_view(layout, source)
    effect.trackButton.click()
    done(bench, effect)


# ---- what is written


def test_nothing_that_the_segment_has_is_lost_unless_it_is_asked_for(bench, editor, layout, effect, source):
    """Another lesion on slices that are followed, and one beyond them; a hole, and more, in the object itself."""
    lesions = np.zeros(SHAPE, bool)
    lesions[12:16, 1:4, 1:4] = lesions[0, 3, 3] = True
    before = expected_on(SHAPE, 0, 10) | lesions
    before[13, 12:16, 8:34] = True  # beyond the ball's edge
    draw(editor, before)
    track(bench, layout, effect, source)
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball() | before)
    editor.undo()
    np.testing.assert_array_equal(voxels(editor), before)
    track(bench, layout, effect, source, Replace=1)
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball() | lesions)
    editor.undo()
    np.testing.assert_array_equal(voxels(editor), before)


AREAS = {
    "EditAllowedEverywhere": lambda b: np.ones(SHAPE, bool),
    "EditAllowedInsideSingleSegment": lambda b: b,
    "EditAllowedOutsideAllSegments": lambda b: ~b,
}


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("overwrite", ["OverwriteAllSegments", "OverwriteVisibleSegments", "OverwriteNone"])
@pytest.mark.parametrize("replaced", [0, 1])
def test_masks_and_overwriting(bench, editor, layout, effect, source, area, overwrite, replaced):
    """B is a half of the volume that A's own slice is left out of, as when both were drawn one after the other."""
    import slicer

    own = expected_on(SHAPE, 0, 10)
    own[9, 12:24, 4:13] = True  # hangs together with the ball's slice 9, and reaches beyond the ball
    half = np.zeros(SHAPE, bool)
    half[:, :, 20:] = True
    half &= ~own
    draw(editor, own)
    draw(editor, half, "B")
    node = editor.mrmlSegmentEditorNode()
    node.SetMaskMode(getattr(slicer.vtkMRMLSegmentationNode, area))
    node.SetMaskSegmentID("B")
    node.SetOverwriteMode(getattr(node, overwrite))
    track(bench, layout, effect, source, Replace=replaced)
    effect.applyButton.click()
    allowed = AREAS[area](half)
    added = ball() & allowed
    kept = own & ~(allowed & ~ball()) if replaced else own
    np.testing.assert_array_equal(voxels(editor), kept | added)
    np.testing.assert_array_equal(voxels(editor, "B"), half if overwrite == "OverwriteNone" else half & ~added)
    editor.undo()
    np.testing.assert_array_equal(voxels(editor), own)
    np.testing.assert_array_equal(voxels(editor, "B"), half)


@pytest.mark.parametrize("replaced", [0, 1])
def test_the_editable_intensity_range(bench, editor, layout, effect, source, replaced):
    from vtk.util.numpy_support import vtk_to_numpy

    intensities = vtk_to_numpy(source.GetImageData().GetPointData().GetScalars()).reshape(SHAPE)
    intensities[:, :18] = np.where(ball()[:, :18], 300, intensities[:, :18])  # still bright, but not editable
    source.GetImageData().Modified()
    own = expected_on(SHAPE, 0, 10)
    own[9, 12:24, 4:13] = True
    draw(editor, own)
    node = editor.mrmlSegmentEditorNode()
    node.SetSourceVolumeIntensityMask(True)
    node.SetSourceVolumeIntensityMaskRange(350.0, 1000.0)
    track(bench, layout, effect, source, Replace=replaced)
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), own | (ball() & (intensities == 400)))


def test_an_applied_object_is_followed_on_without_a_new_look(bench, editor, layout, effect, drawn, monkeypatch):
    """Track, Apply, correct a slice with any other effect, Track again; another object is looked at anew."""
    asked = []
    start = effect.startJob

    def listen(kind, arguments, target, **rest):
        asked.append(arguments.get("again"))
        start(kind, arguments, target, **rest)

    monkeypatch.setattr(effect, "startJob", listen)
    track(bench, layout, effect, drawn, Replace=1)
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


# ---- places


def transform(scene, degrees, shift, name):
    import vtk

    matrix = vtk.vtkTransform()
    matrix.Translate(*shift)
    matrix.RotateWXYZ(degrees, 1, 2, 3)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(matrix.GetMatrix())
    return node


def matrix_of(call):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    call(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def stored(editor, name="A"):
    """The segment's own voxels: bool (z, y, x), and 4x4 from their indices to the source volume's, read from nodes."""
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    node, source = editor.segmentationNode(), editor.sourceVolumeNode()
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(name, image)
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]) > 0
    to_world = np.eye(4)
    if node.GetParentTransformNode() is not None:
        to_world = matrix_of(node.GetParentTransformNode().GetMatrixTransformToWorld)
    volume_to_world = matrix_of(source.GetIJKToRASMatrix)
    if source.GetParentTransformNode() is not None:
        volume_to_world = matrix_of(source.GetParentTransformNode().GetMatrixTransformToWorld) @ volume_to_world
    begin = np.eye(4)
    begin[:3, 3] = image.GetExtent()[::2]
    return values, np.linalg.inv(volume_to_world) @ to_world @ matrix_of(image.GetImageToWorldMatrix) @ begin


def sampled(mask, shape, to_volume):
    """A mask on the volume's voxels, at other voxels: nearest neighbour."""
    indices = np.argwhere(np.ones(shape, bool))[:, ::-1]
    there = np.rint(np.c_[indices, np.ones(len(indices))] @ to_volume.T)[:, :3].astype(int)[:, ::-1]
    inside = ((there >= 0) & (there < np.array(mask.shape))).all(axis=1)
    found = np.zeros(len(indices), bool)
    found[inside] = mask[tuple(there[inside].T)]
    return found.reshape(shape)


@pytest.mark.parametrize("grid", ["turned", "finer", "both"])
@pytest.mark.parametrize("replaced", [0, 1])
def test_other_transforms_and_another_grid(bench, editor, layout, effect, source, scene, volume, grid, replaced):
    """The volume and the segmentation lie under transforms of their own, and have voxels of their own."""
    node = editor.segmentationNode()
    if grid != "turned":
        fine = volume("fine", size=(80, 72, 40))
        spacing = source.GetSpacing()
        fine.SetSpacing(*[one / 2 for one in spacing])
        fine.SetOrigin(*[o - s / 4 for o, s in zip(source.GetOrigin(), spacing, strict=True)])
        node.SetReferenceImageGeometryParameterFromVolumeNode(fine)
        scene.RemoveNode(fine)
    if grid != "finer":
        source.SetAndObserveTransformNodeID(transform(scene, 12.37, (3.1, -4, 5), "moves the volume").GetID())
        node.SetAndObserveTransformNodeID(transform(scene, -7.21, (1, 2.2, 3), "moves the segmentation").GetID())
    draw(editor, expected_on(SHAPE, 0, 10))
    effect.scriptedEffect.setParameter("From", "largest")
    effect.scriptedEffect.setParameter("Replace", replaced)
    before, _ = stored(editor)
    effect.trackButton.click()
    done(bench, effect)
    followed = effect._followed
    found = np.zeros(SHAPE, bool)
    for index, mask in followed.masks.items():
        found[index] = mask[::-1, ::-1]  # slices are counted on axes LPS, the volume is stored RAS
    np.testing.assert_array_equal(np.delete(found, followed.begin, 0), np.delete(ball(), followed.begin, 0))
    assert 0.8 < found[followed.begin].sum() / ball()[followed.begin].sum() <= 1.3, "the slice as it was drawn"
    effect.applyButton.click()
    values, to_volume = stored(editor)
    expected = sampled(found, values.shape, to_volume)
    if replaced:
        np.testing.assert_array_equal(values, expected)
    else:
        assert values[expected].all()
        assert np.count_nonzero(values & ~expected) <= np.count_nonzero(before)
    editor.undo()
    assert np.array_equal(stored(editor)[0], before)


def test_nodes_that_are_moved_together_while_slices_come(bench, editor, layout, effect, slow_worker, drawn, scene):
    centre_view(layout, drawn)
    effect.trackButton.click()
    assert bench.wait_until(lambda: len(effect._followed.shown) > 2)
    moved = transform(scene, 20, (5, 6, 7), "moves both")
    for node in (drawn, editor.segmentationNode()):
        node.SetAndObserveTransformNodeID(moved.GetID())
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), ball())
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball())


# ---- what is left alone


def state(scene, *, besides):
    """Of all nodes but some: when they were changed last, and the volumes' voxels."""
    from vtk.util.numpy_support import vtk_to_numpy

    found = {}
    for number in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(number)
        if node.GetID() in besides:
            continue
        image = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else None
        scalars = image.GetPointData().GetScalars() if image is not None else None
        found[node.GetID()] = node.GetMTime(), scalars and vtk_to_numpy(scalars).tobytes()
    return found


def test_nothing_else_in_the_scene_is_changed(bench, editor, layout, effect, drawn, scene, volume, mouse):
    volume("another")
    source_parent = transform(scene, 0, (1, 2, 3), "moves the volume")
    drawn.SetAndObserveTransformNodeID(source_parent.GetID())
    draw(editor, expected_on(SHAPE, 0, 10))
    view, *_ = centre_view(layout, drawn)
    view.mrmlSliceNode().JumpSliceByOffsetting(*_world(drawn, (20, 18, 10)))
    let_qt_work()
    segmentation = editor.segmentationNode()
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    own = {
        segmentation.GetID(), segmentation.GetDisplayNodeID(), editor.mrmlSegmentEditorNode().GetID(),
        hierarchy.GetID(),  # Slicer's own editor touches it whenever a segment is changed
    }  # fmt: skip
    before = state(scene, besides=own)
    b, shown = voxels(editor, "B"), segmentation.GetDisplayNode().GetMTime()
    effect.trackButton.click()
    done(bench, effect)
    mouse.click(view, _world(drawn, (20, 18, 10)), "shift")
    effect.againButton.click()
    done(bench, effect)
    effect.applyButton.click()
    let_qt_work()
    assert np.count_nonzero(voxels(editor)) > 1000
    editor.setActiveEffect(None)
    assert state(scene, besides=own) == before
    assert segmentation.GetDisplayNode().GetMTime() == shown
    np.testing.assert_array_equal(voxels(editor, "B"), b)


def _world(node, ijk):
    import vtk

    point = [0.0, 0.0, 0.0]
    to_world = vtk.vtkGeneralTransform()
    node.GetParentTransformNode().GetTransformToWorld(to_world)
    to_world.TransformPoint(ras_of(node, ijk), point)
    return point


# ---- what is removed or left meanwhile


def close(editor, effect, scene, drawn, other):
    effect.cleanup()


def remove_segment(editor, effect, scene, drawn, other):
    editor.segmentationNode().GetSegmentation().RemoveSegment("A")


LEAVING = {
    "another effect": lambda editor, *_: editor.setActiveEffect(None),
    "segment removed": remove_segment,
    "segmentation removed": lambda editor, effect, scene, *_: scene.RemoveNode(editor.segmentationNode()),
    "volume removed": lambda editor, effect, scene, drawn, other: scene.RemoveNode(drawn),
    "another source volume": lambda editor, effect, scene, drawn, other: editor.setSourceVolumeNode(other),
    "scene closed": lambda editor, effect, scene, *_: scene.Clear(False),
    "cancelled": lambda editor, effect, *_: effect.cancelButton.click(),
    "editor closed": close,
}  # fmt: skip


@pytest.mark.parametrize("when", ["while slices come", "when all are there"])
@pytest.mark.parametrize("how", LEAVING)
def test_what_is_left_leaves_nothing(bench, editor, layout, effect, slow_worker, drawn, scene, volume, how, when):
    other = volume("another", size=(40, 36, 20))
    other.CreateDefaultDisplayNodes()  # the editor will
    nodes = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    segmentation, before = editor.segmentationNode(), voxels(editor)
    centre_view(layout, drawn)
    if when == "when all are there":
        effect.scriptedEffect.setParameter("Range", 1)
        effect.trackButton.click()
        done(bench, effect)
    else:
        effect.trackButton.click()
        assert bench.wait_until(lambda: len(effect._followed.shown) > 1)
        assert effect.job is not None
    LEAVING[how](editor, effect, scene, drawn, other)
    let_qt_work()
    assert not effect.preview.visible
    assert effect.job is None
    assert effect._followed is None
    assert effect.target is None
    assert effect._observations == []
    assert not effect.stopsLabel.visible
    assert not effect._refresh.isActive()
    if how in ("another effect", "cancelled", "another source volume", "editor closed"):
        assert np.array_equal(voxels(editor), before)
    if how != "scene closed":
        assert segmentation.GetSegmentation().GetNumberOfSegments() == (1 if how == "segment removed" else 2)
        assert {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())} <= nodes
    if how == "editor closed":
        assert effect._connections == []
        effect.trackButton.click()
        assert effect.job is None
    assert bench.wait_until(lambda: not effect.worker.busy)


def test_a_volume_that_was_moved_alone_is_told(bench, layout, effect, drawn, dialogs):
    track(bench, layout, effect, drawn)
    drawn.SetOrigin(1, 2, 3)
    effect.applyButton.click()
    assert "start again" in dialogs.messages.pop()[1]
    effect.cancelButton.click()
    assert not effect.preview.visible


def test_a_model_that_was_removed_is_told(bench, editor, layout, effect, drawn, interactive_models, dialogs):
    track(bench, layout, effect, drawn)
    shutil.rmtree(interactive_models / "c-tracks")
    effect.trackButton.click()
    assert "was removed; choose another one" in dialogs.messages.pop()[1]
    np.testing.assert_array_equal(previewed(editor, effect), ball()), "what is there stays"
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball())
