"""The nnU-Net effect: what it offers, its preview, what Apply writes, and what becomes of it when things go away."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.slicer.interactive import bent, let_qt_work, scene_changes, scene_contents

EFFECT = "BrainSegSAM nnU-Net"
WHOLE = (slice(2, 6), slice(2, 7), slice(3, 9))  # where the worker that plays along finds the toy model's regions
CORE = (slice(3, 5), slice(3, 6), slice(4, 7))


def mask(*slices):
    found = np.zeros((20, 36, 40), dtype=bool)
    found[slices] = True
    return found


@pytest.fixture
def volumes(editor, volume):
    """FLAIR, which is the source volume, and T1c."""
    nodes = {"flair": volume("sub7_FLAIR", size=(40, 36, 20)), "t1ce": volume("sub7_T1c", seed=1, size=(40, 36, 20))}
    editor.setSourceVolumeNode(nodes["flair"])
    return nodes


@pytest.fixture
def hire(monkeypatch, worker):
    """Let the effects work with a worker that behaves as `child.py` says."""

    def choose(behaviour):
        hired = worker(behaviour)
        monkeypatch.setattr("BrainSegSAMEffects.EffectBase.sharedWorker", lambda: hired)
        return hired

    return choose


@pytest.fixture
def effect(editor, models, volumes, hire, dialogs, monkeypatch):
    """The active effect itself, with the toy model and a worker that succeeds."""
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    hire("succeed")
    editor.setActiveEffectByName(EFFECT)
    return editor.activeEffect().self()


def run(bench, effect):
    effect.segmentButton.click()
    assert effect.job is not None, effect.statusLabel.text
    assert bench.wait_until(lambda: effect.job is None)


def start(bench, effect):
    """Until the worker says that it works."""
    effect.segmentButton.click()
    assert bench.wait_until(lambda: effect.statusLabel.text.startswith("Segmenting"))


def voxels(editor, name):
    from BrainSegSAMLib import mrml

    node = editor.segmentationNode()
    found = mrml.node_to_segmentation(node, geometry=mrml.volume_node_geometry(editor.sourceVolumeNode()))
    return {region.name: mask for region, mask in found.masks()}[name]


def names(node):
    segments = node.GetSegmentation()
    return [segments.GetNthSegment(index).GetName() for index in range(segments.GetNumberOfSegments())]


def node_ids(scene):
    return sorted(scene.GetNthNode(index).GetID() or "" for index in range(scene.GetNumberOfNodes()))


def choose_region(effect, name):
    effect.regionComboBox.currentIndex = effect.regionComboBox.findData(name)


# ---- what it offers


def test_model_inputs_and_regions_are_offered(effect, volumes):
    assert effect.modelComboBox.currentText == "Toy"
    assert {m: s.currentNode() for m, s in effect.inputSelectors.items()} == volumes
    texts = [effect.regionComboBox.itemText(index) for index in range(effect.regionComboBox.count)]
    assert texts == ["All regions, as new segments", "Only Whole, into the selected segment",
                     "Only Core, into the selected segment"]
    assert effect.segmentButton.enabled
    assert not effect.applyButton.enabled
    assert effect.applyButton.toolTip == "There is no result yet."
    assert not effect.scriptedEffect.icon().isNull()
    assert "outline" in effect.scriptedEffect.helpText()
    assert effect.noticeLabel.text.startswith("Demonstration model.")
    assert "clinical" in effect.noticeLabel.text


def test_a_disabled_button_says_why(effect, volumes):
    effect.inputSelectors["t1ce"].setCurrentNode(None)
    assert effect.segmentButton.toolTip == "Choose a volume for T1CE."
    effect.inputSelectors["t1ce"].setCurrentNode(volumes["flair"])
    assert effect.segmentButton.toolTip == "Each sequence needs a volume of its own."
    assert not effect.segmentButton.enabled
    effect.inputSelectors["t1ce"].setCurrentNode(volumes["t1ce"])
    assert effect.segmentButton.enabled


def test_without_a_model_it_says_so(editor, volumes, hire, dialogs, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path))
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    editor.setActiveEffectByName(EFFECT)
    effect = editor.activeEffect().self()
    assert effect.segmentButton.toolTip.startswith("No nnU-Net model is installed")


def test_a_model_that_is_gone_is_not_replaced_without_a_word(effect, editor, models):
    import shutil

    editor.setActiveEffect(None)
    (models / "toy").rename(models / "other")
    path = models / "other" / "model.json"
    path.write_text(path.read_text().replace('"toy"', '"other"').replace('"Toy"', '"Other"'))
    editor.setActiveEffectByName(EFFECT)
    asks = "The model 'toy' is not there any more; choose another one."
    assert effect.modelComboBox.currentIndex == -1
    assert effect.noticeLabel.text == asks
    assert effect.segmentButton.toolTip == asks
    assert not effect.segmentButton.enabled
    assert editor.mrmlSegmentEditorNode().GetAttribute(f"{EFFECT}.Model") == "toy"
    effect.modelComboBox.currentIndex = 0
    assert effect.model.name == "other"
    assert effect.segmentButton.enabled
    editor.setActiveEffect(None)
    shutil.rmtree(models / "other")
    editor.setActiveEffectByName(EFFECT)
    assert effect.segmentButton.toolTip.startswith("No nnU-Net model is installed")


def test_choices_are_kept_in_the_parameter_node(effect, editor, volumes, scene):
    import slicer

    choose_region(effect, "Core")
    effect.addCheckBox.checked = True
    effect.inputSelectors["t1ce"].setCurrentNode(None)
    effect.inputSelectors["t1ce"].setCurrentNode(volumes["t1ce"])
    parameters = editor.mrmlSegmentEditorNode()
    assert parameters.GetAttribute(f"{EFFECT}.Model") == "toy"
    assert parameters.GetAttribute(f"{EFFECT}.Region") == "Core"
    assert parameters.GetNodeReference(f"{EFFECT}.Input.t1ce") is volumes["t1ce"]
    other = slicer.qMRMLSegmentEditorWidget()
    other.setMRMLScene(scene)
    other.setMRMLSegmentEditorNode(parameters)
    clone = other.activeEffect().self()
    assert clone is not effect
    assert clone.region == "Core"
    assert clone.addCheckBox.checked
    other.deleteLater()


# ---- preview and Apply


def test_all_regions_become_segments(effect, editor, bench, scene):
    before = node_ids(scene)
    run(bench, effect)
    assert effect.preview.visible
    assert names(editor.segmentationNode()) == ["A", "B"]
    assert effect.applyButton.text == "Add as new segments"
    assert effect.applyButton.enabled
    effect.applyButton.click()
    assert names(editor.segmentationNode()) == ["A", "B", "Whole", "Core"]
    assert np.array_equal(voxels(editor, "Whole"), mask(*WHOLE))
    assert np.array_equal(voxels(editor, "Core"), mask(*CORE))
    assert effect.statusLabel.text == "Applied; Undo takes it back."
    assert not effect.preview.visible
    assert node_ids(scene) == before
    editor.undo()
    assert names(editor.segmentationNode()) == ["A", "B"]


def test_nothing_but_the_new_segments_is_changed(effect, editor, bench, scene, volumes):
    let_qt_work()
    before = scene_contents(scene)
    run(bench, effect)
    changed = scene_changes(before, scene_contents(scene))
    assert changed.pop("vtkMRMLSegmentEditorNode1", {"attributes"}) == {"attributes"}
    assert {scene.GetNodeByID(node).GetName() for node in changed} == {"BrainSegSAM preview"}
    effect.applyButton.click()
    changed = scene_changes(before, scene_contents(scene))
    changed.pop("vtkMRMLSegmentEditorNode1", None)
    assert changed.keys() <= {"vtkMRMLSegmentationNode1", "vtkMRMLSegmentationDisplayNode1"}
    added = editor.segmentationNode().GetSegmentation().GetSegmentIDs()[2:]
    assert changed["vtkMRMLSegmentationNode1"] == {f"segment {name}" for name in added}


@pytest.mark.parametrize("moved", ["volume", "segmentation"])
def test_a_bent_transform_is_refused_in_words(effect, editor, scene, volumes, dialogs, moved):
    node = bent(scene)
    (volumes["t1ce"] if moved == "volume" else editor.segmentationNode()).SetAndObserveTransformNodeID(node.GetID())
    let_qt_work()
    before = scene_contents(scene)
    effect.segmentButton.click()
    assert "non-linear transform 'bent'" in dialogs.messages.pop()[1]
    assert effect.job is None
    assert scene_changes(before, scene_contents(scene)) == {}


def test_one_region_fills_the_selected_segment(effect, editor, bench):
    run(bench, effect)
    choose_region(effect, "Core")
    assert effect.applyButton.text == "Apply to selected segment"
    editor.setCurrentSegmentID("B")
    effect.applyButton.click()
    assert np.array_equal(voxels(editor, "B"), mask(*CORE))
    assert not voxels(editor, "A").any()
    run(bench, effect)
    choose_region(effect, "Whole")
    effect.addCheckBox.checked = True
    effect.applyButton.click()
    assert np.array_equal(voxels(editor, "B"), mask(*WHOLE))
    run(bench, effect)
    choose_region(effect, "Core")
    effect.addCheckBox.checked = False
    effect.applyButton.click()
    assert np.array_equal(voxels(editor, "B"), mask(*CORE))
    editor.undo()
    assert np.array_equal(voxels(editor, "B"), mask(*WHOLE))


def test_a_region_needs_a_selected_segment(effect, editor, bench):
    run(bench, effect)
    choose_region(effect, "Core")
    editor.setCurrentSegmentID("")
    assert not effect.applyButton.enabled
    assert effect.applyButton.toolTip == "Select the segment that shall be filled."
    editor.setCurrentSegmentID("B")
    assert effect.applyButton.enabled
    effect.applyButton.click()
    assert np.array_equal(voxels(editor, "B"), mask(*CORE))


@pytest.mark.parametrize("how", ["left", "cleaned up"])
def test_the_editor_is_watched_only_while_the_effect_is_active(effect, editor, monkeypatch, how):
    told = []
    monkeypatch.setattr(effect, "updateControls", lambda: told.append("told"))
    editor.setCurrentSegmentID("B")
    assert told
    editor.setActiveEffect(None) if how == "left" else effect.cleanup()
    told.clear()
    editor.setCurrentSegmentID("A")
    assert not told
    if how == "left":
        editor.setActiveEffectByName(EFFECT)
        told.clear()
        editor.setCurrentSegmentID("B")
        assert len(told) == 1


def test_volumes_under_a_transform(effect, editor, bench, scene, volumes):
    """The voxels found on the FLAIR are filled where they lie in the world, in a segmentation that was not moved."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    from BrainSegSAMLib.mrml.spaces import vtk_matrix

    node.SetMatrixTransformToParent(vtk_matrix(np.array([[1, 0, 0, 3], [0, 1, 0, 2], [0, 0, 1, 4], [0, 0, 0, 1.0]])))
    for one in volumes.values():
        one.SetAndObserveTransformNodeID(node.GetID())
    run(bench, effect)
    effect.applyButton.click()
    assert np.array_equal(voxels(editor, "Whole"), mask(*WHOLE))  # seen on the moved FLAIR
    node.SetMatrixTransformToParent(vtk_matrix(np.eye(4)))
    shifted = mask(slice(4, 8), slice(4, 9), slice(6, 12))  # 3, 2 and 4 mm are 3, 2 and 2 voxels
    assert np.array_equal(voxels(editor, "Whole"), shifted)


# ---- the end of work


def test_cancel_leaves_nothing(effect, editor, bench, scene, hire):
    hire("wait")
    before = node_ids(scene)
    start(bench, effect)
    assert not effect.segmentButton.enabled
    assert effect.progressBar.visible
    effect.cancelButton.click()
    assert effect.job is None
    assert effect.statusLabel.text == "Cancelled; the segments are as they were."
    assert not effect.progressBar.visible
    bench.wait_until(lambda: False, seconds=0.3)
    assert node_ids(scene) == before
    assert names(editor.segmentationNode()) == ["A", "B"]


def at_the_first_part(monkeypatch, what):
    """Let something happen when the first part of a result has been laid onto the segmentation's voxels."""
    from BrainSegSAMLib.mrml import labelmaps

    monkeypatch.setattr(labelmaps, "_PART", 1)
    real, parts = labelmaps._write, []

    def write(*arguments):
        for part in real(*arguments):
            parts.append(part)
            if len(parts) == 1:
                what()
            yield part

    monkeypatch.setattr(labelmaps, "_write", write)
    return parts


def test_cancel_while_a_result_is_laid_out_leaves_nothing(effect, editor, bench, scene, monkeypatch):
    before = node_ids(scene)
    parts = at_the_first_part(monkeypatch, lambda: effect.cancelButton.click())
    effect.segmentButton.click()
    assert bench.wait_until(lambda: parts)
    bench.wait_until(lambda: False, seconds=0.2)
    assert len(parts) == 1
    assert effect.job is None
    assert not effect.preview.visible
    assert effect.statusLabel.text == "Cancelled; the segments are as they were."
    assert node_ids(scene) == before


def test_a_volume_that_is_moved_while_a_result_is_laid_out_is_said(
    effect, volumes, bench, scene, monkeypatch, dialogs
):
    before = node_ids(scene)
    at_the_first_part(monkeypatch, lambda: volumes["flair"].SetOrigin(1, 2, 3))
    effect.segmentButton.click()
    assert bench.wait_until(lambda: effect.job is None)
    ((_kind, text),) = dialogs.messages
    dialogs.messages.clear()
    assert "was moved or changed in the meantime; start again" in text
    assert not effect.preview.visible
    assert node_ids(scene) == before


def leave_effect(editor, scene):
    editor.setActiveEffect(None)


def remove_segmentation(editor, scene):
    scene.RemoveNode(editor.segmentationNode())


def remove_volume(editor, scene):
    scene.RemoveNode(editor.sourceVolumeNode())


def close_scene(editor, scene):
    scene.Clear(False)


def switch_volume(editor, scene):
    editor.setSourceVolumeNode(scene.GetFirstNodeByName("source"))


@pytest.mark.parametrize("change", [leave_effect, remove_segmentation, remove_volume, close_scene, switch_volume])
def test_work_ends_when_its_nodes_go(effect, editor, bench, scene, hire, change):
    worker = hire("wait")
    start(bench, effect)
    change(editor, scene)
    assert effect.job is None
    assert bench.wait_until(lambda: not worker.busy, seconds=10)
    assert not effect.preview.visible
    assert not effect.results


@pytest.mark.parametrize("change", [leave_effect, remove_segmentation, remove_volume, close_scene, switch_volume])
def test_a_preview_goes_with_its_nodes(effect, editor, bench, scene, change):
    run(bench, effect)
    assert effect.preview.visible
    change(editor, scene)
    assert not effect.preview.visible
    hidden = [scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode").GetName()
              for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))]
    assert "BrainSegSAM preview" not in hidden


@pytest.mark.parametrize(("behaviour", "message"), [("unhappy", "The model's weights are damaged."),
                                                    ("killed", "killed")])
def test_a_failure_is_told_in_words(effect, editor, bench, scene, hire, dialogs, behaviour, message):
    hire(behaviour)
    before = node_ids(scene)
    run(bench, effect)
    ((kind, text),) = dialogs.messages
    dialogs.messages.clear()
    assert kind == "errorDisplay"
    assert message in text
    assert node_ids(scene) == before
    assert not effect.applyButton.enabled
    assert effect.segmentButton.enabled


def test_a_busy_worker_is_said(effect, bench, hire, dialogs):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    worker = hire("wait")
    worker.request("other", {}, Listener())
    effect.segmentButton.click()
    assert effect.job is None
    ((_, text),) = dialogs.messages
    dialogs.messages.clear()
    assert "working on something else" in text


def test_work_that_was_cancelled_does_not_stand_in_the_way(effect, bench, hire):
    """Its end comes a moment later; the next one waits for it."""
    hire("ponder")
    effect.segmentButton.click()
    assert bench.wait_until(lambda: effect.statusLabel.text == "Reading")
    effect.cancelButton.click()
    assert effect.worker.busy
    run(bench, effect)
    assert effect.preview.visible


def test_the_moved_volume_is_noticed(effect, editor, bench, volumes, dialogs):
    run(bench, effect)
    volumes["flair"].SetOrigin(50, 60, 70)
    effect.applyButton.click()
    ((_, text),) = dialogs.messages
    dialogs.messages.clear()
    assert "moved" in text
    assert names(editor.segmentationNode()) == ["A", "B"]


def test_cleanup_disconnects(effect, editor, bench):
    run(bench, effect)
    button = effect.segmentButton
    effect.cleanup()
    assert not effect.preview.visible
    button.click()
    assert effect.job is None
    assert not effect.results
