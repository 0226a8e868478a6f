"""Clips as the network sees them, changed at random: turned, moved, magnified, mirrored, brighter, darker, noisier.

A clip is changed as a whole, so that neighbouring slices still fit each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...backends.sam2_forward import prepare
from .clips import Clip
from .tracker_config import TrackerTrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = 0.25  # standard deviation in normalised intensities, for an intensity_change of 1


def augmented(
    clip: Clip, config: TrackerTrainingConfig, image_size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A clip on the network's grid.

    Args:
        clip: as drawn.
        config: how often and how far clips are changed.
        image_size: of the network.
        rng: draws every change.

    Returns:
        float32 (k, 3, S, S), normalised as for prediction, and bool (object, k, S, S). Every object still shows on the
        first slice.
    """
    import torch

    frames = clip.frames if clip.single is None else clip.frames[:, [clip.single] * 3]
    if rng.random() < config.augmentation_probability:
        frames = _other_contrast(frames, config.intensity_change, rng)
    images = prepare(frames, image_size)
    masks = on_grid(clip.masks, image_size)
    if rng.random() < config.augmentation_probability:
        spread = _NOISE * config.intensity_change * rng.random()
        noise = np.asarray(rng.standard_normal(images.shape, dtype=np.float32))
        images = images + spread * torch.from_numpy(noise)
    if rng.random() < config.augmentation_probability:
        matrix = _placement(config, rng)
        moved = _moved(masks.float(), matrix) > 0.5
        if bool(moved[:, 0].flatten(1).any(1).all()):  # else a prompt would be empty
            images, masks = _moved(images, matrix), moved
    return images, masks


def on_grid(masks: NDArray[np.bool_], image_size: int) -> Tensor:
    """Masks (…, rows, columns) on the network's grid: bool (…, S, S); what shows keeps at least one pixel."""
    import torch

    whole = torch.from_numpy(np.ascontiguousarray(masks, dtype=np.float32)).reshape(-1, 1, *masks.shape[-2:])
    size = (image_size, image_size)
    resized = torch.nn.functional.interpolate(whole, size=size, mode="bilinear", antialias=True, align_corners=False)
    highest = resized.flatten(1).amax(1)[:, None, None, None]
    found = resized >= torch.minimum(torch.tensor(0.5), highest / 2).clamp(min=1e-6)
    return found.reshape(*masks.shape[:-2], *size)


def _other_contrast(frames: NDArray[np.uint8], change: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another gain and gamma for each channel; black stays black."""
    grey = np.arange(256) / 255.0
    changed = np.empty_like(frames)
    for channel in range(frames.shape[1]):
        gamma, gain = np.exp(rng.uniform(-change, change, 2))
        table = np.rint(np.clip(gain * grey**gamma, 0, 1) * 255).astype(np.uint8)
        changed[:, channel] = table[frames[:, channel]]
    return changed


def _placement(config: TrackerTrainingConfig, rng: np.random.Generator) -> Tensor:
    """2x3 matrix from output to input, in units of half the slice; columns first."""
    import torch

    angle = math.radians(rng.uniform(-config.rotation_degrees, config.rotation_degrees))
    zoom = config.largest_zoom ** rng.uniform(-1, 1)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-config.translation, config.translation, 2) * 2
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    return torch.tensor(
        [[mirror * cosine, -sine, shift[0]], [mirror * sine, cosine, shift[1]]], dtype=torch.float32
    )


def _moved(values: Tensor, matrix: Tensor) -> Tensor:
    """Values (…, S, S) sampled elsewhere; beyond the edge lies what lies on it."""
    import torch

    flat = values.reshape(1, -1, *values.shape[-2:])
    grid = torch.nn.functional.affine_grid(matrix[None], list(flat.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.reshape(values.shape)
