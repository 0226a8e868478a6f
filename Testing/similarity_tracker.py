"""A tracker without a network: a small classical algorithm that keeps the promises of `methods.ssnet.tracker.Network`.

On each slice it takes what is connected to the slice before's mask and as bright as the prompted object was. It follows
what moves, splits and ends; it leaks where the object touches something of its own brightness; it knows no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.backends.sam2_session import Seed, Step

TOLERANCE = 25.0
STEP_PIXELS = 2
EIGHT = np.ones((3, 3), dtype=bool)


class Features:
    """The slices themselves; counts which were looked at, and whether they were given back."""

    def __init__(self, frames: NDArray[np.uint8], progress: Any) -> None:
        self.frames, self.progress = frames, progress
        self.seen: list[int] = []
        self.closed = False

    bytes_at_most = bytes_in_memory = 0

    def spill(self) -> None:
        """There is nothing to free."""

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Session:
    """Tracks in lock-step."""

    def __init__(self, features: Features, seeds: Sequence[Seed]) -> None:
        self.features, self.seeds = features, seeds
        self.offset = 0
        self.masks: dict[int, NDArray[np.bool_]] = {}
        self.level: dict[int, float] = {}
        self.alive = set(range(len(seeds)))

    def stop(self, track: int) -> None:
        self.alive.discard(track)

    def step(self) -> list[Step]:
        steps = []
        for track in sorted(self.alive):
            index = self.seeds[track].slice_index + self.offset * self.seeds[track].direction
            if not 0 <= index < len(self.features.frames):
                self.alive.discard(track)
                continue
            if self.features.progress is not None:
                self.features.progress.check()
            self.features.seen.append(index)
            picture = self.features.frames[index, 0].astype(np.float32)
            follow = self._prompted if self.offset == 0 else self._followed
            logits = follow(track, picture)
            self.masks[track] = logits > 0 if (logits > 0).any() else self.masks.get(track, logits > 0)
            steps.append(Step(track, index, logits, 5.0 if (logits > 0).any() else -5.0))
        self.offset += 1
        return steps

    def _prompted(self, track: int, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        seed = self.seeds[track]
        if seed.mask is not None:
            mask = seed.mask
        else:
            mask = np.zeros(picture.shape, dtype=bool)
            if seed.box is not None:
                left, top, right, bottom = seed.box
                inside = (slice(round(top), round(bottom)), slice(round(left), round(right)))
                mask[inside] = picture[inside] > picture[inside].mean()
            else:
                column, row = (seed.points or ())[0]
                pieces, _ = ndimage.label(np.abs(picture - picture[int(row), int(column)]) < TOLERANCE, EIGHT)
                mask = pieces == pieces[int(row), int(column)]
        self.level[track] = float(picture[mask].mean())
        return np.where(mask, 10.0, -10.0).astype(np.float32)

    def _followed(self, track: int, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        similar = 10 * (1 - np.abs(picture - self.level[track]) / TOLERANCE)
        near = ndimage.binary_dilation(self.masks[track], EIGHT, iterations=STEP_PIXELS)
        found = ndimage.binary_propagation(near & (similar > 0), EIGHT, mask=similar > 0)
        return np.where(found, similar, -np.abs(similar) - 1).astype(np.float32)


class SimilarityTracker:
    """Keeps `methods.ssnet.tracker.Network`; `opened` holds the features that were made, in order."""

    def __init__(self) -> None:
        self.opened: list[Features] = []

    def encode(
        self, frames: NDArray[np.uint8], *, memory_budget_bytes: int, batch_size: int, progress: Any = None
    ) -> Features:
        self.opened.append(Features(frames, progress))
        return self.opened[-1]

    def begin(self, features: Features, seeds: Sequence[Seed]) -> Session:
        return Session(features, seeds)
