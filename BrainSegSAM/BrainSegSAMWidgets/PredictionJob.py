"""One segmentation of chosen volumes: written to a temporary folder, segmented by a child process, put into the scene.

The scene is touched once, at the very end and only on success. The volumes' parent transforms are part of what is
written, so the child sees the world; the result is put back onto the voxels of the reference volume, wherever that has
been moved to in the meantime.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError

from .WorkerProcess import WorkerProcess, parseMessage

CASE_ID = "case"


class PredictionError(BrainSegSAMError):
    """The child process failed; the message is what it said."""


@dataclass(frozen=True)
class Result:
    """What a segmentation gave: the node, and the record of how it was made and what was measured."""

    segmentationNode: Any
    record: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What to segment.

    Attributes:
        volumes: modality → volume node, in the model's order: the first one is the reference.
        model: the model's name or folder.
        device: "auto", "cpu", "cuda" or "mps".
        segmentationNode: node to add to, or None for a new one.
    """

    volumes: Mapping[str, Any]
    model: str
    device: str = "auto"
    segmentationNode: Any = None

    @property
    def reference(self) -> Any:
        """The volume on whose voxels the result lies."""
        return next(iter(self.volumes.values()))


@dataclass(frozen=True)
class Listener:
    """Who hears of a job; each is called on the main thread."""

    onProgress: Callable[[dict[str, Any]], None]
    onLog: Callable[[str], None]
    onDone: Callable[[Result], None]
    onFailed: Callable[[BrainSegSAMError], None]


class PredictionJob:
    """A request on its way.

    Args:
        request: what to segment.
        command: the interpreter and what makes it run the command line, e.g. `[python, "-m", "BrainSegSAMLib"]`.
        environment: of the child.
    """

    def __init__(self, request: Request, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._request = request
        self._environment = dict(environment)
        self._folder: Path | None = None
        self._command = list(command)
        self._result: dict[str, Any] | None = None
        self._errors: list[str] = []
        self._listener: Listener | None = None
        self._process: WorkerProcess | None = None
        self._cancelled = ""
        self._observations: list[tuple[Any, int]] = []
        self._referenceGeometry: Any = None

    # ---- doors

    def run(self) -> Result:
        """Segment, blocking until it is done.

        Raises:
            InputError: where a volume cannot be used.
            PredictionError: where the child failed.
        """
        try:
            self._prepare()
            done = subprocess.run(
                self._arguments(), env=self._environment, cwd=self._folder, capture_output=True, check=False,
                encoding="utf-8", errors="replace", creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            for line in done.stdout.splitlines():
                self._keep(parseMessage(line) or {})
            return self._conclude(done.returncode, done.stderr)
        finally:
            self._close()

    def start(self, listener: Listener) -> None:
        """Start segmenting and return; the listener hears of progress and, once, of the end.

        Raises:
            InputError: where a volume cannot be used; then nothing was started.
        """
        self._listener = listener
        try:
            self._prepare()
        except BaseException:
            self._close()
            raise
        self._watchScene()
        self._process = WorkerProcess(self._onMessage, listener.onLog, self._onFinished)
        self._process.start(self._arguments(), self._environment, self._folder)

    @property
    def running(self) -> bool:
        """Whether the child is at work."""
        return self._process is not None and self._process.running

    def cancel(self, reason: str = "") -> None:
        """Ask the child to end. The listener's `onFailed` hears `Cancelled` with the reason when it has."""
        if self.running and not self._cancelled:
            self._cancelled = reason or _("The segmentation was cancelled.")
            self._process.cancel()

    def abort(self) -> None:
        """End at once and wait for it, for when the module is closed."""
        if self.running:
            self._cancelled = self._cancelled or _("The segmentation was cancelled.")
            self._process.kill()
            self._process.waitForEnd(5000)

    # ---- steps

    def _prepare(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="BrainSegSAM-"))
        case = self._folder / CASE_ID
        case.mkdir()
        self._referenceGeometry = mrml.volume_node_geometry(self._request.reference)
        for modality, node in self._request.volumes.items():
            _writeVolume(node, case / f"{modality}.nrrd")

    def _arguments(self) -> list[str]:
        request = self._request
        return [
            *self._command, "predict", "--model", request.model, "--input", str(self._folder / CASE_ID),
            "--output", str(self._folder / "result"), "--device", request.device, "--progress", "json",
        ]

    def _keep(self, message: dict[str, Any]) -> None:
        if message.get("type") == "result":
            self._result = message
        elif message.get("type") == "error":
            self._errors.append(str(message.get("message")))

    def _conclude(self, exitCode: int | None, errors: str) -> Result:
        """The result in the scene, or an error in words."""
        case = next(iter((self._result or {}).get("cases", [])), {})
        if exitCode != 0 or case.get("status") != "done":
            raise PredictionError(case.get("error") or "\n".join(self._errors) or _failure(exitCode, errors))
        from BrainSegSAMLib.segmentation_files import read_segmentation

        segmentation = read_segmentation(Path(case["outputs"]["segmentation"]))
        record = json.loads(Path(case["outputs"]["record"]).read_text(encoding="utf-8"))
        request = self._request
        if segmentation.geometry.is_same_grid(self._referenceGeometry):
            # The segments belong to the reference volume's voxels, also where that was moved while the child worked.
            now = mrml.volume_node_geometry(request.reference)
            if now.size_ijk != segmentation.geometry.size_ijk:
                raise InputError(
                    _("Volume '{name}' was changed while it was segmented; press Apply again.").format(
                        name=request.reference.GetName()
                    )
                )
            segmentation = replace(segmentation, geometry=now)
        node = mrml.segmentation_to_node(
            segmentation, request.reference, node=request.segmentationNode,
            name=_("{volume} segmentation").format(volume=request.reference.GetName()),
        )
        return Result(node, record)

    def _close(self) -> None:
        for caller, tag in self._observations:
            caller.RemoveObserver(tag)
        self._observations = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ---- events

    def _watchScene(self) -> None:
        nodes = [*self._request.volumes.values(), self._request.segmentationNode]
        identifiers = {node.GetID() for node in nodes if node is not None}

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def onRemoved(caller: Any, event: str, node: Any) -> None:
            if node.GetID() in identifiers:
                self.cancel(
                    _("'{name}' was removed from the scene, so the segmentation was cancelled.").format(
                        name=node.GetName()
                    )
                )

        def onClosed(caller: Any, event: str) -> None:
            self.cancel(_("The scene was closed, so the segmentation was cancelled."))

        scene = self._request.reference.GetScene()
        for event, callback in (
            (slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, onRemoved),
            (slicer.vtkMRMLScene.StartCloseEvent, onClosed),
        ):
            self._observations.append((scene, scene.AddObserver(event, callback)))

    def _onMessage(self, message: dict[str, Any]) -> None:
        self._keep(message)
        if message["type"] == "progress":
            self._listener.onProgress(message)

    def _onFinished(self, exitCode: int | None, errors: str) -> None:
        try:
            if self._cancelled:
                raise Cancelled(self._cancelled)
            result = self._conclude(exitCode, errors)
        except BrainSegSAMError as error:
            self._close()
            self._listener.onFailed(error)
        except (OSError, ValueError, KeyError) as error:
            self._close()
            self._listener.onFailed(
                PredictionError(_("The result of the segmentation could not be read: {error}").format(error=error))
            )
        else:
            self._close()
            self._listener.onDone(result)


def _writeVolume(node: Any, path: Path) -> None:
    from BrainSegSAMLib.itk import image_of, simpleitk

    array, geometry = mrml.read_volume_node(node)
    simpleitk().WriteImage(image_of(array, geometry), str(path))


def _failure(exitCode: int | None, errors: str) -> str:
    tail = "\n".join([line for line in errors.splitlines() if line.strip()][-5:])
    if exitCode is None:
        what = _("The segmentation stopped unexpectedly: its process crashed, ran out of memory or could not start.")
    elif exitCode == 0:
        what = _("The segmentation ended without a result.")
    else:
        what = _("The segmentation failed (exit code {code}).").format(code=exitCode)
    return f"{what}\n{tail}" if tail else what
