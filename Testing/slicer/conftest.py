"""The panel on the bench: real MRML nodes, real Qt widgets, a real child process, strict about every complaint."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

# Not imported here: the bench sets how PySide6 makes enumerations before it is first imported.
if importlib.util.find_spec("PySide6") is None or importlib.util.find_spec("slicer") is None:
    pytest.skip("Qt (PySide6-Essentials) or MRML (slicer-core) is not installed", allow_module_level=True)

from Testing.slicer.interactive import (  # noqa: F401  (fixtures)
    choose_effect,
    drawn,
    interactive_models,
    interactive_worker,
    mouse,
    slow_worker,
    source,
)

BENCH = Path(__file__).resolve().parents[1] / "bench"
NO_GPU = {"auto": "cpu", "cores": 8, "gpus": [], "mps": False, "cuda_built": True, "torch": "2"}
"""What the worker's "devices" answers on a machine with a processor alone."""
CHILD = Path(__file__).with_name("child.py")
FRESH = Path(__file__).with_name("fresh")
HIDDEN = ("torch", "torchvision", "nnunetv2", "batchgenerators", "dynamic_network_architectures", "segment_anything",
          "sam2", "ultralytics", "jsonschema", "skimage", "scikit_image", "matplotlib", "tensorboard", "tqdm",
          "distributed", "dask", "fsspec", "psutil")  # fmt: skip
"""Modules and packages that the library can use and Slicer 5.12 does not bring."""


def _load_bench():
    spec = importlib.util.spec_from_file_location("bench_application", BENCH / "application.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_application"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bench():
    application = _load_bench()
    hook, path = sys.excepthook, list(sys.path)
    application.complaints = application.start()
    yield application
    import slicer

    slicer.app.emit("aboutToQuit()")
    sys.excepthook, sys.path[:] = hook, path


@pytest.fixture(autouse=True)
def no_complaints(bench):
    bench.complaints.take()
    yield
    assert bench.complaints.take() == []


@pytest.fixture
def dialogs(bench, monkeypatch):
    """Message boxes as (kind, text); questions are answered with `dialogs.answer`."""
    import slicer

    shown = SimpleNamespace(messages=[], answer=True)
    for kind in ("errorDisplay", "warningDisplay", "infoDisplay"):
        monkeypatch.setattr(slicer.util, kind, lambda text, *a, k=kind, **kw: shown.messages.append((k, text)))
    for kind in ("confirmOkCancelDisplay", "confirmYesNoDisplay"):
        monkeypatch.setattr(
            slicer.util, kind, lambda text, *a, k=kind, **kw: (shown.messages.append((k, text)), shown.answer)[1]
        )
    yield shown
    assert shown.messages == [], "a message box was shown that no test expected"


@pytest.fixture
def scene(bench):
    import slicer

    slicer.mrmlScene.Clear(True)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(True)


@pytest.fixture
def module(bench):
    import BrainSegSAM

    return BrainSegSAM


@pytest.fixture
def models(tmp_path, monkeypatch):
    """One installed model, "toy": flair and t1ce in, two overlapping regions out; its weights are never loaded."""
    from BrainSegSAMLib.labels import LabelScheme, Region
    from BrainSegSAMLib.models.store import Model, write_model

    folder = tmp_path / "models" / "toy"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"x")
    scheme = LabelScheme((Region("Whole", (1, 2), (0, 255, 0)), Region("Core", (2,), (255, 0, 0))))
    write_model(
        Model(folder, "toy", "Toy", "nnunet", ("flair", "t1ce"), scheme, "Apache-2.0",
              description="Finds nothing real.", demonstration=True),
        files=["weights.bin"],
    )
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(folder.parent))
    return folder.parent


@pytest.fixture
def open_panel(bench, module, scene, dialogs, monkeypatch):
    """Maker of the panel in a window; all are taken away as Slicer does it when it ends."""
    import qt
    import shiboken6
    import slicer

    monkeypatch.setattr("BrainSegSAMWidgets.DeviceNote.DeviceNote._known", NO_GPU)
    monkeypatch.setattr("BrainSegSAMWidgets.DeviceNote._installedTorch", lambda: NO_GPU["torch"])
    opened = []

    def make():
        parent = slicer.qMRMLWidget()
        parent.setLayout(qt.QVBoxLayout())
        parent.setMRMLScene(scene)
        widget = module.BrainSegSAMWidget(parent)
        widget.setup()
        parent.show()
        slicer.app.processEvents()
        opened.append(widget)
        return widget

    yield make
    for widget in opened:
        widget.cleanup()
        widget.parent.close()
        shiboken6.delete(widget.parent)
        widget.cleanup()  # as at Slicer's end: its modules are unloaded once their widgets are gone
    slicer.app.processEvents()


@pytest.fixture
def widget(open_panel, models, worker, monkeypatch):
    """The panel in a window, with a worker that plays along: `child("succeed")`."""
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    widget = open_panel()
    widget.logic.worker = worker("succeed")
    return widget


@pytest.fixture
def worker(bench):
    """Maker of workers whose process behaves as `child.py` says; all are ended with the test.

    Launched: with Slicer's launcher of Python between.
    """
    from BrainSegSAMWidgets.WorkerProcess import Worker

    made = []

    def make(behaviour, *, launched=False):
        launcher = [sys.executable, str(CHILD.with_name("launcher.py"))] if launched else []
        made.append(Worker([*launcher, sys.executable, str(CHILD), behaviour]))
        return made[-1]

    yield make
    for one in made:
        one.quit(wait=True)


@pytest.fixture
def volume(bench):
    """Maker of volume nodes of 12 x 10 x 8 voxels (i, j, k), 2 mm apart along k."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    def make(name, *, seed=0, size=(12, 10, 8)):
        array = np.random.default_rng(seed).normal(100, 20, size[::-1]).astype(np.float32)
        image = vtk.vtkImageData()
        image.SetDimensions(*size)
        image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(name)
        node.SetAndObserveImageData(image)
        node.SetSpacing(1, 1, 2)
        node.SetOrigin(-5, 7, 11)
        return slicer.mrmlScene.AddNode(node)

    return make


@pytest.fixture
def layout(bench, scene):
    """Three slice views on the scene."""
    import slicer
    import views

    manager = views.LayoutManager(scene)
    slicer.app.setLayoutManager(manager)
    yield manager
    slicer.app.setLayoutManager(None)
    manager.close()
    slicer.app.processEvents()


@pytest.fixture
def editor(bench, scene, layout, volume):
    """The Segment Editor with a volume, a segmentation of two segments "A" (selected) and "B", and three views."""
    import BrainSegSAMEffects
    import slicer

    BrainSegSAMEffects.registerEffects()
    shown = volume("source", size=(40, 36, 20))
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(shown)
    for name in "AB":
        segmentation.GetSegmentation().AddEmptySegment(name, name)
    widget = slicer.qMRMLSegmentEditorWidget()
    widget.setMRMLScene(scene)
    widget.setMRMLSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    widget.setSegmentationNode(segmentation)
    widget.setSourceVolumeNode(shown)
    widget.setCurrentSegmentID("A")
    layout.resetSliceViews()
    widget.show()
    slicer.app.processEvents()
    yield widget
    widget.setActiveEffect(None)
    widget.close()
    widget.deleteLater()
    slicer.app.processEvents()


@pytest.fixture
def no_installing(monkeypatch):
    """Packages are taken to be there."""
    for panel in ("TrainPanel", "ModelPanel", "PredictPanel"):
        monkeypatch.setattr(f"BrainSegSAMWidgets.{panel}.ensureDependencies", lambda method: None)
    monkeypatch.setattr("BrainSegSAMWidgets.EvaluatePanel.ensureMeasuring", lambda: None)


@pytest.fixture
def hidden(bench, monkeypatch):
    """A fresh Slicer: this process and its workers do without what it does not bring; gives the names."""
    spec = importlib.util.spec_from_file_location("fresh_sitecustomize", FRESH / "sitecustomize.py")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    for name in [name for name in sys.modules if name.partition(".")[0] in HIDDEN]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", fresh.hide(HIDDEN))
    monkeypatch.setenv("PYTHONPATH", str(FRESH))
    monkeypatch.setenv(fresh.VARIABLE, ",".join(HIDDEN))
    return HIDDEN


@pytest.fixture
def commands(monkeypatch, worker):
    """What the panels ask their workers to run; the workers answer as `child.echo` does."""
    from BrainSegSAMWidgets import WorkerProcess

    made = []

    def new():
        made.append(worker("echo"))
        return made[-1]

    monkeypatch.setattr(WorkerProcess, "newWorker", new)
    return made


@pytest.fixture
def asked(monkeypatch):
    """Windows of their own as (function, what was said)."""
    from BrainSegSAMWidgets import Dialogs

    said = []
    for name, answer in (("confirm", True), ("showError", None), ("openInBrowser", None), ("openFile", "")):
        monkeypatch.setattr(Dialogs, name, lambda *words, n=name, a=answer: (said.append((n, *words)), a)[1])
    return said


@pytest.fixture
def both(widget, volume, bench):
    """Two volumes on one grid, chosen by their names."""
    nodes = {"flair": volume("a_flair"), "t1ce": volume("a_t1ce", seed=1)}
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    return nodes
