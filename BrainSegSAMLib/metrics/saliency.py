"""How good a soft map of one structure on one picture is, by the measures of salient-object detection.

The definitions are those of PySODMetrics, from which this differs in three things, on purpose:

* a map is taken as it is: stretching each to 0…1, as is usual there, makes a full answer of the faintest noise on a
  picture without the structure (`stretched` does so for those who compare with published numbers);
* the policy for empty masks (`empty`) holds here too: where the reference is empty, F-measures, Dice and IoU are 1 if
  the binary map is empty as well. PySODMetrics gives 0;
* a map of zeros finds nothing. The threshold that is made for it is 0, and PySODMetrics takes it for all foreground.

"Mean" is over the 256 thresholds 0/255 … 255/255, at the lowest of which all is foreground: the mean Dice of a perfect
soft map is below 1, and is not the Dice of the mask that is used in the end. The E-measure divides by one pixel less
than there are, so it can be above 1 by as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_EPS: Final = float(np.spacing(1.0))
_BETA_SQUARED: Final = 0.3  # weight of precision in the F-measure, Achanta et al. 2009
_REACH: Final = 5  # pixels in which the weight of a false alarm grows by half, Margolin et al. 2014
_THRESHOLDS: Final = 256


@dataclass(frozen=True)
class Saliency:
    """Measures of one map; all are better when higher but `mae`.

    Attributes:
        s_measure: structural similarity of objects and regions (Fan et al. 2017).
        weighted_f: F-measure that weighs errors by their place (Margolin et al. 2014), β = 1.
        adaptive_f: F-measure, β² = 0.3, at twice the mean of the map (Achanta et al. 2009).
        mean_f: the same, mean over thresholds.
        adaptive_e: enhanced alignment at twice the mean of the map (Fan et al. 2018).
        mean_e: the same, mean over thresholds.
        mae: mean absolute error (Perazzi et al. 2012).
        mean_dice: mean over thresholds.
        mean_iou: mean over thresholds.
    """

    s_measure: float
    weighted_f: float
    adaptive_f: float
    mean_f: float
    adaptive_e: float
    mean_e: float
    mae: float
    mean_dice: float
    mean_iou: float


def saliency(reference: BoolArray, prediction: NDArray[np.floating], *, stretched: bool = False) -> Saliency:
    """All measures of one map.

    Args:
        reference: bool (y, x).
        prediction: 0 to 1, of the same shape.
        stretched: stretch the map to 0…1 first, as PySODMetrics does by default.

    Raises:
        InputError: where the shapes do not fit or a value is not a number from 0 to 1.

    Source: PySODMetrics 1.6.2, https://github.com/lartpang/PySODMetrics, and the papers named in `Saliency`.
    """
    soft = _checked(reference, prediction)
    if stretched and soft.max() > soft.min():
        soft = (soft - soft.min()) / (soft.max() - soft.min())
    adaptive = soft >= min(2 * float(soft.mean()), 1.0)
    if not soft.any():
        adaptive = np.zeros_like(reference)  # its threshold is 0, which all reaches, but nothing was found
    at_one = _at(np.array([np.count_nonzero(adaptive & reference)]), np.array([np.count_nonzero(adaptive)]), reference)
    grey = (soft * (_THRESHOLDS - 1)).astype(np.uint8)
    hits, alarms = (np.bincount(grey[part], minlength=_THRESHOLDS)[::-1].cumsum() for part in (reference, ~reference))
    over_all = _at(hits, hits + alarms, reference)
    return Saliency(
        _s_measure(reference, soft),
        _weighted_f(reference, soft),
        float(at_one.f[0]),
        float(over_all.f.mean()),
        float(at_one.e[0]),
        float(over_all.e.mean()),
        float(np.abs(soft - reference).mean()),
        float(over_all.dice.mean()),
        float(over_all.iou.mean()),
    )


def _checked(reference: BoolArray, prediction: NDArray[np.floating]) -> FloatArray:
    if reference.ndim != 2 or reference.shape != prediction.shape or reference.dtype != np.bool_ or not reference.size:
        raise InputError(
            f"A soft map is measured against a bool picture (y, x) of its shape, not {prediction.shape} against "
            f"{reference.dtype} {reference.shape}."
        )
    soft = np.asarray(prediction, dtype=np.float64)
    if not (soft.min() >= 0 and soft.max() <= 1):  # also where one is not a number
        raise InputError("A value of the soft map is not a number from 0 to 1; give probabilities, not logits.")
    return soft


# ---- binary maps at thresholds ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Binary:
    """Measures of binary maps, float64, one for each."""

    f: FloatArray
    e: FloatArray
    dice: FloatArray
    iou: FloatArray


def _at(hits: NDArray[np.intp], found: NDArray[np.intp], reference: BoolArray) -> _Binary:
    """Measures of binary maps with so many pixels inside the reference, and so many in all."""
    known = int(np.count_nonzero(reference))
    # Where neither has a pixel the policy says 1.
    agreed = (found + known == 0).astype(np.float64)
    precision, recall = _ratio(hits, found, agreed), _ratio(hits, np.full_like(hits, known), agreed)
    f = _ratio((1 + _BETA_SQUARED) * precision * recall, _BETA_SQUARED * precision + recall, agreed)
    dice, iou = _ratio(2 * hits, found + known, agreed), _ratio(hits, found + known - hits, agreed)
    return _Binary(f, _alignment(hits, found, known, reference.size), dice, iou)


def _ratio(above: NDArray[np.generic], below: NDArray[np.generic], otherwise: FloatArray) -> FloatArray:
    return np.asarray(np.divide(above, below, out=otherwise.copy(), where=below != 0))


def _alignment(hits: NDArray[np.intp], found: NDArray[np.intp], known: int, size: int) -> FloatArray:
    """E-measure of binary maps: each of the four kinds of pixels is as aligned as its deviations from both means."""
    if known in (0, size):
        aligned = (size - found if known == 0 else found).astype(np.float64)
    else:
        aligned = np.zeros(len(hits))
        for map_set, reference_set, pixels in (
            (1, 1, hits), (1, 0, found - hits), (0, 1, known - hits), (0, 0, size - found - known + hits)
        ):  # fmt: skip
            of_map, of_reference = map_set - found / size, reference_set - known / size
            alike = 2 * of_map * of_reference / (of_map**2 + of_reference**2 + _EPS)
            aligned += (alike + 1) ** 2 / 4 * pixels
    return np.asarray(aligned / (size - 1 + _EPS))


# ---- soft maps -------------------------------------------------------------------------------------------------------


def _s_measure(reference: BoolArray, soft: FloatArray) -> float:
    share = float(reference.mean())
    if share in (0.0, 1.0):
        return float(soft.mean()) if share else 1 - float(soft.mean())
    objects = share * _object(soft[reference]) + (1 - share) * _object(1 - soft[~reference])
    return max(0.0, 0.5 * objects + 0.5 * _regions(reference, soft))


def _object(values: FloatArray) -> float:
    mean, deviation = float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _regions(reference: BoolArray, soft: FloatArray) -> float:
    """Similarity of the four parts around the reference's centre, weighted by their area."""
    rows, columns = (int(np.round(places.mean())) + 1 for places in np.nonzero(reference))
    total = 0.0
    for down in (slice(0, rows), slice(rows, None)):
        for across in (slice(0, columns), slice(columns, None)):
            truth, found = reference[down, across], soft[down, across]
            total += _similarity(truth, found) * truth.size if truth.size else 0.0
    return total / reference.size


def _similarity(reference: BoolArray, soft: FloatArray) -> float:
    x, y = float(soft.mean()), float(reference.mean())
    pairs = soft.size - 1 + _EPS
    spread = (float(((soft - x) ** 2).sum()) + float(((reference - y) ** 2).sum())) / pairs
    shared = 4 * x * y * float(((soft - x) * (reference - y)).sum()) / pairs
    both = (x**2 + y**2) * spread
    if shared != 0:
        return shared / (both + _EPS)
    return 1.0 if both == 0 else 0.0


def _weighted_f(reference: BoolArray, soft: FloatArray) -> float:
    from scipy import ndimage

    if not reference.any():
        return float(soft.max() < 0.5)  # the policy, with the mask that the map would become
    error = np.abs(soft - reference)
    distance, nearest = ndimage.distance_transform_edt(~reference, return_indices=True)
    spread = error[tuple(nearest)]  # outside, the error of the nearest pixel inside
    offsets = np.arange(-3, 4)
    bell = np.exp(-(offsets**2) / (2 * 5.0**2))
    kernel = np.outer(bell, bell)
    smooth = ndimage.convolve(spread, kernel / kernel.sum(), mode="constant", cval=0)
    error = np.where(reference, np.minimum(error, smooth), error * (2 - np.exp(np.log(0.5) / _REACH * distance)))
    right = np.count_nonzero(reference) - float(error[reference].sum())
    recall = 1 - float(error[reference].mean())
    precision = right / (right + float(error[~reference].sum()) + _EPS)
    return float(2 * recall * precision / (recall + precision + _EPS))
