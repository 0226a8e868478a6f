"""How long boxes and tracking take until their preview is shown, and how long the interface stands still meanwhile.

`python Testing/Benchmarks/interactive.py` drags boxes with the mouse in a slice view of the test bench, over a
synthetic head of 240×240×155 voxels, applies the last one, and follows it through the slices, twice; with the bundled
models in a real worker process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "bench")]

import application  # noqa: E402

MODEL, TRACKER = "glioma-yolo-medsam-tiny", "glioma-sam2-tiny"


class Watch:
    """The longest time for which the event loop did not turn."""

    def __init__(self):
        self.longest = 0.0
        self._last = time.perf_counter()

    def turn(self):
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last)
        self._last = now


def main() -> None:
    """Print the times."""
    application.start()
    import BrainSegSAMEffects
    import slicer
    import views
    from PySide6 import QtCore, QtTest

    scene = slicer.mrmlScene
    layout = views.LayoutManager(scene)
    slicer.app.setLayoutManager(layout)
    source, lesion = head(scene)
    editor = make_editor(scene, source)
    layout.resetSliceViews()
    BrainSegSAMEffects.registerEffects()
    editor.setActiveEffectByName("BrainSegSAM MedSAM box")
    effect = editor.activeEffect().self()
    effect.scriptedEffect.setParameter("Model", MODEL)
    view = layout.sliceWidget("Red")
    import numpy as np

    index = int(lesion.sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(lesion[index])
    answers = []
    ask = effect.startJob

    def listen(kind, arguments, target, *, onDone, **rest):
        ask(kind, arguments, target, onDone=lambda data: (answers.append(data), onDone(data))[1], **rest)

    effect.startJob = listen

    def drag(slice_index, grow):
        view.mrmlSliceNode().JumpSliceByOffsetting(*ras(source, (columns.mean(), rows.mean(), slice_index)))
        for _ in range(20):
            slicer.app.processEvents()
        corners = [
            place(view, ras(source, (columns.min() - grow, rows.min() - grow, slice_index))),
            place(view, ras(source, (columns.max() + grow, rows.max() + grow, slice_index))),
        ]
        target = view.sliceView()
        QtTest.QTest.mousePress(target, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, corners[0])
        QtTest.QTest.mouseMove(target, corners[1])
        watch = Watch()
        started = time.perf_counter()
        QtTest.QTest.mouseRelease(target, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, corners[1])
        while not (effect.preview.visible and effect.job is None):
            slicer.app.processEvents()
            watch.turn()
            time.sleep(0.001)
        took = time.perf_counter() - started
        for _ in range(3):
            slicer.app.processEvents()
            watch.turn()
        worker = answers[-1]["seconds"]
        return took, worker, watch.longest

    report("first box: image handed over, model loaded, slice encoded", [drag(index, 3)])
    report("same slice, kept features", [drag(index, 3 + step % 3) for step in range(12)])
    report("other slices, encoded for the first time", [drag(index + step, 3) for step in range(1, 7)])
    drag(index, 3)
    effect.applyButton.click()
    for which in ("for the first time", "again, slices encoded"):
        follow(editor, view, which)
    effect.worker.quit()
    editor.setActiveEffect(None)
    editor.destroy_effects()
    slicer.app.setLayoutManager(None)
    layout.close()


def follow(editor, view, which) -> None:
    """Follow what is drawn on the view's slice both ways, and print how long it took."""
    import slicer

    editor.setActiveEffectByName("BrainSegSAM SAM tracking")
    effect = editor.activeEffect().self()
    effect.scriptedEffect.setParameter("Model", TRACKER)
    watch, started, first = Watch(), time.perf_counter(), None
    effect.trackButton.click()
    watch.turn()  # what the click does is one event; what it leads to comes in the next
    while effect.job is not None or effect._reading is not None or not effect.preview.visible:
        slicer.app.processEvents()
        watch.turn()
        if first is None and effect._followed is not None and len(effect._followed.masks) > 1:
            first = time.perf_counter() - started
        time.sleep(0.001)
    took = time.perf_counter() - started
    for _ in range(3):
        slicer.app.processEvents()
        watch.turn()
    print(
        f"tracking {len(effect._followed.shown)} slices {which}: first slice after {first:.2f} s, all after {took:.2f} "
        f"s; main thread blocked at most {1000 * watch.longest:.0f} ms"
    )


def report(what, runs) -> None:
    import numpy as np

    took, worker, blocked = (np.array(column) * 1000 for column in zip(*runs, strict=True))
    print(
        f"{what}: release to preview {np.median(took):.0f} ms (worst {took.max():.0f}); in the worker "
        f"{np.median(worker):.0f} ms; beside it {np.median(took - worker):.0f} ms "
        f"(worst {(took - worker).max():.0f}); main thread blocked at most {blocked.max():.0f} ms"
    )


def head(scene):
    """The synthetic head's three volumes, and its lesion."""
    import numpy as np
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    from BrainSegSAMLib.phantom import make_phantom

    made = make_phantom(900)
    nodes = {}
    for name in ("flair", "t1ce", "t2"):
        image = vtk.vtkImageData()
        image.SetDimensions(*made.labels.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(made.channels[name].ravel().astype(np.float32), deep=True))
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(f"case {name}")
        node.SetAndObserveImageData(image)
        node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
        nodes[name] = scene.AddNode(node)
    return nodes["flair"], made.labels > 0


def make_editor(scene, source):
    import slicer

    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(source)
    segmentation.GetSegmentation().AddEmptySegment("A", "A")
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(scene)
    editor.setMRMLSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setSegmentationNode(segmentation)
    editor.setSourceVolumeNode(source)
    editor.setCurrentSegmentID("A")
    editor.show()
    return editor


def ras(node, ijk):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix.MultiplyPoint((*ijk, 1.0))[:3]


def place(view, point):
    import vtk
    from PySide6 import QtCore

    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(view.mrmlSliceNode().GetXYToRAS(), inverse)
    x, y, *_ = inverse.MultiplyPoint((*point, 1.0))
    return QtCore.QPoint(round(x), view.sliceView().height - 1 - round(y))


if __name__ == "__main__":
    main()
