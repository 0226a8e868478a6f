"""A voxel grid in physical space. This is the only place where frames of reference are converted.

Conventions, used in every name of the project:

* `ijk`: voxel index; i runs fastest in memory. `zyx` (= kji): the order of numpy axes, `array_zyx[k, j, i]`. These are
  storage axes, not anatomical ones: a volume may be stored with any of its axes along any anatomical direction.
* `lps`: physical millimetres, x to the patient's Left, y to Posterior, z to Superior (ITK, DICOM).
* `ras`: physical millimetres, x to the Right, y to Anterior, z to Superior (Slicer, NIfTI); `lps` with x and y negated.

Why an object and not a loose affine: shape and affine travel together, so that a grid can be compared, described to a
user, and refused when it cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import GeometryError

FloatArray = NDArray[np.float64]

# Half a micrometre per voxel of a 1000-voxel axis; headers that store float32 (NIfTI) differ by about this much.
POSITION_TOLERANCE_MM = 1e-2
# NIfTI's float32 quaternions and hand-rounded DICOM cosines lose this much orthonormality; more is a shear.
ORTHONORMAL_TOLERANCE = 1e-3

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AXIS_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # letter of the negative and of the positive LPS direction


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid: size, spacing, origin and direction.

    Attributes:
        size_ijk: number of voxels along i, j, k.
        spacing_ijk_mm: distance of voxel centres along i, j, k in mm.
        origin_lps_mm: physical position of the centre of voxel (0, 0, 0).
        direction_lps: 3x3, column a is the unit vector of index axis a in LPS; orthonormal.

    Raises:
        GeometryError: where the size, spacing or direction cannot describe a grid.
    """

    size_ijk: tuple[int, int, int]
    spacing_ijk_mm: tuple[float, float, float]
    origin_lps_mm: tuple[float, float, float]
    direction_lps: FloatArray

    def __post_init__(self) -> None:
        direction = np.array(self.direction_lps, dtype=np.float64).reshape(3, 3)
        direction.flags.writeable = False
        object.__setattr__(self, "direction_lps", direction)
        for name, kind in (("size_ijk", int), ("spacing_ijk_mm", float), ("origin_lps_mm", float)):
            object.__setattr__(self, name, tuple(kind(value) for value in getattr(self, name)))
        if len(self.size_ijk) != 3 or min(self.size_ijk) < 1:
            raise GeometryError(f"A volume needs three axes of one or more voxels, but its size is {self.size_ijk}.")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing_ijk_mm):
            raise GeometryError(
                f"The voxel spacing {self.spacing_ijk_mm} mm is not positive; correct the file's header."
            )
        if not (np.isfinite(self.origin_lps_mm).all() and np.isfinite(direction).all()):
            raise GeometryError("The origin or the direction of the volume is not a finite number; correct its header.")
        deviation = float(np.abs(direction.T @ direction - np.eye(3)).max())
        if deviation > ORTHONORMAL_TOLERANCE:
            raise GeometryError(
                f"The axes of the volume are not perpendicular unit vectors (deviation {deviation:.3g}); "
                "a sheared or degenerate grid is not supported: resample the volume onto a regular grid first."
            )

    # ---- doors in -------------------------------------------------------------------------------------------------

    @classmethod
    def from_ijk_to_lps(cls, matrix: ArrayLike, size_ijk: tuple[int, int, int]) -> Geometry:
        """From a 4x4 matrix that takes voxel indices to LPS mm; refuses shear, as the constructor does."""
        affine = np.asarray(matrix, dtype=np.float64)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.all(lengths > 0):
            raise GeometryError("The volume's matrix has an axis of zero length; correct its header.")
        # Rotating a grid must not make 3 mm of 3.0000000000000004 mm: nnU-Net treats volumes differently beyond
        # thresholds of spacing, and a grid would be segmented differently from its rotated twin.
        spacing = [float(f"{length:.9g}") for length in lengths]
        return cls(size_ijk, _three(spacing), _three(affine[:3, 3]), affine[:3, :3] / lengths)

    @classmethod
    def from_ijk_to_ras(cls, matrix: ArrayLike, size_ijk: tuple[int, int, int]) -> Geometry:
        """From a 4x4 matrix that takes voxel indices to RAS mm, as in Slicer and NIfTI."""
        return cls.from_ijk_to_lps(_LPS_FROM_RAS @ np.asarray(matrix, dtype=np.float64), size_ijk)

    @classmethod
    def axis_aligned(
        cls,
        shape_zyx: tuple[int, int, int],
        spacing_zyx_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin_lps_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """A grid whose i, j, k run to Left, Posterior, Superior."""
        return cls(_three_int(shape_zyx[::-1]), _three(spacing_zyx_mm[::-1]), origin_lps_mm, np.eye(3))

    # ---- views ----------------------------------------------------------------------------------------------------

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of a numpy array on this grid."""
        return _three_int(self.size_ijk[::-1])

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing in mm in the order of numpy axes."""
        return _three(self.spacing_ijk_mm[::-1])

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(np.prod(self.spacing_ijk_mm))

    @property
    def ijk_to_lps(self) -> FloatArray:
        """4x4 matrix from voxel index to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction_lps * np.asarray(self.spacing_ijk_mm)
        matrix[:3, 3] = self.origin_lps_mm
        return matrix

    @property
    def ijk_to_ras(self) -> FloatArray:
        """4x4 matrix from voxel index to RAS mm."""
        product: FloatArray = _LPS_FROM_RAS @ self.ijk_to_lps
        return product

    @property
    def orientation(self) -> str:
        """Nearest anatomical directions of i, j, k, e.g. "LPS": where each index axis runs to."""
        letters = ["", "", ""]
        for axis, (anatomical, sign) in enumerate(self._nearest_axes()):
            letters[axis] = _AXIS_LETTERS[anatomical][1 if sign > 0 else 0]
        return "".join(letters)

    @property
    def obliqueness_degrees(self) -> float:
        """Largest angle between an index axis and its nearest anatomical axis; 0 for an axis-aligned grid."""
        cosines = [abs(float(self.direction_lps[anatomical, axis])) for axis, (anatomical, _) in
                   enumerate(self._nearest_axes())]
        return float(np.degrees(np.arccos(np.clip(min(cosines), -1.0, 1.0))))

    @property
    def centre_lps_mm(self) -> FloatArray:
        """Physical centre of the grid in LPS mm."""
        return self.to_lps(np.asarray([(n - 1) / 2 for n in self.size_ijk]))

    def to_lps(self, points_ijk: ArrayLike) -> FloatArray:
        """Voxel indices (..., 3; may be fractional) to LPS mm."""
        matrix = self.ijk_to_lps
        result: FloatArray = np.asarray(points_ijk, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        return result

    def to_ijk(self, points_lps_mm: ArrayLike) -> FloatArray:
        """LPS mm (..., 3) to fractional voxel indices."""
        matrix = np.linalg.inv(self.ijk_to_lps)
        result: FloatArray = np.asarray(points_lps_mm, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        return result

    def corners_lps_mm(self) -> FloatArray:
        """The eight outer corners (of voxels, not voxel centres) in LPS mm, (8, 3)."""
        corners = np.asarray(np.meshgrid(*[(-0.5, n - 0.5) for n in self.size_ijk], indexing="ij"))
        return self.to_lps(corners.reshape(3, 8).T)

    # ---- comparison -----------------------------------------------------------------------------------------------

    def is_same_grid(self, other: Geometry) -> bool:
        """Whether both grids have their voxels in the same places (to `POSITION_TOLERANCE_MM` at every corner)."""
        return self.difference(other) == ""

    def difference(self, other: Geometry) -> str:
        """What differs between two grids, in words; "" for the same grid."""
        if self.size_ijk != other.size_ijk:
            return f"{_times(self.size_ijk)} against {_times(other.size_ijk)} voxels"
        if not np.allclose(self.spacing_ijk_mm, other.spacing_ijk_mm, atol=1e-4, rtol=1e-4):
            return f"spacing {_times(self.spacing_ijk_mm)} against {_times(other.spacing_ijk_mm)} mm"
        shift = float(np.abs(self.corners_lps_mm() - other.corners_lps_mm()).max())
        if shift > POSITION_TOLERANCE_MM:
            return f"position or orientation ({shift:.2f} mm apart at the farthest corner)"
        return ""

    def overlap_fraction(self, other: Geometry) -> float:
        """Share of this grid's volume that lies inside the other grid, 0 to 1, sampled at 20³ points."""
        samples = np.asarray(
            np.meshgrid(*[(np.arange(20) + 0.5) / 20 * n - 0.5 for n in self.size_ijk], indexing="ij")
        ).reshape(3, -1)
        inside = other.to_ijk(self.to_lps(samples.T))
        upper = np.asarray(other.size_ijk) - 0.5
        return float(np.mean(np.all((inside >= -0.5) & (inside <= upper), axis=1)))

    def shares_lattice(self, other: Geometry) -> bool:
        """Whether one regular pattern of voxels holds both grids, in whatever order of axes they are stored."""
        moved, _ = other.reoriented(self.orientation)
        start = np.rint(self.to_ijk(moved.origin_lps_mm))
        return self.window(_three_int(start), moved.size_ijk).is_same_grid(moved)

    # ---- other grids from this one --------------------------------------------------------------------------------

    def window(self, start_ijk: tuple[int, int, int], size_ijk: tuple[int, int, int]) -> Geometry:
        """The grid of so many voxels from a voxel of this one on; it may reach beyond this one's sides."""
        return Geometry(size_ijk, self.spacing_ijk_mm, _three(self.to_lps(start_ijk)), self.direction_lps)

    def grown_to_hold(self, other: Geometry) -> Geometry:
        """This grid with voxels added at its sides until it holds all of another; itself where it does already."""
        corners = self.to_ijk(other.corners_lps_mm())
        slack = POSITION_TOLERANCE_MM / np.asarray(self.spacing_ijk_mm)
        low = np.minimum(np.floor(corners.min(axis=0) + 0.5 + slack), 0)
        high = np.maximum(np.ceil(corners.max(axis=0) + 0.5 - slack), self.size_ijk)
        size = _three_int(high - low)
        return self if size == self.size_ijk else self.window(_three_int(low), size)

    def moved_lps(self, matrix: ArrayLike) -> Geometry:
        """The grid after a linear transform of physical space (4x4, LPS → LPS): rotation, translation, scaling.

        Raises:
            GeometryError: where the transform shears the grid.
        """
        return Geometry.from_ijk_to_lps(np.asarray(matrix, dtype=np.float64) @ self.ijk_to_lps, self.size_ijk)

    def moved_ras(self, matrix: ArrayLike) -> Geometry:
        """As `moved_lps`, for a 4x4 transform RAS → RAS (a Slicer parent transform to world)."""
        return self.moved_lps(_LPS_FROM_RAS @ np.asarray(matrix, dtype=np.float64) @ _LPS_FROM_RAS)

    def reoriented(self, orientation: str) -> tuple[Geometry, AxisOrder]:
        """The same voxels, stored with i, j, k as near as possible to the three anatomical directions named.

        Args:
            orientation: three letters such as "LPS" or "RAS": where i, j, k shall run to.

        Returns:
            The new grid, and how to permute and flip arrays onto it (and back).
        """
        wanted = [_axis_of_letter(letter) for letter in orientation]
        if sorted(axis for axis, _ in wanted) != [0, 1, 2]:
            raise GeometryError(f"'{orientation}' is not an orientation; use three letters such as LPS or RAS.")
        nearest = self._nearest_axes()
        sources, flips = [], []
        for anatomical, sign in wanted:
            source = next(axis for axis, (target, _) in enumerate(nearest) if target == anatomical)
            sources.append(source)
            flips.append(nearest[source][1] != sign)
        order = AxisOrder(_three_int(sources), (flips[0], flips[1], flips[2]))
        signs = np.where(flips, -1.0, 1.0)
        start = np.zeros(3)
        for source, flip in zip(sources, flips, strict=True):
            start[source] = self.size_ijk[source] - 1 if flip else 0
        grid = Geometry(
            _three_int(self.size_ijk[s] for s in sources),
            _three(self.spacing_ijk_mm[s] for s in sources),
            _three(self.to_lps(start)),
            self.direction_lps[:, sources] * signs,
        )
        return grid, order

    def _nearest_axes(self) -> list[tuple[int, int]]:
        """Per index axis: the anatomical axis (0 = L-R, 1 = P-A, 2 = S-I) it is nearest to, and its sign in LPS.

        A one-to-one assignment: the best of the six permutations, so that no anatomical axis is taken twice.
        """
        permutations = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        magnitude = np.abs(self.direction_lps)
        best = max(permutations, key=lambda p: float(sum(magnitude[p[axis], axis] for axis in range(3))))
        return [(best[axis], 1 if self.direction_lps[best[axis], axis] >= 0 else -1) for axis in range(3)]

    # ---- records --------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """For JSON records."""
        return {
            "size_ijk": list(self.size_ijk),
            "spacing_ijk_mm": [round(s, 6) for s in self.spacing_ijk_mm],
            "origin_lps_mm": [round(o, 6) for o in self.origin_lps_mm],
            "direction_lps": [[round(float(v), 8) for v in row] for row in self.direction_lps],
            "orientation": self.orientation,
        }


@dataclass(frozen=True)
class AxisOrder:
    """How the axes of one array become those of another: first permute, then flip.

    Attributes:
        sources_ijk: for each new index axis i, j, k: the old one it comes from.
        flips_ijk: whether the new axis runs against the old one.
    """

    sources_ijk: tuple[int, int, int]
    flips_ijk: tuple[bool, bool, bool]

    def apply(self, array_zyx: NDArray[Any]) -> NDArray[Any]:
        """An array (..., z, y, x) with its last three axes permuted and flipped; a view, not a copy."""
        lead = array_zyx.ndim - 3
        axes_zyx = [lead + 2 - self.sources_ijk[2 - a] for a in range(3)]
        moved: NDArray[Any] = array_zyx.transpose(*range(lead), *axes_zyx)[self._flip_index(lead)]
        return moved

    def undo(self, array_zyx: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `apply`; a view, not a copy."""
        lead = array_zyx.ndim - 3
        flipped = array_zyx[self._flip_index(lead)]
        axes_zyx = [lead + 2 - self.sources_ijk[2 - a] for a in range(3)]
        inverse = np.argsort([axis - lead for axis in axes_zyx])
        restored: NDArray[Any] = flipped.transpose(*range(lead), *[lead + int(a) for a in inverse])
        return restored

    def _flip_index(self, lead: int) -> tuple[slice, ...]:
        """An index that flips the axes of an array with `lead` axes before z, y, x."""
        return (slice(None),) * lead + tuple(slice(None, None, -1 if flip else 1) for flip in self.flips_ijk[::-1])


def _axis_of_letter(letter: str) -> tuple[int, int]:
    for axis, (negative, positive) in enumerate(_AXIS_LETTERS):
        if letter == positive:
            return axis, 1
        if letter == negative:
            return axis, -1
    raise GeometryError(f"'{letter}' is not an anatomical direction; use L, R, P, A, S or I.")


def _three(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _three_int(values: Any) -> tuple[int, int, int]:
    a, b, c = (int(v) for v in values)
    return a, b, c


def _times(values: tuple[float, ...]) -> str:
    return "×".join(f"{v:g}" for v in values)
