"""The panel's tabs for models, training and evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_installing")


# ---- models


def test_models_are_searched_and_described(widget, models):
    ui = widget.ui
    ui.moreModelsButton.click()
    assert ui.modelsTab.visible
    assert not ui.segmentTab.visible
    assert ui.modelTree.topLevelItemCount == 1
    details = ui.modelDetails.plainText
    assert ui.modelTree.topLevelItem(0).text(1) == "installed, demo"
    for part in ("Toy", "Demonstration model.", "Finds nothing real.", "Apache-2.0", "FLAIR, T1CE", "Whole, Core"):
        assert part in details
    assert ui.useModelButton.enabled
    assert ui.downloadButton.toolTip == "This model is here already."
    ui.modelSearchEdit.text = "no such thing"
    assert ui.modelTree.topLevelItemCount == 0
    assert ui.useModelButton.toolTip == "Choose a model in the list."
    ui.modelSearchEdit.text = "toy nnu-net"
    assert ui.modelTree.topLevelItemCount == 1
    ui.useModelButton.click()
    assert ui.segmentTab.visible


def test_a_model_of_the_catalogue_can_be_downloaded(widget, commands, bench, monkeypatch):
    from BrainSegSAMLib.models.catalogue import Entry, RemoteFile

    file = RemoteFile("https://e.org/f.zip", "f.zip", None, None)
    entry = Entry("far", "Far <away>", "nnunet", "download", None, file,
                  ("t1",), "MIT", ("Somebody.",), False, "A note.")
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: (entry,))
    widget.panel.models.fill()
    widget.ui.modelSearchEdit.text = "far"
    assert "not published" in widget.ui.modelDetails.plainText
    assert "Far <away>" in widget.ui.modelDetails.plainText
    assert not widget.ui.useModelButton.enabled
    widget.ui.downloadButton.click()
    assert not widget.ui.downloadButton.enabled
    assert "running here already" in widget.ui.downloadButton.toolTip
    assert bench.wait_until(lambda: not widget.panel.models.task.running)
    assert widget.ui.modelStatusLabel.text == "'far' is installed."


def test_a_model_is_removed_by_the_real_command_and_noticed(widget, models, bench, asked):
    widget.ui.removeButton.click()
    assert asked == [("confirm", "Delete the model 'Toy' from this computer? This cannot be undone.")]
    assert bench.wait_until(lambda: not widget.panel.models.task.running)
    assert not (models / "toy").exists()
    assert widget.ui.modelComboBox.count == 0
    assert "'Toy' is not installed any more" in widget.ui.statusLabel.text
    assert widget.ui.applyReasonLabel.text == "No model is installed."


def test_what_is_imported_is_checked_first(widget, tmp_path, commands, bench, asked):
    ui = widget.ui
    assert ui.importReasonLabel.text == "Choose a folder, zip or checkpoint to import."
    ui.importSourceEdit.currentPath = str(tmp_path / "gone")
    assert "There is no" in ui.importReasonLabel.text
    ui.importSourceEdit.currentPath = str(tmp_path)
    ui.importNameEdit.text = "Toy!"
    assert "cannot be called 'Toy!'" in ui.importReasonLabel.text
    ui.importNameEdit.text = "toy"
    assert "already" in ui.importReasonLabel.text
    ui.importNameEdit.text = "mine"
    ui.importModalitiesEdit.text = "flair, t1"
    ui.importTrustCheckBox.checked = True
    assert ui.importButton.enabled
    told = spy(widget.panel.models.task)
    ui.importButton.click()
    assert told[0] == ["models", "import", str(tmp_path), "--name", "mine", "--modalities", "flair", "t1", "--trust"]
    assert bench.wait_until(lambda: not widget.panel.models.task.running)


def spy(task):
    """The commands that a task is asked to run, as they come."""
    told, start = [], task.start

    def noting(arguments, onDone, onFailed):
        told.append(list(arguments))
        start(arguments, onDone, onFailed)

    task.start = noting
    return told


# ---- training


@pytest.fixture
def trainable(widget, tmp_path):
    cases = tmp_path / "cases"
    cases.mkdir()
    widget.ui.trainDataEdit.currentPath = str(cases)
    widget.ui.trainNameEdit.text = "mine"
    assert widget.ui.trainStartButton.enabled
    return cases


def test_training_says_what_it_lacks(widget, tmp_path, models):
    ui = widget.ui
    assert ui.trainReasonLabel.text == "Choose the folder with the labelled cases."
    ui.trainDataEdit.currentPath = str(tmp_path / "gone")
    assert "There is no" in ui.trainReasonLabel.text
    ui.trainDataEdit.currentPath = str(tmp_path)
    assert ui.trainReasonLabel.text == "Give the new model a name."
    ui.trainNameEdit.text = "My Model"
    assert "cannot be called" in ui.trainReasonLabel.text
    ui.trainNameEdit.text = "toy"
    assert "already" in ui.trainReasonLabel.text
    assert ui.trainStartButton.toolTip == ui.trainReasonLabel.text


def test_settings_are_made_from_the_dataclass_and_checked(widget, trainable):
    ui, form = widget.ui, widget.panel.train.form
    assert form.editors["epochs"].text == "44"  # as the recipe says, not nnU-Net's 1000
    assert form.editors["configuration"].className() == "QComboBox"
    assert form.editors["half_precision_weights"].className() == "QCheckBox"
    assert form.editors["epochs"].toolTip.startswith("epochs: Epochs per fold.")
    form.editors["epochs"].text = "0"
    form.editors["epochs"].textEdited.emit("0")
    assert ui.trainSettingsProblem.text == "The setting epochs is 0; it must be 1 or more."
    assert ui.trainReasonLabel.text == ui.trainSettingsProblem.text
    form.editors["epochs"].text = "many"
    form.editors["epochs"].textEdited.emit("many")
    assert "wrong kind" in ui.trainSettingsProblem.text
    ui.trainResetButton.click()
    assert form.overrides() == {}
    assert ui.trainStartButton.enabled


def test_every_recipe_makes_a_form_that_changes_nothing(widget):
    ui, panel = widget.ui, widget.panel.train
    for index in range(ui.trainRecipeComboBox.count - 1):
        ui.trainRecipeComboBox.currentIndex = index
        assert panel.form.overrides() == {}
        assert panel.form.problem() == ""
        assert all(editor.toolTip for editor in panel.form.editors.values())
    assert {"prior.epochs", "tracker.iterations", "answer"} <= set(panel.form.editors) or index


def test_settings_are_searched(widget, trainable):
    widget.ui.trainAllSettingsCollapsibleButton.collapsed = False
    widget.ui.trainSettingsSearchEdit.text = "bias field"
    editors = widget.panel.train.form.editors
    assert not editors["bias_field"].isHidden()
    assert editors["weight_decay"].isHidden()
    assert not editors["epochs"].isHidden()  # what matters is never hidden


def test_training_runs_the_command(widget, trainable, commands, bench, models):
    form = widget.panel.train.form
    form.editors["learning_rate"].text = "0.25"
    form.editors["learning_rate"].textEdited.emit("0.25")
    assert json.loads(widget.logic.getParameterNode().trainSettings) == {"learning_rate": 0.25}
    told = spy(widget.panel.train.task)
    widget.ui.trainStartButton.click()
    (words,) = told
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "train"
    assert Path(options["--recipe"]).name == "glioma-nnunet-tiny.json"
    assert options["--input"] == str(trainable)
    assert options["--output"] == str(models / "mine")
    assert options["--work"] == str(models / ".training" / "mine")
    assert (options["--name"], options["--device"], options["--set"]) == ("mine", "auto", "learning_rate=0.25")
    assert widget.ui.trainStopButton.enabled
    assert widget.ui.trainStartButton.toolTip == "A training is running."
    assert bench.wait_until(lambda: not widget.panel.train.task.running)
    assert widget.ui.trainStatusLabel.text == "The model 'mine' is trained."


def test_a_training_that_was_stopped_is_gone_on_with(widget, trainable, models):
    work = models / ".training" / "mine"
    work.mkdir(parents=True)
    (work / "run.json").write_text(json.dumps({"status": "cancelled", "started": "2026-11-20T10:00:00+00:00"}))
    widget.panel.train.check()
    assert widget.ui.trainStartButton.text == "Go on"
    assert widget.ui.trainReasonLabel.text == "A training of this name was begun on 2026-11-20 and is gone on with."
    (work / "run.json").write_text(json.dumps({"status": "finished"}))
    widget.panel.train.check()
    assert widget.ui.trainStartButton.text == "Train"


def test_the_curve_follows_the_training(widget):
    curve = widget.panel.train.curve
    assert not widget.ui.trainCurve.visible
    for step, loss in ((1, 0.5), (2, 0.25), (3, 0.125), (2, 0.3)):
        report = {"stage": "Training", "fraction": 0.1,
                  "measured": {"network": "fold 0", "step": step, "of": 10, "values": {"loss": loss}}}
        widget.panel.train._onProgress(report)
    assert curve.curves("fold 0") == {"loss": [(1, 0.5), (2, 0.3)]}  # gone on with from the second step
    assert not widget.ui.trainCurve.isHidden()
    picture = widget.ui.trainCurve.pixmap.toImage()
    blue = sum(picture.pixelColor(x, y).name() == "#2166ac" for x in range(52, 200) for y in range(20, 150))
    assert blue > 10


def test_choices_come_back_with_the_scene(widget, trainable, tmp_path):
    ui = widget.ui
    ui.evaluateOutputEdit.currentPath = str(tmp_path / "out")
    ui.evaluatePicturesCheckBox.checked = False
    ui.trainRecipeComboBox.currentIndex = 1
    chosen = ui.trainRecipeComboBox.currentText
    widget.exit()
    ui.evaluateOutputEdit.currentPath = ""
    ui.trainNameEdit.text = ""
    ui.trainRecipeComboBox.currentIndex = 0
    widget.enter()
    assert ui.evaluateOutputEdit.currentPath == str(tmp_path / "out")
    assert not ui.evaluatePicturesCheckBox.checked
    assert ui.trainNameEdit.text == "mine"
    assert ui.trainRecipeComboBox.currentText == chosen


# ---- evaluation


def test_evaluating_runs_the_command_and_opens_the_report(widget, tmp_path, bench, asked, monkeypatch):
    ui = widget.ui
    assert ui.evaluateReasonLabel.text == "Choose the folder with the predictions."
    for name in ("predictions", "other", "reference"):
        (tmp_path / name).mkdir()
    ui.evaluatePredictionsEdit.currentPath = str(tmp_path / "predictions")
    ui.evaluateReferenceEdit.currentPath = str(tmp_path / "gone")
    ui.evaluateOutputEdit.currentPath = str(tmp_path / "out")
    assert "There is no" in ui.evaluateReasonLabel.text
    ui.evaluateReferenceEdit.currentPath = str(tmp_path / "reference")
    ui.evaluateOtherEdit.currentPath = str(tmp_path / "other")
    ui.evaluateLabelsComboBox.currentIndex = 1
    ui.evaluatePicturesCheckBox.checked = False
    told = []
    done = []
    monkeypatch.setattr(
        widget.panel.evaluate.task, "start", lambda words, onDone, onFailed: (told.append(words), done.append(onDone))
    )
    ui.evaluateStartButton.click()
    assert told[0] == [
        "evaluate", "--predictions", str(tmp_path / "predictions"), str(tmp_path / "other"),
        "--reference", str(tmp_path / "reference"), "--output", str(tmp_path / "out"), "--workers", "1",
        "--labels", "toy", "--no-pictures",
    ]  # fmt: skip
    report = tmp_path / "out" / "report.html"
    done[0]({"exit_code": 3, "lines": ["Dice 0.9"], "result": {"files": {"report": str(report)}, "doubts": ["Hm."]}})
    widget.panel.evaluate.check()
    assert "doubtful" in ui.evaluateStatusLabel.text
    assert ui.evaluateSummaryText.plainText == "Dice 0.9\nHm."
    assert asked == [("openInBrowser", report)]
    ui.evaluateShowButton.click()
    assert len(asked) == 2


@pytest.mark.slow
def test_a_real_evaluation_writes_a_report(widget, tmp_path, bench, asked):
    import numpy as np

    from BrainSegSAMLib.geometry import Geometry
    from BrainSegSAMLib.image import Segmentation
    from BrainSegSAMLib.labels import LabelScheme, Region
    from BrainSegSAMLib.segmentation_files import write_seg_nrrd

    label_map = np.zeros((8, 10, 12), np.uint8)
    label_map[2:6, 2:7, 3:9] = 1
    segmentation = Segmentation(
        Geometry.axis_aligned(label_map.shape, (1, 1, 1)), LabelScheme((Region("Whole", (1,), (0, 255, 0)),)), label_map
    )
    for name in ("predictions", "reference"):
        (tmp_path / name).mkdir()
        write_seg_nrrd(segmentation, tmp_path / name / "one.seg.nrrd")
    ui = widget.ui
    ui.evaluatePredictionsEdit.currentPath = str(tmp_path / "predictions")
    ui.evaluateReferenceEdit.currentPath = str(tmp_path / "reference")
    ui.evaluateOutputEdit.currentPath = str(tmp_path / "out")
    ui.evaluatePicturesCheckBox.checked = False
    ui.evaluateStartButton.click()
    assert bench.wait_until(lambda: not widget.panel.evaluate.task.running)
    assert asked == [("openInBrowser", tmp_path / "out" / "report.html")], ui.evaluateStatusLabel.text
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_failing_command_is_said(widget, worker, trainable, bench, asked, monkeypatch):
    from BrainSegSAMWidgets import WorkerProcess

    monkeypatch.setattr(WorkerProcess, "newWorker", lambda: worker("unhappy"))
    widget.ui.trainStartButton.click()
    assert bench.wait_until(lambda: not widget.panel.train.task.running)
    assert asked == [("showError", "The model's weights are damaged.")]
    assert "weights are damaged" in widget.ui.trainStatusLabel.text
    assert widget.ui.trainStartButton.enabled


def test_a_training_is_stopped(widget, worker, trainable, bench, asked, monkeypatch):
    from BrainSegSAMWidgets import WorkerProcess

    monkeypatch.setattr(WorkerProcess, "newWorker", lambda: worker("wait"))
    widget.ui.trainStartButton.click()
    assert bench.wait_until(lambda: widget.ui.trainProgressBar.value == 10)
    widget.ui.trainStopButton.click()
    assert bench.wait_until(lambda: not widget.panel.train.task.running)
    assert "was stopped" in widget.ui.trainStatusLabel.text
    assert asked == []


def test_a_model_removed_on_disk_is_noticed_when_the_module_is_opened(widget, both, models):
    import shutil

    shutil.rmtree(models / "toy")
    widget.exit()
    widget.enter()
    assert "'Toy' is not installed any more" in widget.ui.statusLabel.text
    assert not widget.ui.applyButton.enabled


def test_a_folder_called_otherwise_than_its_model_is_used_by_its_folder(widget, models):
    import shutil

    from BrainSegSAMLib.models.store import load_model, write_model

    (models / "copy").mkdir()
    (models / "copy" / "weights.bin").write_bytes(b"x")
    write_model(replace(load_model(models / "toy"), folder=models / "copy"), files=["weights.bin"])
    widget.panel.predict.fillModels()
    widget.panel.predict.chooseModel("copy")
    assert widget.panel.predict.modelName == "copy"
    shutil.rmtree(models / "toy")
    widget.panel.predict.fillModels()
    assert widget.panel.predict.modelName == "copy"
    assert not widget.ui.statusLabel.text  # the chosen one is there


TINY = {
    "method": "sam2_tracker",
    "model": {"name": "tiny", "title": "Tiny tracker", "modalities": ["flair"], "licence": "CC0-1.0",
              "regions": [{"name": "lesion", "labels": [1]}]},
    "training": {
        "architecture": {
            "image_size": 64, "embed_dim": 8, "stages": [1, 1, 1, 1], "global_att_blocks": [],
            "window_spec": [4, 4, 4, 2], "d_model": 16, "mem_dim": 8, "memory_attention_layers": 1,
            "dim_feedforward": 16,
        },
        "folds": 2, "iterations": 40, "clip_length": 3, "clips_per_iteration": 1, "objects_per_clip": 1,
        "minimum_object_mm3": 20, "planes": {"axial": 1.0}, "patience": 0,
    },
}  # fmt: skip


@pytest.mark.slow
def test_a_real_network_is_imported(widget, models, tmp_path, bench, asked):
    """A trained nnU-Net as anybody has it, by the real command in a real worker."""
    import shutil

    from BrainSegSAMLib.resources import resource_path

    source = tmp_path / "trained"
    shutil.copytree(
        resource_path("Models", "glioma-nnunet-tiny"), source, ignore=shutil.ignore_patterns("model.json")
    )
    ui = widget.ui
    ui.importSourceEdit.currentPath = str(source)
    ui.importNameEdit.text = "mine"
    assert ui.importButton.enabled, ui.importReasonLabel.text
    ui.importButton.click()
    assert bench.wait_until(lambda: (models / "mine" / "model.json").is_file()), ui.modelStatusLabel.text
    assert bench.wait_until(lambda: not widget.panel.models.task.running)
    assert "mine" in widget.logic.installedModels()[0]
    assert asked == []


@pytest.mark.slow
def test_a_real_training_is_stopped_gone_on_with_and_makes_a_model(
    widget, models, tmp_path, bench, asked, write_case, monkeypatch
):
    import numpy as np

    from BrainSegSAMLib.geometry import Geometry

    pytest.importorskip("sam2")
    grid = Geometry.axis_aligned((12, 32, 32), (2.0, 2.0, 2.0))
    for seed, name in enumerate(("a", "b")):
        truth = np.zeros(grid.shape_zyx, dtype=np.float32)
        truth[3:9, 8 + seed : 18, 10:20] = 1
        write_case(tmp_path / "data" / name, grid, modalities=("flair", "seg"), arrays={"seg": truth})
    recipe = tmp_path / "tiny.json"
    recipe.write_text(json.dumps(TINY))
    ui, panel = widget.ui, widget.panel.train
    monkeypatch.setattr("BrainSegSAMWidgets.Dialogs.openFile", lambda title, filters: str(recipe))
    ui.trainRecipeComboBox.currentIndex = ui.trainRecipeComboBox.count - 1
    assert ui.trainRecipeComboBox.currentText == "Tiny tracker"
    ui.trainDataEdit.currentPath = str(tmp_path / "data")
    ui.trainNameEdit.text = "mine"
    ui.trainDeviceComboBox.currentIndex = 1
    ui.trainStartButton.click()
    assert bench.wait_until(lambda: panel.curve.curves("fold_0"), seconds=600), ui.trainStatusLabel.text
    ui.trainStopButton.click()
    assert bench.wait_until(lambda: not panel.task.running, seconds=600)
    assert "was stopped" in ui.trainStatusLabel.text
    assert not (models / "mine").exists()
    assert ui.trainStartButton.text == "Go on"
    ui.trainStartButton.click()
    assert bench.wait_until(lambda: not panel.task.running, seconds=600)
    assert asked == []
    assert "The model 'mine' is trained." in ui.trainStatusLabel.text
    assert (models / "mine" / "model.json").is_file()
    ui.modelSearchEdit.text = "tiny"
    assert ui.modelTree.topLevelItem(0).text(1) == "installed"
