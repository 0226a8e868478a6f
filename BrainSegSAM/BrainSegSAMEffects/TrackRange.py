"""How far an object is followed at most: a number of slices or a distance, each shown beside the other."""

from __future__ import annotations

import math
from typing import Any

import qt
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import InputError

UNITS = ("slices", "mm")
_DECIMALS = {"slices": 0, "mm": 1}


class TrackRange:
    """The widgets of one row of an effect's options."""

    def __init__(self) -> None:
        self.spin = qt.QDoubleSpinBox()
        self.spin.setRange(0.0, 999.0)
        self.spin.specialValueText = _("no limit")
        self.spin.toolTip = _(
            "How far it is followed at most, on each side of the slice that it begins at or goes on from."
        )
        self.unitCombo = qt.QComboBox()
        for unit, shown in zip(UNITS, (_("slices"), _("mm")), strict=True):
            self.unitCombo.addItem(shown, unit)
        self.unitCombo.toolTip = _("Whether the range is a number of slices or a distance.")
        self.label = qt.QLabel()
        self.row = qt.QHBoxLayout()
        for widget in (self.spin, self.unitCombo, self.label):
            self.row.addWidget(widget)
        self._unit = UNITS[0]

    def show(self, value: float, unit: str) -> None:
        """Show a range without telling anybody."""
        self._unit = unit
        for widget in (self.spin, self.unitCombo):
            widget.blockSignals(True)
        self.spin.setDecimals(_DECIMALS[unit])
        self.spin.setValue(value)
        self.unitCombo.setCurrentIndex(UNITS.index(unit))
        for widget in (self.spin, self.unitCombo):
            widget.blockSignals(False)

    def convert(self, apart: float) -> None:
        """After a unit was chosen: show the same range in it; in mm it never is less than so many slices.

        Args:
            apart: the spacing of the slices in mm, 0 where it is not known.
        """
        unit, value = UNITS[self.unitCombo.currentIndex], float(self.spin.value)
        if value and apart and unit != self._unit:
            value = math.ceil(value * apart * 10 - 1e-6) / 10 if unit == "mm" else max(1, slicesWithin(value, apart))
        self.show(value, unit)

    def showOther(self, apart: float) -> None:
        """Say what the range is in the other unit; `apart` as in `convert`."""
        value = float(self.spin.value)
        if not value or not apart:
            self.label.text = ""
        elif self._unit == "mm":
            self.label.text = _("{count} slices").format(count=slicesWithin(value, apart))
        else:
            self.label.text = _("{distance:.1f} mm").format(distance=value * apart)


def rangeSettings(value: float, unit: str, apart: float) -> dict[str, Any]:
    """What the worker is told of a range; one that the user chose counts for thick slices, too.

    Args:
        value: in the unit; 0 for no limit.
        unit: one of `UNITS`.
        apart: the spacing of the slices in mm.

    Raises:
        InputError: where it ends before the next slice.
    """
    if not value:
        return {}
    range_mm = value if unit == "mm" else value * apart
    if not slicesWithin(range_mm, apart):
        raise InputError(
            _("The range of {range:g} mm ends before the next slice, which is {apart:g} mm away; choose a longer one."
              ).format(range=range_mm, apart=apart)
        )  # fmt: skip
    return {"range_mm": range_mm, "thick_slice_mm": None}


def slicesWithin(range_mm: float, apart: float) -> int:
    """How many slices a range holds, counted as `methods.ssnet.rules.reach_of` counts them."""
    return int(range_mm / apart * (1 + 5e-7))
