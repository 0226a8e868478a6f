"""Makes training cases more various: puts the lesion of one brain into another, and changes the contrast of lesions.

From few cases a network learns where their lesions lay and how bright they were. Both functions change just that, on
arrays that are resampled and z-scored already, so that they are cheap enough to run for every patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MARGIN_VOXELS: Final = 4
_SOFT_EDGE_VOXELS: Final = 1.0
_SHIFT_VOXELS: Final = 5.0
_ATTEMPTS: Final = 8
_LEAST_SHARE_IN_BRAIN: Final = 0.8
_LEAST_VOXELS: Final = 8
_ALL: Final = (slice(None),)


@dataclass(frozen=True, eq=False)
class MixingCase:
    """One case on a grid whose axes have the same meaning for every case (e.g. all LPS), at one spacing.

    Attributes:
        channels: float32 (channel, z, y, x), z-scored within the brain.
        labels: integer (z, y, x): below 0 outside the brain, 0 healthy, above 0 lesion.
    """

    channels: NDArray[np.float32]
    labels: NDArray[Any]


def transplant(host: MixingCase, donor: MixingCase, rng: np.random.Generator, *, contrast: float) -> MixingCase:
    """Put the donor's lesions, as one piece, into the host's brain, beside or over lesions that it has.

    The piece is mirrored along y and along x at random, lies where it lay in its own brain (relative to the centre of
    the volume) but for a random shift, is cut at the edge of the host's brain, and fades into it over about two voxels.

    Args:
        host: gets the lesions; is not changed.
        donor: has them.
        rng: draws everything.
        contrast: as for `change_contrast`.

    Returns:
        A new case, or the host itself where the donor has no lesion or no place was found that holds most of it.

    Source: the idea of CarveMix (Zhang et al. 2021, https://doi.org/10.1007/978-3-030-87193-2_19), with soft edges,
    mirroring, shifts and changed contrast; whole lesions are moved, so that no label is cut but by the brain's edge.
    """
    from scipy import ndimage

    if np.count_nonzero(donor.labels > 0) < _LEAST_VOXELS:
        return host
    donor = change_contrast(donor, rng, contrast=contrast)
    flips = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
    channels = np.flip(donor.channels, tuple(axis + 1 for axis in flips))
    labels = np.flip(donor.labels, flips)
    box = _box(labels > 0, _MARGIN_VOXELS)
    piece, piece_labels = channels[_ALL + box], labels[box]
    offset = (np.array(host.labels.shape) - np.array(labels.shape)) / 2
    wanted = offset + [side.start for side in box]
    for _ in range(_ATTEMPTS):
        corner = np.rint(wanted + rng.normal(0, _SHIFT_VOXELS, 3)).astype(int)
        target, source = _overlap(corner, piece_labels.shape, host.labels.shape)
        inside = (piece_labels[source] > 0) & (host.labels[target] >= 0)
        if np.count_nonzero(inside) >= _LEAST_SHARE_IN_BRAIN * np.count_nonzero(piece_labels > 0):
            break
    else:
        return host
    alpha = ndimage.gaussian_filter(ndimage.binary_dilation(inside).astype(np.float32), _SOFT_EDGE_VOXELS)
    # Beyond either brain there is nothing to fade into.
    alpha *= (host.labels[target] >= 0) & (piece_labels[source] >= 0)
    mixed, mixed_labels = host.channels.copy(), host.labels.copy()
    part = mixed[_ALL + target]
    part += alpha * (piece[_ALL + source] - part)
    mixed_labels[target][inside] = piece_labels[source][inside]
    return MixingCase(mixed, mixed_labels)


def change_contrast(case: MixingCase, rng: np.random.Generator, *, contrast: float) -> MixingCase:
    """Make the lesions of a case stand out more or less, in all channels together and in each by itself.

    Args:
        case: is not changed.
        rng: draws everything.
        contrast: c in 0 to below 1: the difference between lesion and healthy brain (its median) is multiplied by a
            number drawn evenly from 1 - c to 1 + c/2, and per channel by another from 1 - c/2 to 1 + c/2.

    Returns:
        A new case, or the case itself where it has no lesion or no healthy brain.
    """
    from scipy import ndimage

    lesion = case.labels > 0
    healthy = case.labels == 0
    if contrast <= 0 or not lesion.any() or not healthy.any():
        return case
    box = _box(lesion, _MARGIN_VOXELS)
    alpha = ndimage.gaussian_filter(lesion[box].astype(np.float32), _SOFT_EDGE_VOXELS) * (case.labels[box] >= 0)
    common = rng.uniform(1 - contrast, 1 + contrast / 2)
    changed = case.channels.copy()
    for channel in changed:
        factor = common * rng.uniform(1 - contrast / 2, 1 + contrast / 2)
        base = np.median(channel[healthy])
        part = channel[box]
        part += alpha * np.float32(factor - 1) * (part - base)
    return MixingCase(changed, case.labels)


def _box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """Bounding box (z, y, x) of a mask that is not empty, with a margin, within the array."""
    sides = []
    for axis, size in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(max(0, int(used[0]) - margin), min(size, int(used[-1]) + 1 + margin)))
    return sides[0], sides[1], sides[2]


def _overlap(
    corner: NDArray[np.int_], piece: tuple[int, ...], host: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a piece whose first voxel lies at `corner` meets the host: slices of the host, and of the piece."""
    first = np.clip(corner, 0, host)
    last = np.maximum(first, np.minimum(corner + piece, host))
    target = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    source = tuple(slice(int(a - c), int(b - c)) for a, b, c in zip(first, last, corner, strict=True))
    return target, source
