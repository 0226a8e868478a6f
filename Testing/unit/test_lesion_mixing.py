"""Mixing of lesions between training cases, on two plain heads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from BrainSegSAMLib.lesion_mixing import MixingCase, change_contrast, transplant


def head(
    shape: tuple[int, int, int], *, lesion: tuple[slice, slice, slice] | None = None, healthy: float = 0.0
) -> MixingCase:
    """A block of brain, 3 voxels from each side, with a lesion of 3.0 and 2.0 in its two channels."""
    labels = np.full(shape, -1, dtype=np.int8)
    labels[3:-3, 3:-3, 3:-3] = 0
    channels = np.zeros((2, *shape), dtype=np.float32)
    channels[:, labels == 0] = healthy
    if lesion is not None:
        labels[lesion] = 2
        channels[0][lesion], channels[1][lesion] = 3.0, 2.0
    return MixingCase(channels, labels)


HOST = head((30, 36, 32), healthy=0.5)
LESION = (slice(10, 18), slice(8, 16), slice(7, 15))
DONOR = head((32, 34, 36), lesion=LESION)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_lesion_arrives_whole_and_the_rest_of_the_host_stays(seed: int) -> None:
    before = HOST.channels.copy(), HOST.labels.copy()
    mixed = transplant(HOST, DONOR, np.random.default_rng(seed), contrast=0.0)
    np.testing.assert_array_equal(HOST.channels, before[0])
    np.testing.assert_array_equal(HOST.labels, before[1])
    lesion = mixed.labels == 2
    assert 0.8 * 512 <= lesion.sum() <= 512
    # Nothing outside the brain changes, and nothing but the lesion's near surroundings inside.
    np.testing.assert_array_equal(mixed.labels < 0, HOST.labels < 0)
    np.testing.assert_array_equal(mixed.channels[:, HOST.labels < 0], 0)
    far = ~ndimage.binary_dilation(lesion, iterations=6)
    np.testing.assert_allclose(mixed.channels[:, far], HOST.channels[:, far], atol=1e-3)
    inner = ndimage.binary_erosion(lesion, iterations=3)
    assert inner.any()
    np.testing.assert_allclose(mixed.channels[0][inner], 3.0, atol=0.05)
    np.testing.assert_allclose(mixed.channels[1][inner], 2.0, atol=0.05)


def test_lesions_come_to_lie_on_both_sides_and_at_various_places() -> None:
    centres = []
    for seed in range(40):
        mixed = transplant(HOST, DONOR, np.random.default_rng(seed), contrast=0.0)
        centres.append(np.argwhere(mixed.labels == 2).mean(0))
    middle = (np.array(HOST.labels.shape) - 1) / 2
    for axis in (1, 2):
        sides = np.array(centres)[:, axis] > middle[axis]
        assert 8 <= sides.sum() <= 32
    assert np.std(centres, axis=0).min() > 1


def test_the_hosts_own_lesion_stays_unless_it_is_covered() -> None:
    own = head((30, 36, 32), lesion=(slice(4, 8), slice(28, 32), slice(24, 28)))
    donor = head((30, 36, 32), lesion=LESION)
    donor.labels[donor.labels == 2] = 1
    mixed = transplant(own, donor, np.random.default_rng(0), contrast=0.0)
    assert (mixed.labels == 1).any()
    assert np.count_nonzero((mixed.labels == 2) | (mixed.labels == 1)) > 512 * 0.8
    np.testing.assert_array_equal(mixed.labels[(own.labels == 2) & (mixed.labels != 1)], 2)


def test_without_a_lesion_or_a_place_the_host_comes_back() -> None:
    rng = np.random.default_rng(0)
    assert transplant(HOST, HOST, rng, contrast=0.3) is HOST
    small = head((12, 12, 12))  # its brain is smaller than the lesion
    assert transplant(small, DONOR, rng, contrast=0.0) is small


@pytest.mark.parametrize("seed", range(5))
def test_contrast_scales_the_distance_from_healthy_brain(seed: int) -> None:
    case = head((30, 36, 32), lesion=(slice(3, 20), slice(8, 20), slice(8, 20)), healthy=0.5)  # up to the edge
    changed = change_contrast(case, np.random.default_rng(seed), contrast=0.4)
    assert changed.labels is case.labels
    middle = (slice(None), 14, 14, 14)
    factors = (changed.channels[middle] - 0.5) / (case.channels[middle] - 0.5)
    assert factors.min() >= 0.6 * 0.8 - 1e-3
    assert factors.max() <= 1.2 * 1.2 + 1e-3
    assert np.abs(factors - 1).max() > 0.01
    np.testing.assert_array_equal(changed.channels[:, case.labels < 0], 0)


def test_contrast_needs_a_lesion_and_a_setting() -> None:
    rng = np.random.default_rng(0)
    assert change_contrast(HOST, rng, contrast=0.4) is HOST
    assert change_contrast(DONOR, rng, contrast=0.0) is DONOR
