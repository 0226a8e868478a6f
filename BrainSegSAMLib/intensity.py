"""MR intensities as the 8-bit pictures that networks trained on photographs take.

An MR intensity has no unit, so each modality is windowed between two percentiles of its own brain: the voxels that are
not zero. Percentiles instead of extremes, because one bright vessel would otherwise turn the brain grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .image import Image
from .prompts import slices_first

LOWER_PERCENTILE: Final = 0.5
UPPER_PERCENTILE: Final = 99.5
MAX_CHANNELS: Final = 3
"""A picture has three colours, so at most three modalities go into one."""


def window(
    volume_zyx: NDArray[np.float32],
    *,
    lower: float = LOWER_PERCENTILE,
    upper: float = UPPER_PERCENTILE,
    name: str = "The image",
) -> NDArray[np.uint8]:
    """Map intensities linearly to 0..255 between two percentiles of the voxels that are not zero.

    Args:
        volume_zyx: float32 (z, y, x), finite.
        lower: percentile that becomes 0, as all below it.
        upper: percentile that becomes 255, as all above it.
        name: of the volume, for messages.

    Returns:
        uint8 (z, y, x). Voxels that are exactly zero (outside a stripped skull) become 0, whatever the window.

    Raises:
        InputError: where the percentiles are no window, or the volume is constant, so that nothing shows in it.
    """
    if not 0 <= lower < upper <= 100:
        raise InputError(f"A window from percentile {lower} to {upper} is none; use 0 to 100, the lower one first.")
    brain = volume_zyx != 0
    inside = volume_zyx[brain]
    if inside.size == 0:
        raise InputError(f"{name} is zero everywhere; there is nothing to see in it.")
    low, high = (float(value) for value in np.percentile(inside, (lower, upper)))
    if not high > low:
        # A nearly constant volume may still hold a small object beyond the percentiles.
        low, high = float(inside.min()), float(inside.max())
    if not high > low:
        raise InputError(f"{name} has the same value {low:g} in every voxel that is not zero; nothing shows in it.")
    scaled = (volume_zyx - np.float32(low)) * np.float32(255.0 / (high - low))
    picture: NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
    picture[~brain] = 0
    return picture


def windowed(
    channels: Mapping[str, NDArray[np.float32]],
    modalities: Sequence[str],
    *,
    lower: float = LOWER_PERCENTILE,
    upper: float = UPPER_PERCENTILE,
) -> NDArray[np.uint8]:
    """One to three modalities as the three channels of a picture.

    Args:
        channels: modality → float32 (z, y, x).
        modalities: which ones, in the order of the channels. One is repeated three times, of two the last one twice.
        lower: see `window`.
        upper: see `window`.

    Returns:
        uint8 (3, z, y, x).

    Raises:
        InputError: where there are none or more than three, one is missing, or one cannot be windowed.
    """
    if not 1 <= len(modalities) <= MAX_CHANNELS:
        raise InputError(f"One to {MAX_CHANNELS} modalities make a picture, but {len(modalities)} are given.")
    missing = [name for name in modalities if name not in channels]
    if missing:
        raise InputError(f"The image lacks {', '.join(missing)}; it has {', '.join(channels)}.")
    pictures = [window(channels[name], lower=lower, upper=upper, name=f"The modality {name}") for name in modalities]
    pictures += [pictures[-1]] * (MAX_CHANNELS - len(pictures))
    return np.stack(pictures)


def picture_of(
    image: Image,
    modalities: Sequence[str],
    *,
    lower: float = LOWER_PERCENTILE,
    upper: float = UPPER_PERCENTILE,
) -> NDArray[np.uint8]:
    """One to three modalities of an image as a picture: uint8 (3, z, y, x).

    Raises:
        InputError: as `windowed`, with the image's name.
    """
    try:
        return windowed(image.channels, modalities, lower=lower, upper=upper)
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from error


def as_frames(picture_zyx: NDArray[np.uint8], plane: str) -> NDArray[np.uint8]:
    """Pictures (3, z, y, x) with axes LPS as (slice, 3, rows, columns) of a plane; a view, not a copy."""
    moved: NDArray[np.uint8] = np.moveaxis(slices_first(picture_zyx, plane), 0, 1)
    return moved
