"""Reading volumes from files: NIfTI, NRRD, MetaImage and DICOM series, each checked before anything is computed on it.

SimpleITK reads, because it is what Slicer reads with: an image lies in the same place here and there.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .dicom import is_dicom, read_series
from .errors import InputError
from .files import sha256_of
from .geometry import Geometry
from .headers import check_meta_image, check_nifti, not_finite_error
from .itk import geometry_of, quiet_itk, require_scalar_3d, simpleitk, unreadable

VOLUME_SUFFIXES: Final = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
HEADER_SUFFIXES: Final = (".nhdr", ".mhd")
"""Of volumes whose voxels are in other files."""
_HEADER_BYTES: Final = 1 << 20
_DATA_FILE: Final = re.compile(r"^(?:data ?file|ElementDataFile)\s*[:=]\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)
# A pattern of C's printf with the first number, the last one and the step.
_NUMBERED: Final = re.compile(r"([^%\s]*%\d*d[^%\s]*)\s+(\d{1,6})\s+(\d{1,6})\s+([1-9]\d{0,5})(?:\s+\d+)?")


def volume_suffix(path: Path) -> str:
    """The suffix by which a file counts as a volume, as in `VOLUME_SUFFIXES`; "" for any other file."""
    name = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), "")


def volume_stem(path: Path) -> str:
    """The file's name without its volume suffix."""
    return path.name[: len(path.name) - len(volume_suffix(path))]


def voxel_names(path: Path) -> list[str]:
    """The files with the voxels that a header (.nhdr, .mhd) names, as it names them; none of any other volume.

    Raises:
        InputError: where it cannot be read.
    """
    if volume_suffix(path) not in HEADER_SUFFIXES:
        return []
    try:
        with path.open("rb") as stream:
            text = stream.read(_HEADER_BYTES).decode("utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    match = _DATA_FILE.search(text)
    if match is None or match[1].upper() == "LOCAL":
        return []
    if re.fullmatch(r"LIST(\s+\d+)?", match[1], re.IGNORECASE):
        return [line.strip() for line in text[match.end() :].splitlines() if line.strip()]
    if numbered := _NUMBERED.fullmatch(match[1]):
        pattern, (first, last, step) = numbered[1], map(int, numbered.groups()[1:])
        return [pattern % number for number in range(first, last + 1, step)]
    return [match[1]]


def voxels_below(path: Path) -> list[str]:
    """As `voxel_names`, for who brings a volume to another folder.

    Raises:
        InputError: also where one of them lies outside the header's own folder.
    """
    names = voxel_names(path)
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"{path.name} names a file with its voxels outside its own folder ('{name}'), so it cannot be copied; "
                "write the volume as one file (.nrrd, .mha, .nii.gz)."
            )
    return names


def volume_sha256(path: Path) -> str:
    """SHA-256 as `files.sha256_of` of what is read as a volume; of a header with the files of its voxels.

    Raises:
        InputError: where it cannot be read; voxels that are missing count as such.
    """
    own = sha256_of(path)
    voxels = [path.parent / name for name in voxel_names(path)]
    if not voxels:
        return own
    return hashlib.sha256(" ".join([own, *(sha256_of(v) if v.exists() else "" for v in voxels)]).encode()).hexdigest()


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
