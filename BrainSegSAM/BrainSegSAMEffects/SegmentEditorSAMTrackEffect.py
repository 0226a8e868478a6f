"""Follows what is segmented on one slice through the others, shows it as it comes, and can be put right on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml
from BrainSegSAMLib.errors import BrainSegSAMError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.prompts import PLANES, slice_spacing_mm, slices_first

from .EffectResult import Target, fillSegment, sameObject
from .Followed import Followed
from .InteractiveEffect import InteractiveEffect
from .Preview import COLOUR_RGB
from .SliceViews import SliceViews
from .StopsBar import stopsPicture
from .TrackRange import UNITS, TrackRange, rangeSettings


class SegmentEditorSAMTrackEffect(InteractiveEffect):
    """The effect "SAM tracking"."""

    methods = ("sam2_tracker", "ssnet")

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "BrainSegSAM SAM tracking"
        scriptedEffect.title = _("SAM tracking")
        InteractiveEffect.__init__(self, scriptedEffect)
        self.planeCombo: Any = None
        self.fromCombo: Any = None
        self.directionCombo: Any = None
        self.range: Any = None
        self.brushSpin: Any = None
        self.replaceCheck: Any = None
        self.trackButton: Any = None
        self.againButton: Any = None
        self.stopsLabel: Any = None
        self._combos: dict[str, tuple[Any, tuple[str, ...]]] = {}
        self._followed: Followed | None = None
        self._before: Followed | None = None  # what it goes back to where it cannot be followed anew
        self._applied: tuple[str, Followed] | None = None  # the last one that was applied, and into which segment
        self._painting: tuple[int, bool] | None = None  # the slice that is being corrected, and whether to add
        self._toTrack: int | None = None  # the corrected slice from which to go on
        self._views = SliceViews(self.plane)

    def helpText(self) -> str:
        """What the editor shows above the options."""
        return _(
            "<html>Segment the object on one slice, then press Track: it is followed through the neighbouring slices. "
            "<b>Shift-drag</b> adds to the outlined result on a slice, <b>Ctrl-drag</b> takes away; then go on from "
            "there. Apply adds the result to the selected segment.</html>"
        )

    # ---- options

    def setupOptionsFrame(self) -> None:
        """Make the options."""
        self.addModelWidgets()
        self.planeCombo = self._combo("Plane", _("Slices:"), {
            "axial": _("axial"), "coronal": _("coronal"), "sagittal": _("sagittal"),
        }, _("Slices of the source volume that are followed one after the other."))  # fmt: skip
        self.fromCombo = self._combo("From", _("Begin at:"), {
            "current": _("the slice that a view shows"), "largest": _("the segment's largest slice"),
        }, _("The slice on which the selected segment shows the object."))  # fmt: skip
        self.directionCombo = self._combo("Direction", _("Direction:"), {
            "both": _("both ways"), "forward": _("up / back / left"), "backward": _("down / front / right"),
        }, _("Forward: to superior (axial), posterior (coronal) or left (sagittal)."))  # fmt: skip
        self.range = TrackRange()
        self._combos["RangeUnit"] = self.range.unitCombo, UNITS
        self.scriptedEffect.addLabeledOptionsWidget(_("Range:"), self.range.row)
        self.brushSpin = qt.QDoubleSpinBox()
        self.brushSpin.setRange(0.5, 30.0)
        self.brushSpin.suffix = " mm"
        self.brushSpin.toolTip = _("Radius of the brush with which Shift-drag and Ctrl-drag correct the result.")
        self.scriptedEffect.addLabeledOptionsWidget(_("Correction brush:"), self.brushSpin)
        self.replaceCheck = qt.QCheckBox(_("Replace what the segment has of the object"))
        self.replaceCheck.toolTip = _(
            "On the slices that were followed, also those on which nothing was found, pieces of the segment that touch "
            "the result are replaced by it; other pieces are other objects and stay. Otherwise the result is added, "
            "and all that the segment has stays."
        )
        self.scriptedEffect.addOptionsWidget(self.replaceCheck)
        self._addButtons()
        self.connectTo(self.range.spin, "valueChanged(double)", self._onOption)
        self.connectTo(self.range.unitCombo, "currentIndexChanged(int)", self._onUnit)
        self.connectTo(self.brushSpin, "valueChanged(double)", self._onOption)
        self.connectTo(self.replaceCheck, "toggled(bool)", self._onOption)
        self.addRunWidgets()
        self.statusLabel.setTextInteractionFlags(qt.Qt.TextBrowserInteraction)
        self.connectTo(self.statusLabel, "linkActivated(QString)", self._onPlace)

    def _addButtons(self) -> None:
        self.trackButton = qt.QPushButton(_("Track"))
        self.againButton = qt.QPushButton(_("Go on from the corrected slice"))
        row = qt.QHBoxLayout()
        row.addWidget(self.trackButton)
        row.addWidget(self.againButton)
        self.scriptedEffect.optionsLayout().addRow(row)
        self.stopsLabel = qt.QLabel()
        self.stopsLabel.visible = False
        self.stopsLabel.toolTip = _(
            "All slices. Yellow: found. White: begun here. Green: corrected. Red: a rule ended it here."
        )
        self.scriptedEffect.addOptionsWidget(self.stopsLabel)
        self.connectTo(self.trackButton, "clicked(bool)", self._onTrack)
        self.connectTo(self.againButton, "clicked(bool)", self._onAgain)

    def _combo(self, parameter: str, label: str, choices: dict[str, str], tip: str) -> Any:
        combo = qt.QComboBox()
        for name, shown in choices.items():
            combo.addItem(shown, name)
        combo.toolTip = tip
        self.scriptedEffect.addLabeledOptionsWidget(label, combo)
        self._combos[parameter] = combo, tuple(choices)
        self.connectTo(combo, "currentIndexChanged(int)", self._onOption)
        return combo

    def setMRMLDefaults(self) -> None:
        """Values of options that were never set."""
        InteractiveEffect.setMRMLDefaults(self)
        for name, value in {"Plane": "axial", "From": "current", "Direction": "both", "Range": 0, "RangeUnit": "slices",
                            "Brush": 3.0, "Replace": 0}.items():  # fmt: skip
            self.scriptedEffect.setParameterDefault(name, value)

    def updateGUIFromMRML(self) -> None:
        """Show the options as they are stored."""
        if self.trackButton is None or self.scriptedEffect.parameterSetNode() is None:
            return
        for parameter, (combo, names) in self._combos.items():
            chosen = self.scriptedEffect.parameter(parameter)
            blocked = combo.blockSignals(True)
            combo.setCurrentIndex(names.index(chosen) if chosen in names else 0)
            combo.blockSignals(blocked)
        self.range.show(self.scriptedEffect.doubleParameter("Range"), self._unit())
        blocked = self.brushSpin.blockSignals(True)
        self.brushSpin.setValue(self.scriptedEffect.doubleParameter("Brush"))
        self.brushSpin.blockSignals(blocked)
        blocked = self.replaceCheck.blockSignals(True)
        self.replaceCheck.setChecked(bool(self.scriptedEffect.integerParameter("Replace")))
        self.replaceCheck.blockSignals(blocked)
        InteractiveEffect.updateGUIFromMRML(self)

    def updateMRMLFromGUI(self) -> None:
        """Store the options."""
        # All are read first: storing one that has changed shows all again as they are stored.
        values: dict[str, Any] = {name: names[combo.currentIndex] for name, (combo, names) in self._combos.items()}
        values["Range"] = float(self.range.spin.value)
        values["Brush"] = float(self.brushSpin.value)
        values["Replace"] = int(self.replaceCheck.checked)
        InteractiveEffect.updateMRMLFromGUI(self)
        for name, value in values.items():
            self.scriptedEffect.setParameter(name, value)

    def updateControls(self) -> None:
        """See `EffectBase`."""
        InteractiveEffect.updateControls(self)
        if self.trackButton is None:
            return
        busy = _("Wait until the work is done.") if self._busy else ""
        self.trackButton.enabled = not busy
        self.trackButton.toolTip = busy or _("Follow the selected segment from its slice.")
        reason = busy or self._reasonNotToGoOn()
        self.againButton.enabled = not reason
        self.againButton.toolTip = reason or _("Follow the object anew from the corrected slice, away from the first.")
        self.cancelButton.enabled = self._busy or self._followed is not None
        self.range.showOther(self._sliceSpacing())

    @property
    def _busy(self) -> bool:
        return self.job is not None or self._reading is not None

    def reasonNotToApply(self) -> str:
        """See `EffectBase`."""
        if not self._busy and self._followed is not None and not self._followed.shown:
            return _("Nothing is left of the result: add to a slice of it (Shift-drag), or press Track.")
        return InteractiveEffect.reasonNotToApply(self)

    def _reasonNotToGoOn(self) -> str:
        if self._followed is None or self._toTrack is None:
            return _("Correct a slice of the result first (Shift-drag or Ctrl-drag).")
        if not self._followed.masks[self._toTrack].any():
            return _("Nothing is left on the corrected slice; add to it (Shift-drag), or correct another one.")
        return ""

    def _onOption(self, _value: Any) -> None:
        self.storeOptions()
        self.updateControls()

    def _onUnit(self, index: int) -> None:
        self.range.convert(self._sliceSpacing())
        self._onOption(index)

    def _sliceSpacing(self) -> float:
        """Of the source volume's slices in mm; 0 where none can be used."""
        parameters = self.scriptedEffect.parameterSetNode()
        source = parameters.GetSourceVolumeNode() if parameters is not None else None
        try:
            return _apart(mrml.volume_node_geometry(source), self._plane()) if source is not None else 0.0
        except BrainSegSAMError:
            return 0.0

    def _unit(self) -> str:
        unit = self.scriptedEffect.parameter("RangeUnit")
        return unit if unit in UNITS else UNITS[0]

    def _plane(self) -> str:
        plane = self.scriptedEffect.parameter("Plane")
        return plane if plane in PLANES else "axial"

    # ---- tracking

    def _onTrack(self, _checked: bool) -> None:
        self.guarded(self._begin)

    def _begin(self) -> None:
        target = Target.of(self.scriptedEffect)
        order = target.sourceGeometry.reoriented("LPS")[1]
        plane = self._plane()
        drawn = slices_first(order.apply(_segmentMask(target)), plane)
        areas = np.count_nonzero(drawn, axis=(1, 2))
        if not areas.any():
            raise InputError(_("The selected segment is empty in the volume; segment the object on one slice first."))
        index = int(areas.argmax())
        if self.scriptedEffect.parameter("From") == "current":
            index = self._views.shownSlice(target.sourceGeometry, plane)
            if not areas[index]:
                raise InputError(
                    _("The selected segment is empty on this slice; go to a slice where it is drawn, or begin at its "
                      "largest slice.")
                )  # fmt: skip
        mask = np.ascontiguousarray(drawn[index])
        followed = Followed(plane, index, {index: mask})
        again = self._isCorrection(target, plane, index, mask)
        self._ask(followed, target, index, self.scriptedEffect.parameter("Direction"), again=again)
        self._followed, self._before, self._painting, self._toTrack = followed, None, None, None
        self.showPreview()

    def _isCorrection(self, target: Target, plane: str, index: int, mask: Any) -> bool:
        """Whether the object was followed before, applied, corrected with other effects, and shall be followed on.

        Then it is looked at in the same part of the slices as before, which need not be encoded again.
        """
        if self._applied is None or self._applied[0] != target.segmentID or self._applied[1].plane != plane:
            return False
        before = self._applied[1].masks.get(index)
        return before is not None and before.shape == mask.shape and bool((before & mask).any())

    def _onAgain(self, _checked: bool) -> None:
        self.guarded(self._goOn)

    def _goOn(self) -> None:
        """Follow anew from the corrected slice, away from where it began."""
        before, index, target = self._followed, self._toTrack, self.target
        assert before is not None
        assert index is not None
        assert target is not None
        followed, direction = before.upTo(index)
        self._ask(followed, target, index, direction, again=True)
        self._before = before

    def _ask(self, followed: Followed, target: Target, index: int, direction: str, *, again: bool) -> None:
        """Have an object followed from a slice; what is there is kept until the first answer.

        Raises:
            InputError: where it is not accepted; nothing has changed then.
        """
        far = self.scriptedEffect.doubleParameter("Range")
        settings = rangeSettings(far, self._unit(), _apart(target.sourceGeometry, followed.plane))
        arguments = {
            "plane": followed.plane, "index": index, "mask": followed.masks[index],
            "settings": {"direction": direction, **settings}, "again": again,
        }  # fmt: skip

        def partial(data: dict[str, Any]) -> None:
            self._followed = followed
            if data["index"] != index:
                followed.masks[data["index"]] = data["mask"]
            self.refreshSoon()

        def done(data: dict[str, Any]) -> None:
            self._followed, self._before, self._toTrack = followed, None, None
            for offset, found in enumerate(data["mask"]):
                followed.masks[data["start"] + offset] = found
            followed.stops += data["stops"]
            self.showPreview()
            self.say(followed.ends(self._geometry(target), data["notes"]))

        self.ask("track", arguments, target, onDone=done, onPartial=partial, onFailed=self._goBack)

    def _goBack(self) -> None:
        """Show again what was there before it was followed anew."""
        if self._before is not None:
            self._followed, self._before = self._before, None
            self.guarded(self.showPreview)

    def onCancel(self) -> None:
        """See `EffectBase`; where a correction is followed, what was there before stays."""
        if not self._busy or self._before is None:
            InteractiveEffect.onCancel(self)
            return
        self.cancelJob("")
        self._goBack()
        self.say(_("Cancelled; the result is as it was."))
        self.updateControls()

    def _geometry(self, target: Target) -> Geometry:
        """The source volume's voxels, where they are now, with axes LPS."""
        return target.now(target.sourceGeometry).reoriented("LPS")[0]

    def _onPlace(self, link: str) -> None:
        """Bring the slice views to a slice of the result."""
        if self._followed is not None and self.target is not None:
            ras = self._followed.place(self._geometry(self.target), int(link))
            node = slicer.vtkMRMLSliceNode
            node.JumpAllSlices(slicer.mrmlScene, *[float(at) for at in ras], node.OffsetJumpSlice)

    def showPreview(self) -> None:
        """Outline what was found so far, and draw the bar."""
        followed, target = self._followed, self.target
        if followed is None or target is None:
            return
        if followed.shown:
            self.preview.show(target.segmentationNode, [(COLOUR_RGB, self._labelmap(followed, target))])
        else:
            self.preview.clear()
        self.stopsLabel.setPixmap(stopsPicture(
            target.sourceGeometry.reoriented("LPS")[0].shape_zyx[PLANES[followed.plane]], followed.shown,
            followed.begin, followed.corrected, {int(stop["slice_index"]) for stop in followed.stops},
        ))  # fmt: skip
        self.stopsLabel.visible = True
        self.updateControls()

    def _labelmap(self, followed: Followed, target: Target) -> Any:
        mask, start = followed.block()
        return target.labelmap(mask, target.sourceGeometry.reoriented("LPS")[0], offset_zyx=start)

    def dropResult(self, reason: str) -> None:
        """See `EffectBase`."""
        InteractiveEffect.dropResult(self, reason)
        self._followed = self._before = self._painting = self._toTrack = None
        if self.stopsLabel is not None:
            self.stopsLabel.visible = False
        self.updateControls()

    def onApply(self) -> None:
        """Add the result to the segment; where that is wanted, in place of what it has of the object."""
        followed, target = self._followed, self.target
        assert followed is not None
        assert target is not None
        labelmap, removed = self._labelmap(followed, target), None
        if self.replaceCheck.checked:
            upright = target.sourceGeometry.reoriented("LPS")[0]
            removed = sameObject(target, labelmap, upright, followed.plane, followed.masks)
        fillSegment(self.scriptedEffect, target, labelmap, add=True, removed=removed)
        self._applied = target.segmentID, followed

    def cleanup(self) -> None:
        """See `EffectBase`."""
        InteractiveEffect.cleanup(self)
        self._applied = None

    # ---- corrections

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        """The correction brush; whether the event was used."""
        if viewWidget.className() != "qMRMLSliceWidget":
            return False
        self._views.hear(eventId, viewWidget)
        if self._followed is None or self._busy:
            return False
        shift, control = bool(callerInteractor.GetShiftKey()), bool(callerInteractor.GetControlKey())
        if eventId == vtk.vtkCommand.LeftButtonPressEvent and shift != control:
            return self._paint(callerInteractor, viewWidget, shift, begins=True)
        if self._painting is None:
            return self.isAiming(callerInteractor, eventId)
        if eventId == vtk.vtkCommand.MouseMoveEvent:
            self._paint(callerInteractor, viewWidget, self._painting[1], begins=False)
            return True
        if eventId == vtk.vtkCommand.LeftButtonReleaseEvent:
            self._toTrack, self._painting = self._painting[0], None
            self._followed.corrected.add(self._toTrack)
            self.guarded(self.showPreview)
            return True
        return False

    def _paint(self, interactor: Any, viewWidget: Any, adds: bool, *, begins: bool) -> bool:
        """A disc around the mouse, on the source volume's slice there; whether that is one that was followed."""
        followed, target = self._followed, self.target
        assert followed is not None
        assert target is not None
        x, y = interactor.GetEventPosition()
        ras = self.xyToRas([int(x), int(y)], viewWidget)
        geometry = self._geometry(target)
        index = followed.sliceAt(geometry, ras)
        if begins:
            if index not in followed.masks:
                self.say(_("Nothing was followed onto this slice; correct one of those on the bar."))
                return True
            self._painting = index, adds
        if self._painting != (index, adds):
            return False
        followed.paint(geometry, index, ras, float(self.brushSpin.value), adds=adds)
        self.refreshSoon()
        return True


def _segmentMask(target: Target) -> Any:
    """Bool (z, y, x) of the target's segment on the source volume's voxels."""
    return mrml.segment_mask(target.segmentationNode, target.segmentID, target.sourceGeometry)


def _apart(geometry: Geometry, plane: str) -> float:
    """Spacing of the slices of a plane, in mm, however the volume is stored."""
    return slice_spacing_mm(geometry.reoriented("LPS")[0], plane)[0]
