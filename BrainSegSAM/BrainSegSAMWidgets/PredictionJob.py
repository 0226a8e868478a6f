"""One segmentation of chosen volumes: read from the scene, segmented by the worker process, put into the scene.

The scene is touched once, at the very end and only on success. The volumes' parent transforms are part of what is
read, so the worker sees the world; the result is put back onto the voxels of the reference volume, wherever that has
been moved to in the meantime. Volumes are read in small parts, so that the interface never stands still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml, wire
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError

from .Volumes import VolumeReader
from .WorkerProcess import Job, Listener, Worker

_CHANGED = _("Volume '{name}' was changed while it was segmented; press Apply again.")


@dataclass(frozen=True)
class Result:
    """What a segmentation gave.

    Attributes:
        segmentationNode: the node that the segments were put into.
        regions: per region the measures: region, volume_ml, voxels, components, largest_diameter_mm.
        record: what was done to what with what: model, device, prediction, notes, geometry_actions, seconds, ….
        stages: name → Segmentation, for methods of several stages.
    """

    segmentationNode: Any
    regions: list[dict[str, Any]]
    record: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)


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


class PredictionJob:
    """A request on its way.

    Args:
        request: what to segment.
        worker: that does the work.
        listener: hears of it on the main thread; `onDone` gets a `Result`.
    """

    def __init__(self, request: Request, worker: Worker, listener: Listener) -> None:
        self._request, self._worker, self._listener = request, worker, listener
        self._job: Job | None = None
        self._reader: VolumeReader | None = None
        self._cancelled = ""
        self._said = False
        self._observations: list[tuple[Any, int]] = []
        self.running = False
        """Whether the listener will hear of the end."""

    # ---- doors

    def start(self) -> None:
        """Start segmenting and return.

        Raises:
            InputError: where a volume cannot be used, or the worker is busy; then nothing was started.
        """
        self._worker.check()
        for node in self._request.volumes.values():
            mrml.volume_node_geometry(node)
        self._reader = VolumeReader(self._request.volumes, _CHANGED)
        self._watchScene()
        self.running = True
        qt.QTimer.singleShot(0, self._continue)

    def cancel(self, reason: str = "") -> None:
        """Ask for the end. The listener's `onFailed` hears `Cancelled` with the reason, within two seconds."""
        if self.running and not self._cancelled:
            self._cancelled = reason or _("The segmentation was cancelled.")
            if self._job is not None:
                self._job.cancel(self._cancelled)

    def abort(self) -> None:
        """End it; the listener hears no more, for when the module is closed."""
        self._listener = Listener()
        self.cancel()
        self._close()

    def wait(self) -> None:
        """Return when it has ended, without Qt's event loop: for scripts."""
        while self.running:
            if self._job is None:
                self._continue()
            else:
                self._job.wait()

    # ---- steps

    def _continue(self) -> None:
        """Read on for a moment; when all is read, hand it to the worker."""
        if self._job is not None:
            return
        if not self._said:
            self._said = True
            self._listener.onProgress({"type": "progress", "stage": _("Reading the volumes"), "fraction": 0.0})
        try:
            if self._cancelled:
                raise Cancelled(self._cancelled)
            if not self._reader.proceed():
                qt.QTimer.singleShot(0, self._continue)
                return
            self._send()
        except BrainSegSAMError as error:
            self._reader.free()
            self._fail(error)

    def _send(self) -> None:
        request = self._request
        listener = Listener(  # ours may be another one by then: see `abort`
            onProgress=lambda message: self._listener.onProgress(message),
            onPartial=lambda data: self._listener.onPartial(data),
            onLog=lambda line: self._listener.onLog(line),
            onDone=self._onDone,
            onFailed=self._fail,
        )
        arguments = {
            "model": request.model, "device": request.device, "volumes": self._reader.channels,
            "name": request.reference.GetName() or "",
        }
        self._job = self._worker.request("predict", arguments, listener)
        self._reader.channels = {}  # they are the worker's now

    def _onDone(self, data: dict[str, Any]) -> None:
        try:
            if self._cancelled:
                raise Cancelled(self._cancelled)
            result = self._conclude(data)
        except BrainSegSAMError as error:
            self._fail(error)
        else:
            self._close()
            self._listener.onDone(result)

    def _conclude(self, data: dict[str, Any]) -> Result:
        """The result in the scene."""
        segmentation = wire.segmentation_from(data["segmentation"])
        request = self._request
        # The segments belong to the reference volume's voxels, also where that was moved while the worker worked.
        now = mrml.volume_node_geometry(request.reference)
        if now.size_ijk != segmentation.geometry.size_ijk:
            raise InputError(_CHANGED.format(name=request.reference.GetName()))
        node = mrml.segmentation_to_node(
            replace(segmentation, geometry=now), request.reference, node=request.segmentationNode,
            name=_("{volume} segmentation").format(volume=request.reference.GetName()),
            boxes={name: tuple(slice(*bounds) for bounds in box) for name, box in data["boxes"].items()},
        )
        record = data["record"]
        stages = {name: wire.segmentation_from(stage) for name, stage in data["stages"].items()}
        return Result(node, list(record["regions"]), record, stages)

    def _fail(self, error: BrainSegSAMError) -> None:
        if self.running:
            self._close()
            self._listener.onFailed(error)

    def _close(self) -> None:
        self.running = False
        for caller, tag in self._observations:
            caller.RemoveObserver(tag)
        self._observations = []

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
