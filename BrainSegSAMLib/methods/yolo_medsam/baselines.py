"""Masks from boxes without a network: what any network must beat to be worth its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...prompts import Box

BoolArray = NDArray[np.bool_]


def filled(box: Box, picture: NDArray[np.uint8]) -> BoolArray:
    """All pixels whose centres lie in the box.

    Args:
        box: (column0, row0, column1, row1) in pixels, as in `prompts`.
        picture: uint8 (rows, columns).

    Returns:
        bool (rows, columns).
    """
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    column0, row0, column1, row1 = box
    inside: BoolArray = (rows >= row0) & (rows <= row1) & (columns >= column0) & (columns <= column1)
    return inside


def ellipse(box: Box, picture: NDArray[np.uint8]) -> BoolArray:
    """The ellipse that touches the box's four sides; arguments as for `filled`."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    column0, row0, column1, row1 = box
    across = (columns - (column0 + column1) / 2) / ((column1 - column0) / 2)
    down = (rows - (row0 + row1) / 2) / ((row1 - row0) / 2)
    inside: BoolArray = across**2 + down**2 <= 1
    return inside


def otsu(box: Box, picture: NDArray[np.uint8]) -> BoolArray:
    """The brighter pixels of the box, by the threshold that parts them best; arguments as for `filled`.

    Source: Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076.
    """
    inside = filled(box, picture)
    counts = np.bincount(picture[inside], minlength=256).astype(float)
    grey = np.arange(256.0)
    below, sum_below = np.cumsum(counts), np.cumsum(counts * grey)
    above, sum_above = below[-1] - below, sum_below[-1] - sum_below
    parted = (below > 0) & (above > 0)
    if not parted.any():  # one grey value
        return inside
    between = np.zeros(256)
    means = sum_below[parted] / below[parted] - sum_above[parted] / above[parted]
    between[parted] = below[parted] * above[parted] * means**2
    bright: BoolArray = inside & (picture > int(between.argmax()))
    return bright


BASELINES: Final[Mapping[str, Callable[[Box, NDArray[np.uint8]], BoolArray]]] = {
    "filled box": filled,
    "ellipse": ellipse,
    "Otsu": otsu,
}
"""By name, for tables."""
