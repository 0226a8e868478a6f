"""The MedSAM box effect, driven by real mouse events in real slice views, with a real worker process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

NAME = "BrainSegSAM MedSAM box"
WORKER = Path(__file__).with_name("interactive_worker.py")


def ball(shape, centre=(10, 18, 20), half=(6, 9, 10)):
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    return sum(((axis - c) / h) ** 2 for axis, c, h in zip(axes, centre, half, strict=True)) <= 1


@pytest.fixture(scope="module")
def worker(bench):
    from BrainSegSAMWidgets.WorkerProcess import Worker

    made = Worker([sys.executable, str(WORKER)])
    yield made
    made.quit()


@pytest.fixture
def interactive_models(tmp_path, monkeypatch):
    """A model that draws and finds, one that only draws, and one that tracks; their weights are never loaded."""
    from BrainSegSAMLib.labels import LabelScheme
    from BrainSegSAMLib.models.store import Model, write_model

    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    root = tmp_path / "models"
    scheme = LabelScheme.plain({"Tumour": 1})
    for folder, method in (
        (root / "a-boxes" / "detector", "yolo_detector"), (root / "a-boxes" / "segmenter", "sam"),
        (root / "a-boxes", "yolo_medsam"), (root / "b-draws", "sam"), (root / "c-tracks", "sam2_tracker"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.bin").write_bytes(b"x")
        name = folder.name
        write_model(Model(folder, name, name.title(), method, ("flair",), scheme, "MIT"), files=["weights.bin"])
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(root))
    return root


@pytest.fixture
def source(editor):
    """The editor's source volume, with a bright ball in it."""
    from vtk.util.numpy_support import vtk_to_numpy

    node = editor.sourceVolumeNode()
    voxels = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(20, 36, 40)
    voxels[...] = np.where(ball(voxels.shape), 400, voxels * 0.3)
    node.GetImageData().Modified()
    return node


@pytest.fixture
def effect(editor, source, interactive_models, worker, dialogs, monkeypatch):
    from BrainSegSAMEffects import EffectBase

    monkeypatch.setattr(EffectBase, "sharedWorker", lambda: worker)
    for one in (editor.effectByName(name) for name in editor.availableEffectNames()):
        one.setMRMLDefaults()
    editor.setActiveEffectByName(NAME)
    host = editor.activeEffect()
    host.self().scriptedEffect.setParameter("Model", "a-boxes")
    return host.self()


@pytest.fixture
def mouse(layout):
    """Presses, moves and releases in a view; places are RAS points."""
    from PySide6 import QtCore, QtTest

    def place(view, ras):
        from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect  # noqa: F401
        import vtk

        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(view.mrmlSliceNode().GetXYToRAS(), inverse)
        x, y, *_ = inverse.MultiplyPoint((*ras, 1.0))
        return QtCore.QPoint(round(x), view.sliceView().height - 1 - round(y))

    class Mouse:
        def drag(self, view, start, end):
            target = view.sliceView()
            QtTest.QTest.mousePress(target, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, place(view, start))
            for share in (0.3, 0.7, 1.0):
                between = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
                QtTest.QTest.mouseMove(target, place(view, between))
            QtTest.QTest.mouseRelease(target, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, place(view, end))

        def click(self, view, ras, modifier=None):
            held = {"shift": QtCore.Qt.ShiftModifier, "control": QtCore.Qt.ControlModifier, None: QtCore.Qt.NoModifier}
            QtTest.QTest.mouseClick(view.sliceView(), QtCore.Qt.LeftButton, held[modifier], place(view, ras))

    return Mouse()


def ras_of(source, ijk):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    source.GetIJKToRASMatrix(matrix)
    return matrix.MultiplyPoint((*ijk, 1.0))[:3]


def voxels(editor, name="A"):
    from BrainSegSAMLib import mrml

    node = editor.segmentationNode()
    found = mrml.node_to_segmentation(node, geometry=mrml.volume_node_geometry(editor.sourceVolumeNode()))
    return dict((region.name, mask) for region, mask in found.masks())[name]


def done(bench, effect):
    assert bench.wait_until(lambda: effect.job is None and effect._reading is None, seconds=60), "no answer"
    assert not effect._refresh.isActive() or bench.wait_until(lambda: not effect._refresh.isActive())


def expected_on(shape, axis, index):
    mask = np.zeros(shape, bool)
    where = [slice(None)] * 3
    where[axis] = index
    mask[tuple(where)] = ball(shape)[tuple(where)]
    return mask


@pytest.mark.parametrize(("view", "axis"), [("Red", 0), ("Green", 1), ("Yellow", 2)])
def test_a_box_in_any_view_becomes_a_preview_and_a_segment(bench, editor, layout, effect, source, mouse, view, axis):
    widget = layout.sliceWidget(view)
    index = (10, 18, 20)[axis]
    low, high = [8, 7, 3], [32, 29, 17]
    low[2 - axis] = high[2 - axis] = index
    widget.sliceLogic().SetSliceOffset(ras_of(source, low)[2 - axis])
    before = editor.segmentationNode().GetMTime()
    nodes = editor.mrmlScene().GetNumberOfNodes()
    mouse.drag(widget, ras_of(source, low), ras_of(source, high))
    assert effect.overlay.widget is widget
    done(bench, effect)
    assert effect.preview.visible, effect.statusLabel.text
    assert editor.segmentationNode().GetMTime() == before, "a preview changes no segment"
    assert effect.applyButton.enabled
    effect.applyButton.click()
    np.testing.assert_array_equal(voxels(editor), expected_on((20, 36, 40), axis, index))
    assert not effect.preview.visible and effect.overlay.widget is None
    assert editor.mrmlScene().GetNumberOfNodes() == nodes
    editor.undo()
    assert not voxels(editor).any()
