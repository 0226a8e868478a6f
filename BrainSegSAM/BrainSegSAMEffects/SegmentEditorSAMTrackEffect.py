"""Follows what is segmented on one slice through the others, shows it as it comes, and can be put right on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml
from BrainSegSAMLib.errors import BrainSegSAMError, GeometryError, InputError
from BrainSegSAMLib.prompts import PLANES, slice_spacing_mm, slices_first
from BrainSegSAMLib.view_planes import pixels, plane_name, volume_slice

from .EffectResult import Target, fillSegment
from .InteractiveEffect import InteractiveEffect
from .Preview import COLOUR_RGB
from .StopsBar import stopsPicture

_RULES = {
    "empty": "the object was no longer seen", "area": "its area jumped", "overlap": "it lay elsewhere",
    "likeness": "it no longer looked like the object", "reach": "the range ended",
}  # fmt: skip
"""What stopped a track → in words; see `methods.ssnet.rules.Firing`."""


@dataclass(eq=False)
class Followed:
    """A result on trial.

    Attributes:
        plane: whose slices were followed, a key of `prompts.PLANES`.
        begin: the slice that was followed from.
        masks: slice → bool (rows, columns), of the source volume with axes LPS; the empty ones, too.
        corrected: slices that were put right.
        stops: what the worker says of the ends.
    """

    plane: str
    begin: int
    masks: dict[int, Any]
    corrected: set[int] = field(default_factory=set)
    stops: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> list[int]:
        """Slices on which something was found."""
        return sorted(index for index, mask in self.masks.items() if mask.any())


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
        self.rangeSpin: Any = None
        self.rangeLabel: Any = None
        self.brushSpin: Any = None
        self.replaceCheck: Any = None
        self.trackButton: Any = None
        self.againButton: Any = None
        self.stopsLabel: Any = None
        self._combos: dict[str, tuple[Any, tuple[str, ...]]] = {}
        self._followed: Followed | None = None
        self._applied: tuple[str, Followed] | None = None  # the last one that was applied, and into which segment
        self._painting: int | None = None  # the slice that is being corrected
        self._toTrack: int | None = None  # the corrected slice from which to go on

    def helpText(self) -> str:
        """What the editor shows above the options."""
        return _(
            "<html>Segment the object on one slice, then press Track: it is followed through the neighbouring slices. "
            "<b>Shift-drag</b> adds to the outlined result on a slice, <b>Ctrl-drag</b> takes away; then go on from "
            "there. Apply writes the result into the selected segment.</html>"
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
        row = qt.QHBoxLayout()
        self.rangeSpin = qt.QSpinBox()
        self.rangeSpin.setRange(0, 999)
        self.rangeSpin.specialValueText = _("no limit")
        self.rangeSpin.toolTip = _("How many slices on each side are followed at most.")
        self.rangeLabel = qt.QLabel()
        row.addWidget(self.rangeSpin)
        row.addWidget(self.rangeLabel)
        self.scriptedEffect.addLabeledOptionsWidget(_("Range (slices):"), row)
        self.brushSpin = qt.QDoubleSpinBox()
        self.brushSpin.setRange(0.5, 30.0)
        self.brushSpin.suffix = " mm"
        self.brushSpin.toolTip = _("Radius of the brush with which Shift-drag and Ctrl-drag correct the result.")
        self.scriptedEffect.addLabeledOptionsWidget(_("Correction brush:"), self.brushSpin)
        self.replaceCheck = qt.QCheckBox(_("Replace the segment on the slices that were followed"))
        self.replaceCheck.toolTip = _("Otherwise the result is added to what the segment has there.")
        self.scriptedEffect.addOptionsWidget(self.replaceCheck)
        self._addButtons()
        self.connectTo(self.rangeSpin, "valueChanged(int)", self._onOption)
        self.connectTo(self.brushSpin, "valueChanged(double)", self._onOption)
        self.connectTo(self.replaceCheck, "toggled(bool)", self._onOption)
        self.addRunWidgets()

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
        for name, value in {"Plane": "axial", "From": "current", "Direction": "both", "Range": 0, "Brush": 3.0,
                            "Replace": 1}.items():  # fmt: skip
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
        for widget, value in (
            (self.rangeSpin, self.scriptedEffect.integerParameter("Range")),
            (self.brushSpin, self.scriptedEffect.doubleParameter("Brush")),
        ):
            blocked = widget.blockSignals(True)
            widget.setValue(value)
            widget.blockSignals(blocked)
        blocked = self.replaceCheck.blockSignals(True)
        self.replaceCheck.setChecked(bool(self.scriptedEffect.integerParameter("Replace")))
        self.replaceCheck.blockSignals(blocked)
        InteractiveEffect.updateGUIFromMRML(self)

    def updateMRMLFromGUI(self) -> None:
        """Store the options."""
        InteractiveEffect.updateMRMLFromGUI(self)
        for parameter, (combo, names) in self._combos.items():
            self.scriptedEffect.setParameter(parameter, names[combo.currentIndex])
        self.scriptedEffect.setParameter("Range", int(self.rangeSpin.value))
        self.scriptedEffect.setParameter("Brush", float(self.brushSpin.value))
        self.scriptedEffect.setParameter("Replace", int(self.replaceCheck.checked))

    def updateControls(self) -> None:
        """See `EffectBase`."""
        InteractiveEffect.updateControls(self)
        if self.trackButton is None:
            return
        busy = _("Wait until the work is done.") if self.job is not None or self._reading is not None else ""
        self.trackButton.enabled = not busy
        self.trackButton.toolTip = busy or _("Follow the selected segment from its slice.")
        reason = busy or ("" if self._toTrack is not None else _("Correct a slice of the result first (Shift-drag)."))
        self.againButton.enabled = not reason
        self.againButton.toolTip = reason or _("Follow the object anew from the corrected slice, away from the first.")
        self._showRange()

    def _onOption(self, _value: Any) -> None:
        self.storeOptions()
        self.updateControls()

    def _showRange(self) -> None:
        parameters = self.scriptedEffect.parameterSetNode()
        source = parameters.GetSourceVolumeNode() if parameters is not None else None
        self.rangeLabel.text = ""
        if source is None or not int(self.rangeSpin.value):
            return
        try:
            apart = self._spacing(mrml.volume_node_geometry(source))
        except BrainSegSAMError:
            return
        self.rangeLabel.text = _("{distance:.1f} mm").format(distance=int(self.rangeSpin.value) * apart)

    def _plane(self) -> str:
        plane = self.scriptedEffect.parameter("Plane")
        return plane if plane in PLANES else "axial"

    def _spacing(self, geometry: Any) -> float:
        return slice_spacing_mm(geometry.reoriented("LPS")[0], self._plane())[0]

    # ---- tracking

    def _onTrack(self, _checked: bool) -> None:
        self.guarded(self._begin)

    def _begin(self) -> None:
        self.dropResult("")
        target = Target.of(self.scriptedEffect)
        geometry, order = target.sourceGeometry.reoriented("LPS")
        plane = self._plane()
        drawn = slices_first(order.apply(_segmentMask(target)), plane)
        areas = np.count_nonzero(drawn, axis=(1, 2))
        if not areas.any():
            raise InputError(_("The selected segment is empty in the volume; segment the object on one slice first."))
        index = int(areas.argmax())
        if self.scriptedEffect.parameter("From") == "current":
            index = self._shownSlice(geometry, plane)
            if not areas[index]:
                raise InputError(
                    _("The selected segment is empty on this slice; go to a slice where it is drawn, or begin at its "
                      "largest slice.")
                )  # fmt: skip
        mask = np.ascontiguousarray(drawn[index])
        self._followed = Followed(plane, index, {index: mask})
        again = self._isCorrection(target, plane, index, mask)
        self._ask(target, index, mask, self.scriptedEffect.parameter("Direction"), again=again)

    def _isCorrection(self, target: Target, plane: str, index: int, mask: Any) -> bool:
        """Whether the object was followed before, applied, corrected with other effects, and shall be followed on.

        Then it is looked at in the same part of the slices as before, which need not be encoded again.
        """
        if self._applied is None or self._applied[0] != target.segmentID or self._applied[1].plane != plane:
            return False
        before = self._applied[1].masks.get(index)
        return before is not None and before.shape == mask.shape and bool((before & mask).any())

    def _shownSlice(self, geometry: Any, plane: str) -> int:
        """The slice that the first view of the plane's slices shows."""
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames():
            try:
                grid = self.plane(manager.sliceWidget(name), geometry)
            except GeometryError:
                continue
            if plane_name(grid) == plane:
                at = geometry.to_ijk(grid.to_lps([(size - 1) / 2 for size in grid.size_ijk]))[2 - PLANES[plane]]
                return int(np.clip(round(float(at)), 0, geometry.shape_zyx[PLANES[plane]] - 1))
        raise InputError(
            _("No view shows {plane} slices of the volume; begin at the largest slice.").format(plane=plane)
        )

    def _onAgain(self, _checked: bool) -> None:
        self.guarded(self._goOn)

    def _goOn(self) -> None:
        """Follow anew from the corrected slice, away from where it began."""
        followed, index, target = self._followed, self._toTrack, self.target
        assert followed is not None
        assert index is not None
        assert target is not None
        direction = "both" if index == followed.begin else "forward" if index > followed.begin else "backward"
        followed.corrected.add(index)
        for other in list(followed.masks):
            if other != index and direction in ("both", "forward" if other > index else "backward"):
                del followed.masks[other]
                followed.corrected.discard(other)
        followed.stops = [
            stop for stop in followed.stops
            if direction != "both" and (stop["direction"] > 0) != (direction == "forward")
        ]  # fmt: skip
        self._toTrack = None
        self._ask(target, index, followed.masks[index], direction, again=True)

    def _ask(self, target: Target, index: int, mask: Any, direction: str, *, again: bool) -> None:
        followed = self._followed
        assert followed is not None
        count = self.scriptedEffect.integerParameter("Range")
        settings: dict[str, Any] = {"direction": direction}
        if count:
            settings["range_mm"] = count * self._spacing(target.sourceGeometry)
        arguments = {
            "plane": followed.plane, "index": index, "mask": mask, "settings": settings, "again": again,
        }  # fmt: skip

        def partial(data: dict[str, Any]) -> None:
            if data["index"] != index:
                followed.masks[data["index"]] = data["mask"]
            self.refreshSoon()

        def done(data: dict[str, Any]) -> None:
            for offset, found in enumerate(data["mask"]):
                followed.masks[data["start"] + offset] = found
            followed.stops += data["stops"]
            self.showPreview()
            self.say("\n".join([*(_inWords(stop) for stop in followed.stops), *data["notes"]]))

        self.ask("track", arguments, target, onDone=done, onPartial=partial)
        self.showPreview()

    def showPreview(self) -> None:
        """Outline what was found so far, and draw the bar."""
        followed, target = self._followed, self.target
        if followed is None or target is None:
            return
        mask, start = self._stacked(followed.shown)
        self.preview.show(target.segmentationNode, [(COLOUR_RGB, self._labelmap(mask, start))])
        geometry = target.sourceGeometry.reoriented("LPS")[0]
        self.stopsLabel.setPixmap(stopsPicture(
            geometry.shape_zyx[PLANES[followed.plane]], followed.shown, followed.begin, followed.corrected,
            {int(stop["slice_index"]) for stop in followed.stops},
        ))  # fmt: skip
        self.stopsLabel.visible = True

    def _stacked(self, slices: list[int], *, filled: bool = False) -> tuple[Any, tuple[int, int, int]]:
        """Slices as a part of the source volume, axes LPS, and its first voxel; `filled`: the whole slices."""
        followed = self._followed
        assert followed is not None
        first, last = min(slices), max(slices)
        shape = next(iter(followed.masks.values())).shape
        stack = np.zeros((last - first + 1, *shape), dtype=bool)
        for index in slices:
            stack[index - first] = True if filled else followed.masks[index]
        axis = PLANES[followed.plane]
        z, y, x = (first if each == axis else 0 for each in range(3))
        return np.moveaxis(stack, 0, axis), (z, y, x)

    def _labelmap(self, mask: Any, start: tuple[int, int, int]) -> Any:
        assert self.target is not None
        return self.target.labelmap(mask, self.target.sourceGeometry.reoriented("LPS")[0], offset_zyx=start)

    def dropResult(self, reason: str) -> None:
        """See `EffectBase`."""
        InteractiveEffect.dropResult(self, reason)
        self._followed = self._painting = self._toTrack = None
        if self.stopsLabel is not None:
            self.stopsLabel.visible = False
        self.updateControls()

    def onApply(self) -> None:
        """Write the result; on the slices that were followed it replaces the segment, where that is wanted."""
        followed, target = self._followed, self.target
        assert followed is not None
        assert target is not None
        labelmap = self._labelmap(*self._stacked(followed.shown))
        if self.replaceCheck.checked:
            slab = self._labelmap(*self._stacked(sorted(followed.masks), filled=True))
            fillSegment(self.scriptedEffect, target, labelmap, within=slab)
        else:
            fillSegment(self.scriptedEffect, target, labelmap, add=True)
        self._applied = target.segmentID, followed

    def cleanup(self) -> None:
        """See `EffectBase`."""
        InteractiveEffect.cleanup(self)
        self._applied = None

    # ---- corrections

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        """The correction brush; whether the event was used."""
        if viewWidget.className() != "qMRMLSliceWidget" or self._followed is None or self.job is not None:
            return False
        shift, control = bool(callerInteractor.GetShiftKey()), bool(callerInteractor.GetControlKey())
        if eventId == vtk.vtkCommand.LeftButtonPressEvent and shift != control:
            return self._paint(callerInteractor, viewWidget, shift, begins=True)
        if self._painting is None:
            return self.isAiming(callerInteractor, eventId)
        if eventId == vtk.vtkCommand.MouseMoveEvent:
            self._paint(callerInteractor, viewWidget, shift, begins=False)
            return True
        if eventId == vtk.vtkCommand.LeftButtonReleaseEvent:
            self._toTrack, self._painting = self._painting, None
            self._followed.corrected.add(self._toTrack)
            self.guarded(self.showPreview)
            self.updateControls()
            return True
        return False

    def _paint(self, interactor: Any, viewWidget: Any, adds: bool, *, begins: bool) -> bool:
        """A disc around the mouse, on the source volume's slice there; whether that is one that was followed."""
        followed, target = self._followed, self.target
        assert followed is not None
        assert target is not None
        x, y = interactor.GetEventPosition()
        ras = self.xyToRas([int(x), int(y)], viewWidget)
        geometry = target.sourceGeometry.reoriented("LPS")[0]
        axis = PLANES[followed.plane]
        index = round(float(geometry.to_ijk(np.array(ras) * [-1, -1, 1])[2 - axis]))
        if begins:
            if index not in followed.masks:
                self.say(_("Nothing was followed onto this slice; correct one of those on the bar."))
                return True
            self._painting = index
        if index != self._painting:
            return False
        mask = followed.masks[index] = np.array(followed.masks[index])
        column, row = pixels(volume_slice(geometry, followed.plane, index), ras)
        _apart, row_mm, column_mm = slice_spacing_mm(geometry, followed.plane)
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        distance = np.hypot((rows - row) * row_mm, (columns - column) * column_mm)
        mask[distance <= float(self.brushSpin.value)] = adds
        self.refreshSoon()
        return True


def _segmentMask(target: Target) -> Any:
    """Bool (z, y, x) of the target's segment on the source volume's voxels."""
    return mrml.segment_mask(target.segmentationNode, target.segmentID, target.sourceGeometry)


def _inWords(stop: dict[str, Any]) -> str:
    why = _RULES.get(stop["rule"], stop["rule"])
    return _("Ended at slice {index}: {why}.").format(index=stop["slice_index"], why=_(why))
