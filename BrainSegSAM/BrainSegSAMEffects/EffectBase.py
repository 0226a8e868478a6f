"""What our three effects share: a request to the worker, its progress, a preview, Apply and Cancel, and tidying up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer
import vtk
from BrainSegSAMWidgets.Dependencies import lookAhead
from BrainSegSAMWidgets.WorkerProcess import Listener, Worker, sharedWorker
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled
from BrainSegSAMLib.resources import resource_path

from .EffectResult import Target
from .Preview import Preview


class EffectBase(AbstractScriptedSegmentEditorEffect):
    """An effect that asks the worker, shows what comes as a preview, and writes it at Apply.

    A subclass says in `__init__` its name, calls `addRunWidgets` at the end of `setupOptionsFrame`, gives its own
    `onApply`, and starts work with `startJob`. Leaving the effect, closing the scene, and removing the segmentation,
    its segment or the source volume cancel the work and take the preview away.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.preview = Preview()
        self.target: Target | None = None
        self.job: Any = None
        self.applyButton: Any = None
        self.cancelButton: Any = None
        self.statusLabel: Any = None
        self.progressBar: Any = None
        self._answers: _Answers | None = None
        self._connections: list[tuple[Any, str, Callable[..., None]]] = []
        self._observations: list[tuple[Any, int]] = []

    # ---- what Slicer asks

    def clone(self) -> Any:
        """A further host of the same effect, for another editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt

        cloned = qSlicerSegmentationsEditorEffectsPythonQt.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(sys.modules[type(self).__module__].__file__.replace("\\", "/"))
        return cloned

    def icon(self) -> Any:
        """Of the button in the editor."""
        return qt.QIcon(str(resource_path("Icons", f"{type(self).__name__}.png")))

    def createCursor(self, widget: Any) -> Any:
        """The ordinary one: an icon beside the arrow would hide what is segmented."""
        return qt.QCursor(qt.Qt.CrossCursor)

    def activate(self) -> None:
        """The effect was chosen."""
        lookAhead()
        self.updateControls()

    def deactivate(self) -> None:
        """The effect was left: no work goes on and no preview stays."""
        self.dropResult(_("Another effect was chosen, so the work was cancelled."))

    def cleanup(self) -> None:
        """The editor ends: nothing of the effect stays."""
        self.dropResult(_("The Segment Editor was closed, so the work was cancelled."))
        for widget, signal, slot in self._connections:
            widget.disconnect(signal, slot)
        self._connections = []

    def sourceVolumeNodeChanged(self) -> None:
        """Another source volume was chosen: a result of the former one is of no use."""
        self.dropResult(_("The source volume was changed, so the work was cancelled."))

    # ---- widgets

    def connectTo(self, widget: Any, signal: str, slot: Callable[..., None]) -> None:
        """Connect a signal until the effect is cleaned up."""
        widget.connect(signal, slot)
        self._connections.append((widget, signal, slot))

    def disconnectFrom(self, widget: Any) -> None:
        """Disconnect what `connectTo` connected, for a widget that goes before the effect does."""
        for connected, signal, slot in self._connections:
            if connected is widget:
                widget.disconnect(signal, slot)
        self._connections = [entry for entry in self._connections if entry[0] is not widget]

    def addRunWidgets(self) -> None:
        """The last rows of the options: what happens now, how far it is, Cancel and Apply."""
        self.statusLabel = qt.QLabel()
        self.statusLabel.setWordWrap(True)
        self.scriptedEffect.addOptionsWidget(self.statusLabel)
        self.progressBar = qt.QProgressBar()
        self.progressBar.setRange(0, 100)
        self.progressBar.visible = False
        self.scriptedEffect.addOptionsWidget(self.progressBar)
        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.cancelButton.toolTip = _("End the work, or take the preview away; the segments stay as they are.")
        self.applyButton = qt.QPushButton(_("Apply"))
        row = qt.QHBoxLayout()
        row.addWidget(self.cancelButton)
        row.addWidget(self.applyButton)
        self.scriptedEffect.optionsLayout().addRow(row)
        self.connectTo(self.cancelButton, "clicked(bool)", self._onCancelClicked)
        self.connectTo(self.applyButton, "clicked(bool)", self._onApplyClicked)

    def reasonNotToApply(self) -> str:
        """Why Apply cannot be pressed now; "" when it can."""
        if self.job is not None:
            return _("Wait until the work is done.")
        return "" if self.preview.visible else _("There is no result yet.")

    def updateControls(self) -> None:
        """Enable what can be pressed now, and say why the rest cannot."""
        if self.applyButton is None:
            return
        reason = self.reasonNotToApply()
        self.applyButton.enabled = not reason
        self.applyButton.toolTip = reason or _("Write the previewed result into the segmentation; Undo takes it back.")
        self.cancelButton.enabled = self.job is not None or self.preview.visible
        self.progressBar.visible = self.job is not None

    def say(self, text: str) -> None:
        """Show a line about what happens."""
        if self.statusLabel is not None:
            self.statusLabel.text = text

    # ---- work

    @property
    def worker(self) -> Worker:
        """Who does the work."""
        return sharedWorker()

    def startJob(
        self, kind: str, arguments: Mapping[str, Any], target: Target, *, onDone: Callable[[dict[str, Any]], None],
        onPartial: Callable[[dict[str, Any]], None] | None = None, onFailed: Callable[[], None] | None = None,
    ) -> None:
        """Ask the worker; see `startWork`.

        Args:
            kind: of the request.
            arguments: of the request.
            target: what the result is for.
            onDone: told the result.
            onPartial: told results on their way.
            onFailed: told that there will be no result.
        """
        self.startWork(
            lambda listener: self.worker.request(kind, arguments, listener), target,
            onDone=onDone, onPartial=onPartial, onFailed=onFailed,
        )

    def startWork(
        self, begin: Callable[[Listener], Any], target: Target, *, onDone: Callable[[Any], None],
        onPartial: Callable[[dict[str, Any]], None] | None = None, onFailed: Callable[[], None] | None = None,
    ) -> None:
        """Start work in the background; what it answers is told only while it is still wanted.

        Args:
            begin: starts it; gets who hears of it, gives something with `cancel(reason)`.
            target: what the result is for; kept as `self.target` and watched.
            onDone: told the result; a BrainSegSAMError that it raises is shown.
            onPartial: told results on their way.
            onFailed: told, without arguments, that there will be no result; the user has been told why.

        Raises:
            InputError: where the worker is busy, or the input cannot be used.
        """
        self.cancelJob("")
        self._answers = answers = _Answers(self, onDone, onPartial, onFailed)
        try:
            self.job = begin(answers.listener())
        except BrainSegSAMError:
            self._answers = None
            raise
        self.target = target
        self._watch(target)
        self.progressBar.value = 0
        self.say(_("Starting…"))
        self.updateControls()

    def wants(self, answers: Any) -> bool:
        """Whether these are the answers to the present request."""
        return self._answers is answers

    def endJob(self) -> None:
        """The present request has been answered."""
        self.job, self._answers = None, None

    def cancelJob(self, reason: str) -> None:
        """End the work, where there is any; nobody hears of it any more."""
        job = self.job
        self.endJob()
        if job is not None:
            job.cancel(reason)
            self.say(reason)

    def dropResult(self, reason: str) -> None:
        """End the work and take the preview away."""
        self.cancelJob(reason)
        self._unwatch()
        self.target = None
        self.preview.clear()
        self.updateControls()

    def keepWatching(self, target: Target) -> None:
        """Make a preview that needs no job depend on its target."""
        self.target = target
        self._watch(target)

    def guarded(self, call: Callable[..., None], *arguments: Any) -> bool:
        """Call, and show what the library refuses; whether it went well."""
        try:
            call(*arguments)
        except BrainSegSAMError as error:
            self.showError(error)
            return False
        return True

    def showError(self, error: BrainSegSAMError) -> None:
        """Say what went wrong; a cancel is no error."""
        self.say(str(error))
        if not isinstance(error, Cancelled):
            slicer.util.errorDisplay(str(error), windowTitle=self.scriptedEffect.title)

    def onProgress(self, message: dict[str, Any]) -> None:
        """Show how far the work is."""
        self.progressBar.value = round(100 * float(message.get("fraction") or 0.0))
        self.say(str(message.get("stage") or ""))

    def onApply(self) -> None:
        """Write the preview into the segmentation; given by the effect."""
        raise NotImplementedError

    def onCancel(self) -> None:
        """Cancel was pressed."""
        self.dropResult(_("Cancelled; the segments are as they were."))

    def _onApplyClicked(self, _checked: bool) -> None:
        if self.scriptedEffect.confirmCurrentSegmentVisible() == 0:  # NotConfirmed: the user does not want it
            return
        if self.guarded(self.onApply):
            self.dropResult("")
            self.say(_("Applied; Undo takes it back."))
        self.updateControls()

    def _onCancelClicked(self, _checked: bool) -> None:
        self.onCancel()

    # ---- what must stay

    def _watch(self, target: Target) -> None:
        self._unwatch()
        node, scene = target.segmentationNode, target.segmentationNode.GetScene()

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def onRemoved(caller: Any, event: str, removed: Any) -> None:
            if removed is target.segmentationNode or removed is target.sourceVolumeNode:
                self.dropResult(_("'{name}' was removed, so the work was cancelled.").format(name=removed.GetName()))

        def onClosed(caller: Any, event: str) -> None:
            self.dropResult(_("The scene was closed, so the work was cancelled."))

        def onSegmentRemoved(caller: Any, event: str) -> None:
            if target.segmentID and node.GetSegmentation().GetSegment(target.segmentID) is None:
                self.dropResult(_("The segment was removed, so the work was cancelled."))

        for caller, event, slot in (
            (scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, onRemoved),
            (scene, slicer.vtkMRMLScene.StartCloseEvent, onClosed),
            (node.GetSegmentation(), slicer.vtkSegmentation.SegmentRemoved, onSegmentRemoved),
        ):
            self._observations.append((caller, caller.AddObserver(event, slot)))

    def _unwatch(self) -> None:
        for caller, tag in self._observations:
            caller.RemoveObserver(tag)
        self._observations = []


class _Answers:
    """Passes on what the worker answers to one request, while the effect still wants it."""

    def __init__(
        self, effect: EffectBase, onDone: Callable[[Any], None], onPartial: Callable[[dict[str, Any]], None] | None,
        onFailed: Callable[[], None] | None,
    ) -> None:
        self._effect, self._onDone, self._onPartial, self._onFailed = effect, onDone, onPartial, onFailed

    def listener(self) -> Listener:
        """For the worker."""
        return Listener(onProgress=self._progress, onPartial=self._partial, onDone=self._done, onFailed=self._failed)

    def _progress(self, message: dict[str, Any]) -> None:
        if self._effect.wants(self):
            self._effect.onProgress(message)

    def _partial(self, data: dict[str, Any]) -> None:
        if self._effect.wants(self) and self._onPartial is not None:
            self._effect.guarded(self._onPartial, data)

    def _done(self, data: Any) -> None:
        if self._effect.wants(self):
            self._effect.endJob()
            self._effect.say("")
            self._effect.guarded(self._onDone, data)
            self._effect.updateControls()

    def _failed(self, error: BrainSegSAMError) -> None:
        if self._effect.wants(self):
            self._effect.endJob()
            self._effect.showError(error)
            if self._onFailed is not None:
                self._onFailed()
            self._effect.updateControls()
