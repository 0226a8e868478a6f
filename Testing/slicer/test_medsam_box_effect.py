"""The MedSAM box effect, driven by real mouse events in real slice views, with a real worker process."""

from __future__ import annotations

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
    return choose_effect("BrainSegSAM MedSAM box", "a-boxes")


@pytest.fixture
def source(ball_volume):
    return ball_volume


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


def test_an_oblique_view_and_transforms(bench, editor, layout, effect, source, mouse, scene):
    """A tilted view of a volume under a transform, into a segmentation under another one."""
    import vtk

    def transform(name, degrees, shift):
        matrix = vtk.vtkTransform()
        matrix.Translate(*shift)
        matrix.RotateWXYZ(degrees, 1, 2, 3)
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        node.SetMatrixTransformToParent(matrix.GetMatrix())
        return node

    source.SetAndObserveTransformNodeID(transform("moves the volume", 12, (3, -4, 5)).GetID())
    moved = transform("moves the segmentation", -7, (1, 2, 3))
    editor.segmentationNode().SetAndObserveTransformNodeID(moved.GetID())
    from BrainSegSAMLib import mrml

    grid = mrml.volume_node_geometry(source)
    centre = grid.to_lps((20, 18, 10)) * [-1, -1, 1]
    view = layout.sliceWidget("Green")
    node = view.mrmlSliceNode()
    node.SetSliceToRASByNTP(0.3, 0.9, 0.2, 1, 0.1, -0.3, *centre, 0)
    node.UpdateMatrices()
    across = [node.GetSliceToRAS().GetElement(row, 0) for row in range(3)]
    down = [node.GetSliceToRAS().GetElement(row, 1) for row in range(3)]
    corner = [c + 15 * a + 15 * d for c, a, d in zip(centre, across, down, strict=True)]
    opposite = [c - 15 * a - 15 * d for c, a, d in zip(centre, across, down, strict=True)]
    mouse.drag(view, corner, opposite)
    done(bench, effect)
    assert effect.preview.visible, effect.statusLabel.text
    effect.applyButton.click()
    found = voxels(editor)
    normal = np.array([node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
    indices = np.argwhere(np.ones(grid.shape_zyx))[:, ::-1]
    off = np.abs((grid.to_lps(indices) * [-1, -1, 1] - centre) @ normal).reshape(grid.shape_zyx)
    assert off[found].max() < 2.2, "two voxels' extent at most, as the segmentation is turned against the volume"
    near = ball(grid.shape_zyx) & (off < 0.4)
    assert np.count_nonzero(near & found) > 0.9 * np.count_nonzero(near)
    assert np.count_nonzero(found & ~ball(grid.shape_zyx)) < 0.2 * np.count_nonzero(found)


def test_masking_and_overwriting_are_honoured(bench, editor, layout, effect, source, mouse):
    node = editor.mrmlSegmentEditorNode()
    node.SourceVolumeIntensityMaskOn()
    node.SetSourceVolumeIntensityMaskRange(1000, 2000)
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    assert effect.preview.visible
    effect.applyButton.click()
    assert not voxels(editor).any(), "no voxel is in the editable intensity range"


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


def test_proposals_without_an_answer_are_taken_away(bench, effect, source, monkeypatch):
    import qt

    ask = effect.ask

    def fail(kind, arguments, target, **rest):
        if kind == "detect":
            ask(kind, arguments, target, **rest)
        else:
            qt.QTimer.singleShot(0, rest["onFailed"])

    monkeypatch.setattr(effect, "ask", fail)
    effect.detectVolumeButton.click()
    assert bench.wait_until(lambda: effect.lesionList.count == 1)
    assert bench.wait_until(lambda: effect.lesionList.count == 0)
    assert not effect.lesionList.visible
    assert effect.target is None


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


@pytest.mark.parametrize("how", ["effect", "segment", "segmentation", "volume", "scene", "cancel"])
def test_what_is_left_leaves_nothing(bench, editor, layout, effect, source, mouse, scene, how):
    """While a preview is shown, and while the worker works."""
    nodes = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    view, low, high = centre_view(layout, source)
    renderer = effect.scriptedEffect.renderer(view)
    props = renderer.GetViewProps().GetNumberOfItems()
    mouse.drag(view, low, high)
    if how in ("effect", "segment", "cancel"):
        done(bench, effect)
    if how == "effect":
        editor.setActiveEffect(None)
    elif how == "segment":
        editor.segmentationNode().GetSegmentation().RemoveSegment("A")
    elif how == "segmentation":
        scene.RemoveNode(editor.segmentationNode())
    elif how == "volume":
        scene.RemoveNode(source)
    elif how == "scene":
        scene.Clear(False)
    else:
        effect.cancelButton.click()
    let_qt_work()
    assert not effect.preview.visible
    assert effect.job is None
    assert effect.overlay.widget is None
    assert effect._observations == []
    if how != "scene":
        after = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
        assert after <= nodes
        assert renderer.GetViewProps().GetNumberOfItems() <= props
    assert bench.wait_until(lambda: not effect.worker.busy)


def test_the_newest_box_counts(bench, editor, layout, effect, source, mouse):
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, ras_of(source, (15, 15, 10)))
    mouse.drag(view, low, ras_of(source, (20, 15, 10)))
    mouse.drag(view, low, high)
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), expected_on(SHAPE, 0, 10))


def test_a_killed_worker_is_explained_and_replaced(bench, editor, layout, effect, source, mouse, dialogs):
    import os
    import signal

    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    before = editor.segmentationNode().GetMTime()
    os.kill(effect.worker.pid, signal.SIGSTOP)
    mouse.drag(view, low, high)
    os.kill(effect.worker.pid, signal.SIGKILL)
    assert bench.wait_until(lambda: dialogs.messages)
    assert "ran out of memory" in dialogs.messages.pop()[1]
    assert not effect.preview.visible
    assert effect.overlay.widget is None, "a box without an answer does not stay"
    assert editor.segmentationNode().GetMTime() == before
    mouse.drag(view, low, high)
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), expected_on(SHAPE, 0, 10))


@pytest.mark.parametrize("how", ["killed", "refused"])
def test_a_point_without_an_answer_does_not_stay(
    bench, editor, layout, effect, source, mouse, dialogs, interactive_models, how
):
    """What is drawn is always what the outline was found for."""
    import os
    import signal

    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    if how == "killed":
        os.kill(effect.worker.pid, signal.SIGSTOP)
        mouse.click(view, ras_of(source, (23.5, 18, 10)), "control")
        assert len(effect._marked.points) == 1
        os.kill(effect.worker.pid, signal.SIGKILL)
        assert bench.wait_until(lambda: dialogs.messages)
        assert "ran out of memory" in dialogs.messages.pop()[1]
    else:
        (interactive_models / "a-boxes").rename(interactive_models / "elsewhere")
        mouse.click(view, ras_of(source, (23.5, 18, 10)), "control")
        assert "was removed" in effect.statusLabel.text
        (interactive_models / "elsewhere").rename(interactive_models / "a-boxes")
    assert bench.wait_until(lambda: not effect.worker.busy)
    assert effect._marked.points == ()
    assert len(effect.overlay._actors) == 1
    assert effect.applyButton.enabled
    np.testing.assert_array_equal(previewed(editor, effect), expected_on(SHAPE, 0, 10))
    mouse.click(view, ras_of(source, (23.5, 18, 10)), "control")
    done(bench, effect)
    assert not previewed(editor, effect)[:, :, :24].any()
    effect.applyButton.click()
    assert voxels(editor).any()
    assert not voxels(editor)[:, :, :24].any()


def test_a_removed_model_is_told(bench, editor, effect, source, interactive_models, layout, mouse):
    import shutil

    shutil.rmtree(interactive_models / "a-boxes")
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    assert "was removed; choose another one" in effect.statusLabel.text
    editor.setActiveEffect(None)
    editor.setActiveEffectByName("BrainSegSAM MedSAM box")
    assert [effect.modelCombo.itemData(index) for index in range(effect.modelCombo.count)] == ["b-draws"]


@pytest.mark.parametrize("how", ["cancel", "model", "effect"])
def test_work_of_our_own_that_nobody_wants_does_not_stand_in_the_way(
    bench, editor, layout, effect, source, mouse, choose_effect, how
):
    """A slice that takes long to encode (the worker is stopped), then something else is asked for: that waits."""
    import os
    import signal

    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    done(bench, effect)
    os.kill(effect.worker.pid, signal.SIGSTOP)
    mouse.drag(view, low, high)
    assert effect.worker.busy
    if how == "cancel":
        effect.cancelButton.click()
    elif how == "model":
        effect.modelCombo.setCurrentIndex(effect.modelCombo.findData("b-draws"))
        effect.modelCombo.setCurrentIndex(effect.modelCombo.findData("a-boxes"))
        os.kill(effect.worker.pid, signal.SIGCONT)
    else:
        editor.setActiveEffect(None)
        choose_effect("BrainSegSAM MedSAM box", "a-boxes")
    effect.detectVolumeButton.click()
    assert effect.job is not None
    assert effect.worker.busy
    done(bench, effect)
    done(bench, effect)
    np.testing.assert_array_equal(previewed(editor, effect), ball(SHAPE))


def test_other_work_is_not_disturbed(bench, layout, effect, source, dialogs):
    """Detection while the worker is busy with something else is refused in words."""
    from BrainSegSAMWidgets.WorkerProcess import Listener

    ends = []
    job = effect.worker.request("detect", {"image_id": "none"}, Listener(onDone=ends.append, onFailed=ends.append))
    effect.detectVolumeButton.click()
    assert "working on something else" in dialogs.messages.pop()[1]
    assert bench.wait_until(lambda: not job.running)
    assert ends == [{"unknown_image": "none"}]


@pytest.mark.parametrize(("name", "model"), [("MedSAM box", "a-boxes"), ("SAM tracking", "c-tracks")])
def test_aiming_with_shift_does_not_move_the_other_views(
    bench, editor, layout, source, choose_effect, mouse, scene, name, model
):
    """As it does otherwise in Slicer's views, where the crosshair and the other slices follow the mouse."""
    from Testing.slicer.test_sam_track_effect import draw

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


def test_missing_packages_are_asked_for_at_the_first_box(bench, layout, effect, source, mouse, monkeypatch):
    from BrainSegSAMEffects import InteractiveEffect

    from BrainSegSAMLib.errors import DependencyError

    asked = []

    def refuse(method):
        asked.append(method)
        raise DependencyError("Packages are missing: install them.")

    with monkeypatch.context() as patched:
        patched.setattr(InteractiveEffect, "ensureDependencies", refuse)
        view, low, high = centre_view(layout, source)
        mouse.drag(view, low, high)
        assert effect.statusLabel.text == "Packages are missing: install them."
        assert effect.job is None
    monkeypatch.setattr(InteractiveEffect, "ensureDependencies", asked.append)
    for _ in range(2):
        mouse.drag(view, low, high)
        done(bench, effect)
    assert effect.preview.visible
    assert asked == ["yolo_medsam", "yolo_medsam"], "once refused, once granted; then no more"


@pytest.mark.parametrize("how", ["effect", "scene", "volume changed"])
def test_reading_a_volume_can_end_early(bench, editor, layout, effect, source, mouse, scene, how, monkeypatch, dialogs):
    """A big volume is copied in parts; what was copied is freed, and nothing is asked of the worker."""
    import slicer
    from BrainSegSAMWidgets import Volumes

    from BrainSegSAMLib import wire

    handed = []
    monkeypatch.setattr(Volumes, "_PART", 100)
    monkeypatch.setattr(Volumes, "_TURN_S", 0.0)
    real = wire.Shared.free
    monkeypatch.setattr(wire.Shared, "free", lambda self: (handed.append(self._name), real(self))[1])
    view, low, high = centre_view(layout, source)
    mouse.drag(view, low, high)
    assert bench.wait_until(lambda: effect._reading is not None, seconds=10)
    let_qt_work()
    assert "Wait until the volumes are read" in effect.reasonNotToApply()
    if how == "effect":
        editor.setActiveEffect(None)
    elif how == "scene":
        scene.Clear(False)
    else:
        source.GetImageData().Modified()
        assert bench.wait_until(lambda: dialogs.messages, seconds=10)
        assert "was changed meanwhile" in dialogs.messages.pop()[1]
        assert effect.overlay.widget is None
    assert bench.wait_until(lambda: handed, seconds=10)
    let_qt_work()
    assert effect._reading is None
    assert not effect.worker.busy
    assert slicer.mrmlScene is scene
