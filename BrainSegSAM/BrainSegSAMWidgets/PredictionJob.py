"""One segmentation of chosen volumes: read from the scene, segmented by the worker process, put into the scene.

The scene is touched once, at the very end and only on success. The volumes' parent transforms are part of what is
read, so the worker sees the world; the result is put back onto the voxels of the reference volume, wherever that has
been moved to in the meantime. Volumes are read, and segments made, in small parts, so that the interface never stands
still.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml, wire
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError, explained
from BrainSegSAMLib.image import Segmentation

from .Volumes import VolumeReader
from .WorkerProcess import Job, Listener, Worker

_log = logging.getLogger(__name__)
_PAGE = 4096  # bytes
_PART = 1024 * _PAGE
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
        self._steps: Iterator[None] | None = None  # what is to be done on our side; None while the worker works
        self._cancelled = ""
        self._said = False
        self._observations: list[tuple[Any, int]] = []
        self.running = False
        """Whether the listener will hear of the end."""

    # ---- doors

    def start(self) -> None:
        """Start segmenting and return.

        Raises:
            InputError: where a volume or the segmentation cannot be used, or the worker is busy; then nothing was
                started.
        """
        self._worker.check()
        for node in self._request.volumes.values():
            mrml.volume_node_geometry(node)
        if self._request.segmentationNode is not None:
            mrml.check_takes_segments(self._request.segmentationNode, self._request.reference)
        self._reader = VolumeReader(self._request.volumes, _CHANGED)
        self._watchScene()
        self.running = True
        self._goOn(self._read())

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
            if self._steps is not None:
                self._step()
            elif self._job is not None:
                self._job.wait()

    # ---- steps

    def _goOn(self, steps: Iterator[None]) -> None:
        """Do these, one in each turn of Qt's event loop."""
        self._steps = steps
        qt.QTimer.singleShot(0, self._turn)

    def _turn(self) -> None:
        if self._steps is not None:
            self._step()
            if self._steps is not None:
                qt.QTimer.singleShot(0, self._turn)

    def _step(self) -> None:
        """Do the next one; whatever goes wrong in it is the end."""
        steps, self._steps = self._steps, None
        if not self._said:
            self._said = True
            self._listener.onProgress({"type": "progress", "stage": _("Reading the volumes"), "fraction": 0.0})
        try:
            if self._cancelled:
                raise Cancelled(self._cancelled)
            next(steps)
        except StopIteration as end:
            if end.value is not None:
                self._close()
                self._listener.onDone(end.value)
        except Exception as error:
            self._fail(error)
        else:
            if self.running:
                self._steps = steps

    def _read(self) -> Iterator[None]:
        """Read the volumes and hand them to the worker."""
        while not self._reader.proceed():
            yield
        self._send()

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
        if self.running:
            self._goOn(self._place(data))

    def _place(self, data: dict[str, Any]) -> mrml.Steps[Any]:
        """Put the result into the scene."""
        voxels = data["segmentation"]["label_map"].reshape(-1)
        for start in range(0, voxels.size, _PART):
            # The system maps memory when it is first touched. For a big volume that takes longer than all the rest.
            voxels[start : start + _PART : _PAGE].max()
            yield
        return (yield from self._conclude(data))

    def _conclude(self, data: dict[str, Any]) -> mrml.Steps[Any]:
        """The result in the scene, as a `Result`."""
        # All is read before the scene is touched, which is as it was where something fails.
        segmentation = wire.segmentation_from(data["segmentation"])
        stages = {name: wire.segmentation_from(stage) for name, stage in data["stages"].items()}
        boxes = {name: tuple(slice(*bounds) for bounds in box) for name, box in data["boxes"].items()}
        record = data["record"]
        regions = list(record["regions"])
        request = self._request

        def current() -> Segmentation:
            """It belongs to the reference volume's voxels, also where that was moved while the worker worked."""
            now = mrml.volume_node_geometry(request.reference)
            if now.size_ijk != segmentation.geometry.size_ijk:
                raise InputError(_CHANGED.format(name=request.reference.GetName()))
            return replace(segmentation, geometry=now)

        node = yield from mrml.segmentation_to_node_in_parts(
            current, request.reference, node=request.segmentationNode,
            name=_("{volume} segmentation").format(volume=request.reference.GetName()), boxes=boxes,
        )
        return Result(node, regions, record, stages)

    def _fail(self, error: Exception) -> None:
        if self.running:
            if not isinstance(error, BrainSegSAMError):
                _log.error("segmentation", exc_info=error)
            self._close()
            self._listener.onFailed(explained(error))

    def _close(self) -> None:
        self.running = False
        self._steps = None
        self._reader.free()
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
