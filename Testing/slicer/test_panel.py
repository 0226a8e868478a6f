"""The panel: what it offers, when Apply can be pressed, and what becomes of a run."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where the panel makes its temporary folders; they must all be gone in the end."""
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def segmentations(scene):
    return [scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode")
            for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))]


def apply_and_wait(bench, widget):
    widget.ui.applyButton.click()
    assert bench.wait_until(lambda: not widget.logic.running and not widget.ui.progressBar.visible)


@pytest.fixture
def ready(widget, volume, bench, temporary):
    """A panel with both volumes chosen."""
    volume("sub7_FLAIR")
    volume("sub7_T1c", seed=1)
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    return widget


# ---- what it offers


def test_model_and_notice_are_shown(widget):
    from BrainSegSAMWidgets.ModelTexts import noticeOf

    assert widget.ui.modelComboBox.count == 1
    assert widget.ui.modelComboBox.currentText == "Toy"
    assert widget.ui.modelNoticeLabel.text.startswith("Demonstration model.")
    assert "clinical" in widget.ui.modelNoticeLabel.text
    assert widget.ui.modelNoticeLabel.visible
    model = replace(widget.panel.predict.model, intended_use="Demonstration, research and teaching only.")
    assert noticeOf(model) == model.intended_use  # it says so itself, once
    assert list(widget.panel.predict.inputSelectors) == ["flair", "t1ce"]


def test_volumes_are_matched_by_name_also_when_loaded_later(widget, volume, bench):
    t1c = volume("sub7 T1 post")
    flair = volume("sub7_flair")
    selectors = widget.panel.predict.inputSelectors
    assert bench.wait_until(lambda: selectors["flair"].currentNode() is flair)
    assert selectors["t1ce"].currentNode() is t1c


def test_two_candidates_are_left_to_the_user(widget, volume, bench):
    volume("a_flair")
    volume("b_flair")
    bench.wait_until(lambda: False, seconds=0.1)
    assert widget.panel.predict.inputSelectors["flair"].currentNode() is None


def test_a_disabled_apply_says_why(widget, volume, bench):
    assert not widget.ui.applyButton.enabled
    assert widget.ui.applyReasonLabel.text == "Choose a volume for FLAIR, T1CE."
    assert widget.ui.applyButton.toolTip == widget.ui.applyReasonLabel.text
    node = volume("anything")
    for selector in widget.panel.predict.inputSelectors.values():
        selector.setCurrentNode(node)
    assert widget.ui.applyReasonLabel.text == "'anything' is chosen for FLAIR, T1CE; each needs its own volume."
    assert widget.ui.applyReasonLabel.visible
    widget.panel.predict.inputSelectors["t1ce"].setCurrentNode(volume("other"))
    assert widget.ui.applyButton.enabled
    assert not widget.ui.applyReasonLabel.visible


def test_without_a_model_it_says_so(module, bench, scene, dialogs, tmp_path, monkeypatch):
    import qt
    import slicer

    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path))
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    widget = module.BrainSegSAMWidget(parent)
    widget.setup()
    assert widget.ui.applyReasonLabel.text == "No model is installed."
    assert not widget.ui.modelNoticeLabel.visible
    widget.cleanup()


def test_a_broken_model_is_left_out_and_logged(models, widget):
    (models / "broken").mkdir()
    (models / "broken" / "model.json").write_text("{")
    widget.panel.predict.fillModels()
    assert widget.ui.modelComboBox.count == 1
    assert "broken" in widget.ui.logText.plainText


def test_a_model_that_segments_nothing_by_itself_is_left_out(models, widget):
    from dataclasses import replace

    from BrainSegSAMLib.models.store import load_model, write_model

    toy = load_model(models / "toy")
    (models / "follower").mkdir()
    (models / "follower" / "weights.bin").write_bytes(b"x")
    write_model(replace(toy, folder=models / "follower", name="follower", title="Follower", method="sam2_tracker"))
    widget.panel.predict.fillModels()
    assert widget.ui.modelComboBox.count == 1
    assert "follower" not in widget.ui.logText.plainText


def test_choices_are_kept_in_the_scene(ready, scene):
    node = ready.logic.getParameterNode().parameterNode
    assert node.GetNodeReference("Input.flair").GetName() == "sub7_FLAIR"
    assert node.GetParameter("model") == "toy"
    ready.exit()
    ready.panel.predict.inputSelectors["flair"].setCurrentNode(None)
    ready.enter()
    assert ready.panel.predict.inputSelectors["flair"].currentNode().GetName() == "sub7_FLAIR"


def test_device_is_bound_to_the_parameter_node(ready, module):
    assert ready.ui.deviceComboBox.currentText == "Automatic"
    ready.ui.deviceComboBox.currentIndex = 1
    assert ready.logic.getParameterNode().device is module.Device.CPU


# ---- a run


def test_apply_makes_named_overlapping_segments(ready, scene, bench, temporary):
    apply_and_wait(bench, ready)
    (node,) = segmentations(scene)
    assert node.GetName() == "sub7_FLAIR segmentation"
    contents = node.GetSegmentation()
    assert [contents.GetNthSegment(i).GetName() for i in range(contents.GetNumberOfSegments())] == ["Whole", "Core"]
    table = ready.ui.resultTable
    rows = [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]
    assert rows[0][:3] == ["Whole", f"{4 * 5 * 6 * 2 / 1000:.1f}", "1"]  # 120 voxels of 2 mm³
    assert rows[1][0] == "Core"
    assert "Finished" in ready.ui.statusLabel.text
    assert "a line that nnU-Net prints" in ready.ui.logText.plainText
    assert list(temporary.iterdir()) == []
    assert ready.ui.applyButton.enabled
    assert not ready.ui.cancelButton.enabled


def test_interface_is_alive_and_shows_progress(ready, bench, worker):
    ready.logic.worker = worker("wait")
    ready.ui.applyButton.click()
    assert bench.wait_until(lambda: ready.ui.progressBar.value == 10)
    assert re.fullmatch(r"Segmenting – about \d+ s left", ready.ui.statusLabel.text)
    assert not ready.ui.applyButton.enabled
    assert ready.ui.applyButton.toolTip == "A segmentation is running."
    assert ready.ui.cancelButton.enabled
    ready.ui.deviceComboBox.currentIndex = 1  # everything else stays usable
    ready.ui.cancelButton.click()
    assert bench.wait_until(lambda: not ready.logic.running)


def test_a_second_start_is_refused(ready, module, bench, scene, worker):
    from BrainSegSAMWidgets.PredictionJob import Request

    from BrainSegSAMLib.errors import InputError

    ready.logic.worker = worker("wait")
    ready.ui.applyButton.click()
    with pytest.raises(InputError, match="running already"):
        ready.logic.start(Request({}, "toy"), None)
    ready.logic.abort()
    assert bench.wait_until(lambda: not ready.logic.running)


def test_segments_are_added_to_a_chosen_segmentation(ready, scene, bench):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().AddEmptySegment("old", "Core")
    ready.ui.outputSelector.setCurrentNode(node)
    slicer.app.processEvents()
    apply_and_wait(bench, ready)
    contents = node.GetSegmentation()
    names = [contents.GetNthSegment(i).GetName() for i in range(contents.GetNumberOfSegments())]
    assert names == ["Core", "Whole", "Core_1"]
    assert segmentations(scene) == [node]


# ---- cancel


def test_cancel_ends_the_child_and_leaves_nothing(ready, scene, bench, temporary, worker):
    ready.logic.worker = worker("wait")
    ready.ui.applyButton.click()
    assert bench.wait_until(lambda: ready.ui.progressBar.value == 10)
    begin = time.monotonic()
    ready.ui.cancelButton.click()
    assert ready.ui.statusLabel.text == "Cancelling…"
    assert bench.wait_until(lambda: not ready.ui.progressBar.visible)
    assert time.monotonic() - begin < 5
    assert ready.ui.statusLabel.text == "The segmentation was cancelled."
    assert segmentations(scene) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no polite request that a program could ignore.")
def test_a_deaf_child_is_killed_with_its_children(ready, bench, worker):
    ready.logic.worker = worker("deaf")
    ready.ui.applyButton.click()
    assert bench.wait_until(lambda: ready.ui.statusLabel.text.replace(" ", "").isdecimal())
    pids = [int(word) for word in ready.ui.statusLabel.text.split()]
    assert len(pids) == 2
    ready.ui.cancelButton.click()
    assert bench.wait_until(lambda: not any(map(is_alive, pids)), seconds=20)
    assert bench.wait_until(lambda: not ready.ui.progressBar.visible)
    assert "cancelled" in ready.ui.statusLabel.text


def is_alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def test_removing_an_input_cancels(ready, scene, bench, temporary, worker):
    ready.logic.worker = worker("wait")
    ready.ui.applyButton.click()
    assert bench.wait_until(lambda: ready.ui.progressBar.value == 10)
    scene.RemoveNode(ready.panel.predict.inputSelectors["t1ce"].currentNode())
    assert bench.wait_until(lambda: not ready.ui.progressBar.visible)
    assert ready.ui.statusLabel.text == "'sub7_T1c' was removed from the scene, so the segmentation was cancelled."
    assert segmentations(scene) == []
    assert list(temporary.iterdir()) == []


def test_closing_the_scene_cancels(ready, scene, bench, temporary, worker):
    ready.logic.worker = worker("wait")
    ready.ui.applyButton.click()
    assert bench.wait_until(lambda: ready.ui.progressBar.value == 10)
    scene.Clear(False)
    assert bench.wait_until(lambda: not ready.ui.progressBar.visible)
    assert "scene was closed" in ready.ui.statusLabel.text
    assert segmentations(scene) == []
    assert list(temporary.iterdir()) == []
    assert not ready.ui.applyButton.enabled


# ---- failures


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("unhappy", ["The model's weights are damaged."]),
        ("foreseen_by_nobody", ["not foreseen (ZeroDivisionError: division by zero)"]),
        ("leave", ["ended unexpectedly (exit code 3)"]),
        ("crash", ["The worker process crashed", "about to crash"]),
        ("old_version", ["another version"]),
    ],
)
def test_a_failure_is_said_and_the_scene_untouched(ready, scene, bench, dialogs, worker, behaviour, expected):
    before = scene.GetNumberOfNodes()
    ready.logic.worker = worker(behaviour)
    apply_and_wait(bench, ready)
    ((kind, text),) = dialogs.messages
    dialogs.messages.clear()
    assert kind == "errorDisplay"
    for part in expected:
        assert part in text
        assert part in ready.ui.statusLabel.text
    assert scene.GetNumberOfNodes() == before
    assert ready.ui.applyButton.enabled


def test_a_child_that_cannot_start_is_said(ready, bench, dialogs, temporary):
    from BrainSegSAMWidgets.WorkerProcess import Worker

    ready.logic.worker = Worker([str(temporary / "no-such-program")])
    apply_and_wait(bench, ready)
    assert "could not start" in dialogs.messages[0][1]
    dialogs.messages.clear()
    assert list(temporary.iterdir()) == []


def test_a_volume_without_an_image_is_refused_before_anything_starts(ready, scene, bench, dialogs, temporary):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    ready.panel.predict.inputSelectors["flair"].setCurrentNode(empty)
    assert "'hollow' is empty" in ready.ui.applyReasonLabel.text
    assert not ready.ui.applyButton.enabled
    assert not ready.logic.running
    assert list(temporary.iterdir()) == []


# ---- placement


def linear(scene, node):
    import vtk

    transform = vtk.vtkTransform()
    transform.Translate(20, -10, 5)
    transform.RotateWXYZ(30, 1, 2, 3)
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    parent.SetMatrixTransformToParent(transform.GetMatrix())
    node.SetAndObserveTransformNodeID(parent.GetID())
    return parent


def core_centre_in_volume(segmentation_node, volume_node):
    """Mean voxel index (i, j, k) in the volume of the segment "Core", through both nodes' own transforms."""
    from BrainSegSAMLib import mrml

    segmentation = mrml.node_to_segmentation(segmentation_node)
    inside = np.argwhere(segmentation.mask("Core")).mean(axis=0)[::-1]
    return mrml.volume_node_geometry(volume_node).to_ijk(segmentation.geometry.to_lps(inside))


@pytest.mark.parametrize("moved", ["never", "before", "while it runs", "taken out while it runs"])
def test_segments_lie_on_the_reference_whatever_moves(ready, scene, bench, moved):
    flair = ready.panel.predict.inputSelectors["flair"].currentNode()
    if moved in ("before", "taken out while it runs"):
        for selector in ready.panel.predict.inputSelectors.values():
            linear(scene, selector.currentNode())
    ready.ui.applyButton.click()
    if moved == "while it runs":
        linear(scene, flair)
    if moved == "taken out while it runs":
        flair.SetAndObserveTransformNodeID(None)
    assert bench.wait_until(lambda: not ready.ui.progressBar.visible)
    (node,) = segmentations(scene)
    assert node.GetTransformNodeID() == flair.GetTransformNodeID()
    assert core_centre_in_volume(node, flair) == pytest.approx([5, 4, 3.5], abs=1e-3)


# ---- the child and its surroundings


def test_what_the_worker_is_asked(ready, bench):
    results = []
    on_done = ready.panel.predict.onDone
    ready.panel.predict.onDone = lambda result: (results.append(result), on_done(result))
    before = dict(os.environ)
    apply_and_wait(bench, ready)
    assert results[0].record["asked"] == ["toy", "auto", ["flair", "t1ce"]]
    assert dict(os.environ) == before


def test_a_script_segments_without_the_panel(module, scene, volume, models, dialogs, temporary, monkeypatch, worker):
    from BrainSegSAMLib.errors import BrainSegSAMError, InputError

    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    logic = module.BrainSegSAMLogic()
    logic.worker = worker("succeed")
    nodes = {"t1ce": volume("b", seed=1), "flair": volume("a")}
    node = logic.predict(nodes, model="toy")
    assert node.GetName() == "a segmentation"  # the model's first modality is the reference
    with pytest.raises(InputError, match="needs a volume for t1ce"):
        logic.predict({"flair": nodes["flair"]}, model="toy")
    logic.worker = worker("unhappy")
    with pytest.raises(BrainSegSAMError, match="The model's weights are damaged"):
        logic.predict(nodes, model="toy")
    assert segmentations(scene) == [node]
    assert list(temporary.iterdir()) == []


def test_self_test_runs(module, scene):
    module.BrainSegSAMTest().runTest()


def test_module_describes_itself(module):
    from types import SimpleNamespace

    parent = SimpleNamespace()
    module.BrainSegSAM(parent)
    assert parent.categories == ["Segmentation"]
    assert "not for clinical use" in parent.helpText
    assert not parent.icon.isNull()


def test_closing_the_module_ends_the_child(ready, bench, temporary, worker):
    ready.logic.worker = worker("wait")
    ready.ui.applyButton.click()
    assert bench.wait_until(lambda: ready.ui.progressBar.value == 10)
    ready.cleanup()
    assert not ready.logic.running
    assert bench.wait_until(lambda: not ready.logic.worker.busy)
    assert list(temporary.iterdir()) == []


def test_another_model_brings_its_own_selectors(widget, models, volume, bench):
    import dataclasses
    import shutil

    from BrainSegSAMLib.models.store import load_model, write_model

    toy = load_model(models / "toy")
    shutil.copytree(models / "toy", models / "second")
    write_model(
        dataclasses.replace(toy, folder=models / "second", name="second", title="Second", modalities=("t1ce", "dwi"),
                            demonstration=False),
        files=["weights.bin"],
    )
    widget.panel.predict.fillModels()
    assert widget.ui.modelComboBox.count == 2
    index = list(widget.panel.predict._models).index("second")
    widget.ui.modelComboBox.currentIndex = index
    assert list(widget.panel.predict.inputSelectors) == ["t1ce", "dwi"]
    assert not widget.ui.modelNoticeLabel.text.startswith("Demonstration")
    node = volume("x_dwi")
    assert bench.wait_until(lambda: widget.panel.predict.inputSelectors["dwi"].currentNode() is node)
    widget.ui.modelComboBox.currentIndex = 1 - index
    assert list(widget.panel.predict.inputSelectors) == ["flair", "t1ce"]
    assert widget.logic.getParameterNode().model == "toy"
