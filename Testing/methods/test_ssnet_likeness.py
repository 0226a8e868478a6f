"""Likeness: what an object looks like is learnt from its prompt, and ends tracks that run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.backends.sam2_session import Seed, Step
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.likeness import learn
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracking import Target, Tracked, track
from BrainSegSAMLib.prompts import Prompt

ROWS, COLUMNS = np.indices((64, 64))
DISC = (ROWS - 30) ** 2 + (COLUMNS - 26) ** 2 < 12**2


class Copier:
    """A tracker that carries the prompt's mask on for ever, sure that the object is there."""

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def encode(self, frames: NDArray[np.uint8], **_: Any) -> Copier:
        self.count = len(frames)
        return self

    def begin(self, _: object, seeds: Sequence[Seed]) -> CopierSession:
        return CopierSession(self.count, seeds)


class CopierSession:
    def __init__(self, count: int, seeds: Sequence[Seed]) -> None:
        self.count, self.seeds, self.offset = count, dict(enumerate(seeds)), 0

    def stop(self, track: int) -> None:
        self.seeds.pop(track, None)

    def step(self) -> list[Step]:
        places = {number: seed.slice_index + self.offset * seed.direction for number, seed in self.seeds.items()}
        self.offset += 1
        return [
            Step(number, place, np.where(self.seeds[number].mask, 5.0, -5.0).astype(np.float32), 5.0)
            for number, place in places.items()
            if 0 <= place < self.count
        ]


def speckled(mean: float, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(mean, 6.0, shape)


def picture_of(truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Three channels (3, z, y, x); the object differs in the first alone."""
    rng = np.random.default_rng(2)
    channels = [speckled(100, truth.shape, rng) for _ in range(3)]
    channels[0] = np.where(truth, channels[0] + 60, channels[0])
    return np.rint(np.clip(channels, 1, 255)).astype(np.uint8)


def run(truth: NDArray[np.bool_], index: int, **more: Any) -> Tracked:
    geometry = Geometry.axis_aligned(truth.shape)
    settings = replace(TrackingSettings(zoom_pixels=None), **more)
    prompt = Prompt(1, "axial", index, mask=truth[index])
    reach = reach_of(prompt_extent(prompt, geometry), geometry, "axial", settings, from_prior=False)
    return track(Copier(), picture_of(truth), geometry, [Target(prompt, reach)], image_size=64, settings=settings)


def test_two_normal_distributions_tell_object_from_surroundings() -> None:
    truth = np.zeros((3, 64, 64), dtype=bool)
    truth[1] = DISC
    picture = picture_of(truth)
    learnt = learn(picture[:, 1], DISC)
    assert learnt is not None
    likeness = learnt.of(picture[:, 1])
    assert likeness.dtype == np.float32
    assert likeness[DISC].mean() > 0.9
    assert likeness[~DISC].mean() < 0.1
    black = picture[:, 1].copy()
    black[:, :10] = 0
    assert not learnt.of(black)[:9].any()


def test_where_there_is_too_little_to_learn_from_nothing_is_learnt() -> None:
    frame = np.full((3, 64, 64), 90, dtype=np.uint8)
    few = (ROWS == 3) & (COLUMNS < 5)
    assert learn(frame, few) is None
    assert learn(frame, np.ones((64, 64), dtype=bool)) is None
    assert learn(frame * 0, DISC) is None


def test_a_mask_carried_on_past_its_object_is_stopped_at_once() -> None:
    truth = np.zeros((30, 64, 64), dtype=bool)
    truth[8:20] = DISC
    tracked = run(truth, 13)
    assert np.array_equal(np.flatnonzero((tracked.owner > 0).any(axis=(1, 2))), np.arange(8, 20)), "no over-run"
    ends = {(firing.slice_index, firing.rule) for firing in tracked.firings if firing.stopped}
    assert ends == {(7, "likeness"), (20, "likeness")}
    endless = run(truth, 13, minimum_likeness=None, pixel_likeness=None)
    assert (endless.owner > 0).any(axis=(1, 2)).all()
    assert np.count_nonzero(run(truth, 13, stop_rules=False).owner) == 30 * np.count_nonzero(DISC)


def test_pixels_unlike_the_object_are_removed() -> None:
    truth = np.zeros((20, 64, 64), dtype=bool)
    truth[5:15] = DISC
    truth[11:15] &= COLUMNS < 30
    tracked = run(truth, 8)
    found = tracked.owner[12] > 0
    assert np.count_nonzero(found & truth[12]) > 0.97 * np.count_nonzero(truth[12])
    assert np.count_nonzero(found & ~truth[12]) < 0.1 * np.count_nonzero(truth[12])
    assert "unlike" in {firing.rule for firing in tracked.firings}


@pytest.mark.parametrize("name", ["minimum_likeness", "pixel_likeness"])
def test_limits_are_probabilities(name: str) -> None:
    with pytest.raises(InputError, match=name):
        TrackingSettings(**{name: 1.5})
