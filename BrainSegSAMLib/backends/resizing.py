"""Resizes slices for networks, and what they find back to the slices.

Interpolation is linear in the values and goes along rows and columns separately, so a whole resizing, of several steps
even, is one matrix for the rows and one for the columns; matrices depend on sizes alone and are made once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def resized(frames: NDArray[np.uint8], size: tuple[int, int], *, mode: str) -> torch.Tensor:
    """Slices at another size, antialiased where they become smaller, as Pillow does it.

    Args:
        frames: uint8 (slice, channel, rows, columns).
        size: rows and columns that they shall have.
        mode: "bilinear" or "bicubic".

    Returns:
        uint8 (slice, channel, *size).
    """
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(frames))
    if pixels.shape[-2:] == size:
        return pixels
    return torch.nn.functional.interpolate(pixels, size=size, mode=mode, antialias=True, align_corners=False)


@lru_cache(maxsize=16)
def spline_matrix(before: int, after: int) -> torch.Tensor:
    """Cubic splines through all pixels, after Gaussian smoothing where they become fewer: scikit-image's `resize`.

    Args:
        before: pixels.
        after: pixels wanted.

    Returns:
        float64 (after, before).
    """
    import torch
    from scipy import ndimage

    pixels = np.eye(before)
    if after < before:
        pixels = ndimage.gaussian_filter1d(pixels, (before / after - 1) / 2, axis=0, mode="mirror")
    zoomed = ndimage.zoom(pixels, (after / before, 1), order=3, mode="mirror", grid_mode=True)
    return torch.from_numpy(zoomed)


@lru_cache(maxsize=16)
def bilinear_matrix(before: int, *steps: tuple[int, int]) -> torch.Tensor:
    """Linear interpolation between pixel centres, in one step or several.

    Args:
        before: pixels.
        steps: pixels wanted, and how many of them are kept, for each step.

    Returns:
        float32 (pixels kept in the last step, before).
    """
    import torch

    with torch.inference_mode(False):  # what is made once may be used with gradients later
        matrix = torch.eye(before)[None]
        for after, kept in steps:
            matrix = torch.nn.functional.interpolate(matrix, size=after, mode="linear", align_corners=False)[..., :kept]
        return matrix[0].T.contiguous()
