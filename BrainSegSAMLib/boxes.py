"""Boxes on the slices of a volume: around known lesions, compared with each other, and linked into lesions in 3-D.

A box is (column0, row0, column1, row1) in pixels, as in `prompts`: whole numbers are the centres of pixels. One that is
made of a mask reaches to the outer edges of its first and last pixel, so that a single pixel has a box of area 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .prompts import PLANES, Box, check_box, slices_first
from .settings import require

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class SliceBox:
    """A box on one slice.

    Attributes:
        index: of the slice, from 0.
        box: (column0, row0, column1, row1) in pixels.
        kind: number of what it holds: of a region or a detector's class.
        confidence: 0 to 1; 1 for a box that is known.
        outline: corners (column, row) of the convex hull of what it holds; () where only the box is known.
    """

    index: int
    box: Box
    kind: int = 0
    confidence: float = 1.0
    outline: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class LinkSettings:
    """When boxes on neighbouring slices are of one lesion.

    Attributes:
        minimum_iou: of a box with the last one of its track, at least.
        largest_gap: slices without a box that a track may leap over; they are filled with boxes in between.
        minimum_slices: boxes found, at least, for a track to be kept; 2 drops what shows on one slice alone.

    Raises:
        InputError: for a value that cannot be used.
    """

    minimum_iou: float = 0.2
    largest_gap: int = 1
    minimum_slices: int = 2

    def __post_init__(self) -> None:
        require(0 < self.minimum_iou <= 1, "minimum_iou", self.minimum_iou, "above 0 and at most 1")
        require(self.largest_gap >= 0, "largest_gap", self.largest_gap, "0 or more")
        require(self.minimum_slices >= 1, "minimum_slices", self.minimum_slices, "1 or more")


@dataclass(frozen=True)
class Track:
    """The boxes of one lesion.

    Attributes:
        boxes: one for every slice from the first to the last, in order; those that were filled in have the
            confidence 0.
        kind: number of what the boxes hold.
        confidence: mean of the boxes that were found.
    """

    boxes: tuple[SliceBox, ...]
    kind: int
    confidence: float

    @property
    def slices(self) -> tuple[int, int]:
        """Its first and its last slice."""
        return self.boxes[0].index, self.boxes[-1].index

    @property
    def box(self) -> Box:
        """The box around those of all slices; see `corners_ijk` for the lesion's box in 3-D."""
        sides = np.array([item.box for item in self.boxes])
        column0, row0 = sides[:, :2].min(axis=0)
        column1, row1 = sides[:, 2:].max(axis=0)
        return float(column0), float(row0), float(column1), float(row1)

    def corners_ijk(self, plane: str) -> NDArray[np.float64]:
        """The first and the last corner of the lesion's box in 3-D, in voxels: float64 (2, 3), i, j and k of axes LPS.

        Args:
            plane: of the boxes, a key of `prompts.PLANES`.
        """
        column0, row0, column1, row1 = self.box
        slices = self.boxes[0].index - 0.5, self.boxes[-1].index + 0.5
        rows_columns = [(row0, row1), (column0, column1)]
        zyx = [*rows_columns[: PLANES[plane]], slices, *rows_columns[PLANES[plane] :]]
        return np.stack(zyx[::-1], axis=1)


def box_around(mask: BoolArray) -> Box:
    """The box around all voxels of a mask, bool (rows, columns).

    Raises:
        InputError: where it is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise InputError("An empty mask has no box around it; leave it out, or draw the object.")
    return float(columns[0]) - 0.5, float(rows[0]) - 0.5, float(columns[-1]) + 0.5, float(rows[-1]) + 0.5


def boxes_of(
    components_zyx: NDArray[np.int32], plane: str, *, kind: int = 0, minimum_pixels: int = 1
) -> list[SliceBox]:
    """The boxes of all components of a volume, see `boxes_by_component`.

    Args:
        components_zyx: int32 (z, y, x), axes LPS.
        plane: a key of `prompts.PLANES`.
        kind: what the components are.
        minimum_pixels: a component that shows with fewer pixels on a slice has no box there.

    Returns:
        In the order of the slices, on each in the order of the components.
    """
    of_each = boxes_by_component(components_zyx, plane, kind=kind, minimum_pixels=minimum_pixels)
    return sorted((item for _, boxes in sorted(of_each.items()) for item in boxes), key=lambda item: item.index)


def boxes_by_component(
    components_zyx: NDArray[np.int32], plane: str, *, kind: int = 0, minimum_pixels: int = 1
) -> dict[int, list[SliceBox]]:
    """The boxes of each component of a volume on each slice that shows it.

    What is one piece in 3-D has one box on a slice, even where the slice cuts it into several.

    Args:
        components_zyx: int32 (z, y, x), axes LPS: numbers from 1, 0 for background; see `components.label_components`.
        plane: a key of `prompts.PLANES`.
        kind: what the components are.
        minimum_pixels: a component that shows with fewer pixels on a slice has no box there.

    Returns:
        Number of the component → its boxes, in the order of the slices.
    """
    from scipy import ndimage

    found: dict[int, list[SliceBox]] = {}
    for index, numbers in enumerate(slices_first(components_zyx, plane)):
        for position, sides in enumerate(ndimage.find_objects(numbers)):
            if sides is not None and np.count_nonzero(numbers[sides] == position + 1) >= minimum_pixels:
                rows, columns = sides
                edges = (columns.start - 0.5, rows.start - 0.5, columns.stop - 0.5, rows.stop - 0.5)
                found.setdefault(position + 1, []).append(SliceBox(index, edges, kind))
    return found


def outline_of(mask: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Corners (column, row) of the convex hull of a mask's pixels, counted from the pixels' own corners.

    Args:
        mask: bool (rows, columns), not empty.
    """
    from scipy.spatial import ConvexHull

    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.stack([columns + c, rows + r], axis=1) for c in (-0.5, 0.5) for r in (-0.5, 0.5)])
    return tuple((float(column), float(row)) for column, row in corners[ConvexHull(corners).vertices])


def iou(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of each of some boxes with each of others: float64 (first, second)."""
    one, other = (np.reshape(np.asarray(boxes, dtype=np.float64), (-1, 4)) for boxes in (first, second))
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))


def check_boxes(boxes: Iterable[SliceBox], *, slices: int, shape: tuple[int, int], name: str) -> None:
    """Refuse boxes that cannot be meant for the slices of a volume.

    Args:
        boxes: to check.
        slices: how many the plane has.
        shape: (rows, columns) of a slice.
        name: whose boxes they are, for messages.

    Raises:
        InputError: for a slice that does not exist, or as `prompts.check_box`.
    """
    for item in boxes:
        where = f"{name}: slice {item.index}"
        if not 0 <= item.index < slices:
            raise InputError(f"{where} does not exist; there are slices 0 to {slices - 1}.")
        check_box(item.box, shape, where=where)


def by_slice(boxes: Iterable[SliceBox]) -> dict[int, list[SliceBox]]:
    """Slice → its boxes, each in the order in which they come."""
    found: dict[int, list[SliceBox]] = {}
    for item in boxes:
        found.setdefault(item.index, []).append(item)
    return found


def link(boxes: Iterable[SliceBox], settings: LinkSettings | None = None) -> tuple[Track, ...]:
    """Link the boxes of the slices of a plane into lesions.

    Slice by slice, boxes are given to the tracks of their kind so that the sum of the IoUs is the largest possible; a
    box that no track takes begins a new one.

    Args:
        boxes: of all slices, in any order.
        settings: the usual ones where None.

    Returns:
        The tracks by confidence, the highest first.
    """
    settings = settings or LinkSettings()
    tracks: list[list[SliceBox]] = []
    ordered = sorted(boxes, key=lambda item: (item.index, -item.confidence, item.box))
    for index, group in by_slice(ordered).items():
        within_reach = [track for track in tracks if index - track[-1].index <= settings.largest_gap + 1]
        tracks += _extend(within_reach, group, settings.minimum_iou)
    kept = [_filled(track) for track in tracks if len(track) >= settings.minimum_slices]
    return tuple(sorted(kept, key=lambda track: (-track.confidence, track.slices, track.box)))


def _extend(
    tracks: Sequence[list[SliceBox]], found: Sequence[SliceBox], minimum_iou: float
) -> list[list[SliceBox]]:
    """Give each track at most one of a slice's boxes; what is left over begins the tracks that are returned."""
    from scipy.optimize import linear_sum_assignment

    ends = [track[-1] for track in tracks]
    shared = iou([end.box for end in ends], [item.box for item in found])
    kinds = np.equal.outer([end.kind for end in ends], [item.kind for item in found])
    shared = np.where(kinds & (shared >= minimum_iou), shared, 0.0)
    left_over = dict(enumerate(found))
    for number, position in zip(*linear_sum_assignment(shared, maximize=True), strict=True):
        if shared[number, position] > 0:
            tracks[number].append(left_over.pop(int(position)))
    return [[item] for item in left_over.values()]


def _filled(found: Sequence[SliceBox]) -> Track:
    """A track with boxes in its gaps, each side of them on a straight line from the box before to the box after."""
    indices = np.array([item.index for item in found])
    every = np.arange(indices[0], indices[-1] + 1)
    sides = np.array([item.box for item in found])
    filled = np.stack([np.interp(every, indices, side) for side in sides.T], axis=1).tolist()
    known = {item.index: item for item in found}
    kind = found[0].kind
    boxes = tuple(
        known.get(index) or SliceBox(index, (box[0], box[1], box[2], box[3]), kind, 0.0)
        for index, box in zip(every.tolist(), filled, strict=True)
    )
    return Track(boxes, kind, float(np.mean([item.confidence for item in found])))
