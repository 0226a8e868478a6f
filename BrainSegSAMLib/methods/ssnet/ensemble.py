"""Several masks of the same lesions made into one, and how far they agree.

Source: Jang et al. ensemble the tracks of adc, b0 and b1000 by a rule that they do not name; majority is the default
here. STAPLE: Warfield, Zou and Wells, IEEE TMI 2004, https://doi.org/10.1109/TMI.2004.828354, as SimpleITK has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...itk import simpleitk
from .config import ENSEMBLES

BoolArray = NDArray[np.bool_]

LOGIT_LIMIT: Final = 10.0
"""Logits beyond plus or minus this count as this in a mean, so that what one modality did not track at all weighs as
much as what it was sure of, and no more."""

STAPLE_THRESHOLD: Final = 0.5


def combine(masks: Sequence[BoolArray], rule: str, *, logits: Sequence[NDArray[np.float32]] = ()) -> BoolArray:
    """One mask of several.

    Args:
        masks: one vote each, bool (z, y, x).
        rule: "majority": voxels with more than half of the votes (of two, both); "union": with any; "intersection":
            with all; "mean_logit": where the mean of the logits is above 0; "staple": where STAPLE, estimated in the
            box that holds all votes, finds a probability of at least one half; what all or none hold stays so.
        logits: float32 (z, y, x), one for each vote; for "mean_logit" only.

    Returns:
        bool (z, y, x). Of a single vote, every rule gives that vote.

    Raises:
        InputError: where the rule is not known, or there is no vote.
    """
    if rule not in ENSEMBLES:
        raise InputError(f"The ensemble rule '{rule}' is not known; use one of: {', '.join(ENSEMBLES)}.")
    if not masks:
        raise InputError("An ensemble needs at least one mask.")
    if rule == "mean_logit":
        assert len(logits) == len(masks)
        total = sum(np.clip(one, -LOGIT_LIMIT, LOGIT_LIMIT) for one in logits)
        return np.asarray(np.asarray(total) > 0)
    if rule == "staple":
        return _staple(masks)
    needed = {"majority": len(masks) // 2 + 1, "union": 1, "intersection": len(masks)}[rule]
    return np.asarray(agreement_map(masks) >= needed)


def agreement_map(masks: Sequence[BoolArray]) -> NDArray[np.uint8]:
    """How many of the masks hold a voxel: uint8 (z, y, x)."""
    counts = np.zeros(masks[0].shape, dtype=np.uint8)
    for mask in masks:
        counts += mask
    return counts


def lesion_agreements(owners: Sequence[NDArray[np.int32]], count: int) -> NDArray[np.float64]:
    """How far several segmentations agree on each lesion.

    Args:
        owners: int32 (z, y, x): number of the lesion that a voxel belongs to, 0 for none; two or more.
        count: how many lesions there are.

    Returns:
        float64 (count,): for lesion n at n - 1, the mean over all pairs of the Dice coefficient; 1 where a pair has no
        voxel of it.
    """
    sizes = [_sizes(owner, count) for owner in owners]
    scores = []
    for (first, one), (second, other) in itertools.combinations(zip(owners, sizes, strict=True), 2):
        shared = _sizes(np.where(first == second, first, 0), count)
        total = one + other
        scores.append(np.where(total > 0, 2 * shared / np.maximum(total, 1), 1.0))
    mean: NDArray[np.float64] = np.mean(scores, axis=0)
    return mean


def _sizes(owner: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    return np.bincount(owner.ravel(), minlength=count + 1)[1:].astype(np.float64)


def _staple(masks: Sequence[BoolArray]) -> BoolArray:
    together, agreed = np.any(masks, axis=0), np.all(masks, axis=0)
    if np.array_equal(together, agreed):  # no two votes differ, so there is nothing to estimate
        return np.asarray(agreed)
    # In the box that holds all votes: the background around it says nothing of them, and takes minutes.
    box = tuple(
        slice(int(found[0]), int(found[-1]) + 1)
        for axis in range(3)
        for found in [np.flatnonzero(together.any(axis=tuple(other for other in range(3) if other != axis)))]
    )
    sitk = simpleitk()
    images: list[Any] = [sitk.GetImageFromArray(mask[box].astype(np.uint8)) for mask in masks]
    result = np.array(agreed)
    result[box] |= (sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)) >= STAPLE_THRESHOLD) & together[box]
    return result
