"""Dice of cases and regions: its means, and its table in a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CaseScore:
    """Dice of one case.

    Attributes:
        case_id: the case.
        fold: whose network, which has not seen the case, segmented it.
        dice: region → Dice of the volume; None where the case has no object of the region: then there was nothing to
            prompt, and 1, which the policy for empty masks (`metrics.empty`) has for two of them, would be a gift.
    """

    case_id: str
    fold: int
    dice: Mapping[str, float | None]


def mean_dice(scores: Sequence[CaseScore]) -> float:
    """Mean over regions of the mean over cases; 0 where nothing was scored."""
    means = [value for value in _means(scores).values() if value is not None]
    return float(np.mean(means)) if means else 0.0


def as_table(scores: Sequence[CaseScore], regions: Sequence[str], note: str) -> dict[str, Any]:
    """The scores as a table for `model.json`: a column per region, cases by id, means in the last row."""
    ordered = sorted(scores, key=lambda score: score.case_id)
    means = _means(ordered)
    rows: list[list[Any]] = [[s.case_id, s.fold, *(_rounded(s.dice[region]) for region in regions)] for s in ordered]
    rows.append(["mean", None, *(_rounded(means.get(region)) for region in regions)])
    return {"columns": ["case", "fold", *regions], "rows": rows, "note": note}


def _means(scores: Sequence[CaseScore]) -> dict[str, float | None]:
    names = list(scores[0].dice) if scores else []
    values = {name: [v for score in scores if (v := score.dice[name]) is not None] for name in names}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
