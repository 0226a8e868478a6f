"""Numbers of many cases: their summary with a confidence interval, and the paired comparison of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .metrics.table import Better


@dataclass(frozen=True)
class Summary:
    """One metric of one region over cases; numbers are None where there are too few defined values.

    Attributes:
        count: cases with a value.
        undefined: cases without one.
        mean: of the defined values, as are all that follow.
        sd: sample standard deviation (n − 1).
        minimum: least value.
        quartile_1: first quartile.
        median: second quartile.
        quartile_3: third quartile.
        maximum: largest value.
        ci_low: lower end of the bootstrap confidence interval of the mean, patients resampled.
        ci_high: upper end.
    """

    count: int
    undefined: int
    mean: float | None
    sd: float | None
    minimum: float | None
    quartile_1: float | None
    median: float | None
    quartile_3: float | None
    maximum: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Comparison:
    """One metric of one region, by two methods on the same cases.

    Attributes:
        count: cases.
        better_first: cases in which the first method is better.
        better_second: cases in which the second is.
        median_difference: of first − second over cases in which both are defined; None where there is none.
        p_value: of the two-sided Wilcoxon signed-rank test; None where no case differs.
        effect_size: matched-pairs rank-biserial correlation, −1 to 1; positive where the first method is better.
    """

    count: int
    better_first: int
    better_second: int
    median_difference: float | None
    p_value: float | None
    effect_size: float | None


def summarise(
    values: Mapping[str, float | None],
    *,
    patients: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Summary:
    """Summary of one metric over cases.

    Args:
        values: case → value; None where not defined.
        patients: case → patient, where a patient has several cases; each case is its own where None.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same interval.
    """
    raise NotImplementedError


def compare(first: Mapping[str, float | None], second: Mapping[str, float | None], *, better: Better) -> Comparison:
    """Paired comparison of two methods, case by case.

    Raises:
        InputError: where they were not measured on the same cases; the message names those that only one has.
    """
    raise NotImplementedError


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values of one family of tests, adjusted by Holm's step-down method; None stays None."""
    raise NotImplementedError


def worst_first(values: Mapping[str, float | None], *, better: Better) -> list[str]:
    """Cases, the worst first; those whose value is not defined come before all others."""
    raise NotImplementedError
