"""What our effects leave alone: all of the scene but the edited segment, also where a volume cannot be used."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.slicer.interactive import (
    SHAPE,
    bent,
    centre_view,
    done,
    draw,
    expected_on,
    let_qt_work,
    scene_changes,
    scene_contents,
)

BOX, TRACK = "BrainSegSAM MedSAM box", "BrainSegSAM SAM tracking"
EDITOR, SEGMENTATION = "vtkMRMLSegmentEditorNode1", "vtkMRMLSegmentationNode1"


@pytest.fixture
def others(editor, scene, volume, layout):
    """Nodes that are none of ours, and contents in both segments."""
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "a transform")
    other = volume("another FLAIR", seed=3)
    other.CreateDefaultDisplayNodes()
    other.SetAndObserveTransformNodeID(transform.GetID())
    second = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "another segmentation")
    second.CreateDefaultDisplayNodes()
    second.SetReferenceImageGeometryParameterFromVolumeNode(other)
    second.GetSegmentation().AddEmptySegment("C", "C")
    draw(editor, expected_on(SHAPE, 0, 10))
    b = np.zeros(SHAPE, bool)
    b[2:4, 5:9, 5:9] = True
    draw(editor, b, "B")
    layout.resetSliceViews()


def work(bench, layout, editor, effect, mouse):
    """Until there is a preview."""
    source = editor.sourceVolumeNode()
    view, low, high = centre_view(layout, source)
    if effect.scriptedEffect.name == BOX:
        mouse.drag(view, low, high)
        done(bench, effect)
        effect.detectVolumeButton.click()
        done(bench, effect)
    else:
        effect.trackButton.click()
    done(bench, effect)


@pytest.mark.parametrize(("name", "model"), [(BOX, "a-boxes"), (TRACK, "c-tracks")])
def test_nothing_but_the_edited_segment_is_changed(
    bench, editor, layout, scene, mouse, others, choose_effect, name, model
):
    centre_view(layout, editor.sourceVolumeNode())
    let_qt_work()
    before = scene_contents(scene)
    effect = choose_effect(name, model)
    work(bench, layout, editor, effect, mouse)
    assert effect.preview.visible, effect.statusLabel.text
    changed = scene_changes(before, scene_contents(scene))
    assert changed.pop(EDITOR) <= {"activeEffectName", "attributes"}
    assert {scene.GetNodeByID(node).GetName() for node in changed} == {"BrainSegSAM preview"}
    effect.applyButton.click()
    editor.setActiveEffect(None)
    changed = scene_changes(before, scene_contents(scene))
    assert changed.pop(EDITOR, set()) <= {"attributes"}
    assert changed == {SEGMENTATION: {"segment A"}}
    editor.undo()
    assert scene_changes(before, scene_contents(scene)).keys() <= {EDITOR}


def colours(node):
    import slicer

    return _as(slicer.vtkMRMLVectorVolumeNode(), node, components=3)


def labels(node):
    import slicer

    made = _as(slicer.vtkMRMLLabelMapVolumeNode(), node)
    made.CreateDefaultDisplayNodes()
    made.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")  # Slicer's own is not on the bench
    return made


def not_finite(node):
    made = _as(node.NewInstance(), node)
    made.GetImageData().GetPointData().GetScalars().SetTuple1(777, float("nan"))
    return made


def under_bent(node):
    made = _as(node.NewInstance(), node)
    made.SetAndObserveTransformNodeID(bent(node.GetScene()).GetID())
    return made


def _as(made, node, *, components=1):
    """A node of another kind with the voxels and the place of a volume."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    values = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())
    image = vtk.vtkImageData()
    image.SetDimensions(node.GetImageData().GetDimensions())
    repeated = np.ascontiguousarray(np.repeat(values[:, None], components, axis=1))
    image.GetPointData().SetScalars(numpy_to_vtk(repeated, deep=True))
    made.SetName("unusable")
    made.SetAndObserveImageData(image)
    made.SetSpacing(*node.GetSpacing())
    made.SetOrigin(*node.GetOrigin())
    return node.GetScene().AddNode(made)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(colours, "colour"), (labels, "label"), (not_finite, "not finite"), (under_bent, "non-linear transform 'bent'")],
)
@pytest.mark.parametrize(("name", "model"), [(BOX, "a-boxes"), (TRACK, "c-tracks")])
def test_a_volume_that_cannot_be_used_is_refused_in_words(
    bench, editor, layout, scene, mouse, others, choose_effect, dialogs, kind, words, name, model
):
    effect = choose_effect(name, model)
    source = editor.sourceVolumeNode()
    view, low, high = centre_view(layout, source)
    editor.setSourceVolumeNode(kind(source))
    let_qt_work()
    before = scene_contents(scene)
    if name == BOX:
        mouse.drag(view, low, high)
    else:
        effect.trackButton.click()
    done(bench, effect)
    said = [text for _kind, text in dialogs.messages] or [effect.statusLabel.text]
    dialogs.messages.clear()
    assert words in said[0]
    assert said[0].endswith((".", "…"))
    if name == BOX:
        assert not effect.preview.visible
        assert effect.overlay.widget is None
        assert not effect.applyButton.enabled
    effect.cancelButton.click()
    let_qt_work()
    assert scene_changes(before, scene_contents(scene)) == {}


@pytest.mark.parametrize(("name", "model"), [(BOX, "a-boxes"), (TRACK, "c-tracks")])
def test_a_segmentation_under_a_bent_transform_is_refused_in_words(
    bench, editor, layout, scene, mouse, others, choose_effect, dialogs, name, model
):
    effect = choose_effect(name, model)
    view, low, high = centre_view(layout, editor.sourceVolumeNode())
    editor.segmentationNode().SetAndObserveTransformNodeID(bent(scene).GetID())
    let_qt_work()
    before = scene_contents(scene)
    if name == BOX:
        mouse.drag(view, low, high)
        effect.detectVolumeButton.click()
    else:
        effect.trackButton.click()
    assert "non-linear transform 'bent'" in dialogs.messages.pop()[1]
    assert effect.job is None
    assert not effect.preview.visible
    assert scene_changes(before, scene_contents(scene)) == {}
