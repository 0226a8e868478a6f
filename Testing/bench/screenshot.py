"""Pictures of the panel on the bench: `python Testing/bench/screenshot.py FOLDER`.

They show the layout and the words, with Qt's Fusion look instead of Slicer's; every picture says that it is a bench
render. The tables are filled from the lesion that was drawn into a synthetic brain, and the curve is made up: no model
has worked for them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import application

CAPTION = "Bench render (Qt Fusion), not 3D Slicer"
SIZE = (430, 640)
"""What Slicer's module panel has on a screen of 1366 x 768, about."""
PROCESSOR = {"auto": "cpu", "cores": 8, "gpus": [], "mps": False, "cuda_built": True,
             "torch": metadata.version("torch")}  # fmt: skip


def main(folder: Path) -> None:
    """Draw the states of the panel into a folder."""
    complaints = application.start()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["BRAINSEGSAM_MODELS"] = scratch
        _draw(folder, Path(scratch))
    for message in complaints.take():
        print(message)


def _draw(folder: Path, scratch: Path) -> None:
    import qt
    import slicer
    from BrainSegSAMWidgets.DeviceNote import DeviceNote

    import BrainSegSAM

    DeviceNote._known = PROCESSOR
    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    widget = BrainSegSAM.BrainSegSAMWidget(parent)
    widget.setup()
    area = qt.QScrollArea()  # as Slicer shows it
    area.setWidgetResizable(True)
    area.setFrameShape(qt.QFrame.NoFrame)
    area.setWidget(parent)
    area.resize(*SIZE)
    area.show()
    _segment(widget, parent, folder)
    _models(widget, parent, folder)
    _train(widget, parent, folder, scratch)
    _evaluate(widget, parent, folder, scratch)
    widget.cleanup()


def _segment(widget, parent, folder: Path) -> None:
    save(parent, folder / "panel-empty.png")
    phantom = _phantom()
    nodes = _add_volumes(phantom)
    application.wait_until(lambda: widget.ui.applyButton.enabled, seconds=5)
    save(parent, folder / "panel-ready.png")
    widget.panel.predict.onProgress(
        {"stage": "Segmenting", "fraction": 0.42, "remaining_s": 38.0, "message": "tile 21 of 50"}
    )
    widget.ui.cancelButton.enabled = True
    widget.ui.applyButton.enabled = False
    save(parent, folder / "panel-running.png")
    widget.panel.predict.onDone(_result(phantom, nodes["flair"]))
    save(parent, folder / "panel-finished.png")
    widget.panel.predict.onDone(_with_lesions(_result(phantom, nodes["flair"])))
    widget.ui.provenanceCollapsibleButton.collapsed = False
    widget.ui.logCollapsibleButton.collapsed = False
    save(parent, folder / "panel-log.png")


def _models(widget, parent, folder: Path) -> None:
    ui = widget.ui
    widget.panel.showPage(ui.modelsTab)
    save(parent, folder / "models.png")
    ui.modelSearchEdit.text = "sclerosis"
    ui.importCollapsibleButton.collapsed = False
    save(parent, folder / "models-search.png")


def _train(widget, parent, folder: Path, scratch: Path) -> None:
    ui, panel = widget.ui, widget.panel.train
    widget.panel.showPage(ui.trainTab)
    save(parent, folder / "train-empty.png")
    ui.trainDataEdit.currentPath = str(scratch)
    ui.trainNameEdit.text = "my-glioma-model"
    panel.form.editors["learning_rate"].text = "0.003"
    panel.onSettingsChanged()
    save(parent, folder / "train-ready.png")
    ui.trainDataCollapsibleButton.collapsed = True
    ui.trainAllSettingsCollapsibleButton.collapsed = False
    ui.trainSettingsSearchEdit.text = "augment"
    for step in range(1, 61):
        _pretend_training(panel, step)
    save(parent, folder / "train-running.png")


def _pretend_training(panel, step: int) -> None:
    """A loss that falls as losses do, for the picture; no network is trained."""
    values = {"loss": 0.9 * 0.96**step - 0.6 + 0.03 * (step * 37 % 11 - 5) / 5}
    values["validation Dice"] = 0.86 * (1 - 0.95**step)
    report = {"stage": "Training", "fraction": step / 100, "remaining_s": 4000.0 - 40 * step,
              "measured": {"network": "fold 0", "step": step, "of": 100, "values": values}}
    panel.task.view.show(report)
    panel.curve.add(report["measured"])


def _evaluate(widget, parent, folder: Path, scratch: Path) -> None:
    ui = widget.ui
    widget.panel.showPage(ui.evaluateTab)
    save(parent, folder / "evaluate-empty.png")


def _phantom():
    from BrainSegSAMLib.phantom import make_phantom

    return make_phantom(1, shape_zyx=(52, 80, 80), spacing_zyx_mm=(3.0, 3.0, 3.0))


def _geometry(phantom):
    from BrainSegSAMLib.geometry import Geometry

    return Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm)


def _add_volumes(phantom):
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    nodes = {}
    for modality, array in phantom.channels.items():
        image = vtk.vtkImageData()
        image.SetDimensions(*array.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(f"sub-07_{modality}")
        node.SetAndObserveImageData(image)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(_geometry(phantom).ijk_to_ras.ravel().tolist())
        node.SetIJKToRASMatrix(matrix)
        nodes[modality] = slicer.mrmlScene.AddNode(node)
    return nodes


def _result(phantom, reference):
    from BrainSegSAMWidgets.PredictionJob import Result

    from BrainSegSAMLib import mrml
    from BrainSegSAMLib.components import as_rows, statistics
    from BrainSegSAMLib.image import Segmentation
    from BrainSegSAMLib.labels import LabelScheme
    from BrainSegSAMLib.models.store import load_model
    from BrainSegSAMLib.resources import resource_path

    model = load_model(resource_path("Models", "glioma-nnunet-tiny"), verify_hashes=False)
    drawn = ((1, 2, 3), (1, 3), (3,))  # of the phantom's labels, for the model's regions and in their colours
    scheme = LabelScheme(
        tuple(replace(region, labels=labels) for region, labels in zip(model.scheme.regions, drawn, strict=True))
    )
    segmentation = Segmentation(_geometry(phantom), scheme, phantom.labels)
    node = mrml.segmentation_to_node(segmentation, reference, name=f"{reference.GetName()} segmentation")
    regions = as_rows(statistics(segmentation))
    record = {
        "regions": regions,
        "model": {"name": model.name, "title": model.title, "version": model.version},
        "device": "cpu",
        "inputs": {modality: f"sub-07_{modality}" for modality in phantom.channels},
        "seconds": {"prepare": 0.2, "segment": 61.5},
        "prediction": {"method": "nnunet", "settings": {"mirroring": True}},
    }
    return Result(node, regions, record)


def _with_lesions(result):
    """The same as SSNet would give it, with a lesion on which its stages disagree."""
    record = {
        **result.record,
        "model": {"name": "glioma-ssnet", "title": "SSNet for glioma (demonstration)", "version": "1.0"},
        "notes": ["Stages disagree on lesion 2; look at it before using any of them."],
        "prediction": {"method": "ssnet", "settings": {"answer": "prior"}, "lesions": [
            {"number": 1, "volume_mm3": 61830.0, "agreement": 0.93, "flagged": False},
            {"number": 2, "volume_mm3": 770.0, "agreement": 0.41, "flagged": True},
        ]},
    }  # fmt: skip
    return replace(result, record=record)


def save(parent, path: Path) -> None:
    """A picture of a widget in its full height, also what one would scroll to, with the caption."""
    import qt
    import slicer

    for _ in range(5):
        slicer.app.processEvents()
    if parent.isWindow():
        parent.resize(parent.width, parent.layout().heightForWidth(parent.width))
        slicer.app.processEvents()
    picture = parent.grab()
    labelled = qt.QPixmap(picture.width(), picture.height() + 24)
    labelled.fill(qt.QColor(40, 40, 40))
    painter = qt.QPainter(labelled)
    painter.drawPixmap(0, 0, picture)
    painter.setPen(qt.QColor(255, 255, 255))
    painter.drawText(8, picture.height() + 16, CAPTION)
    painter.end()
    labelled.save(str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
