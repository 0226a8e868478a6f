"""The MedSAM box effect, driven by real mouse events in real slice views, with a real worker process."""

from __future__ import annotations

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
    return choose_effect("BrainSegSAM MedSAM box", "a-boxes")


@pytest.mark.parametrize(("view", "axis"), [("Red", 0), ("Green", 1), ("Yellow", 2)])
def test_a_box_in_any_view_becomes_a_preview_and_a_segment(bench, editor, layout, effect, source, mouse, view, axis):
    widget = layout.sliceWidget(view)
    index = (10, 18, 20)[axis]
    low, high = [8, 7, 3], [32, 29, 17]
    low[2 - axis] = high[2 - axis] = index
    widget.mrmlSliceNode().JumpSliceByOffsetting(*ras_of(source, low))
    before = editor.segmentationNode().GetMTime()
    nodes = editor.mrmlScene().GetNumberOfNodes()
    mouse.drag(widget, ras_of(source, low), ras_of(source, high))
    assert effect.overlay.widget is widget, effect.statusLabel.text
    done(bench, effect)
    assert effect.preview.visible, effect.statusLabel.text
    assert editor.segmentationNode().GetMTime() == before, "a preview changes no segment"
    assert effect.applyButton.enabled
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), expected_on(SHAPE, axis, index))
    assert not effect.preview.visible
    assert effect.overlay.widget is None
    assert editor.mrmlScene().GetNumberOfNodes() == nodes
    editor.undo()
    assert not voxels(editor).any()


def test_points_add_and_take_away(bench, editor, layout, effect, source, mouse):
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    mouse.click(view, ras_of(source, (23.5, 18, 10)), "control")
    done(bench, effect)
    expected = expected_on(SHAPE, 0, 10)
    expected[:, :, :24] = False  # columns run to the left
    np.testing.assert_array_equal(previewed(editor, effect), expected)
    assert len(effect._marked.points) == 1
    mouse.click(view, ras_of(source, (15, 18, 10)), "shift")
    done(bench, effect)
    assert [inside for _place, inside in effect._marked.points] == [False, True]
    view.mrmlSliceNode().JumpSliceByOffsetting(*ras_of(source, (20, 18, 12)))
    let_qt_work()
    assert effect.overlay.widget is None, "marks are shown on their own slice only"
    mouse.click(view, ras_of(source, (20, 18, 12)), "shift")
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), expected_on(SHAPE, 0, 12))
    assert len(effect._marked.points) == 1, "a point on another slice begins anew"


def test_a_point_is_removed_where_it_is_clicked_again(bench, editor, layout, effect, source, mouse):
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    place = ras_of(source, (23.5, 18, 10))
    mouse.click(view, place, "control")
    done(bench, effect)
    assert not previewed(editor, effect)[:, :, :24].any()
    beside = ras_of(source, (23, 18.5, 10))
    mouse.click(view, beside, "control")
    done(bench, effect)
    assert effect._marked.points == ()
    np.testing.assert_array_equal(previewed(editor, effect), expected_on(SHAPE, 0, 10))
    for point in (place, ras_of(source, (15, 18, 10))):
        mouse.click(view, point, "shift")
    done(bench, effect)
    mouse.click(view, place, "control")
    done(bench, effect)
    assert len(effect._marked.points) == 1
    assert effect._marked.box is not None


def test_with_the_last_point_inside_the_mark_is_gone(bench, layout, effect, source, mouse):
    view, *_ = centre_view(layout, source)
    place = ras_of(source, (20, 18, 10))
    mouse.click(view, place, "shift")
    mouse.click(view, ras_of(source, (5, 5, 10)), "control")
    done(bench, effect)
    assert effect.preview.visible
    mouse.click(view, place, "control")
    assert "Nothing is marked any more" in effect.statusLabel.text
    assert effect.job is None
    assert not effect.preview.visible
    assert effect.overlay.widget is None
    assert not effect.applyButton.enabled
    assert effect._observations == []


def test_how_to_mark_is_said(effect):
    for text in (effect.helpText(), effect.scriptedEffect.optionsFrame().toolTip):
        assert "Ctrl-click on a point removes it" in text


def test_a_point_outside_alone_and_a_click_are_explained(bench, layout, effect, source, mouse):
    view, low, _high = centre_view(layout, source)
    mouse.click(view, low, "control")
    assert "nothing to take away from" in effect.statusLabel.text
    mouse.click(view, low)
    assert "Drag a box" in effect.statusLabel.text
    assert effect.job is None
    assert effect.overlay.widget is None
    view.mrmlSliceNode().JumpSliceByOffsetting(0, 0, 500)
    mouse.click(view, (0, 0, 500), "shift")
    assert "move the slice into the volume" in effect.statusLabel.text


@pytest.mark.parametrize(
    "missing",
    [
        np.eye(3),
        [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
        [[1, 0, 0], [0, 1, 0], [-0.395913, 0.801109, 0]],
    ],
    ids=["none", "long", "middle", "short"],
)
def test_box_and_outline_look_different_also_without_one_kind_of_cones(bench, missing):
    """As Viénot, Brettel and Mollon (1999) simulate it; 10 would be enough for two areas side by side."""
    from BrainSegSAMEffects.MarksOverlay import BOX_RGB
    from BrainSegSAMEffects.Preview import COLOUR_RGB

    cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(colour):
        seen = np.linalg.inv(cones) @ missing @ cones @ np.power(colour, 2.2)
        x, y, z = np.cbrt(to_xyz @ np.clip(seen, 0, 1) / to_xyz.sum(axis=1))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    assert np.linalg.norm(lab(BOX_RGB) - lab(np.array(COLOUR_RGB) / 255)) > 50


def test_the_models_title_is_not_cut_off(effect):
    """On a panel of usual width, with the longest title of the bundled models."""
    combo = effect.modelCombo
    combo.setItemText(0, "Whole glioma, boxes to masks (demonstration)")
    frame = effect.scriptedEffect.optionsFrame()
    frame.resize(390, frame.height)
    frame.layout().activate()
    text = combo.fontMetrics().horizontalAdvance(combo.currentText)
    assert combo.width > text + 25, "and the arrow beside it"


def test_proposals_can_be_toggled(bench, editor, layout, effect, source, mouse):
    import qt

    effect.detectVolumeButton.click()
    done(bench, effect)
    done(bench, effect)
    assert effect.lesionList.count == 1, effect.statusLabel.text
    assert "Tumour" in effect.lesionList.item(0).text()
    assert "90%" in effect.lesionList.item(0).text()
    np.testing.assert_array_equal(previewed(editor, effect), ball(SHAPE))
    effect.lesionList.item(0).setCheckState(qt.Qt.Unchecked)
    assert not effect.preview.visible
    assert not effect.applyButton.enabled
    effect.lesionList.item(0).setCheckState(qt.Qt.Checked)
    assert effect.preview.visible
    assert effect.applyButton.enabled
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball(SHAPE))
    assert effect.lesionList.count == 0
    assert not effect.lesionList.visible


@pytest.fixture
def detected(bench, effect, source):
    """Proposed in the volume: the ball."""
    effect.detectVolumeButton.click()
    done(bench, effect)
    done(bench, effect)
    assert effect.lesionList.count == 1
    return effect


def test_a_click_or_a_refused_box_keeps_what_there_is(bench, editor, layout, detected, source, mouse):
    view, low, high = centre_view(layout, source)
    mouse.click(view, low)
    assert "Drag a box" in detected.statusLabel.text
    beside = [a + 0.1 * (b - a) for a, b in zip(ras_of(source, (-9, -9, 10)), low, strict=True)]
    mouse.drag(view, ras_of(source, (-9, -9, 10)), beside)
    assert "outside" in detected.statusLabel.text
    mouse.click(view, low, "control")
    assert "nothing to take away from" in detected.statusLabel.text
    assert detected.lesionList.count == 1
    np.testing.assert_array_equal(previewed(editor, detected), ball(SHAPE))
    mouse.drag(view, low, high)
    done(bench, detected)
    actors = len(detected.overlay._actors)
    mouse.click(layout.sliceWidget("Green"), low)
    assert detected.overlay.widget is view, "the box is drawn again, where it is"
    assert len(detected.overlay._actors) == actors == 1
    assert detected.preview.visible
    detected.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), ball(SHAPE))


@pytest.mark.parametrize("how", ["box", "point"])
def test_what_is_marked_is_added_to_the_proposals(bench, editor, layout, detected, source, mouse, how):
    import qt

    item = detected.lesionList.item(0)
    item.setCheckState(qt.Qt.Unchecked)
    for index in (12, 10):  # the second takes the place of the first
        view, low, high = centre_view(layout, source, index=index)
        mouse.drag(view, low, high) if how == "box" else mouse.click(view, ras_of(source, (20, 18, index)), "shift")
        done(bench, detected)
        np.testing.assert_array_equal(previewed(editor, detected), expected_on(SHAPE, 0, index))
    item.setCheckState(qt.Qt.Checked)
    np.testing.assert_array_equal(previewed(editor, detected), ball(SHAPE))
    item.setCheckState(qt.Qt.Unchecked)
    detected.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), expected_on(SHAPE, 0, 10))
    assert detected.lesionList.count == 0


def test_a_mark_waits_for_the_proposals_and_is_for_their_segment(bench, editor, layout, effect, source, mouse):
    view, low, high = centre_view(layout, source)
    effect.detectVolumeButton.click()
    mouse.drag(view, low, high)
    assert "Wait until the proposals are there" in effect.statusLabel.text
    done(bench, effect)
    done(bench, effect)
    assert effect.lesionList.count == 1
    editor.setCurrentSegmentID("B")
    mouse.drag(view, low, high)
    assert "Select 'A' again" in effect.statusLabel.text
    assert effect.lesionList.count == 1
    assert effect.job is None


def test_proposals_on_one_slice(bench, editor, layout, effect, source, dialogs):
    centre_view(layout, source)
    effect.detectSliceButton.click()
    done(bench, effect)
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), expected_on(SHAPE, 0, 10))
    effect._view = centre_view(layout, source, "Green")[0]
    effect.detectSliceButton.click()
    assert bench.wait_until(lambda: dialogs.messages)
    assert "looks at axial slices" in dialogs.messages.pop()[1]
    done(bench, effect)


def test_the_confidence_is_kept_and_asked_for(editor, effect, source, monkeypatch):
    """Also as the very first option that is changed."""
    effect.confidenceSpin.setValue(0.6)
    assert effect.confidenceSpin.value == 0.6
    assert editor.mrmlSegmentEditorNode().GetAttribute("BrainSegSAM MedSAM box.Confidence") == "0.6"
    effect.scriptedEffect.setParameter("Confidence", 0.95)
    assert effect.confidenceSpin.value == 0.95
    asked = []
    monkeypatch.setattr(effect, "ask", lambda kind, arguments, target, **rest: asked.append((kind, arguments)))
    effect.detectVolumeButton.click()
    assert asked == [("detect", {"plane": None, "confidence": 0.95})]


def test_a_model_without_a_detector_says_so(effect):
    effect.scriptedEffect.setParameter("Model", "b-draws")
    effect.updateControls()
    assert not effect.detectVolumeButton.enabled
    assert "finds no boxes" in effect.detectVolumeButton.toolTip


@pytest.mark.parametrize(("name", "model"), [("MedSAM box", "a-boxes"), ("SAM tracking", "c-tracks")])
def test_aiming_with_shift_does_not_move_the_other_views(
    bench, editor, layout, source, choose_effect, mouse, scene, name, model
):
    """As it does otherwise in Slicer's views, where the crosshair and the other slices follow the mouse."""

    def offsets():
        let_qt_work()
        return [layout.sliceWidget(name).mrmlSliceNode().GetSliceOffset() for name in layout.sliceViewNames()]

    crosshair = scene.CreateNodeByClass("vtkMRMLCrosshairNode")
    crosshair.UnRegister(None)
    crosshair.SetSingletonTag("default")
    crosshair.SetCrosshairBehavior(crosshair.OffsetJumpSlice)
    scene.AddNode(crosshair)
    view, low, high = centre_view(layout, source)
    draw(editor, expected_on(SHAPE, 0, 10))
    active = choose_effect(f"BrainSegSAM {name}", model)
    if name == "SAM tracking":
        active.trackButton.click()
        done(bench, active)
    mouse.move_with_shift(view, low)
    before = offsets()
    mouse.move_with_shift(view, high)
    assert offsets() == before
    editor.setActiveEffect(None)
    mouse.move_with_shift(view, low)
    mouse.move_with_shift(view, high)
    assert offsets() != before


def test_volumes_are_matched_by_name(bench, editor, effect, source, volume, interactive_models):
    import json

    path = interactive_models / "a-boxes" / "model.json"
    described = json.loads(path.read_text())
    described["modalities"] = ["flair", "t1ce"]
    path.write_text(json.dumps(described))
    editor.setActiveEffect(None)
    editor.setActiveEffectByName("BrainSegSAM MedSAM box")
    assert "alone; the model knows flair, t1ce together" in effect.inputsLabel.text
    source.SetName("case FLAIR")
    other = volume("case t1ce", size=(40, 36, 20))
    assert effect.volumes(effect.model()) == {"flair": source, "t1ce": other}
    volume("another t1ce")
    assert effect.volumes(effect.model()) == {"image": source}, "which of the two is not known"
