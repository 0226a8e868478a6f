"""Pictures of the panel on the bench: `python Testing/bench/screenshot.py FOLDER`.

They show the layout and the words, with Qt's Fusion look instead of Slicer's; every picture says that it is a bench
render. The table in the last one is filled from the lesion that was drawn into a synthetic brain, not by a model.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import application

CAPTION = "Bench render (Qt Fusion), not 3D Slicer"
SIZE = (430, 760)


def main(folder: Path) -> None:
    """Draw the states of the panel into a folder."""
    complaints = application.start()
    folder.mkdir(parents=True, exist_ok=True)
    import qt
    import slicer

    import BrainSegSAM

    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    widget = BrainSegSAM.BrainSegSAMWidget(parent)
    widget.setup()
    parent.resize(*SIZE)
    parent.show()
    _save(parent, folder / "panel-empty.png")
    phantom = _phantom()
    nodes = _add_volumes(phantom)
    application.wait_until(lambda: widget.ui.applyButton.enabled, seconds=5)
    _save(parent, folder / "panel-ready.png")
    _pretend_progress(widget)
    _save(parent, folder / "panel-running.png")
    widget.panel.predict.onDone(_result(phantom, nodes["flair"]))
    _save(parent, folder / "panel-finished.png")
    widget.ui.logCollapsibleButton.collapsed = False
    _save(parent, folder / "panel-log.png")
    widget.cleanup()
    for message in complaints.take():
        print(message)


def _pretend_progress(widget) -> None:
    widget.panel.predict.onProgress(
        {"type": "progress", "stage": "case: Segmenting", "fraction": 0.42, "remaining_s": 38.0,
         "message": "tile 21 of 50"}
    )
    widget.ui.cancelButton.enabled = True
    widget.ui.applyButton.enabled = False


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
    from BrainSegSAMLib.labels import LabelScheme, Region

    scheme = LabelScheme(
        (Region("Whole tumour", (1, 2, 3), (88, 190, 96)), Region("Tumour core", (1, 3), (240, 190, 60)),
         Region("Enhancing tumour", (3,), (224, 70, 66)))
    )
    segmentation = Segmentation(_geometry(phantom), scheme, phantom.labels)
    node = mrml.segmentation_to_node(segmentation, reference, name=f"{reference.GetName()} segmentation")
    return Result(node, as_rows(statistics(segmentation)))


def _save(parent, path: Path) -> None:
    import qt
    import slicer

    for _ in range(3):
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
