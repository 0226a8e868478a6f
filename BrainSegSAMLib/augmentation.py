"""Slices as a network sees them, changed at random: turned, moved, magnified, mirrored, brighter, darker, noisier.

Slices that belong together, with all masks on them, are changed alike, so that they still fit each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = 0.25  # standard deviation in normalised intensities, for an intensity change of 1

Prepare = Callable[[NDArray[np.uint8]], "Tensor"]
"""Slices uint8 (k, 3, rows, columns) → a network's input, float32 (k, 3, S, S)."""


@dataclass(frozen=True)
class Changes:
    """How often and how far slices are changed.

    Attributes:
        probability: of each of the changes below.
        rotation_degrees: largest rotation within the slice.
        largest_zoom: largest factor by which slices are magnified, or its inverse.
        translation: largest shift, as a share of the slice.
        intensity: how far gain and gamma of each channel are changed at most, and noise is added.
    """

    probability: float
    rotation_degrees: float = 15.0
    largest_zoom: float = 1.25
    translation: float = 0.05
    intensity: float = 0.2


def augmented(
    frames: NDArray[np.uint8], masks: NDArray[np.bool_], changes: Changes, prepare: Prepare, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Slices and the objects on them, on the network's grid.

    Args:
        frames: uint8 (k, 3, rows, columns), 0 outside the head.
        masks: bool (object, k, rows, columns); every object shows on the first slice.
        changes: to make.
        prepare: brings slices to the network's square as for prediction, not keeping the aspect ratio.
        rng: draws every change.

    Returns:
        float32 (k, 3, S, S) and bool (object, k, S, S). Every object still shows on the first slice.
    """
    import torch

    if rng.random() < changes.probability:
        frames = _other_contrast(frames, changes.intensity, rng)
    images = prepare(frames)
    shown = on_grid(masks, images.shape[-1])
    if rng.random() < changes.probability:
        spread = _NOISE * changes.intensity * rng.random()
        noise = np.asarray(rng.standard_normal(images.shape, dtype=np.float32))
        images = images + spread * torch.from_numpy(noise)
    if rng.random() < changes.probability:
        matrix = _placement(changes, rng)
        moved = _moved(shown.float(), matrix) > 0.5
        if bool(moved[:, 0].flatten(1).any(1).all()):  # else a prompt would be empty
            images, shown = _moved(images, matrix), moved
    return images, shown


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


def _placement(changes: Changes, rng: np.random.Generator) -> Tensor:
    """2x3 matrix from output to input, in units of half the slice; columns first."""
    import torch

    angle = math.radians(rng.uniform(-changes.rotation_degrees, changes.rotation_degrees))
    zoom = changes.largest_zoom ** rng.uniform(-1, 1)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-changes.translation, changes.translation, 2) * 2
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
