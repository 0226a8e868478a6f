"""The three anatomical planes of a volume, turned as a radiologist reads them, and intensities as grey values.

The patient's right is on the left of axial and coronal planes, anterior is up or left, and superior is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .geometry import Geometry

_LETTERS_LPS: Final = (("R", "L"), ("A", "P"), ("I", "S"))  # of a negative and of a positive LPS coordinate


@dataclass(frozen=True)
class Plane:
    """One anatomical plane of arrays (z, y, x) whose x, y, z run to left, posterior, superior.

    Attributes:
        name: shown.
        normal, across, down: axis of LPS (0, 1, 2) through the plane, along its rows and along its columns.
        letters: at the left, right, upper and lower edge.
    """

    name: str
    normal: int
    across: int
    down: int
    letters: tuple[str, str, str, str]

    def slice_of(self, array_zyx: NDArray[Any], index: int) -> NDArray[Any]:
        """The plane as rows from top to bottom; superior is up, so z is turned over."""
        plane: NDArray[Any] = np.take(array_zyx, index, axis=2 - self.normal)
        return plane[::-1] if self.down == 2 else plane

    def position(self, geometry: Geometry, voxel_ijk: Sequence[int]) -> str:
        """Where the plane through a voxel lies, e.g. "axial · S 12.5 mm".

        Args:
            geometry: a grid whose i, j, k run to left, posterior, superior.
            voxel_ijk: on that grid.
        """
        coordinate = float(geometry.to_lps(voxel_ijk)[self.normal])
        letter = _LETTERS_LPS[self.normal][1 if coordinate >= 0 else 0]
        return f"{self.name} · {letter} {abs(coordinate):.1f} mm"


PLANES: Final = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def windowed(array: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intensities scaled to 0 … 1, from the 0.5th to the 99.5th percentile of what is not 0."""
    values = array[array != 0]
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5))) if values.size else (0.0, 1.0)
    scaled: NDArray[np.float64] = np.clip((array - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    return scaled
