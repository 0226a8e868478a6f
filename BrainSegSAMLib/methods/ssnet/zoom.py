"""Which part of a slice the network sees: the head, or around a small object less than that.

A network sees a slice as a square of `image_size` pixels and remembers it sixteen times coarser. What is black around
the head takes pixels from the head; and an object of a few pixels is a fraction of one memory cell and vanishes, so it
is tracked in a crop of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...prompts import Prompt, slices_first
from .config import TrackingSettings

Crop = tuple[slice, slice]
"""Rows and columns of a slice."""

_MARGIN: Final = 4  # pixels around the head


def head_crop(picture: NDArray[np.uint8], plane: str, prompts: Iterable[Prompt] = ()) -> Crop:
    """The part of a plane's slices that holds all that is not black, a small margin, and the prompts.

    It is as high as wide where the slices allow it, because the network's picture is.

    Args:
        picture: uint8 (3, z, y, x), axes LPS.
        plane: a key of `prompts.PLANES`.
        prompts: of this plane.
    """
    shown = np.asarray((slices_first(picture, plane) > 0).any(axis=(0, 1)))
    sides = []
    for axis in (0, 1):
        found = np.flatnonzero(shown.any(axis=1 - axis))
        if not len(found):
            return slice(0, shown.shape[0]), slice(0, shown.shape[1])
        ends = [(float(found[0]), float(found[-1] + 1))]
        for prompt in prompts:
            bounds = _bounds(prompt)
            ends += [bounds[axis]] if bounds else [(point[1 - axis], point[1 - axis] + 1) for point in prompt.points]
        low, high = min(start for start, _ in ends) - _MARGIN, max(stop for _, stop in ends) + _MARGIN
        sides.append((max(0, int(np.floor(low))), min(shown.shape[axis], int(np.ceil(high)))))
    longest = max(stop - start for start, stop in sides)
    rows, columns = (
        _grown(start, stop, longest, size) for (start, stop), size in zip(sides, shown.shape, strict=True)
    )
    return rows, columns


def _grown(start: float, stop: float, length: int, size: int) -> slice:
    """`length` pixels around the middle of some, or all `size` of them where there are fewer."""
    length = min(size, length)
    first = int(np.clip(round((start + stop - length) / 2), 0, size - length))
    return slice(first, first + length)


def crop_for(
    prompt: Prompt,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    *,
    head: Crop,
    image_size: int,
    settings: TrackingSettings,
) -> Crop | None:
    """The crop in which a small object is tracked; None: the head, as it is large enough or its size is not known.

    Args:
        prompt: a mask or a box; points tell no size.
        shape: (rows, columns) of the slices.
        spacing_mm: of rows and of columns.
        head: what the network sees otherwise.
        image_size: side of the network's picture in pixels.
        settings: `zoom_pixels` and `zoom_minimum_mm`.
    """
    bounds = _bounds(prompt)
    if bounds is None or settings.zoom_pixels is None:
        return None
    sides = [stop - start for start, stop in bounds]
    seen = max(side * image_size / (part.stop - part.start) for side, part in zip(sides, head, strict=True))
    if seen >= settings.zoom_pixels:
        return None
    longer_mm = max(side * spacing for side, spacing in zip(sides, spacing_mm, strict=True))
    # Never more than half of the crop, whatever is asked for: the object must fit, and may grow.
    wanted = min(settings.zoom_pixels, image_size / 2)
    side_mm = max(settings.zoom_minimum_mm, longer_mm * image_size / wanted)
    rows, columns = (
        _grown(start, stop, int(np.ceil(side_mm / spacing)), size)
        for (start, stop), size, spacing in zip(bounds, shape, spacing_mm, strict=True)
    )
    smaller = any(
        part.stop - part.start < whole.stop - whole.start for part, whole in zip((rows, columns), head, strict=True)
    )
    return (rows, columns) if smaller else None


def cropped(prompt: Prompt, crop: Crop) -> Prompt:
    """The same prompt on the pixels of a crop."""
    rows, columns = crop
    if prompt.mask is not None:
        return replace(prompt, mask=prompt.mask[crop])
    if prompt.box is not None:
        column0, row0, column1, row1 = prompt.box
        box = (column0 - columns.start, row0 - rows.start, column1 - columns.start, row1 - rows.start)
        return replace(prompt, box=box)
    points = tuple((column - columns.start, row - rows.start) for column, row in prompt.points)
    return replace(prompt, points=points)


def _bounds(prompt: Prompt) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Start and stop of rows and of columns, in whole pixels; None for points."""
    if prompt.box is not None:
        column0, row0, column1, row1 = prompt.box
        return (row0, row1), (column0, column1)
    if prompt.mask is None:
        return None
    rows = np.flatnonzero(prompt.mask.any(axis=1))
    columns = np.flatnonzero(prompt.mask.any(axis=0))
    return (float(rows[0]), float(rows[-1] + 1)), (float(columns[0]), float(columns[-1] + 1))
