"""Segmentations as DICOM SEG, beside the series that they were made from: what a PACS can keep and others can read.

Each region becomes a segment with its name, colour and codes, and each frame refers to the image of the source series
on whose plane it lies. That image's position is copied and not computed anew, so that nothing is lost by rounding.
Frames without a voxel are left out, as dcmqi and Slicer do it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .dicom import series_at
from .errors import DependencyError, GeometryError, InputError
from .files import atomic_path
from .geometry import Geometry
from .image import Segmentation
from .labels import Code, Region, Terminology

DICOM_SEG_SUFFIX: Final = ".seg.dcm"

_TISSUE: Final = Code("SCT", "85756007", "Tissue")
UNCODED: Final = Terminology(_TISSUE, _TISSUE)
"""For regions without codes: DICOM wants some, and this is what Slicer and dcmqi say of a segment of unknown kind."""

_LONGEST_TEXT: Final = 64  # of DICOM's "long string"
_SERIES_NUMBER: Final = 300
# As for series that are read (`dicom`): a missing or doubled frame is off by a whole distance.
_SPACING_TOLERANCE: Final = 0.05
# What every image must have, if only empty (type 2), and what anonymisers take away all the same.
_MAY_BE_EMPTY: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip


class _Frames(NamedTuple):
    """Where the frames of a series or of a multi-frame image lie.

    Attributes:
        geometry: their grid, with k along the normal of the frames.
        slices: for each frame, in the order of the files or of the image, its index k.
    """

    geometry: Geometry
    slices: NDArray[np.intp]


def write_dicom_seg(
    segmentation: Segmentation, source: Path, path: Path, *, algorithm: str, version: str
) -> None:
    """Write a DICOM SEG of the type BINARY, whole or not at all; regions may overlap.

    Args:
        segmentation: on the grid of the source, in any order of axes.
        source: the DICOM series that it is of: a folder that holds one, or one of its files; see `dicom.series_at`.
        path: where to; ends in .seg.dcm.
        algorithm: what made it, e.g. the model's name.
        version: of the algorithm.

    Raises:
        GeometryError: where the segmentation lies on another grid than the source.
        InputError: where the source cannot be read, is not evenly stacked, or lacks what a DICOM SEG must repeat.
        DependencyError: without the package highdicom.
        OutputError: where it cannot be written.

    Source: DICOM PS3.3 A.51 (Segmentation IOD), C.8.20.
    """
    if not path.name.lower().endswith(DICOM_SEG_SUFFIX):
        raise InputError(f"{path} must end in {DICOM_SEG_SUFFIX}.")
    highdicom = _highdicom()
    headers = _read_headers(source)
    try:
        frames = _frames_of(headers)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise _unusable(source, error) from error
    label_map = _on_grid(segmentation, frames.geometry, source)[frames.slices]
    descriptions = [
        _describe(highdicom, number, region, algorithm, version)
        for number, region in enumerate(segmentation.scheme.regions, start=1)
    ]
    try:
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=_segments(segmentation, label_map),
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="BrainSegSAM",
            manufacturer_model_name=_text(algorithm),
            software_versions=__version__,
            device_serial_number="none",
            content_label="SEGMENTATION",
            content_description="For research; not for clinical use",
            content_creator_name="BrainSegSAM",
            series_description=_text(f"Segmentation by {algorithm}"),
            specific_character_set="ISO_IR 192",  # a region's name may need letters that the source's set lacks
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unusable(source, error) from error
    with atomic_path(path) as partial:
        made.save_as(partial)


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise DependencyError(
            "The Python package highdicom is needed to write DICOM SEG; install it with: pip install highdicom"
        ) from error
    return highdicom


def _unusable(source: Path, error: Exception) -> InputError:
    reason = str(error).rstrip(".")
    return InputError(f"A DICOM SEG cannot refer to the series {source}: {reason}. Export the series again.")


# ---- the source ----------------------------------------------------------------------------------------------------


def _read_headers(source: Path) -> list[Any]:
    """The data sets of a series without their voxels; what may be empty is there."""
    import pydicom

    headers = []
    for file in series_at(source).files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (OSError, pydicom.errors.InvalidDicomError) as error:
            raise InputError(f"{file} cannot be read: {error}.") from error
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, None)
        headers.append(header)
    return headers


def _frames_of(headers: list[Any]) -> _Frames:
    """The grid of a series of single images, or of one image with several frames."""
    first = headers[0]
    if "PerFrameFunctionalGroupsSequence" in first:
        shared, each = first.SharedFunctionalGroupsSequence[0], first.PerFrameFunctionalGroupsSequence
        planes = [frame.PlanePositionSequence[0] for frame in each]
        orientation = _of_all(shared, each, "PlaneOrientationSequence").ImageOrientationPatient
        measures = _of_all(shared, each, "PixelMeasuresSequence")
    else:
        planes, orientation, measures = headers, first.ImageOrientationPatient, first
    positions = np.array([plane.ImagePositionPatient for plane in planes], dtype=np.float64)
    row, column = np.reshape(np.array(orientation, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal)
    steps = np.diff((positions @ normal)[order])
    distance = float(steps.mean())
    if distance <= 0 or np.abs(steps - distance).max() > _SPACING_TOLERANCE * distance:
        raise ValueError("its frames are not evenly stacked")
    height, width = (float(value) for value in measures.PixelSpacing)
    geometry = Geometry(
        (first.Columns, first.Rows, len(order)),
        (width, height, distance),
        tuple(positions[order[0]]),
        np.stack([row, column, normal], axis=1),
    )
    return _Frames(geometry, np.argsort(order))


def _of_all(shared: Any, each: Any, keyword: str) -> Any:
    """An item that all frames have in common, wherever the image says it."""
    return (shared if keyword in shared else each[0])[keyword][0]


# ---- the segments --------------------------------------------------------------------------------------------------


def _on_grid(segmentation: Segmentation, grid: Geometry, source: Path) -> NDArray[Any]:
    """The label map (z, y, x) on the source's grid: axes permuted and flipped where need be, nothing else."""
    reordered, order = segmentation.geometry.reoriented(grid.orientation)
    if not reordered.is_same_grid(grid):
        raise GeometryError(
            f"The segmentation '{segmentation.name}' lies on another grid than the series {source}: "
            f"{reordered.difference(grid)}. Resample it onto the series first."
        )
    return order.apply(segmentation.label_map)


def _segments(segmentation: Segmentation, label_map: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    """Where no regions overlap, segment numbers, uint16 (frame, y, x); else a mask each, uint8 (frame, y, x, region)."""
    regions = segmentation.scheme.regions
    highest = max(int(label_map.max()), *(value for region in regions for value in region.labels))
    member = np.zeros((highest + 1, len(regions)), dtype=np.uint8)
    for index, region in enumerate(regions):
        member[list(region.labels), index] = 1
    if segmentation.scheme.overlapping:
        return member[label_map]
    numbers: NDArray[np.uint16] = (member @ np.arange(1, len(regions) + 1)).astype(np.uint16)
    return numbers[label_map]


def _describe(highdicom: Any, number: int, region: Region, algorithm: str, version: str) -> Any:
    from pydicom.sr.codedict import codes

    terminology = region.terminology or UNCODED
    where = terminology.anatomic_region
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(region.name),
        segmented_property_category=_coded(highdicom, terminology.category),
        segmented_property_type=_coded(highdicom, terminology.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=_text(algorithm), family=codes.DCM.ArtificialIntelligence, version=_text(version)
        ),
        anatomic_regions=[_coded(highdicom, where)] if where else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*region.colour_rgb),
    )


def _coded(highdicom: Any, code: Code) -> Any:
    return highdicom.sr.CodedConcept(code.value, code.scheme, _text(code.meaning))


def _text(text: str) -> str:
    """As DICOM's long string takes it: at most 64 characters, and no backslash, which would part it in two."""
    return text.replace("\\", "/")[:_LONGEST_TEXT]
