"""Summaries and comparisons against scipy, by hand, and in the cases that tables get wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.statistics import Summary, compare, holm, summarise, worst_first


def named(values):
    return {f"case{number:03d}": value for number, value in enumerate(values)}


# ---- summaries -------------------------------------------------------------------------------------------------------


def test_a_summary_by_hand() -> None:
    found = summarise(named([0.5, 0.7, None, 0.9]))
    assert (found.count, found.undefined) == (3, 1)
    assert (found.mean, found.sd) == pytest.approx((0.7, 0.2))
    assert (found.minimum, found.quartile_1, found.median, found.quartile_3, found.maximum) == pytest.approx(
        (0.5, 0.6, 0.7, 0.8, 0.9)
    )
    assert found.ci_low is not None
    assert 0.5 <= found.ci_low < 0.7 < found.ci_high <= 0.9


def test_nothing_and_one_case() -> None:
    assert summarise({}) == Summary(0, 0)
    assert summarise(named([None, None])) == Summary(0, 2)
    one = summarise(named([0.4]))
    assert (one.mean, one.median, one.sd, one.ci_low, one.ci_high) == (0.4, 0.4, None, None, None)


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).beta(5, 2, 40)
    ours = summarise(named(values.tolist()), resamples=50_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # Two draws of 50,000: the ends differ by chance, by about a hundredth of the interval.
    assert (ours.ci_low, ours.ci_high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = named(np.random.default_rng(4).random(15).tolist())
    shuffled = dict(sorted(values.items(), reverse=True))
    assert summarise(values) == summarise(shuffled)
    assert summarise(values).ci_low != summarise(values, seed=1).ci_low


def test_cases_of_one_patient_are_drawn_together() -> None:
    """Eight copies of each patient are no more evidence than one."""
    values = np.random.default_rng(5).random(12)
    single = summarise(named(values.tolist()))
    copies = {f"p{patient}-{copy}": float(value) for patient, value in enumerate(values) for copy in range(8)}
    grouped = summarise(copies, patients={case: case.partition("-")[0] for case in copies})
    apart = summarise(copies)
    assert (grouped.ci_low, grouped.ci_high) == pytest.approx((single.ci_low, single.ci_high), abs=0.02)
    assert apart.ci_high - apart.ci_low < 0.5 * (grouped.ci_high - grouped.ci_low)
    with pytest.raises(InputError, match="p3-0"):
        summarise(copies, patients={case: case for case in copies if case != "p3-0"})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="case001"):
        summarise(named([0.1, value]))
    with pytest.raises(InputError, match="case000"):
        compare(named([value]), named([0.5]), better="higher")


# ---- comparisons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 8, 20, 49])
def test_p_values_without_ties_are_scipys_exact_ones(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.random(count), rng.random(count) - 0.1
    found = compare(named(first.tolist()), named(second.tolist()), better="higher")
    theirs = scipy.stats.wilcoxon(first, second, method="exact")
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_p_values_with_ties_are_those_of_all_assignments_of_signs() -> None:
    first = [0.9, 0.8, 0.7, 0.6, 0.9, 0.5, 0.4, 0.9]
    second = [0.8, 0.7, 0.8, 0.4, 0.9, 0.3, 0.2, 0.7]
    found = compare(named(first), named(second), better="higher")
    gains = np.round(np.subtract(first, second), 9)
    gains = gains[gains != 0]
    ranks = scipy.stats.rankdata(np.abs(gains))
    observed = abs((ranks * np.sign(gains)).sum())
    sums = [abs((ranks * signs).sum()) for signs in itertools.product([-1, 1], repeat=len(ranks))]
    assert found.p_value == pytest.approx(np.mean([total >= observed - 1e-9 for total in sums]))
    assert (found.count, found.better_first, found.better_second) == (8, 6, 1)
    assert found.effect_size == pytest.approx((ranks * np.sign(gains)).sum() / ranks.sum())
    assert found.median_difference == pytest.approx(0.15)


def test_many_cases_follow_the_normal_law() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(300).round(2)
    second = (first - 0.02 + rng.normal(0, 0.1, 300)).round(2)
    found = compare(named(first.tolist()), named(second.tolist()), better="higher")
    theirs = scipy.stats.wilcoxon((first - second).round(9), method="approx", correction=False)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6)


def test_no_difference_has_no_p_value() -> None:
    found = compare(named([1.0, 0.5]), named([1.0, 0.5]), better="higher")
    assert (found.p_value, found.effect_size, found.median_difference) == (None, None, 0.0)


def test_what_is_not_defined_ranks_worst() -> None:
    """A method that misses a lesion must not win on the distances that are left."""
    first, second = named([2.0, 3.0, None, None]), named([2.5, 3.5, 40.0, None])
    found = compare(first, second, better="lower")
    assert (found.better_first, found.better_second) == (2, 1)
    assert found.effect_size == pytest.approx(0.0)  # ranks 1.5 + 1.5 against 3
    assert found.median_difference == pytest.approx(-0.5)
    assert worst_first(first, better="lower") == ["case002", "case003", "case001", "case000"]


def test_where_zero_is_best_the_median_is_of_distances_from_zero() -> None:
    """As the ranks are: −1 against −5 is 4 better, and not 4 more."""
    found = compare(named([-1.0, 2.0, 1.0]), named([-5.0, 5.0, -2.0]), better="zero")
    assert (found.better_first, found.effect_size) == (3, 1.0)
    assert found.median_difference == pytest.approx(-3.0)


def test_a_patient_counts_once_however_many_cases_it_has() -> None:
    """Three patients cannot differ at p < 0.05, whatever the number of their sessions."""
    rng = np.random.default_rng(8)
    first = {f"p{patient}-{session}": 0.8 + 0.1 * rng.random() for patient in range(3) for session in range(4)}
    second = {case: value - 0.02 - 0.05 * rng.random() for case, value in first.items()}
    patients = {case: case.partition("-")[0] for case in first}
    assert compare(first, second, better="higher").p_value == pytest.approx(2 / 2**12)
    found = compare(first, second, better="higher", patients=patients)
    assert (found.count, found.better_first, found.better_second) == (3, 3, 0)
    assert found.p_value == pytest.approx(2 / 2**3)
    means = [np.mean([first[c] - second[c] for c in first if patients[c] == p]) for p in ("p0", "p1", "p2")]
    assert found.median_difference == pytest.approx(np.median(means))
    with pytest.raises(InputError, match="p2-3"):
        compare(first, second, better="higher", patients={c: p for c, p in patients.items() if c != "p2-3"})


def test_patients_of_one_case_each_change_nothing() -> None:
    rng = np.random.default_rng(9)
    first, second = named(rng.random(11).tolist()), named([None, *rng.random(10).tolist()])
    patients = {case: f"patient of {case}" for case in first}
    for better in ("higher", "lower", "zero"):
        assert compare(first, second, better=better, patients=patients) == compare(first, second, better=better)


def test_what_is_not_defined_decides_a_patient() -> None:
    first = {"a1": None, "a2": 0.1, "b1": None, "b2": 5.0, "c1": 0.3, "c2": 0.9}
    second = {"a1": 9.0, "a2": 3.0, "b1": 1.0, "b2": None, "c1": 0.4, "c2": 0.8}
    found = compare(first, second, better="lower", patients={case: case[0] for case in first})
    # a: the first is missing once; b: each once, which is even; c: even but for rounding, which is no difference.
    assert (found.count, found.better_first, found.better_second) == (3, 0, 1)
    assert found.p_value == 1.0


def test_unequal_sets_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="only the first has a; only the second has c"):
        compare({"a": 1.0, "b": 1.0}, {"b": 1.0, "c": 1.0}, better="higher")


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.sampled_from(["higher", "lower", "zero"]))
def test_swapping_methods_swaps_the_signs(values, better) -> None:
    second = named(values[::-1])
    one, other = (compare(*pair, better=better) for pair in ((named(values), second), (second, named(values))))
    assert one.p_value == other.p_value
    assert (one.better_first, one.better_second) == (other.better_second, other.better_first)
    assert (one.effect_size or 0) == pytest.approx(-(other.effect_size or 0))


def test_worst_first_by_direction() -> None:
    values = {"a": -3.0, "b": 1.0, "c": 2.0, "d": None}
    assert worst_first(values, better="higher") == ["d", "a", "b", "c"]
    assert worst_first(values, better="lower") == ["d", "c", "b", "a"]
    assert worst_first(values, better="zero") == ["d", "a", "c", "b"]


# ---- Holm ------------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(values) -> None:
    adjusted = holm(values)
    assert all(
        raw <= found <= min(1.0, len(values) * raw) + 1e-12 for raw, found in zip(values, adjusted, strict=True)
    )
    order = np.argsort(values, kind="stable")
    assert (np.diff([adjusted[place] for place in order]) >= 0).all()
