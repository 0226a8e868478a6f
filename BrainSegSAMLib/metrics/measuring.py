"""All metrics of one pair of masks, and of every region of one case."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..image import Segmentation

DEFAULT_TOLERANCE_MM = 1.0


def measure(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    metrics: Iterable[str] | None = None,
) -> dict[str, float | None]:
    """Metrics of one prediction, by key and in the order of `METRICS`; None where one is not defined.

    Args:
        reference: bool (z, y, x).
        prediction: bool, of the same shape.
        spacing_zyx_mm: of voxel centres.
        tolerance_mm: within which surfaces count as the same, for the surface Dice.
        metrics: keys of `METRICS`; all where None.

    Raises:
        InputError: where the masks are not bool, or not of one shape, or a setting cannot be used.
    """
    raise NotImplementedError


def measure_case(
    reference: Segmentation,
    prediction: Segmentation,
    *,
    regions: Iterable[str] | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    metrics: Iterable[str] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Metrics of every region of one case, by the region's name in the order of the prediction's scheme.

    Args:
        reference: on the prediction's grid, with regions of the same names.
        prediction: what is measured.
        regions: names of those to measure; all of the prediction's where None.
        tolerance_mm: as for `measure`.
        metrics: as for `measure`.

    Raises:
        GeometryError: where the grids differ; the message says in what.
        InputError: where a region is not in both, or as `measure`.
    """
    raise NotImplementedError
