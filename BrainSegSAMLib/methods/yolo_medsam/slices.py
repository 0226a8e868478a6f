"""The slices of a volume as a detector is shown them, and what is on them: boxes, or background."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...boxes import SliceBox, boxes_by_component, outline_of
from ...crops import head_crop
from ...intensity import as_frames
from ...prompts import Prompt, slices_first
from ...training_volumes import TrainingVolume


@dataclass(frozen=True, eq=False)
class Slices:
    """All slices of a plane.

    Attributes:
        frames: uint8 (slice, 3, rows, columns): what is shown of them, whole or the head alone.
        corner: row and column, in the whole slice, of the first pixel shown.
    """

    frames: NDArray[np.uint8]
    corner: tuple[int, int] = (0, 0)

    def in_frame(self, item: SliceBox) -> SliceBox:
        """A box of the whole slice, in pixels of what is shown; a part that is not shown is cut off."""
        rows, columns = self.frames.shape[2:]
        moved = _moved(item, -self.corner[0], -self.corner[1])
        column0, row0, column1, row1 = moved.box
        inside = max(column0, -0.5), max(row0, -0.5), min(column1, columns - 0.5), min(row1, rows - 0.5)
        outline = tuple((min(max(c, -0.5), columns - 0.5), min(max(r, -0.5), rows - 0.5)) for c, r in moved.outline)
        return replace(moved, box=inside, outline=outline)

    def on_slice(self, found: NDArray[Any], shape: tuple[int, int], *, beyond: float = 0) -> NDArray[Any]:
        """Masks or logits of what is shown, (object, rows, columns), on whole slices of a shape (rows, columns).

        Args:
            found: of what is shown.
            shape: of the whole slices.
            beyond: value where nothing is shown.
        """
        whole = np.full((len(found), *shape), beyond, dtype=found.dtype)
        (row, column), (rows, columns) = self.corner, found.shape[1:]
        whole[:, row : row + rows, column : column + columns] = found
        return whole

    def in_slice(self, item: SliceBox) -> SliceBox:
        """A box in pixels of what is shown, in those of the whole slice."""
        return _moved(item, *self.corner)


def slices_of(
    pictures: NDArray[np.uint8], plane: str, *, head_only: bool = False, prompts: Iterable[Prompt] = ()
) -> Slices:
    """The slices of a plane.

    Args:
        pictures: uint8 (3, z, y, x), axes LPS; see `intensity.windowed`.
        plane: a key of `prompts.PLANES`.
        head_only: leave out what is black around the head on all slices; see `crops.head_crop`.
        prompts: on these slices, which must be shown, too.
    """
    frames = as_frames(pictures, plane)
    if not head_only:
        return Slices(frames)
    rows, columns = head_crop(pictures, plane, prompts)
    return Slices(frames[:, :, rows, columns], (rows.start, columns.start))


def known_boxes(volume: TrainingVolume, plane: str, *, minimum_pixels: int = 1) -> list[SliceBox]:
    """The boxes and outlines of each region's connected pieces on each slice, in pixels of the whole slice; by slice.

    Args:
        volume: its objects are the pieces.
        plane: a key of `prompts.PLANES`.
        minimum_pixels: a piece that shows with fewer pixels on a slice has no box there.
    """
    found: list[SliceBox] = []
    for region in volume.truth:
        components = np.zeros(volume.shape_zyx, dtype=np.int32)
        pieces = [item for item in volume.objects if item.region == region]
        for number, piece in enumerate(pieces, start=1):
            components[piece.box][piece.mask] = number
        slices = slices_first(components, plane)
        of_each = boxes_by_component(components, plane, kind=region, minimum_pixels=minimum_pixels)
        for number, boxes in sorted(of_each.items()):
            found += [replace(item, outline=outline_of(slices[item.index] == number)) for item in boxes]
    return sorted(found, key=lambda item: item.index)


def background_slices(volume: TrainingVolume, plane: str) -> list[int]:
    """Slices that show the head and nothing of any region.

    Args:
        volume: with the regions.
        plane: a key of `prompts.PLANES`.
    """
    lesion = np.logical_or.reduce(list(volume.truth.values()))
    shown = as_frames(volume.pictures, plane).any(axis=(1, 2, 3))
    marked = slices_first(lesion, plane).any(axis=(1, 2))
    return [int(index) for index in np.flatnonzero(shown & ~marked)]


def _moved(item: SliceBox, rows: int, columns: int) -> SliceBox:
    column0, row0, column1, row1 = item.box
    box = (column0 + columns, row0 + rows, column1 + columns, row1 + rows)
    return replace(item, box=box, outline=tuple((column + columns, row + rows) for column, row in item.outline))
