"""Which part of a slice is worth looking at: the head; what is black around it takes pixels from it.

A network sees a slice as a square of a fixed number of pixels, so the less lies around the head, the finer it is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .prompts import Prompt, slices_first

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
            bounds = bounds_of(prompt)
            ends += [bounds[axis]] if bounds else [(point[1 - axis], point[1 - axis] + 1) for point in prompt.points]
        low, high = min(start for start, _ in ends) - _MARGIN, max(stop for _, stop in ends) + _MARGIN
        sides.append((max(0, int(np.floor(low))), min(shown.shape[axis], int(np.ceil(high)))))
    longest = max(stop - start for start, stop in sides)
    rows, columns = (
        grown(start, stop, longest, size) for (start, stop), size in zip(sides, shown.shape, strict=True)
    )
    return rows, columns


def grown(start: float, stop: float, length: int, size: int) -> slice:
    """`length` pixels around the middle of some, or all `size` of them where there are fewer."""
    length = min(size, length)
    first = int(np.clip(round((start + stop - length) / 2), 0, size - length))
    return slice(first, first + length)


def bounds_of(prompt: Prompt) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Start and stop of the rows and of the columns that a prompt spans, in whole pixels; None for points."""
    if prompt.box is not None:
        column0, row0, column1, row1 = prompt.box
        return (row0, row1), (column0, column1)
    if prompt.mask is None:
        return None
    rows = np.flatnonzero(prompt.mask.any(axis=1))
    columns = np.flatnonzero(prompt.mask.any(axis=0))
    return (float(rows[0]), float(rows[-1] + 1)), (float(columns[0]), float(columns[-1] + 1))
