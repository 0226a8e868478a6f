"""What works in a Slicer into which nothing was installed yet: none of the packages that it does not bring is there."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest


def test_the_packages_are_hidden(hidden):
    from importlib import metadata

    assert importlib.util.find_spec("torch") is None
    assert importlib.util.find_spec("numpy") is not None
    with pytest.raises(ImportError):
        importlib.import_module("jsonschema")
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("scikit-image")


def test_models_and_catalogue_are_there_at_once(hidden, open_panel, volume, bench, tmp_path, monkeypatch, dialogs):
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path))
    widget = open_panel()
    ui = widget.ui
    assert "glioma-nnunet-tiny" in widget.panel.predict._models
    assert ui.modelTree.topLevelItemCount > 5
    assert ui.modelStatusLabel.text == ui.logText.plainText == ""
    for seed, name in enumerate(("flair", "t1", "t1ce", "t2")):
        volume(f"a_{name}", seed=seed)
    assert bench.wait_until(lambda: ui.applyButton.enabled)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    ui.applyButton.click()
    ((_kind, text),) = dialogs.messages
    dialogs.messages.clear()
    assert "Install the PyTorch extension" in text
    assert not widget.logic.running


def test_the_effects_offer_their_models(hidden, editor, tmp_path, monkeypatch):
    import qt
    import slicer

    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path))
    models = {
        "BrainSegSAM nnU-Net": "glioma-nnunet-tiny", "BrainSegSAM SAM tracking": "glioma-sam2-tiny",
        "BrainSegSAM MedSAM box": "glioma-yolo-medsam-tiny",
    }  # fmt: skip
    for effect, model in models.items():
        editor.setActiveEffectByName(effect)
        slicer.app.processEvents()
        combos = editor.activeEffect().optionsFrame().findChildren(qt.QComboBox)
        assert any(combo.findData(model) >= 0 for combo in combos), effect


def test_a_worker_starts_and_says_what_it_lacks(hidden, bench):
    from BrainSegSAMWidgets.WorkerProcess import Listener, newWorker

    worker, errors = newWorker(), []
    worker.request("devices", {}, Listener(onFailed=errors.append)).wait()
    worker.quit(wait=True)
    assert "PyTorch is not installed" in str(errors[0])


def test_a_model_is_removed(hidden, widget, models, bench, asked):
    widget.ui.removeButton.click()
    assert bench.wait_until(lambda: not widget.panel.models.task.running)
    assert [kind for kind, *_text in asked] == ["confirm"], widget.ui.modelStatusLabel.text
    assert not (models / "toy").exists()


def test_a_download_asks_for_what_the_model_needs(widget, commands, monkeypatch, asked):
    from BrainSegSAMWidgets import ModelPanel

    from BrainSegSAMLib.models.catalogue import Entry, RemoteFile

    file = RemoteFile("https://e.org/f.pt", "f.pt", None, None)
    entry = Entry("far", "Far", "sam2_tracker", "download", None, file, ("t1",), "MIT", ("Somebody.",), False, "")
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: (entry,))
    methods = []
    monkeypatch.setattr(ModelPanel, "ensureDependencies", methods.append)
    widget.panel.models.fill()
    widget.ui.modelSearchEdit.text = "far"
    widget.ui.downloadButton.click()
    assert methods == ["sam2_tracker"]  # which needs sam2, when it is imported


@pytest.mark.slow
def test_segmentations_are_evaluated_with_what_measuring_asks_for(hidden, widget, tmp_path, bench, asked, monkeypatch):
    import numpy as np

    from BrainSegSAMLib.geometry import Geometry
    from BrainSegSAMLib.image import Segmentation
    from BrainSegSAMLib.labels import LabelScheme, Region
    from BrainSegSAMLib.segmentation_files import write_seg_nrrd

    monkeypatch.setenv("BRAINSEGSAM_TEST_HIDDEN", ",".join(set(hidden) - {"skimage", "scikit_image", "matplotlib"}))
    monkeypatch.setattr("BrainSegSAMWidgets.EvaluatePanel.ensureMeasuring", lambda: None)
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
    ui.evaluateStartButton.click()
    assert bench.wait_until(lambda: not widget.panel.evaluate.task.running)
    assert asked == [("openInBrowser", tmp_path / "out" / "report.html")], ui.evaluateStatusLabel.text
