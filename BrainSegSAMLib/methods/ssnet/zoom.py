"""Small objects are tracked in a crop of their slices, enlarged to the network's picture.

A network sees a slice as a square of `image_size` pixels and remembers it sixteen times coarser. An object of a few
pixels is then a fraction of one memory cell and vanishes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...prompts import Prompt
from .config import TrackingSettings

Crop = tuple[slice, slice]
"""Rows and columns of a slice."""


def crop_for(
    prompt: Prompt,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    *,
    image_size: int,
    settings: TrackingSettings,
) -> Crop | None:
    """The crop in which an object is tracked; None: the whole slice, as it is large enough or its size is not known.

    Args:
        prompt: a mask or a box; points tell no size.
        shape: (rows, columns) of the slices.
        spacing_mm: of rows and of columns.
        image_size: side of the network's picture in pixels.
        settings: `zoom_pixels` and `zoom_minimum_mm`.
    """
    bounds = _bounds(prompt)
    if bounds is None or settings.zoom_pixels is None:
        return None
    sides = [stop - start for start, stop in bounds]
    seen = max(side * image_size / size for side, size in zip(sides, shape, strict=True))
    if seen >= settings.zoom_pixels:
        return None
    longer_mm = max(side * spacing for side, spacing in zip(sides, spacing_mm, strict=True))
    # Never more than half of the crop, whatever is asked for: the object must fit, and may grow.
    wanted = min(settings.zoom_pixels, image_size / 2)
    side_mm = max(settings.zoom_minimum_mm, longer_mm * image_size / wanted)
    crop = []
    for (start, stop), size, spacing in zip(bounds, shape, spacing_mm, strict=True):
        length = min(size, int(np.ceil(side_mm / spacing)))
        first = int(np.clip(round((start + stop - length) / 2), 0, size - length))
        crop.append(slice(first, first + length))
    rows, columns = crop
    whole = rows.stop - rows.start == shape[0] and columns.stop - columns.start == shape[1]
    return None if whole else (rows, columns)


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
