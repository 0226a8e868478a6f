"""Scores the networks of a cross-validation on the cases that they have not seen, with the predictor that users run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...image import Segmentation
from ...labelled_images import LabelledImage
from ...metrics import dice
from ...models.store import Model
from ...progress import Progress
from .clean_up import clean_up
from .predictor import PredictionSettings, load

BEFORE, AFTER = "Cross-validation, as predicted", "Cross-validation, after clean-up"
NOTE = (
    "Dice coefficient of each case under the one network that has not seen it; where neither reference nor prediction "
    "has a voxel it is 1. Mean over cases in the last row."
)


@dataclass(frozen=True)
class CaseScore:
    """Dice of one left-out case.

    Attributes:
        case_id: the case.
        fold: whose network predicted it.
        before: region → Dice of what the network gave.
        after: region → Dice after the model's clean-up of small components.
    """

    case_id: str
    fold: int
    before: Mapping[str, float]
    after: Mapping[str, float]


def validate_fold(
    model: Model,
    fold: int,
    case_ids: Sequence[str],
    *,
    load_case: Callable[[str], LabelledImage],
    device: str,
    progress: Progress,
) -> list[CaseScore]:
    """Score one network of the cross-validation.

    Args:
        model: its weights are the networks of the cross-validation.
        fold: which of them.
        case_ids: the cases that it has not seen.
        load_case: reads one of them.
        device: torch device name.
        progress: one sub-job per case, to the end of its current stage.
    """
    settings = PredictionSettings.from_model(model, {"folds": (str(fold),)})
    raw = load(
        model,
        device=device,
        trust=False,
        overrides={"folds": (str(fold),), "minimum_volume_mm3": None, "keep_largest": ()},
    )
    scores = []
    for case_id in case_ids:
        progress.check()
        labelled = load_case(case_id)
        predicted = raw.predict(labelled.image, progress=Progress(lambda _update: progress.check()))
        cleaned, _ = clean_up(
            predicted.label_map,
            model.scheme,
            predicted.geometry.spacing_zyx_mm,
            minimum_volume_mm3=settings.minimum_volume_mm3 or {},
            keep_largest=settings.keep_largest,
        )
        reference = Segmentation(labelled.image.geometry, model.scheme, labelled.labels, case_id)
        after = Segmentation(predicted.geometry, model.scheme, cleaned, case_id)
        scores.append(CaseScore(case_id, fold, _by_region(reference, predicted), _by_region(reference, after)))
        progress.advance(message=f"{case_id}: Dice {', '.join(f'{v:.3f}' for v in scores[-1].after.values())}")
    return scores


def as_tables(scores: Sequence[CaseScore], regions: Sequence[str]) -> dict[str, Any]:
    """The scores as tables for `model.json`: a column per region, cases by id, means in the last row."""
    tables: dict[str, Any] = {}
    ordered = sorted(scores, key=lambda score: score.case_id)
    for title, values in ((BEFORE, [s.before for s in ordered]), (AFTER, [s.after for s in ordered])):
        rows: list[list[Any]] = [
            [score.case_id, score.fold, *(round(value[region], 4) for region in regions)]
            for score, value in zip(ordered, values, strict=True)
        ]
        if rows:
            rows.append(["mean", None, *(round(float(np.mean([v[region] for v in values])), 4) for region in regions)])
        tables[title] = {"columns": ["case", "fold", *regions], "rows": rows, "note": NOTE}
    return tables


def _by_region(reference: Segmentation, predicted: Segmentation) -> dict[str, float]:
    return {region.name: dice(mask, predicted.mask(region.name)) for region, mask in reference.masks()}
