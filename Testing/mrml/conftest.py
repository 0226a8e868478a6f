"""A real MRML scene from slicer-core (or Slicer's own), and a test that fails on anything VTK complains about."""

from __future__ import annotations

import re

import numpy as np
import pytest

from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology
from BrainSegSAMLib.mrml import read_volume_node

slicer = pytest.importorskip("slicer", reason="the MRML libraries of slicer-core are not installed")
vtk = pytest.importorskip("vtk")

# These images are small: threads only wait for each other on a busy machine.
vtk.vtkMultiThreader.SetGlobalDefaultNumberOfThreads(1)
vtk.vtkSMPTools.Initialize(1)

# What Slicer's libraries print outside the application without anything being wrong.
HARMLESS = (
    "GenericColors",  # the default colour files are in the application, not in the wheel
    "vtkMRMLColorTableNodeLabels can't be found",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "mrml" in item.path.parts:
            item.add_marker(pytest.mark.slicer)


def complaints_in(output):
    """The blocks of VTK's output that report something: "ERROR: In file, line n", then "class (0x…): what"."""
    blocks = [block for block in re.split(r"\n\s*\n", output or "") if re.search("error|warning", block, re.IGNORECASE)]
    return [block for block in blocks if not any(re.search(pattern, block) for pattern in HARMLESS)]


@pytest.fixture(autouse=True)
def vtk_complaints():
    """Fails the test on anything that VTK reports; gives a way to look at a piece of code on its own."""
    window, before = vtk.vtkStringOutputWindow(), vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(window)

    def of(action):
        own = vtk.vtkStringOutputWindow()
        vtk.vtkOutputWindow.SetInstance(own)
        action()
        vtk.vtkOutputWindow.SetInstance(window)
        return complaints_in(own.GetOutput())

    yield of
    vtk.vtkOutputWindow.SetInstance(before)
    left = complaints_in(window.GetOutput())
    assert not left, "VTK complained:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def only_scene():
    """One scene for all tests, as Slicer has one: scenes and logics know each other by bare pointers."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    # As in Slicer: these register node classes and the conversion rules that hold the reference geometry.
    logics = [slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerSequencesLogic()]
    for logic in logics:
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
    yield scene
    for logic in reversed(logics):
        logic.SetMRMLScene(None)
        logic.SetMRMLApplicationLogic(None)
    application.SetMRMLScene(None)


@pytest.fixture
def scene(only_scene):
    only_scene.Clear(True)
    yield only_scene
    only_scene.Clear(True)


def matrix4(array):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


@pytest.fixture
def rotation():
    """4x4 of scaling, then rotation about an axis, then translation."""

    def build(axis, degrees, translation=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0)):
        transform = vtk.vtkTransform()
        transform.Translate(*translation)
        transform.RotateWXYZ(degrees, *axis)
        transform.Scale(*scale)
        matrix = transform.GetMatrix()
        return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])

    return build


@pytest.fixture
def make(scene):
    """Makers of real nodes in the scene."""

    class Make:
        def volume(self, array_zyx, ijk_to_ras=None, *, name="flair", node_class="vtkMRMLScalarVolumeNode"):
            from vtk.util.numpy_support import numpy_to_vtk

            array = np.ascontiguousarray(array_zyx)
            image = vtk.vtkImageData()
            image.SetDimensions(*array.shape[:3][::-1])
            components = array.shape[3] if array.ndim == 4 else 1
            scalars = numpy_to_vtk(array.reshape(-1, components) if components > 1 else array.ravel(), deep=True)
            image.GetPointData().SetScalars(scalars)
            node = scene.AddNewNodeByClass(node_class, name)
            node.SetAndObserveImageData(image)
            node.SetIJKToRASMatrix(matrix4(np.eye(4) if ijk_to_ras is None else ijk_to_ras))
            return node

        def transform(self, matrix, *, name="transform", parent=None):
            node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
            node.SetMatrixTransformToParent(matrix4(matrix))
            if parent is not None:
                node.SetAndObserveTransformNodeID(parent.GetID())
            return node

    return Make()


# ---- a case ----------------------------------------------------------------------------------------------------------

ALTERED = Code("SCT", "49755003", "Morphologically Altered Structure")
BRAIN = Code("SCT", "12738006", "Brain")
GLIOMA = LabelScheme((
    Region("Whole tumour", (1, 2, 3), (230, 159, 0), Terminology(ALTERED, Code("SCT", "108369006", "Neoplasm"), BRAIN)),
    Region("Tumour core", (1, 3), (86, 180, 233), Terminology(ALTERED, Code("SCT", "6574001", "Necrosis"))),
    Region("Enhancing tumour", (3,), (204, 121, 167)),
))
SHAPE = (16, 20, 24)  # z, y, x


def ball(centre, radius):
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), centre, strict=True)) <= radius**2


def lesion():
    """Necrosis in enhancement in oedema, off centre, so that any flip or permutation shows."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball((6, 8, 15), 5)] = 2
    labels[ball((6, 8, 15), 3)] = 3
    labels[ball((6, 8, 15), 1)] = 1
    return labels


def intensities(labels):
    return (labels * 100 + np.random.default_rng(3).integers(0, 20, labels.shape)).astype(np.int16)


@pytest.fixture(params=["plain", "permuted", "anisotropic", "oblique", "mirrored"])
def ijk_to_ras(request, rotation):
    return {
        "plain": np.array([[-1.0, 0, 0, 5], [0, -1.0, 0, -7], [0, 0, 1.0, 9], [0, 0, 0, 1]]),
        "permuted": np.array([[0, -1.0, 0, 40], [0, 0, 1.0, -60], [-1.0, 0, 0, 70], [0, 0, 0, 1]]),
        "anisotropic": np.array([[-0.5, 0, 0, 10], [0, 0.75, 0, -20], [0, 0, 5.0, 30], [0, 0, 0, 1.0]]),
        "oblique": rotation((1, 2, 3), 25, (5, -8, 12)) @ np.diag([0.9, 1.1, 3.0, 1.0]),
        "mirrored": np.diag([1.0, 1.0, -2.0, 1.0]),
    }[request.param]


@pytest.fixture(params=["none", "moved", "nested", "scaled"])
def parent(request, make, rotation):
    if request.param == "none":
        return None
    moved = make.transform(rotation((1, -1, 0.5), 40, (30, -20, 10)), name="moved")
    if request.param == "moved":
        return moved
    scale = (1.5, 1.5, 1.5) if request.param == "scaled" else (1.0, 1.0, 1.0)
    return make.transform(rotation((0, 1, 1), -70, (1, 2, 3), scale), name="inner", parent=moved)


@pytest.fixture
def case(make):
    """A volume with a lesion in a scene, and the segmentation as a predictor would give it, in world space."""

    def build(ijk_to_ras=None, parent=None, labels=None, name="flair"):
        labels = lesion() if labels is None else labels
        node = make.volume(intensities(labels), ijk_to_ras, name=name)
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        _, geometry = read_volume_node(node)
        return node, Segmentation(geometry, GLIOMA, labels, name="glioma")

    return build
