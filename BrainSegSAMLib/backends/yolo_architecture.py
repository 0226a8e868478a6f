"""What a YOLO network is made of: the published sizes of four families, and others of the same plans.

A family's plan is Ultralytics' own; depth, width and the largest number of channels scale it. Networks of YOLOv5 are
those that Ultralytics calls "u": anchor-free.

Source: ultralytics 8.4.190, `ultralytics/cfg/models` (AGPL-3.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from ..errors import InputError
from .architecture import Architecture

FAMILIES: Final = ("yolov5", "yolov8", "yolo11", "yolo26")
CHANNELS: Final = 3
STRIDE: Final = 32
"""Sides of what a network is shown are multiples of this."""


@dataclass(frozen=True)
class YoloArchitecture(Architecture):
    """The numbers that tell one YOLO network from another.

    Attributes:
        family: one of `FAMILIES`.
        depth: factor of the plan's repeated blocks.
        width: factor of the plan's channels.
        max_channels: of a layer, before the factor.
        classes: kinds of object that it tells apart.
    """

    FAMILY: ClassVar[str] = "YOLO"

    family: str = "yolov5"
    depth: float = 0.33
    width: float = 0.5
    max_channels: int = 1024
    classes: int = 1

    def fault(self) -> str | None:
        """Why a network of these numbers cannot be built, or None."""
        if self.family not in FAMILIES:
            return f"the family '{self.family}' is not known; there are: {', '.join(FAMILIES)}"
        if self.classes < 1:
            return "it needs a class"
        if not (0 < self.depth <= 4 and 0 < self.width <= 4 and 64 <= self.max_channels <= 4096):
            return "depth and width are factors from above 0 to 4, and max_channels is 64 to 4096"
        return None


_DEPTH_WIDTH_CHANNELS: Final = {
    "yolov5": {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 1024), "l": (1.0, 1.0, 1024),
               "x": (1.33, 1.25, 1024)},
    "yolov8": {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 768), "l": (1.0, 1.0, 512),
               "x": (1.0, 1.25, 512)},
    "yolo11": {"n": (0.5, 0.25, 1024), "s": (0.5, 0.5, 1024), "m": (0.5, 1.0, 512), "l": (1.0, 1.0, 512),
               "x": (1.0, 1.5, 512)},
    "yolo26": {"n": (0.5, 0.25, 1024), "s": (0.5, 0.5, 1024), "m": (0.5, 1.0, 512), "l": (1.0, 1.0, 512),
               "x": (1.0, 1.5, 512)},
}  # fmt: skip
OFFICIAL: Final = {
    family + size: numbers for family, sizes in _DEPTH_WIDTH_CHANNELS.items() for size, numbers in sizes.items()
}
"""Name of a published network → depth, width, max_channels."""


def named(name: str, *, classes: int) -> YoloArchitecture:
    """A published network by its name, e.g. "yolov5s" or "yolo11n".

    Raises:
        InputError: for another name.
    """
    if name not in OFFICIAL:
        raise InputError(f"There is no architecture '{name}'; there are: {', '.join(OFFICIAL)}, or give its numbers.")
    return YoloArchitecture(name[:-1], *OFFICIAL[name], classes=classes)
