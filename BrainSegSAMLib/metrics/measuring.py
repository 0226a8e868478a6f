"""All metrics of one pair of masks, and of every region of one case.

Masks are cut to the box that holds both, and what several metrics need (borders and their distances, components) is
computed once for all of them; one region of a case is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..components import label_components
from ..errors import GeometryError, InputError
from ..image import Box, Segmentation, bounding_box, members
from .empty import settled
from .lesions import BRATS_GLIOMA, LesionMatch, LesionRules, match_lesions
from .overlap import Counts, count
from .surface import BorderDistances, border_distances, surface_dice
from .table import Metric, chosen
from .topology import cl_dice

DEFAULT_TOLERANCE_MM: Final = 1.0
"""Of the surface Dice; the size of a voxel of a research scan."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two masks (z, y, x), cut to the box that holds both, and what is known of them."""

    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    grid: int
    spacing_zyx_mm: tuple[float, float, float]
    tolerance_mm: float
    rules: LesionRules

    @property
    def voxel_mm3(self) -> float:
        return float(np.prod(self.spacing_zyx_mm))

    @cached_property
    def counts(self) -> Counts:
        return count(self.reference, self.prediction, grid=self.grid)

    @cached_property
    def distances(self) -> BorderDistances:
        return border_distances(self.reference, self.prediction, self.spacing_zyx_mm)

    @cached_property
    def pieces(self) -> tuple[NDArray[np.int32], int]:
        return label_components(self.prediction)

    @cached_property
    def lesions(self) -> LesionMatch:
        return match_lesions(
            self.reference, self.prediction, self.pieces[0], voxel_mm3=self.voxel_mm3, rules=self.rules
        )


_COMPUTED: Final[Mapping[str, Callable[[_Pair], float | None]]] = {
    "dice": lambda pair: pair.counts.dice,
    "iou": lambda pair: pair.counts.iou,
    "precision": lambda pair: pair.counts.precision,
    "recall": lambda pair: pair.counts.recall,
    "f1": lambda pair: pair.counts.f1,
    "specificity": lambda pair: pair.counts.specificity,
    "volume_difference": lambda pair: (pair.counts.prediction - pair.counts.reference) * pair.voxel_mm3 / 1000,
    "volume_similarity": lambda pair: pair.counts.volume_similarity,
    "hd": lambda pair: pair.distances.hausdorff,
    "hd95": lambda pair: pair.distances.hausdorff_95,
    "asd": lambda pair: pair.distances.average,
    "assd": lambda pair: pair.distances.average_symmetric,
    "nsd": lambda pair: surface_dice(
        pair.reference, pair.prediction, pair.spacing_zyx_mm, tolerance_mm=pair.tolerance_mm
    ),
    "cl_dice": lambda pair: cl_dice(pair.reference, pair.prediction),
    "lesion_f1": lambda pair: pair.lesions.f1,
    "lesion_dice": lambda pair: pair.lesions.mean_dice,
    "lesion_false_positives": lambda pair: float(pair.lesions.false_positives),
    "lesion_false_negatives": lambda pair: float(pair.lesions.false_negatives),
    "betti0_error": lambda pair: float(abs(pair.pieces[1] - label_components(pair.reference)[1])),
}


def measure(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    lesions: LesionRules = BRATS_GLIOMA,
    metrics: Iterable[str] | None = None,
) -> dict[str, float | None]:
    """Metrics of one prediction, by key and in the order of `METRICS`; None where one is not defined (see `empty`).

    Args:
        reference: bool (z, y, x).
        prediction: bool, of the same shape.
        spacing_zyx_mm: of voxel centres.
        tolerance_mm: within which surfaces count as the same, for the surface Dice.
        lesions: what counts as one lesion.
        metrics: keys of `METRICS`; all where None.

    Raises:
        InputError: where the masks are not bool, not three-dimensional, or not of one shape; where a spacing or the
            tolerance cannot be used; where there is no such metric.
    """
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.dtype != np.bool_ or mask.ndim != 3:
            raise InputError(
                f"The {name} is an array of {mask.dtype} with {mask.ndim} axes; a mask is bool with the axes z, y, x."
            )
    if reference.shape != prediction.shape:
        raise InputError(f"The masks differ in shape: {reference.shape} against {prediction.shape} (z, y, x).")
    return _measure(reference, prediction, reference.size, spacing_zyx_mm, tolerance_mm, lesions, chosen(metrics))


def measure_case(
    reference: Segmentation,
    prediction: Segmentation,
    *,
    regions: Iterable[str] | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    lesions: LesionRules = BRATS_GLIOMA,
    metrics: Iterable[str] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Metrics of every region of one case, by the region's name in the order of the prediction's scheme.

    Args:
        reference: on the prediction's grid, with regions of the same names.
        prediction: what is measured.
        regions: names of those to measure; all of the prediction's where None.
        tolerance_mm: as for `measure`.
        lesions: as for `measure`.
        metrics: as for `measure`.

    Raises:
        GeometryError: where the grids differ; the message says in what.
        InputError: where a region is not in both, or as `measure`.
    """
    difference = reference.geometry.difference(prediction.geometry)
    if difference:
        raise GeometryError(
            f"{reference.name} and {prediction.name} lie on different grids: {difference}; resample one of them first."
        )
    wanted = set(prediction.scheme.names if regions is None else regions)
    for segmentation in (reference, prediction):
        missing = sorted(wanted - set(segmentation.scheme.names))
        if missing:
            raise InputError(
                f"{segmentation.name} has no region '{', '.join(missing)}'; "
                f"it has: {', '.join(segmentation.scheme.names)}."
            )
    box = _joined(bounding_box(reference.label_map), bounding_box(prediction.label_map))
    listed = chosen(metrics)
    return {
        name: _measure(
            members(reference.label_map[box], reference.scheme[name].labels),
            members(prediction.label_map[box], prediction.scheme[name].labels),
            reference.label_map.size, prediction.geometry.spacing_zyx_mm, tolerance_mm, lesions, listed,
        )
        for name in prediction.scheme.names if name in wanted
    }  # fmt: skip


def _measure(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    grid: int,
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float,
    lesions: LesionRules,
    metrics: Sequence[Metric],
) -> dict[str, float | None]:
    """Metrics of two masks that may be a part of the grid, which has `grid` voxels."""
    if len(spacing_zyx_mm) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing_zyx_mm):
        raise InputError(f"The spacing {spacing_zyx_mm} mm cannot be used; give three positive numbers (z, y, x).")
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise InputError(f"The tolerance {tolerance_mm} mm of the surface Dice cannot be used; give 0 or more.")
    box = _joined(bounding_box(reference), bounding_box(prediction))
    spacing = (float(spacing_zyx_mm[0]), float(spacing_zyx_mm[1]), float(spacing_zyx_mm[2]))
    # Copies: all that follows is faster on what lies together in memory.
    known, found = np.ascontiguousarray(reference[box]), np.ascontiguousarray(prediction[box])
    pair = _Pair(known, found, grid, spacing, float(tolerance_mm), lesions)
    values = {}
    for metric in metrics:
        decided, value = settled(
            metric, reference_empty=not pair.counts.reference, prediction_empty=not pair.counts.prediction
        )
        values[metric.key] = value if decided else _COMPUTED[metric.key](pair)
    return values


def _joined(first: Box, second: Box) -> Box:
    """The smallest box that holds two; an empty one adds nothing."""
    if first[0].start == first[0].stop:
        return second
    if second[0].start == second[0].stop:
        return first
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return z, y, x
