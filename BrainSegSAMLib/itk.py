"""The door between SimpleITK images and our grids and arrays, and ITK's errors in words that name the file."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DependencyError, GeometryError, InputError
from .geometry import Geometry


def simpleitk() -> Any:
    """The package SimpleITK, imported at its first use because that takes a good part of a second.

    Raises:
        DependencyError: where it is not installed.
    """
    try:
        return importlib.import_module("SimpleITK")
    except ImportError as error:
        raise DependencyError(
            "The Python package SimpleITK is needed; install it with: pip install SimpleITK"
        ) from error


def geometry_of(image: Any, path: Path) -> Geometry:
    """The grid of a 3-D `SimpleITK.Image`.

    Raises:
        GeometryError: where its spacing or direction cannot describe a regular grid; the message names the file.
    """
    try:
        return Geometry(
            image.GetSize(), image.GetSpacing(), image.GetOrigin(), np.reshape(image.GetDirection(), (3, 3))
        )
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def image_of(array_zyx: NDArray[Any], geometry: Geometry) -> Any:
    """A `SimpleITK.Image` of an array (z, y, x) on its grid."""
    sitk = simpleitk()
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(geometry.spacing_ijk_mm)
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetDirection(geometry.direction_lps.ravel().tolist())
    return image


def require_scalar_3d(path: Path, size: tuple[int, ...], components: int) -> None:
    """Refuse 2-D and 4-D images and those with several values per voxel."""
    shape = "×".join(map(str, size))
    if components != 1:
        raise InputError(
            f"{path} has {components} values per voxel (a colour or vector image, or several segments); "
            "one grey value per voxel is needed."
        )
    if len(size) > 3 and max(size[3:]) > 1:
        raise InputError(
            f"{path} is {len(size)}-dimensional ({shape}): it holds several volumes (time points, b-values or echoes); "
            "export the one that is needed as a file of its own."
        )
    if len(size) < 3:
        raise InputError(f"{path} is a single slice ({shape} voxels); a volume is needed.")


def unreadable(path: Path, error: RuntimeError) -> InputError:
    """The error for what ITK could not read: the last line of ITK's, which holds the reason, after the file's name."""
    # MetaImage answers "No such file" to any trouble, also where the file is there and cut short.
    lines = [line for line in str(error).splitlines() if line.strip() and "No such file" not in line]
    reason = " ".join(re.sub(r"\(0x[0-9a-f]+\)", "", lines[-1]).split())[:200] if lines else "no reason given"
    if "spacing" in reason:
        return GeometryError(f"{path} has a voxel spacing that is not positive ({reason}); correct its header.")
    return InputError(f"{path} cannot be read: it is damaged, incomplete or not a volume. ITK says: {reason}")


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's warnings off the terminal: what matters is checked and raised here, in words that name the file."""
    sitk = simpleitk()
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
