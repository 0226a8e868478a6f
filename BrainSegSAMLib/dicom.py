"""DICOM series in a folder: which there are, and one of them as a volume, refused where slices are missing or mixed.

A series is single images, or one image with several frames (enhanced DICOM), whose places ITK knows in part only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import DependencyError, GeometryError, InputError
from .geometry import Geometry
from .itk import image_of, quiet_itk, require_scalar_3d, simpleitk, unreadable

_SERIES_UID: Final = "0020|000e"
_DESCRIPTION: Final = "0008|103e"
_POSITION: Final = "0020|0032"
_ORIENTATION: Final = "0020|0037"
_SEGMENTATIONS: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # DICOM SEG and label map SEG

# Scanners round positions to about 0.01 mm; a gap or a doubled slice is off by a whole slice distance.
_SPACING_TOLERANCE: Final = 0.05
# Largest sideways step between neighbouring slices, as a share of their distance: 1 degree of gantry tilt is 0.017.
_TILT_TOLERANCE: Final = 0.01


@dataclass(frozen=True)
class Series:
    """One DICOM series.

    Attributes:
        uid: its SeriesInstanceUID.
        description: its SeriesDescription; "" where there is none.
        files: its files, sorted along the slice normal.
    """

    uid: str
    description: str
    files: tuple[Path, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: the letters DICM after the 128-byte preamble."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(folder: Path) -> list[Series]:
    """The series whose files lie directly in a folder, in the order of their UIDs; [] where there is no DICOM file."""
    sitk = simpleitk()
    found = []
    with quiet_itk():
        for uid in sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))):
            files = tuple(Path(f) for f in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
            if files:
                found.append(Series(uid, _tag(files[0], _DESCRIPTION), files))
    return found


def read_series(path: Path) -> Any:
    """Read a series as one `SimpleITK.Image`.

    Args:
        path: a folder that holds one series, or a file, which stands for its series in that folder.

    Raises:
        InputError: where there is none, or several, or slices are missing, doubled or of different kinds.
        GeometryError: where the slices are stacked obliquely (gantry tilt).
    """
    sitk = simpleitk()
    series = series_at(path)
    if len(series.files) == 1:
        return _read_frames(series.files[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in series.files])
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    require_scalar_3d(path, image.GetSize(), image.GetNumberOfComponentsPerPixel())
    _check_stack(path, reader, len(series.files))
    return image


def read_header(file: Path) -> Any:
    """A DICOM file as a `pydicom.Dataset`, without its voxels.

    Raises:
        InputError: where it cannot be read.
        DependencyError: without the package pydicom.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DependencyError(
            "The Python package pydicom is needed for this DICOM series; install it with: pip install pydicom"
        ) from error
    try:
        return pydicom.dcmread(file, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise InputError(f"{file} cannot be read: {error}.") from error


def is_segmentation(header: Any) -> bool:
    """Whether a header is that of a DICOM SEG."""
    return header.get("SOPClassUID") in _SEGMENTATIONS


def frames_of(headers: Sequence[Any], path: Path) -> tuple[Geometry, NDArray[np.intp]]:
    """Where the frames lie of single images, or of one image with several frames.

    Args:
        headers: from `read_header`, in any order.
        path: for messages.

    Returns:
        The grid, with k along the normal of the frames; and for each frame, in the order given, its index k.

    Raises:
        InputError: where they do not say where they lie, or are not evenly stacked.
    """
    try:
        planes, orientation, spacing = _planes(headers)
        positions = np.array([plane.ImagePositionPatient for plane in planes], dtype=np.float64)
        row, column = np.reshape(np.array(orientation, dtype=np.float64), (2, 3))
        height, width = (float(value) for value in spacing)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path} has DICOM frames without a place in space ({error}).") from error
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal)
    steps = np.diff((positions @ normal)[order])
    distance = float(steps.mean()) if len(steps) else 0.0
    if distance <= 0 or np.abs(steps - distance).max() > _SPACING_TOLERANCE * distance:
        raise InputError(
            f"{path} has DICOM frames that are not evenly stacked (missing slices, or several time points or echoes); "
            "export each volume as a series of its own."
        )
    size = (int(headers[0].Columns), int(headers[0].Rows), len(order))
    origin = (float(positions[order[0], 0]), float(positions[order[0], 1]), float(positions[order[0], 2]))
    geometry = Geometry(size, (width, height, distance), origin, np.stack([row, column, normal], axis=1))
    return geometry, np.argsort(order)


def _planes(headers: Sequence[Any]) -> tuple[Sequence[Any], Any, Any]:
    """What holds each frame's position; the orientation and the pixel spacing (rows, columns), alike for all."""
    first = headers[0]
    if "PerFrameFunctionalGroupsSequence" not in first:
        return headers, first.ImageOrientationPatient, first.PixelSpacing
    shared, each = first.SharedFunctionalGroupsSequence[0], first.PerFrameFunctionalGroupsSequence
    orientation, measures = (
        [shared] if keyword in shared else each for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    directions = {tuple(group.PlaneOrientationSequence[0].ImageOrientationPatient) for group in orientation}
    spacings = {tuple(group.PixelMeasuresSequence[0].PixelSpacing) for group in measures}
    if len(directions) > 1 or len(spacings) > 1:
        raise ValueError("they differ in orientation or spacing")
    return [group.PlanePositionSequence[0] for group in each], directions.pop(), spacings.pop()


def _read_frames(file: Path) -> Any:
    """One DICOM file with several frames as a volume, its frames put in the order of their places."""
    sitk = simpleitk()
    header = read_header(file)
    if is_segmentation(header):
        raise InputError(f"{file} is a DICOM segmentation (SEG), not an image.")
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise unreadable(file, error) from error
    require_scalar_3d(file, image.GetSize(), image.GetNumberOfComponentsPerPixel())
    if image.GetSize()[2] < 2:
        return image
    geometry, slices = frames_of([header], file)
    return image_of(sitk.GetArrayFromImage(image)[np.argsort(slices)], geometry)


def series_at(path: Path) -> Series:
    """The series of a folder that holds one, or of a file in its folder.

    Raises:
        InputError: where there is none, or several, or a file of the folder is damaged.
    """
    folder = path if path.is_dir() else path.parent
    found = find_series(folder)
    _check_none_left_out(folder, found)
    if path.is_file():
        uid = _tag(path, _SERIES_UID)
        found = [series for series in found if series.uid == uid]
    if not found:
        what = "a folder without volumes or DICOM files" if path.is_dir() else "not a DICOM image"
        raise InputError(f"{path} is {what}.")
    if len(found) > 1:
        listed = "; ".join(f"'{s.description or s.uid}' ({len(s.files)} files)" for s in found)
        raise InputError(
            f"{path} holds {len(found)} DICOM series: {listed}. Put the one that is needed into a folder of its own."
        )
    return found[0]


def _check_none_left_out(folder: Path, found: list[Series]) -> None:
    """Refuse DICOM files that are in no series: GDCM leaves out truncated ones without a word."""
    listed = {file.name for series in found for file in series.files}
    for path in sorted(folder.iterdir()):
        if path.name not in listed and path.name.upper() != "DICOMDIR" and is_dicom(path):
            raise InputError(
                f"{path} is a DICOM file that is truncated, damaged or not an image; "
                "export its series again, or move the file away."
            )


def _check_stack(path: Path, reader: Any, count: int) -> None:
    """Check that the slices are parallel, evenly spaced, and stacked along their normal."""
    try:
        positions = np.array([_numbers(reader.GetMetaData(i, _POSITION)) for i in range(count)])
        orientations = np.array([_numbers(reader.GetMetaData(i, _ORIENTATION)) for i in range(count)])
    except RuntimeError as error:
        raise InputError(f"{path} has DICOM files without a position in space; a volume cannot be made.") from error
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise InputError(f"{path} has slices of different orientations in one DICOM series; separate them first.")
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    distance = float(np.median(along))
    if along.min() < 0.01:
        raise InputError(
            f"{path} has several DICOM images at one position (time points, b-values or echoes in one series); "
            "separate them into folders of their own."
        )
    gaps = int(np.count_nonzero(np.abs(along - distance) > _SPACING_TOLERANCE * distance))
    if gaps:
        raise InputError(
            f"{path} has missing or unevenly spaced slices: {gaps} of {count - 1} steps between neighbours are not "
            f"{distance:.3g} mm, the largest is {along.max():.3g} mm. Export the whole series again."
        )
    sideways = float(np.linalg.norm(steps - along[:, None] * normal, axis=1).max())
    if sideways > _TILT_TOLERANCE * distance:
        raise GeometryError(
            f"{path} has slices that are stacked obliquely (each shifted sideways by {sideways:.3g} mm, a tilted "
            "gantry); resample the series onto a regular grid first."
        )


def _numbers(text: str) -> list[float]:
    return [float(value) for value in text.split("\\")]


def _tag(path: Path, tag: str) -> str:
    sitk = simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        return str(reader.GetMetaData(tag)).strip("\0 ") if reader.HasMetaDataKey(tag) else ""
    except RuntimeError as error:
        raise unreadable(path, error) from error
