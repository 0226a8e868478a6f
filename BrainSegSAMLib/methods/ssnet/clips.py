"""Clips for training a tracker: a few slices of a volume, an object in them, and a prompt on the first.

A clip is taken as a user's tracking would go: from a slice with the object along an axis, up or down, often past the
place where the object ends. Sources: Ravi et al. 2024, SAM 2, https://arxiv.org/abs/2408.00714, appendix D (sampling of
frames, jittered boxes, corrective clicks); Ma et al. 2025, MedSAM2, https://arxiv.org/abs/2504.03600.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...intensity import as_frames
from ...prompts import PLANES
from ...training_volumes import MADE_UP, BoolArray, Piece, TrainingVolume
from .tracker_config import TrackerTrainingConfig

_LEAST_AREA = 0.1  # of an object's largest slice: where less of it shows, no clip begins
_LEAST_PIXELS = 4


@dataclass(frozen=True, eq=False)
class Clip:
    """Some slices in the order in which they are tracked, and objects in them.

    Attributes:
        case_id: where it is from.
        frames: uint8 (k, 3, rows, columns).
        masks: bool (object, k, rows, columns); each object shows on the first slice.
        single: number of the channel that alone shall be shown, or None.
        both: whether objects are also tracked from the last slice to the first.
    """

    case_id: str
    frames: NDArray[np.uint8]
    masks: BoolArray
    single: int | None = None
    both: bool = False

    @property
    def shown(self) -> NDArray[np.uint8]:
        """The frames as the network shall see them."""
        return self.frames if self.single is None else self.frames[:, [self.single] * 3]

    def orders(self) -> list[tuple[int, tuple[int, ...]]]:
        """The tracks of this clip: (object, slices in the order of the track); each begins where the object shows."""
        forward = tuple(range(len(self.frames)))
        found = [(number, forward) for number in range(len(self.masks))]
        if self.both:
            found += [(n, forward[::-1]) for n in range(len(self.masks)) if self.masks[n, -1].sum() >= _LEAST_PIXELS]
        return found


# ---- sampling -----------------------------------------------------------------------------------------------------


def draw_clip(
    volumes: Sequence[TrainingVolume], weights: Sequence[float], config: TrackerTrainingConfig, rng: np.random.Generator
) -> Clip:
    """Draw one clip.

    Args:
        volumes: to draw from; those without an object are passed over.
        weights: how often each is drawn, relative to the others.
        config: how clips are placed.
        rng: draws everything.

    Raises:
        InputError: where no volume has an object that may be drawn.
    """
    drawable = [_region_shares(volume, config) for volume in volumes]
    shares = np.array([weight if shares else 0.0 for weight, shares in zip(weights, drawable, strict=True)])
    if not shares.any():
        raise InputError("None of the training cases has an object to track; check regions and label values.")
    chosen = int(rng.choice(len(volumes), p=shares / shares.sum()))
    volume, regions = volumes[chosen], drawable[chosen]
    numbers = sorted(regions)
    likely = np.array([regions[number] for number in numbers])
    region = numbers[int(rng.choice(len(numbers), p=likely / likely.sum()))]
    candidates = [item for item in volume.objects if item.region == region]
    followed = candidates[int(rng.integers(len(candidates)))]
    plane = _choose(config.planes, rng)
    indices = draw_slices(followed, PLANES[plane], volume.shape_zyx, config, rng)
    return _cut(volume, followed, plane, indices, config, rng)


def draw_slices(
    followed: Piece, axis: int, shape_zyx: tuple[int, int, int], config: TrackerTrainingConfig,
    rng: np.random.Generator,
) -> NDArray[np.intp]:  # fmt: skip
    """Numbers of `config.clip_length` slices along an axis; the first one shows the object.

    They go up or down in equal steps. At the edge of the volume the last slice is repeated.
    """
    step = int(rng.integers(1, config.largest_step + 1))
    # Of tracks both ways only the one that begins with the clip can pass the object's end, so that one goes either way.
    upwards = config.directions == "forward" or (config.directions != "backward" and rng.random() < 0.5)
    other = tuple(a for a in range(3) if a != axis)
    areas = followed.mask.sum(axis=other)
    # Beginning where only a few pixels show would teach little: a user starts where the object is large.
    starts = np.flatnonzero(areas >= max(_LEAST_AREA * areas.max(), min(_LEAST_PIXELS, areas.max())))
    if rng.random() < config.end_probability:
        reach = (config.clip_length - 2) * step
        near = starts >= len(areas) - 1 - reach if upwards else starts <= reach
        starts = starts[near] if near.any() else starts
    first = followed.box[axis].start + int(rng.choice(starts))
    indices = first + (step if upwards else -step) * np.arange(config.clip_length)
    inside: NDArray[np.intp] = np.clip(indices, 0, shape_zyx[axis] - 1)
    return inside


def _region_shares(volume: TrainingVolume, config: TrackerTrainingConfig) -> dict[int, float]:
    weights = dict(enumerate(config.region_weights)) if config.region_weights else dict.fromkeys(volume.truth, 1.0)
    weights[MADE_UP] = config.made_up_weight
    regions = {item.region for item in volume.objects}
    return {number: weights[number] for number in regions if weights[number] > 0}


def _choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], dtype=float)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


def _cut(
    volume: TrainingVolume, followed: Piece, plane: str, indices: NDArray[np.intp],
    config: TrackerTrainingConfig, rng: np.random.Generator,
) -> Clip:  # fmt: skip
    axis, (rows, columns) = PLANES[plane], volume.heads[plane]
    frames = np.ascontiguousarray(as_frames(volume.pictures, plane)[indices][:, :, rows, columns])
    masks = [followed.slices(axis, indices, volume.shape_zyx)[:, rows, columns]]
    drawable = _region_shares(volume, config)
    others = [item for item in volume.objects if item is not followed and item.region in drawable]
    for position in rng.permutation(len(others)):
        if len(masks) == config.objects_per_clip:
            break
        mask = others[position].slices(axis, indices, volume.shape_zyx)[:, rows, columns]
        if mask[0].sum() >= _LEAST_PIXELS:
            masks.append(mask)
    single = int(rng.integers(3)) if rng.random() < config.single_modality_probability else None
    return Clip(volume.case_id, frames, np.stack(masks), single, config.directions == "both")


# ---- prompts ------------------------------------------------------------------------------------------------------


def jittered_box(mask: BoolArray, jitter: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The box around a mask with each side moved in or out.

    Args:
        mask: bool (rows, columns), not empty.
        jitter: largest move of a side, as a share of the box's width or height.
        rng: draws the moves.

    Returns:
        Column and row of one corner, column and row of the opposite one, in pixels (first pixel: 0 to 1), inside the
        slice.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
    size = np.array([corners[2] - corners[0], corners[3] - corners[1]] * 2)
    limits = np.array(mask.shape[::-1] * 2, dtype=float)
    moved = np.clip(corners + rng.uniform(-jitter, jitter, 4) * size, 0, limits)
    return float(moved[0]), float(moved[1]), float(moved[2]), float(moved[3])


def corrective_click(
    answer: BoolArray, wanted: BoolArray, rng: np.random.Generator
) -> tuple[tuple[float, float], int]:
    """Where a user would click next: a random pixel that is wrong.

    Args:
        answer: bool (rows, columns), what the tracker said.
        wanted: the same shape, not empty.
        rng: draws the pixel.

    Returns:
        (column, row) of the pixel's centre (first pixel: 0 to 1), and 1 where it lacks or 0 where it is too much. An
        answer without a fault is confirmed by a click inside the object.
    """
    wrong = answer != wanted
    rows, columns = np.nonzero(wrong if wrong.any() else wanted)
    chosen = int(rng.integers(len(rows)))
    row, column = int(rows[chosen]), int(columns[chosen])
    return (column + 0.5, row + 0.5), int(wanted[row, column])
