"""Numbers of many cases: their summary with a confidence interval, and the paired comparison of two methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .metrics.table import Better

FloatArray = NDArray[np.float64]

_EXACT_UP_TO: Final = 100
"""Differing patients up to which the signed-rank test counts every assignment of signs; beyond, the normal law."""
_RANKED_DIGITS: Final = 12
"""Differences that agree to so many digits are ties: the last ones are noise of rounding, and would order them."""


@dataclass(frozen=True)
class Summary:
    """One metric of one region over cases; numbers are None where there are too few defined values.

    Attributes:
        count: cases with a value.
        undefined: cases without one.
        mean: of the defined values, as are all that follow.
        sd: sample standard deviation (n − 1).
        minimum: least value.
        quartile_1: first quartile (interpolated linearly, as are all quartiles).
        median: second quartile.
        quartile_3: third quartile.
        maximum: largest value.
        ci_low: lower end of the bootstrap confidence interval of the mean, patients resampled.
        ci_high: upper end.
    """

    count: int
    undefined: int
    mean: float | None = None
    sd: float | None = None
    minimum: float | None = None
    quartile_1: float | None = None
    median: float | None = None
    quartile_3: float | None = None
    maximum: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One metric of one region, by two methods on the same patients.

    A value that is not defined ranks worse than any other, and like another such value.

    Attributes:
        count: patients.
        better_first: patients of whom the first method is better.
        better_second: patients of whom the second is; the methods tie on all others.
        median_difference: of the patients' means of `difference`, over the cases in which both are defined; None where
            there is none.
        p_value: of the two-sided Wilcoxon signed-rank test; None where no patient differs.
        effect_size: matched-pairs rank-biserial correlation, −1 to 1, positive where the first method is better; None
            where no patient differs.
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

    The interval is the percentile bootstrap of the mean over cases; whole patients are drawn, with all their cases,
    because cases of one patient are alike. With fewer than about twenty patients such an interval is too narrow; with
    one there is none.

    Args:
        values: case → value; None where not defined.
        patients: case → patient, where a patient has several cases; each case is its own where None.
        confidence: of the interval, above 0 and below 1.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same interval, whatever the order of the cases.

    Raises:
        InputError: for a value that is not a finite number, a case without a patient, or a setting that cannot be used.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    _check(values)
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(f"A confidence of {confidence} with {resamples} resamples cannot be used.")
    of_patients: dict[str, list[float]] = {}
    for case in sorted(values):
        value = values[case]
        if value is not None:
            of_patients.setdefault(_patient(case, patients), []).append(value)
    groups = [of_patients[patient] for patient in sorted(of_patients)]
    if not groups:
        return Summary(0, len(values))
    found = np.concatenate([np.asarray(group) for group in groups])
    low, high = _interval(groups, confidence, resamples, seed) if len(groups) > 1 else (None, None)
    minimum, quartile_1, median, quartile_3, maximum = (float(q) for q in np.percentile(found, [0, 25, 50, 75, 100]))
    sd = float(found.std(ddof=1)) if len(found) > 1 else None
    return Summary(
        len(found), len(values) - len(found), float(found.mean()), sd,
        minimum, quartile_1, median, quartile_3, maximum, low, high,
    )  # fmt: skip


def compare(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    *,
    better: Better,
    patients: Mapping[str, str] | None = None,
) -> Comparison:
    """Paired comparison of two methods, case by case.

    The test ranks patients and not cases, because cases of one patient are alike: of each, the mean over its cases of
    how much the first method is better. The p-value counts every assignment of signs to the ranks, so it is exact for
    few patients and with ties too; patients on whom the methods tie are left out (Wilcoxon's rule).

    Args:
        first: case → value of one method.
        second: the same cases → value of the other.
        better: which values are better.
        patients: case → patient, where a patient has several cases; each case is its own where None.

    Raises:
        InputError: where they were not measured on the same cases (the message names those that only one has), for a
            value that is not a finite number, or a case without a patient.

    Source: Wilcoxon 1945, https://doi.org/10.2307/3001968; Kerby 2014, https://doi.org/10.2466/11.IT.3.1.
    """
    _check(first)
    _check(second)
    odd = {"first": sorted(set(first) - set(second)), "second": sorted(set(second) - set(first))}
    if any(odd.values()):
        told = "; ".join(f"only the {which} has {', '.join(cases)}" for which, cases in odd.items() if cases)
        raise InputError(f"Methods are compared on the same cases alone, but {told}. Measure both on the same cases.")
    gains_of: dict[str, list[float]] = {}
    apart_of: dict[str, list[float]] = {}
    for case in sorted(first):
        patient, values = _patient(case, patients), (first[case], second[case])
        gains_of.setdefault(patient, []).append(_gain(*values, better))
        apart = difference(*values, better)
        if apart is not None:
            apart_of.setdefault(patient, []).append(apart)
    gains = np.array([_mean_gain(group) for group in gains_of.values()], dtype=np.float64)
    differing = gains[gains != 0]
    p_value, effect_size = _signed_ranks(differing) if len(differing) else (None, None)
    return Comparison(
        len(gains),
        int(np.count_nonzero(gains > 0)),
        int(np.count_nonzero(gains < 0)),
        float(np.median([np.mean(group) for group in apart_of.values()])) if apart_of else None,
        p_value,
        effect_size,
    )


def difference(first: float | None, second: float | None, better: Better) -> float | None:
    """First − second value, of their distances from zero where those are what counts; None where one is not defined."""
    if first is None or second is None:
        return None
    return abs(first) - abs(second) if better == "zero" else first - second


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values of one family of tests, adjusted by Holm's step-down method.

    Args:
        p_values: in any order; None for a test that could not be made, which is no member of the family.

    Source: Holm 1979, https://www.jstor.org/stable/4615733.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    made = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    highest = 0.0
    for step, (value, place) in enumerate(made):
        highest = max(highest, min(1.0, (len(made) - step) * value))
        adjusted[place] = highest
    return adjusted


def worst_first(values: Mapping[str, float | None], *, better: Better) -> list[str]:
    """Cases, the worst first; those whose value is not defined come before all others, equal ones by name.

    Args:
        values: case → value; None where not defined.
        better: which values are better.
    """
    return sorted(values, key=lambda case: (_goodness(values[case], better), case))


def _check(values: Mapping[str, float | None]) -> None:
    wrong = [case for case, value in values.items() if value is not None and not math.isfinite(value)]
    if wrong:
        raise InputError(f"The value of {', '.join(wrong)} is not a finite number, so it cannot be counted.")


def _patient(case: str, patients: Mapping[str, str] | None) -> str:
    if patients is None:
        return case
    if case not in patients:
        raise InputError(f"The list of patients lacks the case {case}.")
    return patients[case]


def _goodness(value: float | None, better: Better) -> float:
    """Larger for a better value; −infinity for one that is not defined."""
    if value is None:
        return -math.inf
    return {"higher": value, "lower": -value, "zero": -abs(value)}[better]


def _gain(first: float | None, second: float | None, better: Better) -> float:
    """By how much the first value is better; infinite where only one is defined."""
    if first is None and second is None:
        return 0.0
    return _goodness(first, better) - _goodness(second, better)


def _mean_gain(gains: Sequence[float]) -> float:
    """Mean of the gains of one patient; where values are not defined, the method that has fewer of them is ahead."""
    infinite = [gain for gain in gains if math.isinf(gain)]
    lead = sum(math.copysign(1, gain) for gain in infinite)
    if lead:
        return math.copysign(math.inf, lead)
    finite = [gain for gain in gains if math.isfinite(gain)]
    total = math.fsum(finite)
    # What is left of gains and losses that are equal but for rounding is no difference.
    settled = abs(total) <= 10.0**-_RANKED_DIGITS * math.fsum(map(abs, finite))
    return 0.0 if settled else total / len(finite)


def _interval(groups: Sequence[Sequence[float]], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean over values, groups drawn with replacement."""
    sums = np.array([sum(group) for group in groups])
    sizes = np.array([len(group) for group in groups])
    random = np.random.default_rng(seed)
    # How often each group is drawn says as much as the order, and takes no more memory with many values in a group.
    chances = np.full(len(groups), 1 / len(groups))
    drawn = random.multinomial(len(groups), chances, size=resamples)
    means = (drawn @ sums) / (drawn @ sizes)
    outside = (1 - confidence) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    return float(low), float(high)


def _signed_ranks(gains: FloatArray) -> tuple[float, float]:
    """Two-sided p-value of Wilcoxon's signed-rank test, and rank-biserial correlation, of gains that are not 0."""
    from scipy.stats import rankdata

    sizes = np.array([float(f"{abs(gain):.{_RANKED_DIGITS}g}") for gain in gains])
    ranks = rankdata(sizes)
    total = float(ranks.sum())
    won = float(ranks[gains > 0].sum())
    chance: Callable[[FloatArray, float], float] = _exact if len(ranks) <= _EXACT_UP_TO else _normal
    return chance(ranks, min(won, total - won)), 2 * won / total - 1


def _exact(ranks: FloatArray, lesser: float) -> float:
    """Chance, over all assignments of signs, that one side's sum of ranks is as small as the lesser one; twice."""
    # Tied ranks are halves, so twice the ranks are whole numbers: the sums are counted by those.
    doubled = np.rint(2 * ranks).astype(int)
    ways = np.zeros(int(doubled.sum()) + 1)
    ways[0] = 1.0
    for rank in doubled:
        with_it = np.zeros_like(ways)
        with_it[rank:] = ways[: len(ways) - rank]
        ways = (ways + with_it) / 2  # shares of all assignments, so that many cases do not overflow
    return min(1.0, 2 * float(ways[: round(2 * lesser) + 1].sum()))


def _normal(ranks: FloatArray, lesser: float) -> float:
    """The same by the normal law; the variance is that of the ranks as they are, ties included."""
    mean = float(ranks.sum()) / 2
    deviation = math.sqrt(float((ranks**2).sum()) / 4)
    return min(1.0, math.erfc((mean - lesser) / deviation / math.sqrt(2)))
