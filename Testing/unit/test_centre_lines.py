"""clDice where thinning leaves nothing of a piece."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from BrainSegSAMLib.metrics.topology import cl_dice


@pytest.mark.parametrize("shape", list(itertools.product((1, 2, 4), repeat=3)))
def test_a_block_agrees_with_itself(shape: tuple[int, int, int]) -> None:
    block = np.pad(np.ones(shape, bool), 2)
    assert cl_dice(block, block) == 1.0


def test_two_blocks_apart_share_nothing() -> None:
    first, second = np.zeros((2, 8, 8, 8), bool)
    first[1:3, 1:3, 1:3] = True
    second[5:7, 5:7, 5:7] = True
    assert cl_dice(first, second) == 0.0
