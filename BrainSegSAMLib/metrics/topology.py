"""Whether two masks hang together alike: centre lines that lie in the other mask, and numbers of components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..image import bounding_box

BoolArray = NDArray[np.bool_]


def cl_dice(reference: BoolArray, prediction: BoolArray) -> float:
    """Harmonic mean of the shares of each mask's centre lines that lie in the other mask; made for vessels.

    Centre lines are those of scikit-image's `skeletonize`, in 3-D the thinning of Lee et al. 1994; it takes the axes
    in a fixed order, so a permutation of axes can move a centre line by a voxel, and it leaves nothing of some small
    pieces (of 2×2×2 voxels, say): beside larger ones they do not count, as in other implementations.

    Args:
        reference: bool (z, y, x), with at least one voxel.
        prediction: of the same shape, with at least one voxel.

    Source: Shit et al. 2021, clDice, https://arxiv.org/abs/2003.07311.
    """
    precision = _share_of_centre_lines(prediction, reference)
    sensitivity = _share_of_centre_lines(reference, prediction)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


def _share_of_centre_lines(mask: BoolArray, inside: BoolArray) -> float:
    from skimage.morphology import skeletonize

    box = bounding_box(mask)
    whole = np.ascontiguousarray(mask[box])
    lines = skeletonize(whole) != 0
    if not lines.any():
        lines = whole  # two voxels thick everywhere: the thinning leaves nothing of such a mask
    return float(np.count_nonzero(lines & inside[box]) / np.count_nonzero(lines))
