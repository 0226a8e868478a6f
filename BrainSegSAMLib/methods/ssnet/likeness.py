"""How far a pixel looks like an object, by the intensities that the object has on its prompted slice.

A tracker that has seen few cases carries a mask on where the object has long ended. What the prompt shows tells more
than where the object is: two normal distributions of intensities, one of the object and one of what is around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SMOOTHING: Final = 1.0  # pixels; noise of single pixels says nothing
_GAP: Final = 2  # pixels between object and surroundings, whose masks are never exact
_LEAST: Final = 10  # pixels of each, or nothing is learnt
_SPREAD: Final = 5.0  # of 255 grey levels: what a uniform object varies by nevertheless

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Normal:
    """A normal distribution of the three channels."""

    mean: FloatArray
    inverse: FloatArray
    log_determinant: float

    @classmethod
    def of(cls, values: FloatArray) -> _Normal:
        """Fitted to (3, pixel) values."""
        covariance = np.cov(values) + _SPREAD**2 * np.eye(len(values))
        inverse: FloatArray = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        return cls(values.mean(axis=1), inverse, float(np.linalg.slogdet(covariance)[1]))

    def log_density(self, values: FloatArray) -> FloatArray:
        """Of (3, pixel) values, up to a constant that all normal distributions share: (pixel,)."""
        from_mean = values - self.mean[:, None]
        distance = np.einsum("in,ij,jn->n", from_mean, self.inverse, from_mean)
        return np.asarray(-0.5 * (distance + self.log_determinant))


@dataclass(frozen=True, eq=False)
class Likeness:
    """What an object looks like; made by `learn`."""

    inside: _Normal
    outside: _Normal

    def of(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Likeness of each pixel of a slice.

        Args:
            frame: uint8 (3, rows, columns).

        Returns:
            float32 (rows, columns), 0 to 1: the probability that the pixel is the object's and not its surroundings',
            where both are as likely beforehand; 0 where the slice is black.
        """
        values = _smoothed(frame)
        flat = values.reshape(len(values), -1)
        ratio = self.inside.log_density(flat) - self.outside.log_density(flat)
        found = 1.0 / (1.0 + np.exp(-np.clip(ratio, -30, 30)))
        likeness: NDArray[np.float32] = found.reshape(frame.shape[1:]).astype(np.float32)
        likeness[~frame.any(axis=0)] = 0
        return likeness


def learn(frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Likeness | None:
    """What an object looks like, from the slice that shows it.

    Args:
        frame: uint8 (3, rows, columns); black is outside the head.
        mask: bool (rows, columns) of the object.

    Returns:
        None where the object, or what is around it, has too few pixels to tell.
    """
    from scipy import ndimage

    shown = frame.any(axis=0)
    inside = mask & shown
    outside = shown & ~ndimage.binary_dilation(mask, iterations=_GAP)
    if min(np.count_nonzero(inside), np.count_nonzero(outside)) < _LEAST:
        return None
    values = _smoothed(frame)
    return Likeness(_Normal.of(values[:, inside]), _Normal.of(values[:, outside]))


def _smoothed(frame: NDArray[np.uint8]) -> FloatArray:
    from scipy import ndimage

    smooth: FloatArray = ndimage.gaussian_filter(frame.astype(np.float64), (0, _SMOOTHING, _SMOOTHING))
    return smooth
