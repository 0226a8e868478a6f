"""Which part of a slice the network sees: the head, or around a small object less than that.

A network sees a slice as a square of `image_size` pixels and remembers it sixteen times coarser. What is black around
the head takes pixels from the head; and an object of a few pixels is a fraction of one memory cell and vanishes, so it
is tracked in a crop of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...crops import Crop, bounds_of, grown
from ...prompts import Prompt
from .config import TrackingSettings


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
    bounds = bounds_of(prompt)
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
        grown(start, stop, int(np.ceil(side_mm / spacing)), size)
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
