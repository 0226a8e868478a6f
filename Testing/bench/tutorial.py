"""The tutorial's pictures, by working through it on the bench: `python Testing/bench/tutorial.py FOLDER`.

The sample case is loaded, and the bundled models really work on it in the worker process: what is drawn is what they
found. The mouse is Qt's. Looks are Qt's Fusion style, not Slicer's, and every picture says that it is a bench render.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import application
import numpy as np
import screenshot

VIEW = 330
PANEL = 430
LABELS = 26
PATIENCE_S = 900


def main(folder: Path) -> int:
    """Work through the tutorial; the number of complaints, each of which is printed."""
    complaints = application.start()
    folder.mkdir(parents=True, exist_ok=True)
    import slicer
    import views

    import BrainSegSAM

    slicer.util.errorDisplay = lambda text, *_, **__: complaints.add(f"error display: {text}")
    BrainSegSAM.registerWithSlicer()
    layout = views.LayoutManager(slicer.mrmlScene, size=VIEW, columns=2, annotated=True)
    slicer.app.setLayoutManager(layout)
    session = Session(folder, layout)
    session.load_the_sample()
    session.segment_in_the_panel()
    session.open_the_editor()
    session.use_nnunet()
    session.drag_a_box()
    session.track()
    slicer.app.emit("aboutToQuit()")
    found = complaints.take()
    for message in found:
        print(message)
    return len(found)


class Session:
    """A user at work."""

    def __init__(self, folder: Path, layout) -> None:
        self.folder, self.layout, self.volumes, self.editor = folder, layout, {}, None

    # ---- steps

    def load_the_sample(self) -> None:
        import SampleData

        nodes = SampleData.downloadSamples("SyntheticGlioma")
        self.volumes = dict(zip(("flair", "t1", "t1ce", "t2"), nodes, strict=True))
        self.show("flair")
        self.layout.resetSliceViews()

    def segment_in_the_panel(self) -> None:
        import qt
        import slicer

        import BrainSegSAM

        parent = slicer.qMRMLWidget()
        parent.setLayout(qt.QVBoxLayout())
        parent.setMRMLScene(slicer.mrmlScene)
        module = BrainSegSAM.BrainSegSAMWidget(parent)
        module.setup()
        parent.resize(PANEL, 2 * VIEW)
        parent.show()
        module.enter()
        module.panel.predict.chooseModel("glioma-nnunet-tiny")
        self.until(lambda: module.ui.applyButton.enabled and module.ui.deviceNoteLabel.visible)
        self.save(parent, "tutorial-inputs.png")
        module.ui.applyButton.click()
        self.until(lambda: not module.logic.running)
        node = slicer.mrmlScene.GetNthNodeByClass(0, "vtkMRMLSegmentationNode")
        self.jump_to(self.mask_of(node, 0))
        self.save(parent, "tutorial-result.png")
        for section in ("modelCollapsibleButton", "inputsCollapsibleButton", "outputCollapsibleButton"):
            getattr(module.ui, section).collapsed = False
        screenshot.save(parent, self.folder / "panel.png")
        node.SetDisplayVisibility(False)
        module.cleanup()
        parent.close()

    def open_the_editor(self) -> None:
        import slicer

        scene = slicer.mrmlScene
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.volumes["flair"])
        node.GetSegmentation().AddEmptySegment("lesion", "lesion", (0.9, 0.3, 0.25))
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(scene)
        self.editor.setMRMLSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
        self.editor.setSegmentationNode(node)
        self.editor.setSourceVolumeNode(self.volumes["flair"])
        self.editor.setCurrentSegmentID("lesion")
        self.editor.resize(PANEL, 2 * VIEW)
        self.editor.show()

    def use_nnunet(self) -> None:
        effect = self.take("BrainSegSAM nnU-Net")
        self.choose(effect.modelComboBox, "glioma-nnunet-tiny")
        effect.segmentButton.click()
        self.until(lambda: effect.job is None)
        self.save(self.editor, "tutorial-nnunet.png")
        self.editor.setActiveEffect(None)

    def drag_a_box(self) -> None:
        effect = self.take("BrainSegSAM MedSAM box")
        first = self.mask_of(self.reference(), 0)
        z = int(first.sum(axis=(1, 2)).argmax())
        rows, columns = np.nonzero(first[z])
        self.jump_to(first, index=z)
        effect.detectVolumeButton.click()
        self.until(lambda: effect.job is None and effect.lesionList.count > 0)
        self.save(self.editor, "tutorial-detect.png")
        effect.cancelButton.click()
        view = self.layout.sliceWidget("Red")
        self.drag(view, (columns.min() - 1, rows.min() - 1, z), (columns.max() + 1, rows.max() + 1, z))
        self.until(lambda: effect.preview.visible and effect.job is None)
        self.save(self.editor, "tutorial-box.png")
        effect.applyButton.click()
        self.editor.setActiveEffect(None)

    def track(self) -> None:
        effect = self.take("BrainSegSAM SAM tracking")
        effect.trackButton.click()
        self.until(lambda: effect.job is None and effect.preview.visible)
        self.save(self.editor, "tutorial-track.png")
        effect.applyButton.click()
        self.editor.setActiveEffect(None)
        self.save(None, "tutorial-done.png")

    # ---- hands and eyes

    def take(self, name: str):
        self.editor.setActiveEffectByName(name)
        return self.editor.activeEffect().self()

    def choose(self, combo, data: str) -> None:
        found = combo.findData(data)
        if found >= 0:
            combo.currentIndex = found

    def until(self, condition) -> None:
        if not application.wait_until(condition, seconds=PATIENCE_S):
            raise TimeoutError("A step of the tutorial did not end.")

    def show(self, modality: str) -> None:
        for name in self.layout.sliceViewNames():
            composite = self.layout.sliceWidget(name).mrmlSliceCompositeNode()
            composite.SetBackgroundVolumeID(self.volumes[modality].GetID())

    def reference(self):
        import slicer

        return slicer.mrmlScene.GetNthNodeByClass(0, "vtkMRMLSegmentationNode")

    def mask_of(self, node, region: int):
        from BrainSegSAMLib import mrml

        geometry = mrml.volume_node_geometry(self.volumes["flair"])
        found = mrml.node_to_segmentation(node, geometry=geometry)
        return found.mask(found.scheme.regions[region].name)

    def ras(self, ijk):
        import vtk

        matrix = vtk.vtkMatrix4x4()
        self.volumes["flair"].GetIJKToRASMatrix(matrix)
        return matrix.MultiplyPoint((*[float(index) for index in ijk], 1.0))[:3]

    def jump_to(self, mask, *, index: int | None = None) -> None:
        z, y, x = np.argwhere(mask).mean(axis=0)
        place = self.ras((x, y, z if index is None else index))
        for name in self.layout.sliceViewNames():
            self.layout.sliceWidget(name).mrmlSliceNode().JumpSliceByOffsetting(*place)

    def drag(self, widget, first, last) -> None:
        import qt
        from PySide6 import QtTest

        view, ends = widget.sliceView(), []
        for ijk in (first, last):
            inverse = np.linalg.inv(np.array([[widget.mrmlSliceNode().GetXYToRAS().GetElement(r, c) for c in range(4)]
                                              for r in range(4)]))
            x, y = (round(float(value)) for value in (inverse @ [*self.ras(ijk), 1.0])[:2])
            ends.append(qt.QPoint(x, VIEW - 1 - y))
        mouse, plain = QtTest.QTest, qt.Qt.NoModifier
        mouse.mousePress(view, qt.Qt.LeftButton, plain, ends[0])
        for step in range(1, 9):
            mouse.mouseMove(view, ends[0] + (ends[1] - ends[0]) * step / 8)
        mouse.mouseRelease(view, qt.Qt.LeftButton, plain, ends[1])

    def save(self, panel, name: str) -> None:
        """The panel, where there is one, beside the views, with the caption."""
        import qt
        import slicer

        for _ in range(5):
            slicer.app.processEvents()
        for view in self.layout.sliceViewNames():
            self.layout.sliceWidget(view).sliceView().forceRender()
        right = self.layout.viewport().grab()
        height, start = right.height(), 0 if panel is None else panel.width
        picture = qt.QPixmap(start + right.width(), height + LABELS)
        picture.fill(qt.QColor(40, 40, 40))
        painter = qt.QPainter(picture)
        if panel is not None:
            painter.drawPixmap(0, 0, panel.grab().copy(0, 0, start, height))
        painter.drawPixmap(start, 0, right)
        painter.setPen(qt.QColor(255, 255, 255))
        painter.drawText(8, height + 18, screenshot.CAPTION)
        painter.end()
        picture.save(str(self.folder / name))


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1])) else 0)
