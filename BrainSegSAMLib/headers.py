"""Checks of raw NIfTI and MetaImage files for faults that ITK mends or fills in silently.

Measured with SimpleITK 2.5.7: a truncated NIfTI file is read with zeros in the missing part, NaN and infinite voxels of
a NIfTI file become 0, a voxel size of 0 becomes 1, a negative MetaImage spacing becomes a flipped axis, and a sheared
sform is dropped where there is a qform. Each of these would put a wrong image, or one in a wrong place, in front of the
user; here each is an error.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .errors import GeometryError, InputError
from .geometry import Geometry

_BLOCK: Final = 1 << 20
_HEADER_SIZE: Final = 348
_NIFTI2_HEADER_SIZE: Final = 540
_FLOAT_TYPES: Final = {16: "f4", 64: "f8"}  # NIfTI datatype code → numpy type


@dataclass(frozen=True)
class _Header:
    """What the checks need of a NIfTI-1 header."""

    order: str
    shape: tuple[int, ...]
    datatype: int
    bits_per_voxel: int
    offset: int


def check_nifti(path: Path) -> None:
    """Check that a .nii or .nii.gz file is complete, that its voxels are finite and that its grid is regular.

    The whole file is read once (and its gzip checksum verified), since nothing less finds a truncated one.

    Raises:
        InputError: where it is not NIfTI-1, damaged or truncated, or holds NaN or infinite voxels.
        GeometryError: where a voxel size is not positive or its sform is sheared.
    """
    try:
        with _open(path) as stream:
            header = _read_header(stream.read(_HEADER_SIZE), path)
            stream.read(header.offset - _HEADER_SIZE)
            length = not_finite = 0
            float_type = _FLOAT_TYPES.get(header.datatype)
            while block := stream.read(_BLOCK):
                length += len(block)
                if float_type:
                    dtype = np.dtype(header.order + float_type)
                    voxels = np.frombuffer(block, dtype, len(block) // dtype.itemsize)
                    not_finite += voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is truncated or damaged: its compressed data do not end as they should. Copy or export it again."
        ) from error
    expected = math.prod(header.shape) * header.bits_per_voxel // 8
    if length < expected:
        raise InputError(
            f"{path} is truncated: its header promises {expected} bytes of voxels but it holds {length}. "
            "Copy or export it again."
        )
    if not_finite:
        raise not_finite_error(path, not_finite)


def not_finite_error(path: Path, count: int) -> InputError:
    """The error for a volume with NaN or infinite voxels."""
    return InputError(
        f"{path} has {count} voxels whose intensity is not a finite number (NaN or infinite); "
        "export it again, or replace them."
    )


def check_meta_image(path: Path) -> None:
    """Check the spacing in the text header of a .mha or .mhd file.

    Raises:
        GeometryError: where it is not positive.
    """
    with path.open("rb") as stream:
        for line in stream.read(_BLOCK).split(b"\n"):
            key, _, value = line.partition(b"=")
            if key.strip() in (b"ElementSpacing", b"ElementSize"):
                _require_positive([_number(v) for v in value.split()], path)
            if key.strip() == b"ElementDataFile":  # what follows are voxels
                return


def _open(path: Path) -> gzip.GzipFile:
    # What ITK takes for compressed is decided by the content, not the name; so do we.
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]


def _read_header(raw: bytes, path: Path) -> _Header:
    """Check the header's fields. Source: the C struct nifti_1_header at https://nifti.nimh.nih.gov."""
    sizes = {order: struct.unpack_from(order + "i", raw)[0] for order in "<>"} if len(raw) >= 4 else {}
    if _NIFTI2_HEADER_SIZE in sizes.values():
        raise InputError(f"{path} is a NIfTI-2 file, which ITK cannot read; convert it to NIfTI-1.")
    order = next((order for order, size in sizes.items() if size == _HEADER_SIZE), "")
    if not order or len(raw) < _HEADER_SIZE:
        raise InputError(f"{path} is not a NIfTI file, or its header is damaged. Copy or export it again.")
    dim = struct.unpack_from(order + "8h", raw, 40)
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise InputError(f"{path} has the impossible dimensions {dim[1:]} in its header. Export it again.")
    datatype, bits_per_voxel = struct.unpack_from(order + "2h", raw, 70)
    pixdim = struct.unpack_from(order + "8f", raw, 76)
    _require_positive(list(pixdim[1 : min(dim[0], 3) + 1]), path)
    (offset,) = struct.unpack_from(order + "f", raw, 108)
    (sform_code,) = struct.unpack_from(order + "h", raw, 254)
    if sform_code > 0:
        matrix = np.vstack([np.reshape(struct.unpack_from(order + "12f", raw, 280), (3, 4)), [0, 0, 0, 1]])
        try:
            Geometry.from_ijk_to_ras(matrix, (1, 1, 1))
        except GeometryError as error:
            raise GeometryError(f"{path} (its sform): {error}") from error
    start = max(int(offset), _HEADER_SIZE) if math.isfinite(offset) else _HEADER_SIZE
    return _Header(order, dim[1 : dim[0] + 1], datatype, bits_per_voxel, start)


def _require_positive(spacing: list[float], path: Path) -> None:
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        sizes = ", ".join(f"{s:g}" for s in spacing)
        raise GeometryError(f"{path} has the voxel spacing {sizes} mm, which is not positive; correct its header.")


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
