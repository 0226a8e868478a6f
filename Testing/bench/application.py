"""Starts the bench: puts the stand-ins where Slicer's Python modules are expected and keeps what goes wrong.

`start()` once per process; then modules that say `import qt, ctk, slicer` run unmodified on a real MRML scene.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What Slicer's libraries print outside the application without anything being wrong.
HARMLESS = (r"GenericColors", r"propagateSizeHints")


class Complaints:
    """Everything that Slicer would only print: slot exceptions, VTK errors, Qt warnings. Tests fail on any."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._vtk = None

    def listen_to_vtk(self) -> None:
        """Let VTK write into a text that `take` reads: a callback could be called from one of VTK's own threads."""
        import vtk

        self._vtk = vtk.vtkStringOutputWindow()
        vtk.vtkOutputWindow.SetInstance(self._vtk)

    def add(self, message: str) -> None:
        if not any(re.search(pattern, message) for pattern in HARMLESS):
            self.messages.append(message)

    def take(self) -> list[str]:
        if self._vtk is not None and self._vtk.GetOutput():
            for message in re.split(r"^(?=\w[\w ]*: In )", self._vtk.GetOutput(), flags=re.MULTILINE):
                if message.startswith("ERROR"):
                    self.add(f"VTK: {message.strip()}")
            self.listen_to_vtk()
        messages, self.messages = self.messages, []
        return messages


class Application:
    """What modules use of `slicer.app`."""

    def __init__(self, qapplication) -> None:
        self._qapplication = qapplication
        self._slots = {"startupCompleted()": [], "aboutToQuit()": []}
        self._layout_manager = None

    def connect(self, signal, slot):
        self._slots[signal].append(slot)

    def disconnect(self, signal, slot):
        self._slots[signal].remove(slot)

    def emit(self, signal):
        """For the bench: what Slicer does when it has started, or ends."""
        for slot in list(self._slots[signal]):
            slot()

    def layoutManager(self):
        return self._layout_manager

    def setLayoutManager(self, manager):
        """For the bench: views are there while a test needs them."""
        self._layout_manager = manager

    def processEvents(self):
        """As Slicer's event loop, which tests are called from without one: also what is to be deleted later goes."""
        import qt

        self._qapplication.processEvents()
        self._qapplication.sendPostedEvents(None, qt.QEvent.DeferredDelete)

    def testingEnabled(self):
        return True

    def translate(self, context, text):
        return text


def keep_constants_alive() -> None:
    """Make True, False and None as good as immortal, as they are from CPython 3.12 on.

    PySide6 6.12 gives back references to them that it does not own (counted: several hundred of True in one test of
    the panel); where the last one goes, CPython 3.11 aborts, at the latest when it ends.
    """
    if sys.version_info < (3, 12):
        for constant in (True, False, None):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 30  # an object begins with its reference count


def start() -> Complaints:
    """Start Qt and install the stand-ins; the complaints of everything that follows."""
    keep_constants_alive()
    if sys.platform == "linux":
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # renders without a screen
    for folder in (str(HERE), str(ROOT / "BrainSegSAM")):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    import qt

    qapplication = qt.QApplication.instance() or qt.QApplication(["bench"])
    qt.QApplication.setStyle("Fusion")
    import slicer

    complaints = Complaints()
    sys.excepthook = lambda kind, error, trace: complaints.add(f"{kind.__name__} in a slot: {error}")
    qt.qInstallMessageHandler(lambda kind, context, text: complaints.add(f"Qt: {text}"))
    complaints.listen_to_vtk()

    slicer.app = Application(qapplication)
    import parameter_nodes
    import qmrml  # noqa: F401  (puts the MRML widgets into `slicer`)
    import sample_data
    import scripted
    import segment_editor
    import views  # noqa: F401

    for name, module in {"ScriptedLoadableModule": scripted, "i18n": scripted,
                         "parameterNodeWrapper": parameter_nodes}.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    sys.modules["vtkITK"] = importlib.import_module("slicer_core.vtkITK")  # a module of its own in Slicer
    make_scene()
    sample_data.install()
    segment_editor.follow_subject_hierarchy(slicer.mrmlScene)
    return complaints


def make_scene():
    """The scene, as `slicer.mrmlScene`, with the logics that segmentations need; once in a process, as in Slicer.

    Scenes and logics know each other by bare pointers, so one that is made where another has died can crash VTK.
    """
    import slicer

    scene = slicer.vtkMRMLScene()
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    logics = [slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerSequencesLogic()]
    for logic in logics:
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
    slicer.mrmlScene = scene
    slicer.modules = SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logics[0]))
    slicer.app.applicationLogic = lambda: application_logic


def wait_until(condition, *, seconds: float = 90.0) -> bool:
    """Let Qt work until the condition holds; False when the time is up."""
    import slicer

    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        slicer.app.processEvents()
        time.sleep(0.005)
    return True
