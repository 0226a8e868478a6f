"""From a slice to SAM's square and back: the picture that is encoded, places on it, and the logits of the masks.

Source: facebookresearch/segment-anything (Apache-2.0), `utils/transforms.py`, `modeling/sam.py`; bowang-lab/MedSAM
(Apache-2.0), `MedSAM_Inference.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear_matrix, resized, spline_matrix
from .sam_architecture import SamArchitecture
from .sam_network import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    import torch

_SURE = 1e-6  # as near to 0 or 1 as a probability may come, so that its logit is finite


def prepare(frames: NDArray[np.uint8], architecture: SamArchitecture) -> torch.Tensor:
    """Network input from slices, by the architecture's `pictures`.

    * "sam": resized until the longer side fits (bilinear), normalised with the photographs' mean and deviation, padded
      with zeros below and to the right.
    * "medsam": stretched to the square (cubic splines, whole numbers), then each slice from its own lowest to its own
      highest value to 0..1.
    * "window": stretched to the square (bicubic), 0..255 to 0..1, so that brightness means the same on all slices.

    Args:
        frames: uint8 (slice, 3, rows, columns).
        architecture: of the network.

    Returns:
        float32 (slice, 3, image_size, image_size) on the CPU.
    """
    import torch

    size = architecture.image_size
    if architecture.pictures == "medsam":
        return _stretched(frames, size)
    if architecture.pictures == "window":
        return resized(frames, (size, size), mode="bicubic").float() / 255
    rows, columns = content_size(frames.shape[2:], architecture)
    pixels = resized(frames, (rows, columns), mode="bilinear").float()
    mean, deviation = torch.tensor(PIXEL_MEAN)[:, None, None], torch.tensor(PIXEL_STD)[:, None, None]
    return torch.nn.functional.pad((pixels - mean) / deviation, (0, size - columns, 0, size - rows))


def content_size(slice_shape: tuple[int, ...], architecture: SamArchitecture) -> tuple[int, int]:
    """Rows and columns of the square that a slice of (rows, columns) fills."""
    size = architecture.image_size
    if architecture.pictures != "sam":
        return size, size
    scale = size / max(slice_shape)
    return max(1, int(slice_shape[0] * scale + 0.5)), max(1, int(slice_shape[1] * scale + 0.5))


def to_square(places: NDArray[np.float64], slice_shape: tuple[int, int], architecture: SamArchitecture) -> torch.Tensor:
    """Places on a slice as the prompt encoder takes them.

    SAM counts pixels from the outer corner of the first one, as 0; here the first one's centre is 0, as in `prompts`.

    Args:
        places: (…, column and row alternating): (…, 2) of points, or (…, 4) of boxes.
        slice_shape: rows and columns.
        architecture: of the network.

    Returns:
        float32, in pixels of the square.
    """
    import torch

    rows, columns = content_size(slice_shape, architecture)
    scale = np.array([columns / slice_shape[1], rows / slice_shape[0]])
    return torch.from_numpy(((places + 0.5) * np.tile(scale, places.shape[-1] // 2)).astype(np.float32))


def to_slice(logits: torch.Tensor, slice_shape: tuple[int, int], architecture: SamArchitecture) -> torch.Tensor:
    """The mask decoder's logits on a slice's own grid; by linear interpolation, before any threshold.

    MedSAM interpolates probabilities; its logits are those of the interpolated probabilities.

    Args:
        logits: float32 (mask, logits_size, logits_size).
        slice_shape: rows and columns.
        architecture: of the network.

    Returns:
        float32 (mask, rows, columns).
    """
    import torch

    content = content_size(slice_shape, architecture)
    down, across = (
        _back(kept, side, architecture).to(logits.device) for kept, side in zip(content, slice_shape, strict=True)
    )
    if architecture.pictures == "medsam":
        return torch.logit(down @ torch.sigmoid(logits) @ across.T, eps=_SURE)
    return down @ logits @ across.T


def _back(kept: int, side: int, architecture: SamArchitecture) -> torch.Tensor:
    """From logits to the rows or columns of a slice; SAM goes through the square, where it cuts off what was padded."""
    if architecture.pictures == "sam":
        return bilinear_matrix(architecture.logits_size, (architecture.image_size, kept), (side, side))
    return bilinear_matrix(architecture.logits_size, (side, side))


def _stretched(frames: NDArray[np.uint8], size: int) -> torch.Tensor:
    """MedSAM's pictures."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).double()
    lowest, highest = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    down, across = spline_matrix(frames.shape[2], size), spline_matrix(frames.shape[3], size)
    # MedSAM cuts off what lies behind the point; rounding errors must not turn 255 into 254.
    whole = torch.floor((down @ pixels @ across.T).clamp(lowest, highest) + 1e-9)
    lowest, highest = whole.amin((1, 2, 3), keepdim=True), whole.amax((1, 2, 3), keepdim=True)
    return ((whole - lowest) / (highest - lowest).clamp(min=1e-8)).float()
