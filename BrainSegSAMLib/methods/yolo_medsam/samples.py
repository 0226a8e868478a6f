"""Slices with the objects on them, drawn for training, changed at random, and brought to the network's square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...augmentation import augmented, on_grid
from ...backends.sam_architecture import SamArchitecture
from ...backends.sam_grid import prepare
from ...crops import Crop
from ...errors import InputError
from ...intensity import as_frames
from ...prompts import PLANES
from ...training_volumes import BRAIN, MADE_UP, Piece, TrainingVolume
from .sam_config import SamTrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

_JITTERED_SIZE = 1024  # of the picture whose pixels box_jitter counts
_LEAST_SHARE = 0.25  # of a box that jitter inwards leaves on each side of its middle


@dataclass(frozen=True, eq=False)
class TrainingSlice:
    """One slice of a volume, and the objects that show on it.

    Attributes:
        volume: it is from.
        plane: a key of `prompts.PLANES`.
        crop: rows and columns that are shown of it.
        index: of the slice.
        pieces: at least one.
        weights: how often each piece is drawn, relative to the others.
        weight: how often the slice is drawn, relative to others.
    """

    volume: TrainingVolume
    plane: str
    crop: Crop
    index: int
    pieces: tuple[Piece, ...]
    weights: tuple[float, ...]
    weight: float

    @property
    def frame(self) -> NDArray[np.uint8]:
        """The picture: uint8 (3, rows, columns)."""
        frame = as_frames(self.volume.pictures, self.plane)[self.index]
        return np.ascontiguousarray(frame[:, self.crop[0], self.crop[1]])

    def masks(self, numbers: Sequence[int]) -> NDArray[np.bool_]:
        """Some of its pieces: bool (object, rows, columns)."""
        here = np.array([self.index])
        shape = self.volume.shape_zyx
        whole = np.concatenate([self.pieces[n].slices(PLANES[self.plane], here, shape) for n in numbers])
        return whole[:, self.crop[0], self.crop[1]]


def training_slices(volume: TrainingVolume, config: SamTrainingConfig, *, weight: float) -> list[TrainingSlice]:
    """The slices of a volume that show an object to learn.

    Args:
        volume: prepared with `config.volumes`.
        config: which objects count, and how much.
        weight: of the volume, relative to others.
    """
    shares = _region_weights(volume.truth, config)
    axis = PLANES[config.plane]
    across = tuple(a for a in range(3) if a != axis)
    shown: dict[int, list[Piece]] = {}
    for piece in volume.objects:
        if shares[piece.region] > 0:
            areas = piece.mask.sum(axis=across)
            for offset in np.flatnonzero(areas >= config.minimum_pixels):
                shown.setdefault(piece.box[axis].start + int(offset), []).append(piece)
    crop = volume.heads[config.plane] if config.head_only else (slice(None), slice(None))
    found = []
    for index, pieces in sorted(shown.items()):
        weights = tuple(shares[piece.region] for piece in pieces)
        found.append(TrainingSlice(volume, config.plane, crop, index, tuple(pieces), weights, weight * max(weights)))
    return found


def _region_weights(regions: Mapping[int, object], config: SamTrainingConfig) -> dict[int, float]:
    weights = dict(enumerate(config.region_weights)) if config.region_weights else dict.fromkeys(regions, 1.0)
    return {**weights, MADE_UP: config.made_up_weight, BRAIN: config.brain_weight}


def draw_slices(slices: Sequence[TrainingSlice], count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of so many slices, drawn by their weights.

    Raises:
        InputError: where there is none to draw.
    """
    weights = np.array([item.weight for item in slices])
    if not weights.any():
        raise InputError("None of the training cases shows an object to learn; check regions and label values.")
    return [int(number) for number in rng.choice(len(slices), size=count, p=weights / weights.sum())]


def draw_pieces(item: TrainingSlice, config: SamTrainingConfig, rng: np.random.Generator) -> list[int]:
    """Numbers of the objects of a slice that are learned together."""
    weights = np.array(item.weights)
    kept = np.flatnonzero(rng.random(len(weights)) >= config.dropped_boxes)
    kept = kept if len(kept) else np.array([rng.integers(len(weights))])
    count = min(config.boxes_per_slice, len(kept))
    chosen = rng.choice(kept, size=count, replace=False, p=weights[kept] / weights[kept].sum())
    return [int(number) for number in chosen]


def on_square(
    item: TrainingSlice,
    pieces: Sequence[int],
    config: SamTrainingConfig,
    architecture: SamArchitecture,
    rng: np.random.Generator | None,
    *,
    masks_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """A slice and some of its objects as the network sees them.

    Args:
        item: the slice.
        pieces: numbers of the objects; at least one.
        config: how it is changed.
        architecture: of the network.
        rng: draws the changes, which are the same whatever the objects; None: no changes.
        masks_only: leave the picture black, because its features are known.

    Returns:
        float32 (3, S, S) and bool (object, S, S); objects that the changes pushed out of sight are empty.
    """
    import torch

    size = architecture.image_size
    frames, masks = _as_square(item.frame, item.masks(pieces), architecture)

    def picture(changed: NDArray[np.uint8]) -> Tensor:
        return torch.zeros(1, 3, size, size) if masks_only else prepare(changed, architecture)

    if rng is None:
        return picture(frames)[0], on_grid(masks, size)
    if rng.random() < config.single_modality_probability:
        frames = frames[:, [int(rng.integers(3))] * 3]
    # As one object that begins with everything, so it is always in sight and all changes are made.
    together = np.concatenate([np.ones((1, *masks.shape[1:]), dtype=bool), masks])[None]
    images, shown = augmented(frames, together, config.changes, picture, rng)
    return images[0], shown[0, 1:]


def _as_square(
    frame: NDArray[np.uint8], masks: NDArray[np.bool_], architecture: SamArchitecture
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(1, 3, rows, columns), and (object, rows, columns) padded as `prepare` will pad what it does not stretch."""
    if architecture.pictures == "sam":
        rows, columns = frame.shape[1:]
        side = max(rows, columns)
        masks = np.pad(masks, ((0, 0), (0, side - rows), (0, side - columns)))
    return frame[None], masks


def jittered_boxes(masks: Tensor, config: SamTrainingConfig, rng: np.random.Generator) -> Tensor:
    """The boxes around masks on the network's square, with each side moved at random.

    Args:
        masks: bool (object, S, S), none empty.
        config: how far sides are moved.
        rng: draws the moves.

    Returns:
        float32 (object, 4): column0, row0, column1, row1 from the outer corner of the first pixel, inside the square.
    """
    import torch

    side = masks.shape[-1]
    outwards, inwards = (amount * side / _JITTERED_SIZE for amount in (config.box_jitter, config.box_jitter_inward))
    boxes = []
    for mask in masks.numpy():
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
        sizes = np.tile(corners[2:] - corners[:2], 2)
        moves = rng.uniform(-np.minimum(inwards, _LEAST_SHARE * sizes), outwards)
        boxes.append(np.clip(corners + moves * [-1, -1, 1, 1], 0, side))
    return torch.from_numpy(np.stack(boxes).astype(np.float32))
