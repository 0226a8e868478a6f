"""What the panel says of the chosen volumes, of the device and of a result."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from BrainSegSAMLib.errors import WorkerError
from Testing.slicer.conftest import NO_GPU

pytestmark = pytest.mark.usefixtures("no_installing")


# ---- inputs in words


def test_volumes_on_one_grid_fit(widget, both):
    said = widget.ui.inputsCheckLabel.text
    assert said.replace("\u00a0", " ") == "All volumes fit together: 12 × 10 × 8 voxels of 1 × 1 × 2 mm."
    assert "2 mm" not in said  # no line ends before "mm"


def test_another_grid_is_said_and_allowed(widget, both, bench):
    both["t1ce"].SetSpacing(1, 1, 1.9)
    assert bench.wait_until(lambda: "T1CE lies on another grid" in widget.ui.inputsCheckLabel.text)
    assert "The result gets the grid of FLAIR" in widget.ui.inputsCheckLabel.text
    assert widget.ui.applyButton.enabled


def test_volumes_that_do_not_overlap_are_refused_in_words(widget, both, bench, scene):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 500.0)
    transform.SetMatrixTransformToParent(matrix)
    both["t1ce"].SetAndObserveTransformNodeID(transform.GetID())
    assert bench.wait_until(lambda: not widget.ui.applyButton.enabled)
    assert "T1CE ('a_t1ce') covers only 0% of FLAIR ('a_flair')" in widget.ui.applyReasonLabel.text
    assert widget.ui.applyButton.toolTip == widget.ui.applyReasonLabel.text
    both["t1ce"].SetAndObserveTransformNodeID(None)
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)


def test_a_name_that_says_another_sequence_is_noted(widget, both, volume):
    widget.panel.predict.inputSelectors["t1ce"].setCurrentNode(volume("b_t2"))
    assert "'b_t2' is chosen for T1CE, but its name says T2." in widget.ui.inputsCheckLabel.text
    assert widget.ui.applyButton.enabled


def test_a_volume_whose_sequence_cannot_be_told_is_left_to_the_user(widget, volume, bench):
    node = volume("series 4")
    bench.wait_until(lambda: False, seconds=0.1)
    selectors = widget.panel.predict.inputSelectors
    assert [selector.currentNode() for selector in selectors.values()] == [None, None]
    selectors["flair"].setCurrentNode(node)
    assert widget.ui.applyReasonLabel.text == "Choose a volume for T1CE."


def test_colour_vector_and_label_volumes_are_refused_in_words(widget, scene, bench):
    import vtk

    for kind, name, components in (("vtkMRMLVectorVolumeNode", "photo", 3), ("vtkMRMLLabelMapVolumeNode", "drawn", 1)):
        image = vtk.vtkImageData()
        image.SetDimensions(4, 4, 4)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, components)
        scene.AddNewNodeByClass(kind, name).SetAndObserveImageData(image)
    assert bench.wait_until(lambda: "photo" in widget.ui.inputsCheckLabel.text)
    assert "Volume 'photo' has 3 components per voxel" in widget.ui.inputsCheckLabel.text
    assert "'drawn' is a label map, not an image" in widget.ui.inputsCheckLabel.text
    assert [selector.nodeCount() for selector in widget.panel.predict.inputSelectors.values()] == [0, 0]


def test_a_time_point_of_a_sequence_is_refused_in_words(widget, both, scene, bench):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    sequence.SetDataNodeAtValue(both["flair"], "0")
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(both["flair"], sequence, False)
    widget.panel.predict.checkInputs()
    assert "one time point of the sequence in 'cine'" in widget.ui.applyReasonLabel.text
    assert not widget.ui.applyButton.enabled


def test_a_segmentation_under_a_non_linear_transform_is_refused_in_words(widget, both, scene, bench):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bent")
    widget.ui.outputSelector.setCurrentNode(node)
    assert widget.ui.applyButton.enabled
    node.SetAndObserveTransformNodeID(scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp").GetID())
    widget.ui.applyButton.click()  # what has changed since the last look is noticed
    slicer.app.processEvents()
    assert "'bent' lies under the non-linear transform 'warp'" in widget.ui.applyReasonLabel.text
    assert not widget.ui.applyButton.enabled
    assert not widget.logic.running


# ---- device


def test_a_device_says_what_it_means_here(widget, both, monkeypatch):
    ui = widget.ui
    assert ui.deviceNoteLabel.text == "Here: the processor (8 cores), as PyTorch finds no GPU."
    ui.deviceComboBox.currentIndex = 2
    assert ui.deviceNoteLabel.text == ui.applyReasonLabel.text
    assert "no NVIDIA GPU here" in ui.applyReasonLabel.text
    assert not ui.applyButton.enabled
    ui.deviceComboBox.currentIndex = 0
    assert ui.applyButton.enabled
    gpu = {"auto": "cuda", "gpus": [{"name": "cuda:0", "title": "Card", "memory_gb": 24.0}], "cores": 8, "mps": False,
           "cuda_built": True}  # fmt: skip
    monkeypatch.setattr("BrainSegSAMWidgets.DeviceNote.DeviceNote._known", gpu)
    widget.panel.predict.checkCanApply()
    assert ui.deviceNoteLabel.text == "Here: Card, 24.0 GB of memory."


def test_the_machine_is_asked_once_when_the_module_is_opened(widget, bench, commands, monkeypatch):
    from BrainSegSAMWidgets.DeviceNote import DeviceNote

    monkeypatch.setattr(DeviceNote, "_known", None)
    widget.enter()
    assert len(commands) == 1
    widget.enter()
    assert len(commands) == 1
    assert widget.ui.applyButton.toolTip  # nothing is known, and nothing breaks


@pytest.fixture
def machine(widget, commands, monkeypatch):
    """Plays the PyTorch that is installed, and what a worker answers."""
    from BrainSegSAMWidgets.DeviceNote import DeviceNote

    state = SimpleNamespace(torch="", asked=commands)
    monkeypatch.setattr(DeviceNote, "_known", None)
    monkeypatch.setattr("BrainSegSAMWidgets.DeviceNote._installedTorch", lambda: state.torch)
    device = widget.panel.predict.device
    state.done = lambda: device._done({**NO_GPU, "torch": state.torch})
    state.fail = lambda: device._failed(WorkerError("The worker process crashed."))
    return state


def test_the_machine_is_asked_when_pytorch_has_come(widget, both, machine):
    note = widget.ui.deviceNoteLabel
    widget.enter()
    assert "once PyTorch is installed" in note.text
    assert machine.asked == []
    machine.torch = "2.5"  # as Apply installs it
    widget.ui.applyButton.click()
    assert len(machine.asked) == 1
    machine.done()
    assert note.text.startswith("Here: the processor")
    machine.torch = "2.6"  # as another tab, or the PyTorch module, installs it
    widget.panel.showPage(widget.ui.modelsTab)
    assert len(machine.asked) == 2


def test_a_question_that_failed_is_asked_again(widget, machine):
    note, machine.torch = widget.ui.deviceNoteLabel, "2.5"
    widget.enter()
    machine.fail()
    assert "crashed" in note.text
    widget.exit()
    widget.enter()
    assert len(machine.asked) == 2
    machine.done()
    assert note.text.startswith("Here: the processor")


@pytest.mark.slow
def test_a_real_worker_knows_the_machine(bench):
    import os

    from BrainSegSAMLib.worker_client import WorkerClient

    with WorkerClient() as client:
        found = client.request("devices", {})
    assert found["cores"] == os.cpu_count()
    assert found["auto"] == (found["gpus"][0]["name"].partition(":")[0] if found["gpus"] else found["auto"])


# ---- results


def test_a_result_shows_disagreement_and_how_it_was_made(widget, both, scene):
    from BrainSegSAMWidgets.PredictionJob import Result

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "made")
    regions = [{"region": "Whole", "volume_ml": 2.5, "components": 2, "largest_diameter_mm": 12.25}]
    record = {
        "regions": regions, "notes": ["Look at it."], "device": "cpu", "inputs": {"flair": "a_flair"},
        "model": {"name": "toy", "title": "Toy", "version": "1.0", "sha256": "ab12"}, "versions": {"torch": "2.5"},
        "geometry_actions": ["t1ce: resampled"],
        "prediction": {"lesions": [
            {"number": 1, "volume_mm3": 900.0, "agreement": 0.31, "flagged": True, "centre_lps_mm": [1, 2, 3]},
            {"number": 2, "volume_mm3": 4.0, "tracked": False},
            {"number": 3, "volume_mm3": 70.0},
        ]},
    }  # fmt: skip
    widget.panel.predict.onDone(Result(node, regions, record))
    ui = widget.ui
    table = [[ui.lesionTable.item(row, column).text() for column in range(4)] for row in range(ui.lesionTable.rowCount)]
    assert table == [["Lesion 1", "0.90", "0.31", "yes"], ["Lesion 2", "0.00", "too small", ""],
                     ["Lesion 3", "0.07", "", ""]]
    assert ui.resultNotesLabel.text == "Look at it."
    said = ui.provenanceText.plainText
    for part in ("Toy (toy) 1.0", "ab12", "Device: cpu", "Input FLAIR: a_flair", "t1ce: resampled", "torch: 2.5"):
        assert part in said
    widget.panel.predict.onDone(Result(node, regions, {"regions": regions}))
    assert not ui.lesionTable.visible
    assert not ui.resultNotesLabel.visible
