"""The one policy for empty masks, applied to every metric and printed in every report.

* Neither the reference nor the prediction has a voxel: they agree, so every metric has its best value.
* Exactly one of them has: every share has its worst value, 0. There is no distance to a mask that is not there, so
  distances are not defined (`None`); summaries count such cases beside the mean, and rankings put them last.
* Counts and volumes are what they are.

Masks drawn from the reference's own prompts (`scores.CaseScore`) are the exception: where it is empty there is no
prompt, so nothing was asked, and the case is left out of the mean instead of counting as right for every network.

Why distances get no penalty: any number of millimetres would be an invention that decides the mean (the 374 mm of
BraTS is the diagonal of its own grid), and leaving such a case out silently would reward a method that finds nothing.
"""

from __future__ import annotations

from typing import Final

from .table import Metric

POLICY: Final = (
    "Where neither reference nor prediction has a voxel of a region, they agree: shares are 1, distances, differences "
    "and counts 0. Where exactly one has, shares are 0 and distances are not defined: such cases are counted beside "
    "the mean of the others, and rank worst in comparisons. Lesions of the reference that are too small to count are "
    "left out of the lesion metrics."
)
"""For users, as it stands."""


def settled(metric: Metric, *, reference_empty: bool, prediction_empty: bool) -> tuple[bool, float | None]:
    """Whether the policy alone decides the value, and that value; (False, None) where it has to be computed."""
    if reference_empty and prediction_empty:
        return metric.both_empty is not None, metric.both_empty
    if reference_empty or prediction_empty:
        return (False, None) if metric.one_empty == "counted" else (True, metric.one_empty)
    return False, None
