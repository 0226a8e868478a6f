"""A result of tracking on trial: what was found on which slice, where and why it ended, and what the user corrected."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.prompts import PLANES, slice_spacing_mm
from BrainSegSAMLib.view_planes import pixels, places, volume_slice

_RULES = {
    "empty": _("the object was no longer seen"), "area": _("its area jumped"), "overlap": _("it lay elsewhere"),
    "likeness": _("it no longer looked like the object"), "reach": _("the range ended"),
}  # fmt: skip
"""What stopped a track → in words; see `methods.ssnet.rules.Firing`."""

_OFFSETS = {"axial": ("S", 1), "coronal": ("A", -1), "sagittal": ("L", 1)}
"""Plane → the letter that Slicer's slice slider shows for it, and whether it counts as axes LPS do."""


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

    def upTo(self, index: int) -> tuple[Followed, str]:
        """What stays when it is followed anew from a corrected slice, away from where it began; and the direction."""
        direction = "both" if index == self.begin else "forward" if index > self.begin else "backward"
        beyond = {
            other for other in self.masks
            if other != index and direction in ("both", "forward" if other > index else "backward")
        }  # fmt: skip
        masks = {other: mask for other, mask in self.masks.items() if other not in beyond}
        stops = [
            stop for stop in self.stops if direction != "both" and (stop["direction"] > 0) != (direction == "forward")
        ]
        return Followed(self.plane, self.begin, masks, (self.corrected - beyond) | {index}, stops), direction

    def block(self) -> tuple[Any, tuple[int, int, int]]:
        """The part of the source volume that holds all of it: bool (z, y, x), axes LPS, and where it begins there."""
        shown = self.shown
        seen = np.zeros_like(self.masks[shown[0]])
        for index in shown:
            seen |= self.masks[index]
        sides = [
            slice(int(found[0]), int(found[-1]) + 1)
            for found in (np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0)))
        ]
        stack = np.zeros((shown[-1] - shown[0] + 1, *seen[tuple(sides)].shape), dtype=bool)
        for index in shown:
            stack[index - shown[0]] = self.masks[index][tuple(sides)]
        start = [side.start for side in sides]
        start.insert(PLANES[self.plane], shown[0])
        return np.moveaxis(stack, 0, PLANES[self.plane]), (start[0], start[1], start[2])

    def paint(self, geometry: Geometry, index: int, ras: Any, radius_mm: float, *, adds: bool) -> None:
        """Set or clear a disc on a slice.

        Args:
            geometry: of the source volume, axes LPS, where it is now.
            index: of the slice.
            ras: the middle; its foot on the slice counts.
            radius_mm: of the disc.
            adds: whether it is set.
        """
        mask = self.masks[index] = np.array(self.masks[index])
        column, row = pixels(volume_slice(geometry, self.plane, index), ras)
        _apart, row_mm, column_mm = slice_spacing_mm(geometry, self.plane)
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        mask[np.hypot((rows - row) * row_mm, (columns - column) * column_mm) <= radius_mm] = adds

    def sliceAt(self, geometry: Geometry, ras: Any) -> int:
        """The slice that is nearest to a point; perhaps beyond the volume. `geometry` as in `paint`."""
        return round(float(geometry.to_ijk(np.array(ras) * [-1, -1, 1])[2 - PLANES[self.plane]]))

    def place(self, geometry: Geometry, index: int) -> Any:
        """RAS mm: a point on a slice, in the middle of what was found nearest to it. `geometry` as in `paint`."""
        nearest = min(self.shown or self.masks, key=lambda other: abs(other - index))
        mask = self.masks[nearest]
        row, column = np.argwhere(mask if mask.any() else ~mask).mean(axis=0)
        return places(volume_slice(geometry, self.plane, index), (column, row))

    def ends(self, geometry: Geometry, notes: list[str]) -> str:
        """Where and why it ended, and notes, as rich text; links name a slice. `geometry` as in `paint`."""
        lines = [
            _("Ended at {place}: {why}.").format(
                place=f'<a href="{stop["slice_index"]}">{self._offset(geometry, stop["slice_index"])}</a>',
                why=_RULES.get(stop["rule"], stop["rule"]),
            )
            for stop in self.stops
        ]
        said = "<br>".join([*lines, *(html.escape(note, quote=False) for note in notes)])
        return f"<html>{said}</html>" if said else ""

    def _offset(self, geometry: Geometry, index: int) -> str:
        """As the slider of a slice view shows it, e.g. "S 25.0 mm"; of one that is turned to the volume, if need be."""
        letter, sign = _OFFSETS[self.plane]
        axis = 2 - PLANES[self.plane]
        at = np.zeros(3)
        at[axis] = index
        offset = sign * float(geometry.to_lps(at) @ geometry.direction_lps[:, axis])
        return _("{letter} {offset:.1f} mm").format(letter=letter, offset=round(offset, 1) + 0.0)
