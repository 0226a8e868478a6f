"""How good found boxes are: precision, recall and average precision by COCO's rules, slice by slice.

A found box is right where its IoU with a known box of its kind, which no surer box has claimed, reaches a threshold; of
several it claims the one that it shares most with. On each slice the surest hundred boxes of a kind count. Average
precision is the mean, over 101 points of recall, of the highest precision at that recall or beyond it; its mean is over
kinds. COCO has no precision and recall of their own: here they are those at the confidence where their harmonic mean
(F1, mean over kinds, smoothed over a tenth of the range of confidence) is highest, with a threshold of 0.5, as
Ultralytics prints them. (Its average precision joins the points by trapezia and is a few thousandths lower.)

Sources: Lin et al. 2014, COCO, https://arxiv.org/abs/1405.0312; pycocotools 2.0.11, `cocoeval.py`; for precision and
recall ultralytics 8.4.190, `ultralytics/utils/metrics.py`. The tests compare with both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..boxes import SliceBox, by_slice, iou

THRESHOLDS: Final = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""Of IoU; mAP50 is at the first, mAP50-95 the mean over all."""
LEAST_CONFIDENCE: Final = 0.001
"""Below which boxes say nothing about average precision."""

MOST_BOXES: Final = 100
"""Of a kind on a slice: more are not looked at."""

_RECALLS: Final = np.linspace(0, 1, 101)
_CONFIDENCES: Final = np.linspace(0, 1, 1000)
_SMOOTHED_OVER: Final = 101  # confidences

Pairs = Iterable[tuple[Sequence[SliceBox], Sequence[SliceBox]]]
"""Of each case, the boxes found and the boxes known."""


@dataclass(frozen=True)
class DetectionScore:
    """The numbers of the paper's Table 1; where nothing is known, 1 if nothing is found and 0 else (see `empty`).

    Attributes:
        precision: share of the found boxes that are right.
        recall: share of the known boxes that are found.
        map50: mean average precision at an IoU of 0.5.
        map50_95: the same, mean over `THRESHOLDS`.
        confidence: at which precision and recall are counted.
    """

    precision: float
    recall: float
    map50: float
    map50_95: float
    confidence: float


def score_boxes(cases: Pairs) -> DetectionScore:
    """Score the boxes found in some cases, taken together.

    Args:
        cases: of each, what was found, down to very low confidences, and what is known.
    """
    right, confidences, kinds, known_kinds = _judge(cases)
    order = np.argsort(-confidences, kind="stable")
    right, confidences, kinds = right[order], confidences[order], kinds[order]
    present, counts = np.unique(known_kinds, return_counts=True)
    if not len(present):
        agreed = 0.0 if len(kinds) else 1.0
        return DetectionScore(agreed, agreed, agreed, agreed, 0.0)
    averages = np.zeros((len(present), len(THRESHOLDS)))
    precisions, recalls = np.zeros((2, len(present), len(_CONFIDENCES)))
    for row, (kind, count) in enumerate(zip(present, counts, strict=True)):
        of_kind = kinds == kind
        if of_kind.any():
            hits = right[of_kind].cumsum(axis=0)
            recall = hits / count
            precision = hits / np.arange(1, len(hits) + 1)[:, None]
            averages[row] = [_average(recall[:, t], precision[:, t]) for t in range(len(THRESHOLDS))]
            # Of a rising x, as `interp` wants it: confidence falls along the rows.
            precisions[row] = np.interp(-_CONFIDENCES, -confidences[of_kind], precision[:, 0], left=1)
            recalls[row] = np.interp(-_CONFIDENCES, -confidences[of_kind], recall[:, 0], left=0)
    best = int(_smoothed(_harmonic_mean(precisions, recalls).mean(axis=0)).argmax())
    return DetectionScore(
        float(precisions[:, best].mean()),
        float(recalls[:, best].mean()),
        float(averages[:, 0].mean()),
        float(averages.mean()),
        float(_CONFIDENCES[best]),
    )


def share_found(cases: Pairs, *, minimum_iou: float = THRESHOLDS[0]) -> float:
    """Share of the known boxes that have a found box of their kind with that IoU, at any confidence.

    It is 1 where none is known, whatever is found: boxes of hardly any confidence are found nearly everywhere, so they
    are held against nobody here.

    Args:
        cases: what was found and is known in each.
        minimum_iou: of a box that is found.
    """
    hits = total = 0
    for found, known in cases:
        found_on = by_slice(found)
        for index, there in by_slice(known).items():
            shared = _shared(found_on.get(index, []), there)
            hits += int(np.count_nonzero((shared >= minimum_iou).any(axis=0)))
            total += len(there)
    return hits / total if total else 1.0


def _judge(
    cases: Pairs,
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each box found: right at which thresholds, its confidence, its kind; and the kinds of the boxes known."""
    right: list[NDArray[np.bool_]] = [np.zeros((0, len(THRESHOLDS)), dtype=bool)]
    confidences: list[float] = []
    kinds: list[int] = []
    known_kinds: list[int] = []
    for found, known in cases:
        known_kinds += [item.kind for item in known]
        known_on = by_slice(known)
        for index, there in sorted(by_slice(found).items()):
            surest = _surest(there)
            confidences += [item.confidence for item in surest]
            kinds += [item.kind for item in surest]
            right.append(_claims(_shared(surest, known_on.get(index, []))))
    return np.concatenate(right), np.array(confidences), np.array(kinds), np.array(known_kinds)


def _surest(found: Sequence[SliceBox]) -> list[SliceBox]:
    """The surest boxes of each kind on one slice, the surest first."""
    kept: list[SliceBox] = []
    for item in sorted(found, key=lambda item: -item.confidence):
        if sum(other.kind == item.kind for other in kept) < MOST_BOXES:
            kept.append(item)
    return kept


def _shared(found: Sequence[SliceBox], known: Sequence[SliceBox]) -> NDArray[np.float64]:
    """IoU of each found box with each known one; 0 for those of another kind."""
    alike = np.equal.outer([item.kind for item in found], [item.kind for item in known])
    return iou([item.box for item in found], [item.box for item in known]) * alike


def _claims(shared: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which found boxes, the surest first, claim a known one at each threshold: bool (found, threshold)."""
    claims = np.zeros((shared.shape[0], len(THRESHOLDS)), dtype=bool)
    if not shared.shape[1]:
        return claims
    for column, threshold in enumerate(THRESHOLDS):
        free = np.ones(shared.shape[1], dtype=bool)
        for row in range(shared.shape[0]):
            best = int((shared[row] * free).argmax())
            if free[best] and shared[row, best] >= threshold:
                claims[row, column], free[best] = True, False
    return claims


def _average(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Mean over `_RECALLS` of the highest precision at that recall or beyond; 0 where it is not reached."""
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(highest[np.searchsorted(recall, _RECALLS, side="left")].mean())


def _harmonic_mean(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2 * first * second / np.maximum(first + second, 1e-16))


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over `_SMOOTHED_OVER` values around each; the first and last are repeated beyond the ends."""
    padded = np.pad(values, _SMOOTHED_OVER // 2, mode="edge")
    return np.convolve(padded, np.full(_SMOOTHED_OVER, 1 / _SMOOTHED_OVER), mode="valid")
