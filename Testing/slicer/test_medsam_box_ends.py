"""The MedSAM box effect when work ends otherwise: cancelled, failed, in the way of other work, or without its nodes."""

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


@pytest.mark.parametrize("how", ["effect", "segment", "segmentation", "volume", "scene", "cancel", "another volume",
                                 "cleanup", "cleanup at work"])  # fmt: skip
def test_what_is_left_leaves_nothing(bench, editor, layout, effect, source, mouse, scene, volume, how):
    """While a preview is shown, and while the worker works."""
    other = volume("another", size=(40, 36, 20))
    nodes = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    view, low, high = centre_view(layout, source)
    renderer = effect.scriptedEffect.renderer(view)
    props = renderer.GetViewProps().GetNumberOfItems()
    mouse.drag(view, low, high)
    if how in ("effect", "segment", "cancel", "cleanup"):
        done(bench, effect)
        assert effect.preview.visible
    else:
        assert effect.job is not None
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
    elif how == "another volume":
        editor.setSourceVolumeNode(other)
        assert effect.inputsLabel.text == "another"
        assert "source volume was changed" in effect.statusLabel.text
    elif how == "cancel":
        effect.cancelButton.click()
    else:
        effect.cleanup()
        effect.detectVolumeButton.click()
        effect.confidenceSpin.setValue(0.9)
        assert effect._connections == []
        assert effect._view is None
        assert effect.scriptedEffect.doubleParameter("Confidence") == 0.25, "no widget is heard any more"
    let_qt_work()
    assert not effect.preview.visible
    assert effect.job is None
    assert effect.overlay.widget is None
    assert effect._observations == []
    if how not in ("scene", "another volume"):
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
