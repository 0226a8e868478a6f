"""Checks of raw NIfTI and MetaImage files for faults that ITK mends or fills in silently.

Measured with SimpleITK 2.5.7: a truncated NIfTI file is read with zeros in the missing part, a voxel size of 0 becomes
1, a negative MetaImage spacing becomes a flipped axis, and a sheared sform is dropped where there is a qform. Each of
these would put a wrong image, or one in a wrong place, in front of the user; here each is an error.
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


@dataclass(frozen=True)
class _Layout:
    """Where the fields of a NIfTI header lie (byte offsets) and how they are coded (`struct` letters)."""

    size: int
    dim: tuple[int, str]
    bitpix: tuple[int, str]
    pixdim: tuple[int, str]
    vox_offset: tuple[int, str]
    sform_code: tuple[int, str]
    srow: tuple[int, str]


# The C structs of https://nifti.nimh.nih.gov: nifti_1_header and nifti_2_header.
_LAYOUTS: Final = {
    348: _Layout(348, (40, "8h"), (72, "h"), (76, "8f"), (108, "f"), (254, "h"), (280, "12f")),
    540: _Layout(540, (16, "8q"), (14, "h"), (104, "8d"), (168, "q"), (348, "i"), (400, "12d")),
}


def check_nifti(path: Path) -> None:
    """Check that a .nii or .nii.gz file is complete and that its grid is regular.

    The whole file is read once (and its gzip checksum verified), since nothing less finds a truncated one.

    Raises:
        InputError: where it is empty, not NIfTI, damaged or truncated.
        GeometryError: where a voxel size is not positive or its sform is sheared.
    """
    try:
        with _open(path) as stream:
            header = stream.read(540)
            layout, order = _layout_of(header, path)
            expected = _check_header(header, layout, order, path)
            length = len(header)
            while block := stream.read(_BLOCK):
                length += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is truncated or damaged: its compressed data do not end as they should. Copy or export it again."
        ) from error
    if length < expected:
        raise InputError(
            f"{path} is truncated: its header promises {expected} bytes but it holds {length}. Copy or export it again."
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


def _layout_of(header: bytes, path: Path) -> tuple[_Layout, str]:
    for order in "<>":
        if len(header) >= 4:
            layout = _LAYOUTS.get(struct.unpack_from(order + "i", header)[0])
            if layout is not None and len(header) >= layout.size:
                return layout, order
    raise InputError(f"{path} is not a NIfTI file, or its header is damaged. Copy or export it again.")


def _check_header(header: bytes, layout: _Layout, order: str, path: Path) -> int:
    """Check the header; returns the number of bytes that the file must have."""

    def field(place: tuple[int, str]) -> list[float]:
        return list(struct.unpack_from(order + place[1], header, place[0]))

    dim = [int(n) for n in field(layout.dim)]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise InputError(f"{path} has the impossible dimensions {dim[1:]} in its header. Export it again.")
    _require_positive(field(layout.pixdim)[1 : min(dim[0], 3) + 1], path)
    if field(layout.sform_code)[0] > 0:
        matrix = np.vstack([np.reshape(field(layout.srow), (3, 4)), [0, 0, 0, 1]])
        try:
            Geometry.from_ijk_to_ras(matrix, (1, 1, 1))
        except GeometryError as error:
            raise GeometryError(f"{path} (its sform): {error}") from error
    voxels = math.prod(dim[1 : dim[0] + 1])
    return int(field(layout.vox_offset)[0]) + voxels * int(field(layout.bitpix)[0]) // 8


def _require_positive(spacing: list[float], path: Path) -> None:
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        sizes = ", ".join(f"{s:g}" for s in spacing)
        raise GeometryError(f"{path} has the voxel spacing {sizes} mm, which is not positive; correct its header.")


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
