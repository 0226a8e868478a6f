"""Segments what is boxed or clicked on a slice of any orientation, and what a detector proposes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from BrainSegSAMWidgets.Dependencies import ensureDetector
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, GeometryError, InputError
from BrainSegSAMLib.view_planes import united, voxels_of
from BrainSegSAMLib.wire import geometry_data, geometry_from

from .EffectResult import Target, fillSegment
from .InteractiveEffect import InteractiveEffect
from .Marks import RAS, Lesion, Marked
from .MarksOverlay import MarksOverlay
from .Preview import COLOUR_RGB

_DRAG = 3  # pixels that a box is wide and high at least; less is a click
_NEAR = 8  # pixels from a point within which a click is on it


class SegmentEditorMedSAMBoxEffect(InteractiveEffect):
    """The effect "MedSAM box"."""

    methods = ("yolo_medsam", "sam")

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "BrainSegSAM MedSAM box"
        scriptedEffect.title = _("MedSAM box")
        InteractiveEffect.__init__(self, scriptedEffect)
        self.overlay = MarksOverlay(scriptedEffect)
        self.detectSliceButton: Any = None
        self.detectVolumeButton: Any = None
        self.confidenceSpin: Any = None
        self.lesionList: Any = None
        self._marked: Marked | None = None  # what is drawn
        self._outlined: Marked | None = None  # what of it the preview shows: while the worker works, what was before
        self._view: Any = None  # that was clicked last
        self._dragFrom: tuple[int, int] | None = None
        self._labelmap: Any = None
        self._lesions: list[Lesion] = []

    def helpText(self) -> str:
        """What the editor shows above the options."""
        return _(
            "<html>Drag a box around an object in any slice view, also an oblique one. <b>Shift-click</b> adds a point "
            "inside it, <b>Ctrl-click</b> one outside; Ctrl-click on a point removes it. <b>Detect</b> proposes boxes, "
            "to which you can add one. Press Apply to add what is outlined to the selected segment.</html>"
        )

    def setupOptionsFrame(self) -> None:
        """Make the options."""
        self.addModelWidgets()
        self.detectSliceButton = qt.QPushButton(_("Detect on this slice"))
        self.detectVolumeButton = qt.QPushButton(_("Detect in the volume"))
        row = qt.QHBoxLayout()
        row.addWidget(self.detectSliceButton)
        row.addWidget(self.detectVolumeButton)
        self.scriptedEffect.optionsLayout().addRow(row)
        self.confidenceSpin = qt.QDoubleSpinBox()
        self.confidenceSpin.setRange(0.01, 0.99)
        self.confidenceSpin.setSingleStep(0.05)
        self.confidenceSpin.toolTip = _("Boxes of which the detector is less sure are not listed.")
        self.scriptedEffect.addLabeledOptionsWidget(_("Confidence, at least:"), self.confidenceSpin)
        self.lesionList = qt.QListWidget()
        self.lesionList.setMaximumHeight(120)
        self.lesionList.toolTip = _(
            "What the detector proposes; what is ticked, and what you mark, is outlined and will be applied."
        )
        self.lesionList.visible = False
        self.scriptedEffect.addOptionsWidget(self.lesionList)
        self.connectTo(self.detectSliceButton, "clicked(bool)", self._onDetectSlice)
        self.connectTo(self.detectVolumeButton, "clicked(bool)", self._onDetectVolume)
        self.connectTo(self.confidenceSpin, "valueChanged(double)", self._onConfidence)
        self.connectTo(self.lesionList, "itemChanged(QListWidgetItem*)", self._onToggled)
        self.addRunWidgets()
        self.scriptedEffect.optionsFrame().toolTip = _(
            "In a slice view: drag a box around the object. Shift-click sets a point inside it, Ctrl-click one "
            "outside; Ctrl-click on a point removes it."
        )

    def setMRMLDefaults(self) -> None:
        """Values of options that were never set."""
        InteractiveEffect.setMRMLDefaults(self)
        self.scriptedEffect.setParameterDefault("Confidence", 0.25)

    def updateGUIFromMRML(self) -> None:
        """Show the options as they are stored."""
        InteractiveEffect.updateGUIFromMRML(self)
        if self.confidenceSpin is not None and self.scriptedEffect.parameterSetNode() is not None:
            blocked = self.confidenceSpin.blockSignals(True)
            self.confidenceSpin.setValue(self.scriptedEffect.doubleParameter("Confidence"))
            self.confidenceSpin.blockSignals(blocked)

    def updateMRMLFromGUI(self) -> None:
        """Store the options."""
        InteractiveEffect.updateMRMLFromGUI(self)
        self.scriptedEffect.setParameter("Confidence", float(self.confidenceSpin.value))

    def updateControls(self) -> None:
        """See `EffectBase`."""
        InteractiveEffect.updateControls(self)
        if self.detectSliceButton is None:
            return
        reason = self._reasonNotToDetect()
        tips = {
            self.detectSliceButton: _("Propose boxes on the slice of the view that was clicked last (or the red one)."),
            self.detectVolumeButton: _("Propose boxes in the volume; those on neighbouring slices are put together."),
        }
        for button, tip in tips.items():
            button.enabled = not reason
            button.toolTip = reason or tip

    def dropResult(self, reason: str) -> None:
        """See `EffectBase`; the marks go, too."""
        InteractiveEffect.dropResult(self, reason)
        self.overlay.clear()
        self._marked = self._outlined = self._dragFrom = self._labelmap = None
        self._lesions = []
        if self.lesionList is not None:
            self.lesionList.clear()
            self.lesionList.visible = False

    def cleanup(self) -> None:
        """See `EffectBase`."""
        InteractiveEffect.cleanup(self)
        self._view = None

    # ---- mouse

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        """Boxes and points; whether the event was used."""
        if viewWidget.className() != "qMRMLSliceWidget":
            return False
        x, y = callerInteractor.GetEventPosition()
        if eventId == vtk.vtkCommand.LeftButtonPressEvent:
            return self._onPress(viewWidget, (x, y), callerInteractor)
        if self._dragFrom is None or viewWidget != self._view:
            return self.isAiming(callerInteractor, eventId)
        if eventId == vtk.vtkCommand.MouseMoveEvent:
            self.overlay.show(viewWidget, _rectangle(self._dragFrom, (x, y)), ())
            return True
        if eventId == vtk.vtkCommand.LeftButtonReleaseEvent:
            self._onRelease(viewWidget, (x, y))
            return True
        return False

    def processViewNodeEvents(self, callerViewNode: Any, eventId: int, viewWidget: Any) -> None:
        """The view was moved or zoomed: the marks stay where they are on the image."""
        if self._dragFrom is None and self._marked is not None and viewWidget == self._marked.view:
            self._drawMarks()

    def _onPress(self, viewWidget: Any, place: tuple[int, int], interactor: Any) -> bool:
        shift, control = bool(interactor.GetShiftKey()), bool(interactor.GetControlKey())
        if shift and control:
            return False
        self._view = viewWidget
        if shift:
            self._tried(self._addPoint, viewWidget, place, True)
        elif control:
            self._tried(self._addOrRemovePoint, viewWidget, place)
        else:
            self._dragFrom = place
        return True

    def _onRelease(self, viewWidget: Any, place: tuple[int, int]) -> None:
        start, self._dragFrom = self._dragFrom, None
        if start is None or min(abs(place[0] - start[0]), abs(place[1] - start[1])) < _DRAG:
            self._drawMarks()
            self.say(_("Drag a box around the object; Shift-click sets a point inside it."))
            return
        self._tried(self._setBox, viewWidget, start, place)

    def _tried(self, call: Any, *arguments: Any) -> None:
        """What is refused on a click is said, without a dialog in the way; what there was stays."""
        try:
            call(*arguments)
        except BrainSegSAMError as error:
            self._drawMarks()
            self.say(str(error))

    def _setBox(self, viewWidget: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
        target = self._targetOfMarks()
        plane = self.plane(viewWidget, target.sourceGeometry)
        marked = Marked(viewWidget, plane, target, (self._ras(start, viewWidget), self._ras(end, viewWidget)))
        marked.data()  # refused while there still is what was before
        self._forgetMarked()
        self._find(marked)

    def _addPoint(self, viewWidget: Any, place: tuple[int, int], inside: bool) -> None:
        target = self._targetOfMarks()
        plane = self.plane(viewWidget, target.sourceGeometry)
        marked = self._marked
        if marked is None or not plane.is_same_grid(marked.plane):
            if not inside:
                raise InputError(_("There is nothing to take away from yet: drag a box, or Shift-click inside."))
            self._forgetMarked()
            marked = Marked(viewWidget, plane, target)
        self._find(replace(marked.withPoint(self._ras(place, viewWidget), inside), view=viewWidget, target=target))

    def _addOrRemovePoint(self, viewWidget: Any, place: tuple[int, int]) -> None:
        number = self._pointAt(viewWidget, place)
        if number is None:
            self._addPoint(viewWidget, place, False)
            return
        marked = replace(self._marked.withoutPoint(number), target=self._targetOfMarks())
        if marked.empty:
            self._forgetMarked()
            self.say(_("Nothing is marked any more; drag a box, or Shift-click inside an object."))
        else:
            self._find(marked)

    def _pointAt(self, viewWidget: Any, place: tuple[int, int]) -> int | None:
        """Which of the points that a view shows is near a place."""
        if self._marked is None or not self._marked.points or not self._shows(viewWidget):
            return None
        apart = [np.hypot(*np.subtract(self._xy(point, viewWidget), place)) for point, _inside in self._marked.points]
        nearest = int(np.argmin(apart))
        return nearest if apart[nearest] <= _NEAR else None

    def _targetOfMarks(self) -> Target:
        """Of what is marked: the same as of the proposals, where there are any, as all is applied together."""
        if self._marked is None and (self.job is not None or self._reading is not None):
            raise InputError(_("Wait until the proposals are there, or press Cancel."))
        if not self._lesions:
            return Target.of(self.scriptedEffect)
        assert self.target is not None
        self.target.check(self.scriptedEffect)
        return self.target

    def _ras(self, place: tuple[int, int], viewWidget: Any) -> RAS:
        x, y, z = self.xyToRas([int(place[0]), int(place[1])], viewWidget)
        return float(x), float(y), float(z)

    def _drawMarks(self) -> None:
        """The marks where their view shows their plane; else nothing."""
        marked = self._marked
        if marked is None or not self._shows(marked.view):
            self.overlay.clear()
            return
        corners = ()
        if marked.box is not None:
            corners = _rectangle(*(self._xy(corner, marked.view) for corner in marked.box))
        points = [(self._xy(place, marked.view), inside) for place, inside in marked.points]
        self.overlay.show(marked.view, corners, points)

    def _xy(self, place: RAS, viewWidget: Any) -> tuple[float, float]:
        x, y = self.rasToXy(list(place), viewWidget)
        return float(x), float(y)

    def _shows(self, viewWidget: Any) -> bool:
        """Whether a view shows the plane of the marks."""
        try:
            plane = self.plane(viewWidget, self._marked.target.sourceGeometry)
        except GeometryError:
            return False
        return plane.is_same_grid(self._marked.plane)

    # ---- marks

    def _find(self, marked: Marked) -> None:
        """Ask what is marked; where there is no answer the marks become again those of the outline."""
        target = marked.target
        self._marked = marked
        self._drawMarks()

        def done(data: dict[str, Any]) -> None:
            (mask,) = data["masks"]
            block = voxels_of(mask, marked.plane, target.gridGeometry())
            self._marked = self._outlined = replace(marked, block=block)
            self.showPreview()
            nothing = _("Nothing was found there; drag the box closer around the object.")
            self.say(nothing if block is None else "\n".join(data["notes"]))

        try:
            self.ask("mark", {"marks": [marked.data()]}, target, onDone=done, onFailed=self._takeBack)
        except BrainSegSAMError:
            self._takeBack()
            raise

    def _takeBack(self) -> None:
        if self._outlined is None:
            self._forgetMarked()
            return
        self._marked = self._outlined
        self.keepWatching(self._marked.target)
        self._drawMarks()

    def _forgetMarked(self) -> None:
        """Another object will be marked, or none; the proposals stay."""
        if not self._lesions:
            self.dropResult("")
            return
        self.cancelJob("")
        self._marked = self._outlined = None
        self._drawMarks()
        self.showPreview()
        self.updateControls()

    def showPreview(self) -> None:
        """Outline what is in the ticked boxes, and what is marked."""
        blocks = [
            block
            for row, lesion in enumerate(self._lesions)
            if self.lesionList.item(row).checkState() == qt.Qt.Checked
            for block in lesion.blocks
        ]
        if self._outlined is not None and self._outlined.block is not None:
            blocks.append(self._outlined.block)
        if not blocks:
            self._labelmap = None
            self.preview.clear()
            return
        assert self.target is not None
        whole = united(blocks)
        self._labelmap = self.target.labelmap(whole.mask, self.target.gridGeometry(), offset_zyx=whole.start_zyx)
        self.preview.show(self.target.segmentationNode, [(COLOUR_RGB, self._labelmap)])

    def onApply(self) -> None:
        """Add what is outlined to the segment."""
        assert self.target is not None
        fillSegment(self.scriptedEffect, self.target, self._labelmap, add=True)

    # ---- proposals

    def _reasonNotToDetect(self) -> str:
        if self.job is not None:
            return _("Wait until the work is done.")
        try:
            model = self.model()
        except InputError as error:
            return str(error)
        if not (model.folder / "detector").is_dir():
            return _("'{name}' draws what is boxed, but finds no boxes; choose a model with a detector.").format(
                name=model.title
            )
        return ""

    def _onConfidence(self, _value: float) -> None:
        self.storeOptions()

    def _onDetectSlice(self, _checked: bool) -> None:
        self.guarded(self._detect, True)

    def _onDetectVolume(self, _checked: bool) -> None:
        self.guarded(self._detect, False)

    def _detect(self, onSlice: bool) -> None:
        target = Target.of(self.scriptedEffect)
        ensureDetector()
        view = self._view or slicer.app.layoutManager().sliceWidget("Red")
        plane = geometry_data(self.plane(view, target.sourceGeometry)) if onSlice else None
        self.dropResult("")
        arguments = {"plane": plane, "confidence": self.scriptedEffect.doubleParameter("Confidence")}
        self.ask("detect", arguments, target, onDone=lambda data: self._onDetected(data, target))

    def _onDetected(self, data: dict[str, Any], target: Target) -> None:
        if not data["lesions"]:
            self.say(_("Nothing was found; a lower confidence lists more."))
            return
        grid = target.gridGeometry()
        lesions = [Lesion(lesion["region"], lesion["confidence"], lesion["boxes"]) for lesion in data["lesions"]]
        marks = [(lesion, box) for lesion in lesions for box in lesion.boxes]

        def found(number: int, mask: Any) -> None:
            lesion, box = marks[number]
            block = voxels_of(mask, geometry_from(box["plane"]), grid)
            if block is not None:
                lesion.blocks.append(block)

        def partial(part: dict[str, Any]) -> None:
            found(part["number"], part["mask"])
            self.refreshSoon()

        def done(answer: dict[str, Any]) -> None:
            if len(marks) == 1:
                found(0, answer["masks"][0])
            self.showPreview()
            self.say("\n".join(dict.fromkeys([*data["notes"], *answer["notes"]])))

        asked = [{"plane": box["plane"], "box": box["box"]} for _lesion, box in marks]
        self.ask(
            "mark", {"marks": asked}, target, onDone=done, onPartial=partial, onFailed=lambda: self.dropResult("")
        )
        self._lesions = lesions
        self._fillList()

    def _fillList(self) -> None:
        blocked = self.lesionList.blockSignals(True)
        self.lesionList.clear()
        for lesion in self._lesions:
            item = qt.QListWidgetItem(lesion.text)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked)
            self.lesionList.addItem(item)
        self.lesionList.blockSignals(blocked)
        self.lesionList.visible = True

    def _onToggled(self, _item: Any) -> None:
        if self.target is not None:
            self.guarded(self.showPreview)
            self.updateControls()


def _rectangle(corner: tuple[float, float], opposite: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """Its four corners, in order."""
    return corner, (opposite[0], corner[1]), opposite, (corner[0], opposite[1])
