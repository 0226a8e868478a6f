"""What the MedSAM box effect asks about: an object that the user marks, and those that a detector proposes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from slicer.i18n import tr as _

from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.view_planes import Block, box_between, pixels
from BrainSegSAMLib.wire import geometry_data

from .EffectResult import Target

RAS = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Marked:
    """What marks one object.

    Attributes:
        view: the slice view in which it is marked.
        plane: the grid of its plane.
        target: what it is for.
        box: two opposite corners, RAS, or None.
        points: RAS, and whether each is inside the object.
        block: what was found, on the target's grid; None where that is nothing, or was not asked yet.
    """

    view: Any
    plane: Geometry
    target: Target
    box: tuple[RAS, RAS] | None = None
    points: tuple[tuple[RAS, bool], ...] = ()
    block: Block | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is marked that could be found: there is no box, and no point inside."""
        return self.box is None and not any(inside for _place, inside in self.points)

    def withPoint(self, place: RAS, inside: bool) -> Marked:
        """With a further point."""
        return replace(self, points=(*self.points, (place, inside)))

    def withoutPoint(self, number: int) -> Marked:
        """Without one of its points."""
        return replace(self, points=(*self.points[:number], *self.points[number + 1 :]))

    def data(self) -> dict[str, Any]:
        """For the worker.

        Raises:
            InputError: where the box is smaller than a pixel.
        """
        return {
            "plane": geometry_data(self.plane),
            "box": None if self.box is None else list(box_between(self.plane, *self.box)),
            "points": [pixels(self.plane, place).tolist() for place, _inside in self.points],
            "labels": [int(inside) for _place, inside in self.points],
        }


@dataclass(eq=False)
class Lesion:
    """What the detector proposes.

    Attributes:
        region: what it is.
        confidence: of the detector, up to 1.
        boxes: as the worker gave them, one for each slice.
        blocks: what is in its boxes, as far as it is known, on the target's grid.
    """

    region: str
    confidence: float
    boxes: list[dict[str, Any]]
    blocks: list[Block] = field(default_factory=list)

    @property
    def text(self) -> str:
        """For a list."""
        count = len(self.boxes)
        slices = _(" · {count} slices").format(count=count) if count > 1 else ""
        return f"{self.region} · {self.confidence:.0%}{slices}"
