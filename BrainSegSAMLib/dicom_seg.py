"""Segmentations as DICOM SEG, beside the series that they were made from: what a PACS can keep and others can read.

Each region becomes a segment with its name, colour and codes, and each frame refers to the image of the source series
on whose plane it lies. That image's position is copied and not computed anew, so that nothing is lost by rounding.
Frames without a voxel are left out, as dcmqi and Slicer do it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .dicom import frames_of, is_dicom, is_segmentation, read_header, series_at
from .errors import DependencyError, GeometryError, InputError
from .files import atomic_path
from .geometry import Geometry
from .image import Segmentation
from .labels import DEFAULT_COLOURS_RGB, Code, LabelScheme, Region, Terminology

DICOM_SEG_SUFFIX: Final = ".seg.dcm"

_TISSUE: Final = Code("SCT", "85756007", "Tissue")
UNCODED: Final = Terminology(_TISSUE, _TISSUE)
"""For regions without codes: DICOM wants some, and this is what Slicer and dcmqi say of a segment of unknown kind."""

_LONGEST_TEXT: Final = 64  # of DICOM's "long string"
_SERIES_NUMBER: Final = 300
# What every image must have, if only empty (type 2), and what anonymisers take away all the same.
_MAY_BE_EMPTY: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip


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
    grid, slices = frames_of(headers, source)
    segments = _segments(segmentation, _on_grid(segmentation, grid, source)[slices])
    descriptions = [
        _describe(highdicom, number, region, algorithm, version)
        for number, region in enumerate(segmentation.scheme.regions, start=1)
    ]
    try:
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=segments,
            omit_empty_frames=bool(segments.any()),
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
            content_creator_name="BrainSegSAM^",
            series_description=_text(f"Segmentation by {algorithm}"),
            specific_character_set="ISO_IR 192",  # a region's name may need letters that the source's set lacks
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"A DICOM SEG cannot refer to the series {source}: {str(error).rstrip('.')}. Export the series again."
        ) from error
    with atomic_path(path) as partial:
        made.save_as(partial)


def dicom_seg_at(path: Path) -> Path | None:
    """The DICOM SEG that a path stands for: that file, or the only DICOM file of a folder; None for anything else."""
    try:
        files = [file for file in path.iterdir() if is_dicom(file)] if path.is_dir() else [path]
    except OSError:
        return None  # whoever reads it next says why it cannot be read
    if len(files) != 1 or not is_dicom(files[0]):
        return None
    return files[0] if is_segmentation(read_header(files[0])) else None


def read_dicom_seg(file: Path) -> Segmentation:
    """Read a DICOM SEG, whoever wrote it.

    Args:
        file: from `dicom_seg_at`.

    Returns:
        The segments, with their names, colours and codes, on the smallest grid that holds all frames; frames that were
        left out are empty. `resample.resample_segmentation` puts it onto the image's grid.

    Raises:
        InputError: where it cannot be read, holds fractions, or its frames are not of one regular grid.
        DependencyError: without the package highdicom.
    """
    highdicom = _highdicom()
    try:
        read = highdicom.seg.segread(file)
        if read.segmentation_type.value == "FRACTIONAL":
            raise InputError(f"{file} holds fractions, not masks; export it as a binary DICOM SEG.")
        volume = read.get_volume(combine_segments=False)
        regions = _regions(read, highdicom)
    except InputError:
        raise
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} cannot be read as a DICOM SEG: {str(error).rstrip('.')}.") from error
    size = (volume.shape[2], volume.shape[1], volume.shape[0])
    grid = Geometry.from_ijk_to_lps(volume.affine[:, [2, 1, 0, 3]], size)
    masks = {region.name: volume.array[..., index] > 0 for index, region in enumerate(regions)}
    return Segmentation.from_masks(grid, masks, scheme=LabelScheme(tuple(regions)), name=file.name)


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise DependencyError(
            "The Python package highdicom is needed for DICOM SEG; install it with: pip install highdicom"
        ) from error
    return highdicom


# ---- the source ----------------------------------------------------------------------------------------------------


def _read_headers(source: Path) -> list[Any]:
    """The data sets of a series without their voxels; what may be empty is there."""
    headers = [read_header(file) for file in series_at(source).files]
    for header in headers:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, None)
        if "ImageOrientationPatient" in header:  # rounded alike for all: highdicom compares the last digit
            header.ImageOrientationPatient = headers[0].ImageOrientationPatient
    return headers


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
    """Segment numbers, uint16 (frame, y, x); where regions overlap, masks, uint8 (frame, y, x, region)."""
    regions = segmentation.scheme.regions
    highest = max(int(label_map.max()), *(value for region in regions for value in region.labels))
    member = np.zeros((highest + 1, len(regions)), dtype=np.uint8)
    for index, region in enumerate(regions):
        member[list(region.labels), index] = 1
    if segmentation.scheme.overlapping:
        masks: NDArray[np.uint8] = member[label_map]
        return masks
    number = (member @ np.arange(1, len(regions) + 1)).astype(np.uint16)
    numbers: NDArray[np.uint16] = number[label_map]
    return numbers


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


def _regions(read: Any, highdicom: Any) -> list[Region]:
    """The segments of a DICOM SEG in the order of their numbers, as regions with the label values 1, 2, …."""
    regions: list[Region] = []
    for number in read.segment_numbers:
        segment = read.get_segment_description(number)
        name, names = str(segment.segment_label).strip() or f"Segment {number}", {region.name for region in regions}
        name = next(n for n in (name, f"{name} ({number})", f"Segment {number}") if n not in names)
        colour = DEFAULT_COLOURS_RGB[len(regions) % len(DEFAULT_COLOURS_RGB)]
        if "RecommendedDisplayCIELabValue" in segment:
            lab = highdicom.color.CIELabColor.from_dicom_value(list(segment.RecommendedDisplayCIELabValue))
            colour = lab.to_rgb(clip=True)
        where = segment.anatomic_regions
        terminology = Terminology(
            _code(segment.segmented_property_category),
            _code(segment.segmented_property_type),
            _code(where[0]) if where else None,
        )
        coded = None if terminology == UNCODED else terminology
        regions.append(Region(name, (len(regions) + 1,), colour, coded))
    return regions


def _code(concept: Any) -> Code:
    return Code(str(concept.scheme_designator), str(concept.value), str(concept.meaning))


def _text(text: str) -> str:
    """As DICOM's long string takes it: at most 64 characters, and no backslash, which would part it in two."""
    return text.replace("\\", "/")[:_LONGEST_TEXT]
