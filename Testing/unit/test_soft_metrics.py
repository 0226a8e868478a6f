"""Soft maps and probabilities: PySODMetrics' and scikit-learn's numbers, the policy for empty pictures, calibration."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.metrics.calibration import calibration
from BrainSegSAMLib.metrics.saliency import saliency
from Testing.metric_cases import maps

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", maps())
@pytest.mark.parametrize("stretched", [False, True])
def test_the_numbers_of_pysodmetrics(name: str, stretched: bool) -> None:
    reference, soft = maps()[name]
    recorded = RECORDED["maps, stretched" if stretched else "maps"][name]
    assert asdict(saliency(reference, soft, stretched=stretched)) == pytest.approx(recorded, abs=1e-9)


def test_faint_noise_on_an_empty_picture_is_no_answer() -> None:
    nothing = np.zeros((32, 32), dtype=bool)
    noise = np.zeros((32, 32))
    noise[4:6, 7:9] = 0.003
    found, pitfall = saliency(nothing, noise), saliency(nothing, noise, stretched=True)
    assert found.weighted_f == 1.0
    assert found.mae < 1e-4
    assert found.mean_dice == pytest.approx(255 / 256)  # at the threshold 0 all is foreground
    assert pitfall.weighted_f == 0.0
    assert pitfall.mean_dice == 0.0


def test_a_map_of_zeros_finds_nothing() -> None:
    reference, _ = maps()["soft disc"]
    found = saliency(reference, np.zeros(reference.shape))
    assert found.adaptive_f == 0.0
    assert saliency(~reference & reference, np.zeros(reference.shape)).adaptive_f == 1.0


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_maps_that_cannot_be_used_are_refused(value: float) -> None:
    reference, soft = maps()["soft disc"]
    with pytest.raises(InputError, match="0 to 1"):
        saliency(reference, np.where(reference, value, soft))
    with pytest.raises(InputError, match="0 to 1"):
        calibration(reference, np.where(reference, value, soft))
    with pytest.raises(InputError, match="shape"):
        saliency(reference, soft[1:])
    with pytest.raises(InputError, match="No voxel"):
        calibration(reference, soft, within=np.zeros_like(reference))


@pytest.mark.parametrize("name", maps())
def test_the_brier_score_of_scikit_learn(name: str) -> None:
    assert calibration(*maps()[name]).brier == pytest.approx(RECORDED["brier"][name], abs=1e-12)


@pytest.mark.parametrize("bins", [2, 10, 15])
@pytest.mark.parametrize("name", maps())
def test_the_calibration_curve_of_scikit_learn(name: str, bins: int) -> None:
    """Mean probability and frequency of each bin are theirs, and the error is their distance, weighted by voxels."""
    sklearn = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed.")
    reference, soft = maps()[name]
    found = calibration(reference, soft, bins=bins)
    frequency, mean = sklearn.calibration_curve(reference.ravel(), soft.ravel(), n_bins=bins, strategy="uniform")
    assert [one[1] for one in found.bins] == pytest.approx(mean.tolist())
    assert [one[2] for one in found.bins] == pytest.approx(frequency.tolist())
    weights = np.array([one[0] for one in found.bins]) / soft.size
    assert weights.sum() == pytest.approx(1)
    assert found.ece == pytest.approx(float((weights * np.abs(frequency - mean)).sum()))


def test_calibration_by_hand() -> None:
    chance = np.array([0.05, 0.05, 0.15, 0.95, 0.95, 0.95, 0.95, 0.2])
    truth = np.array([0, 1, 0, 1, 1, 1, 0, 1], dtype=bool)
    found = calibration(truth, chance, bins=10)
    # 0.2 is the upper border of the second bin and belongs to it.
    assert found.bins == (
        (2, pytest.approx(0.05), 0.5), (2, pytest.approx(0.175), 0.5), (4, pytest.approx(0.95), 0.75)
    )  # fmt: skip
    assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.325 + 4 * 0.2) / 8)
    assert calibration(truth, chance, within=chance > 0.5).ece == pytest.approx(0.2)


def test_what_means_what_it_says_is_calibrated() -> None:
    random = np.random.default_rng(0)
    chance = random.random((40, 50, 50))
    truth = random.random(chance.shape) < chance
    assert calibration(truth, chance).ece < 0.01
    assert calibration(truth, chance**3).ece > 0.1
    assert calibration(np.zeros(4, dtype=bool), np.zeros(4)).ece == 0.0
