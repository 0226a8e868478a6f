"""Reading volumes from files: NIfTI, NRRD, MetaImage and DICOM series, each checked before anything is computed on it.

SimpleITK reads, because it is what Slicer reads with: an image lies in the same place here and there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .dicom import is_dicom, read_series
from .errors import InputError
from .geometry import Geometry
from .headers import check_meta_image, check_nifti, not_finite_error
from .itk import geometry_of, quiet_itk, require_scalar_3d, simpleitk, unreadable

VOLUME_SUFFIXES: Final = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def volume_suffix(path: Path) -> str:
    """The suffix by which a file counts as a volume, as in `VOLUME_SUFFIXES`; "" for any other file."""
    name = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), "")


def volume_stem(path: Path) -> str:
    """The file's name without its volume suffix."""
    return path.name[: len(path.name) - len(volume_suffix(path))]


def read_volume(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read one scalar 3-D volume.

    Args:
        path: a NIfTI, NRRD or MetaImage file; a folder with one DICOM series; or one DICOM file, which stands for its
            whole series in that folder.

    Returns:
        Intensities, float32 (z, y, x), finite, in the file's own units; and the grid.

    Raises:
        InputError: where it is missing, empty, unreadable, truncated, not a scalar 3-D volume, a single slice, or holds
            NaN or infinite intensities.
        GeometryError: where its spacing or direction cannot describe a regular grid.
    """
    image = read_image(path, as_float=True)
    array: NDArray[np.float32] = simpleitk().GetArrayFromImage(image)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise not_finite_error(path, bad)
    if min(array.shape) < 2:
        size = "×".join(map(str, image.GetSize()))
        raise InputError(f"{path} is a single slice ({size} voxels); a volume is needed.")
    return array, geometry_of(image, path)


def read_image(path: Path, *, as_float: bool, several_values: bool = False) -> Any:
    """Read a 3-D `SimpleITK.Image`; see `read_volume` for what is checked and raised.

    Args:
        path: as in `read_volume`.
        as_float: convert to float32; otherwise the file's own type is kept.
        several_values: allow several values per voxel, as the layers of a .seg.nrrd.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    with quiet_itk():
        from_dicom = path.is_dir() or is_dicom(path)
        image = read_series(path) if from_dicom else _read_file(path, several_values=several_values)
        sitk = simpleitk()
        return sitk.Cast(image, sitk.sitkFloat32) if as_float else image


def _read_file(path: Path, *, several_values: bool) -> Any:
    sitk = simpleitk()
    suffix = volume_suffix(path)
    if not suffix:
        raise InputError(
            f"{path} is not a volume that can be read; use one of {', '.join(VOLUME_SUFFIXES)} or a DICOM series."
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes). Copy or export it again.")
    _check_raw(path, suffix)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        # Before the voxels are read: a refused 4-D series can be gigabytes.
        require_scalar_3d(path, reader.GetSize(), 1 if several_values else reader.GetNumberOfComponents())
        return reader.Execute()
    except RuntimeError as error:
        raise unreadable(path, error) from error


def _check_raw(path: Path, suffix: str) -> None:
    try:
        if suffix in (".nii", ".nii.gz"):
            check_nifti(path)
        elif suffix in (".mha", ".mhd"):
            check_meta_image(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
