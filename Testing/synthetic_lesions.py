"""Volumes with bright objects whose course is known, for tests of what follows objects through slices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.prompts import Prompt

Volume = NDArray[np.uint8]
SHAPE = (40, 48, 56)
OBJECT, BACKGROUND = 200, 90


def disc(row: float, column: float, radius: float, shape: tuple[int, int] = SHAPE[1:]) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside: NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside


def pictured(truth: NDArray[Any], *, seed: int = 0, level: int = OBJECT) -> Volume:
    """A noisy volume with a bright object, three channels."""
    noise = np.random.default_rng(seed).normal(0, 5, truth.shape)
    grey = np.where(truth > 0, level, BACKGROUND) + noise
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[None], 3, axis=0)


def moving_branching_ending() -> NDArray[np.bool_]:
    """Slices 6 to 30: a disc that wanders, splits at 18 into two that part; one ends at 25, the other at 30."""
    truth = np.zeros(SHAPE, dtype=bool)
    for z in range(6, 19):
        truth[z] = disc(16 + 0.8 * z, 18 + 0.7 * z, 6 - 0.15 * abs(z - 14))
    for z in range(19, 31):
        apart = 1.3 * (z - 18)
        truth[z] = disc(30.4, 30.6 + apart, 4)
        if z <= 25:
            truth[z] |= disc(30.4, 30.6 - apart, 4)
    return truth


def on(truth: NDArray[Any], index: int, *, number: int = 1) -> Prompt:
    return Prompt(number, "axial", index, mask=truth[index] == (True if truth.dtype == bool else number))


def slices_of(mask: NDArray[np.bool_]) -> list[int]:
    return [int(z) for z in np.flatnonzero(mask.any(axis=(1, 2)))]


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))
