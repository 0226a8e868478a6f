"""What a user points at: a mask, a box or points on one slice of a volume, checked before anything is computed from it.

A slice is named by an anatomical plane and an index, both on the volume's axes brought to LPS (`Geometry.reoriented`),
so that a prompt means the same place however the volume is stored. Slices are counted from 0: axial ones from inferior
to superior, coronal ones from anterior to posterior, sagittal ones from right to left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import GeometryError, InputError
from .geometry import Geometry

BoolArray = NDArray[np.bool_]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

PLANES: Final[dict[str, int]] = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Plane → the numpy axis of an LPS volume (z, y, x) along which its slices are counted. The other two axes, in their
order, are the rows and columns of a slice: (y, x), (z, x), (z, y)."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Where one object is on one slice; exactly one of mask, box and points is given.

    Attributes:
        object_id: 1 or more; prompts of the same object share it.
        plane: a key of `PLANES`.
        index: of the slice, from 0.
        mask: bool (rows, columns): the object itself.
        box: (column0, row0, column1, row1) in pixels; pixel centres are whole numbers, both ends are inside.
        points: (column, row) each, in pixels.
        point_labels: for each point, 1: inside the object, or 0: outside.

    Raises:
        InputError: where it contradicts itself; whether it fits a volume is for `check_prompt` to say.
    """

    object_id: int
    plane: str
    index: int
    mask: BoolArray | None = None
    box: Box | None = None
    points: tuple[Point, ...] = field(default=())
    point_labels: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.object_id < 1:
            raise InputError(f"An object has the number {self.object_id}; objects are numbered from 1.")
        if self.plane not in PLANES:
            raise InputError(f"'{self.plane}' is not a plane; use one of: {', '.join(PLANES)}.")
        given = [self.mask is not None, self.box is not None, bool(self.points)]
        if sum(given) != 1:
            raise InputError(f"{self.where} needs exactly one of a mask, a box and points; {sum(given)} are given.")
        if len(self.points) != len(self.point_labels) or not set(self.point_labels) <= {0, 1}:
            raise InputError(f"{self.where} needs a label for each point: 1 (inside the object) or 0 (outside).")
        if self.points and 1 not in self.point_labels:
            raise InputError(f"{self.where} has no point inside the object, only points outside; add one.")

    @property
    def where(self) -> str:
        """The prompt in words, for messages."""
        return f"The prompt of object {self.object_id} on {self.plane} slice {self.index}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON records: a mask by its number of pixels, points as (column, row, label)."""
        row: dict[str, Any] = {"object": self.object_id, "plane": self.plane, "slice": self.index}
        if self.mask is not None:
            row["mask_pixels"] = int(np.count_nonzero(self.mask))
        if self.box is not None:
            row["box"] = list(self.box)
        if self.points:
            row["points"] = [[*point, label] for point, label in zip(self.points, self.point_labels, strict=True)]
        return row


def check_prompt(prompt: Prompt, geometry: Geometry) -> None:
    """Refuse a prompt that cannot be meant for a volume.

    Args:
        prompt: what the user gave.
        geometry: grid of the volume, with axes brought to LPS.

    Raises:
        GeometryError: where the grid's axes are not LPS.
        InputError: where the slice does not exist; a mask has another shape than the slice, is empty or covers all of
            it; a box is empty or covers all of it; a box or point lies outside.
    """
    if geometry.orientation != "LPS":
        raise GeometryError(f"Prompts are given on axes LPS, but the volume has {geometry.orientation}; reorient it.")
    shape = slice_shape(geometry.shape_zyx, prompt.plane)
    count = geometry.shape_zyx[PLANES[prompt.plane]]
    if not 0 <= prompt.index < count:
        raise InputError(f"{prompt.where} is out of range: the volume has {prompt.plane} slices 0 to {count - 1}.")
    if prompt.mask is not None:
        _check_mask(prompt, prompt.mask, shape)
    elif prompt.box is not None:
        _check_box(prompt, prompt.box, shape)
    else:
        check_points(prompt.points, shape, where=prompt.where)


def check_box(box: Box, shape: tuple[int, int], *, where: str) -> None:
    """Refuse a box that is none, or that leaves its slice.

    Args:
        box: (column0, row0, column1, row1) in pixels.
        shape: (rows, columns) of the slice.
        where: whose box it is, for messages.

    Raises:
        InputError: where it holds NaN or infinity, is inverted, has no area, or reaches beyond the outermost pixels.
    """
    column0, row0, column1, row1 = box
    shown = ", ".join(f"{side:g}" for side in box)
    if not (np.isfinite(box).all() and column0 < column1 and row0 < row1):
        raise InputError(f"{where} has the box ({shown}); give column0, row0, column1, row1 with 0 before 1.")
    if column0 < -0.5 or row0 < -0.5 or column1 > shape[1] - 0.5 or row1 > shape[0] - 0.5:
        raise InputError(f"{where} has the box ({shown}), which leaves the slice of {shape} (rows, columns).")


def check_points(points: Iterable[Iterable[float]], shape: tuple[int, int], *, where: str) -> None:
    """Refuse points outside their slice.

    Args:
        points: (column, row) each, in pixels.
        shape: (rows, columns) of the slice.
        where: whose points they are, for messages.

    Raises:
        InputError: where one lies outside the outermost pixels, or holds NaN.
    """
    for column, row in points:
        # Written so that NaN is refused too.
        if not (-0.5 <= column <= shape[1] - 0.5 and -0.5 <= row <= shape[0] - 0.5):
            raise InputError(
                f"{where} has the point ({column:g}, {row:g}) (column, row) outside the slice of {shape} "
                "(rows, columns)."
            )


def slice_shape(shape_zyx: tuple[int, int, int], plane: str) -> tuple[int, int]:
    """(rows, columns) of the slices of a plane in an LPS volume of that shape."""
    rows, columns = (size for axis, size in enumerate(shape_zyx) if axis != PLANES[plane])
    return rows, columns


def slices_first(volume_zyx: NDArray[Any], plane: str) -> NDArray[Any]:
    """An LPS volume (..., z, y, x) as (..., slice, rows, columns) of a plane; a view, not a copy."""
    moved: NDArray[Any] = np.moveaxis(volume_zyx, PLANES[plane] - 3, -3)
    return moved


def slice_spacing_mm(geometry: Geometry, plane: str) -> tuple[float, float, float]:
    """Spacing in mm between slices, rows and columns of a plane, on a grid with axes LPS."""
    axis = PLANES[plane]
    spacing = geometry.spacing_zyx_mm
    rows, columns = (value for other, value in enumerate(spacing) if other != axis)
    return spacing[axis], rows, columns


def _check_mask(prompt: Prompt, mask: BoolArray, shape: tuple[int, int]) -> None:
    if mask.shape != shape:
        raise InputError(
            f"{prompt.where} has a mask of {mask.shape} (rows, columns), but the slice has {shape}; "
            "draw it on the volume that is tracked."
        )
    if mask.dtype != np.bool_:
        raise InputError(f"{prompt.where} has a mask of {mask.dtype}; a mask is bool.")
    covered = int(np.count_nonzero(mask))
    if covered == 0:
        raise InputError(f"{prompt.where} has an empty mask; draw the object, or choose the slice where it is drawn.")
    if covered == mask.size:
        raise InputError(f"{prompt.where} covers the whole slice, so there is no object to tell from the rest.")


def _check_box(prompt: Prompt, box: Box, shape: tuple[int, int]) -> None:
    check_box(box, shape, where=prompt.where)
    column0, row0, column1, row1 = box
    if column1 - column0 >= shape[1] - 1 and row1 - row0 >= shape[0] - 1:
        raise InputError(f"{prompt.where} covers the whole slice, so there is no object to tell from the rest.")
