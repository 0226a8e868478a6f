"""How good a segmentation is: numbers from a reference and a prediction, with one policy for empty masks (`empty`)."""

from __future__ import annotations

from .empty import POLICY
from .lesions import BRATS_GLIOMA, ISLES_STROKE, LesionRules
from .measuring import DEFAULT_TOLERANCE_MM, measure, measure_case
from .overlap import dice, highest_mean_dice, iou
from .table import METRICS, Better, Metric, chosen

__all__ = [
    "METRICS", "Metric", "Better", "chosen", "POLICY",
    "measure", "measure_case", "DEFAULT_TOLERANCE_MM", "LesionRules", "BRATS_GLIOMA", "ISLES_STROKE",
    "dice", "iou", "highest_mean_dice",
]  # fmt: skip
