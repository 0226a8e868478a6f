"""How good a segmentation is: numbers from a reference and a prediction, with one policy for empty masks (`empty`)."""

from __future__ import annotations

from .measuring import DEFAULT_TOLERANCE_MM, measure, measure_case
from .table import METRICS, Better, Metric, chosen

__all__ = ["METRICS", "Metric", "Better", "chosen", "measure", "measure_case", "DEFAULT_TOLERANCE_MM"]
