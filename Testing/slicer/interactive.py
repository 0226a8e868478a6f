"""What the tests of the interactive effects share: a bright ball, models, a worker that sees it, and a mouse."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

WORKER = Path(__file__).with_name("interactive_worker.py")
SHAPE = (20, 36, 40)


def ball(shape=SHAPE, centre=(10, 18, 20), half=(6, 9, 10)):
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    return sum(((axis - c) / h) ** 2 for axis, c, h in zip(axes, centre, half, strict=True)) <= 1


@pytest.fixture(scope="session")
def interactive_worker(bench):
    from BrainSegSAMWidgets.WorkerProcess import Worker

    made = Worker([sys.executable, str(WORKER)])
    yield made
    made.quit()


@pytest.fixture
def slow_worker(choose_effect, monkeypatch):
    """Instead of `interactive_worker`: one that takes its time for each slice."""
    from BrainSegSAMEffects import EffectBase
    from BrainSegSAMWidgets.WorkerProcess import Worker

    made = Worker([sys.executable, str(WORKER), "0.1"])
    monkeypatch.setattr(EffectBase, "sharedWorker", lambda: made)
    yield made
    made.quit(wait=True)


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
def drawn(editor, source):
    """The source volume, with the ball's middle slice in segment A."""
    draw(editor, expected_on(SHAPE, 0, 10))
    return source


@pytest.fixture
def choose_effect(editor, source, interactive_models, interactive_worker, dialogs, monkeypatch):
    """Activates an effect; a model that is not the first one, which is chosen anyway, is chosen as a user does."""
    from BrainSegSAMEffects import EffectBase

    monkeypatch.setattr(EffectBase, "sharedWorker", lambda: interactive_worker)

    def choose(name, model):
        editor.setActiveEffectByName(name)
        effect = editor.activeEffect().self()
        if effect.modelCombo.currentData != model:
            effect.modelCombo.setCurrentIndex(effect.modelCombo.findData(model))
        assert effect.model().name == model
        return effect

    yield choose
    editor.setActiveEffect(None)


@pytest.fixture
def mouse(layout):
    """Presses, moves and releases in a view; places are RAS points."""
    from PySide6 import QtCore, QtTest

    def place(view, ras):
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

        def move_with_shift(self, view, ras):
            at, interactor = place(view, ras), view.sliceView().interactor()
            interactor.SetEventInformation(at.x(), view.sliceView().height - 1 - at.y(), 0, 1, "\0", 0, None)
            interactor.InvokeEvent("MouseMoveEvent")

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
    return next(mask for region, mask in found.masks() if region.name == name)


def draw(editor, mask, name="A"):
    """Fill a segment with a mask on the source volume's voxels, without the editor."""
    import slicer

    from BrainSegSAMLib import mrml

    node, source = editor.segmentationNode(), editor.sourceVolumeNode()
    grid = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        node.GetSegmentation().GetConversionParameter(
            slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        ),
        grid,
        False,
    )
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    labelmap = mrml.mask_to_labelmap(mask, mrml.volume_node_geometry(source), node, grid)
    if mask.any():
        logic.SetBinaryLabelmapToSegment(labelmap, node, name, logic.MODE_REPLACE)
    else:
        logic.ClearSegment(node, name)


def done(bench, effect):
    assert bench.wait_until(lambda: effect.job is None and effect._reading is None, seconds=60), "no answer"
    assert not effect._refresh.isActive() or bench.wait_until(lambda: not effect._refresh.isActive())


def expected_on(shape, axis, index):
    mask = np.zeros(shape, bool)
    where = [slice(None)] * 3
    where[axis] = index
    mask[tuple(where)] = ball(shape)[tuple(where)]
    return mask


def centre_view(layout, source, name="Red", index=10):
    """A view through the ball's middle, or another axial slice, and the corners of a box around the ball there."""
    view = layout.sliceWidget(name)
    view.mrmlSliceNode().JumpSliceByOffsetting(*ras_of(source, (20, 18, index)))
    return view, ras_of(source, (8, 7, index)), ras_of(source, (32, 29, index))


def previewed(editor, effect):
    """Bool (z, y, x) of the preview on the source volume's voxels."""
    from BrainSegSAMLib import mrml

    grid = mrml.volume_node_geometry(editor.sourceVolumeNode())
    return next(mrml.node_to_segmentation(effect.preview._node, geometry=grid).masks())[1]


def bent(scene):
    """A transform that is not linear."""
    import vtk

    landmarks = vtk.vtkPoints()
    for point in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)):
        landmarks.InsertNextPoint(point)
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(landmarks)
    spline.SetTargetLandmarks(landmarks)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    node.SetAndObserveTransformToParent(spline)
    return node


def scene_contents(scene):
    """All that there is: node id → class, name, XML where it is saved, voxels; of segments, how they look and where."""
    scene.SetSaveToXMLString(1)
    scene.Commit("not written.mrml")
    saved = {element.get("id"): dict(element.attrib) for element in ElementTree.fromstring(scene.GetSceneXMLString())}
    scene.SetSaveToXMLString(0)
    found = {}
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        found[node.GetID()] = {"class": node.GetClassName(), "name": node.GetName(), **saved.get(node.GetID(), {})}
        if node.IsA("vtkMRMLVolumeNode"):
            found[node.GetID()]["voxels"] = _values(node.GetImageData()).tobytes()
        if node.IsA("vtkMRMLSegmentationNode"):
            names = node.GetSegmentation().GetSegmentIDs()
            found[node.GetID()].update({f"segment {name}": _described(node, name) for name in names})
    return found


def scene_changes(before, after):
    """Node id → what of it is another one; a node that came or went is there with all that it has."""
    differences = {}
    for name in before.keys() | after.keys():
        one, other = before.get(name, {}), after.get(name, {})
        differences[name] = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    return {name: keys for name, keys in differences.items() if keys}


def _described(node, name):
    import slicer

    segment, image = node.GetSegmentation().GetSegment(name), slicer.vtkOrientedImageData()
    look = segment.GetName(), segment.GetColor(), slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment)
    if not node.GetBinaryLabelmapRepresentation(name, image) or image.IsEmpty():
        return look
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    there = np.argwhere(_values(image).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1))
    there += np.array([z0, y0, x0])
    return (*look, image.GetOrigin(), image.GetSpacing(), there.tolist()) if len(there) else look


def _values(image):
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(image.GetPointData().GetScalars())


def let_qt_work():
    import slicer

    for _ in range(5):
        slicer.app.processEvents()
