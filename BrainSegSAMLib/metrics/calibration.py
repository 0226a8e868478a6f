"""Whether probabilities mean what they say: of the voxels given 0.8, eight in ten should be in the structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


@dataclass(frozen=True)
class Calibration:
    """Calibration of one probability map.

    Attributes:
        ece: expected calibration error, 0 to 1: mean distance of probability and frequency over bins, weighted by the
            voxels in them.
        brier: mean squared difference of probability and truth, 0 to 1.
        bins: of each bin with voxels, from low to high: voxels, mean probability, frequency of the structure.
    """

    ece: float
    brier: float
    bins: tuple[tuple[int, float, float], ...]


def calibration(
    reference: NDArray[np.bool_],
    probability: NDArray[np.floating],
    *,
    bins: int = 15,
    within: NDArray[np.bool_] | None = None,
) -> Calibration:
    """Calibration of the probability of one region, voxel by voxel.

    Both numbers depend on where they are taken: over a whole volume nearly every voxel is easy background and both are
    near 0, so give what matters (the brain, or a margin around the lesion) as `within`. An empty reference needs no
    policy: the frequency is 0 then.

    Args:
        reference: bool, any shape.
        probability: of being in the region, 0 to 1, of the same shape.
        bins: of equal width; a probability on a border belongs to the lower bin, as in Guo et al.
        within: bool, which voxels count; all where None.

    Raises:
        InputError: where the shapes differ, a probability is not a number from 0 to 1, or no voxel counts.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, for the probability of one region (reliability of a
    binary forecast, not of the more probable class); Brier 1950, Monthly Weather Review 78(1).
    """
    if reference.shape != probability.shape or reference.dtype != np.bool_ or bins < 1:
        raise InputError(
            f"Calibration needs a bool reference and probabilities of its shape, and at least one bin; got "
            f"{reference.dtype} {reference.shape}, {probability.dtype} {probability.shape} and {bins} bins."
        )
    chosen = slice(None) if within is None else within
    truth, chance = reference[chosen].ravel(), probability[chosen].ravel().astype(np.float64)
    if not chance.size:
        raise InputError("No voxel counts for the calibration; check the mask that says where.")
    if not (chance.min() >= 0 and chance.max() <= 1):  # also where one is not a number
        raise InputError("A probability is not a number from 0 to 1; give probabilities, not logits.")
    place = np.clip(np.ceil(chance * bins).astype(np.intp) - 1, 0, bins - 1)
    voxels = np.bincount(place, minlength=bins)
    sums = np.bincount(place, chance, minlength=bins)
    hits = np.bincount(place[truth], minlength=bins)
    table = tuple(
        (int(number), float(total / number), float(hit / number))
        for number, total, hit in zip(voxels, sums, hits, strict=True)
        if number
    )
    ece = float(np.abs(sums - hits).sum() / chance.size)
    return Calibration(ece, float(np.mean((chance - truth) ** 2)), table)
