"""Segmentations as files: Slicer's .seg.nrrd with overlapping, named, coloured, coded segments; and plain label maps.

A .seg.nrrd is an NRRD whose voxels hold one value per layer. Regions that overlap lie in different layers, the others
share one; a segment is the voxels of its layer that carry its label value. Slicer 5 writes and reads this format
(`vtkMRMLSegmentationStorageNode`), and the tests let it read what is written here and the reverse.

Reading goes through SimpleITK. The .seg.nrrd is written here directly: pynrrd 1.1.3 knows ASCII only (it drops the "Ö"
of a segment's name), and ITK calls the layer axis a vector.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .dicom_seg import DICOM_SEG_SUFFIX, dicom_seg_at, read_dicom_seg
from .errors import InputError, OutputError
from .files import atomic_path
from .geometry import Geometry
from .headers import check_nifti
from .image import Segmentation
from .itk import geometry_of, image_of, quiet_itk, simpleitk
from .labels import (
    DEFAULT_COLOURS_RGB,
    LABEL_VALUES_TAG,
    LabelScheme,
    Region,
    Terminology,
    format_label_values,
    parse_label_values,
)
from .volumes import read_image, volume_suffix

LABEL_MAP_SUFFIXES: Final = (".nii.gz", ".nii", ".nrrd", ".mha")
SEGMENTATION_SUFFIX: Final = ".seg.nrrd"

_TERMINOLOGY_TAG: Final = "TerminologyEntry"
_NRRD_TYPES: Final = {
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
}


def names_its_segments(path: Path) -> bool:
    """Whether a file tells its segments by their names (a .seg.nrrd, a DICOM SEG), and not by label values alone."""
    return path.name.lower().endswith((SEGMENTATION_SUFFIX, DICOM_SEG_SUFFIX)) or dicom_seg_at(path) is not None


def read_segmentation(path: Path, scheme: LabelScheme | None = None) -> Segmentation:
    """Read a segmentation.

    Args:
        path: a .seg.nrrd file, a DICOM SEG (or a folder that holds nothing but one), or a plain label map in any format
            that `volumes.read_image` takes.
        scheme: what the values mean. For a label map, its values must all be in it; without one, value 3 becomes the
            region "Label 3". For a .seg.nrrd or a DICOM SEG, the label values are those of this scheme and segments are
            found by name; without one, names, colours and codes come from the file, and those of a .seg.nrrd also tell
            the label values where nothing overlaps or the file was written here.

    Returns:
        The segmentation on the file's own grid. Slicer crops to the labelled part: `resample.resample_segmentation`
        puts it back onto the image's grid.

    Raises:
        InputError: where it cannot be read, holds other than whole numbers from 0 to 65535, or does not fit the scheme.
        GeometryError: where its grid cannot be used.
    """
    dicom_seg = dicom_seg_at(path)
    if dicom_seg is not None:
        read = read_dicom_seg(dicom_seg)
        return read if scheme is None else _on_scheme(read.geometry, _masks(read), scheme, path)
    image = read_image(path, as_float=False, several_values=path.name.lower().endswith(SEGMENTATION_SUFFIX))
    layers = _whole_numbers(simpleitk().GetArrayFromImage(image), path)
    layers = layers.reshape(*image.GetSize()[::-1], -1)  # (z, y, x, layer)
    geometry = geometry_of(image, path)
    segments = _segments_of({key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}, path)
    if segments:
        return _from_segments(geometry, layers, segments, scheme, path)
    if layers.shape[3] != 1:
        raise InputError(f"{path} has several values per voxel but does not say which segments they are.")
    return _from_label_map(geometry, layers[..., 0], scheme, path)


def write_label_map(segmentation: Segmentation, path: Path) -> None:
    """Write the label map (.nii.gz, .nii, .nrrd or .mha), whole or not at all.

    Raises:
        InputError: where the suffix is another one.
        OutputError: where it cannot be written.
    """
    suffix = volume_suffix(path)
    if suffix not in LABEL_MAP_SUFFIXES:
        raise InputError(f"{path} does not end as a label map does; use one of {', '.join(LABEL_MAP_SUFFIXES)}.")
    image = image_of(segmentation.label_map, segmentation.geometry)
    with atomic_path(path) as partial:
        partial.touch()  # an ordinary OSError, with its reason, where the folder cannot be written
        try:
            with quiet_itk():
                simpleitk().WriteImage(image, str(partial), suffix != ".nii")
            if suffix in (".nii", ".nii.gz"):
                check_nifti(partial)  # ITK reports success for a NIfTI file that a full disk cut short
        except (RuntimeError, InputError) as error:
            raise OutputError(
                f"{path} cannot be written completely; the disk is probably full. "
                "Free some space or choose another folder."
            ) from error


def write_seg_nrrd(segmentation: Segmentation, path: Path) -> None:
    """Write a .seg.nrrd that Slicer loads as a segmentation, whole or not at all.

    Raises:
        InputError: where the name does not end in .seg.nrrd.
        OutputError: where it cannot be written.
    """
    if not path.name.lower().endswith(SEGMENTATION_SUFFIX):
        raise InputError(f"{path} must end in {SEGMENTATION_SUFFIX}: Slicer knows a segmentation by that.")
    layers = _layers_of(segmentation.scheme)
    label_map = segmentation.label_map
    stack = np.empty((*label_map.shape, len(layers)), dtype=label_map.dtype)
    for index, regions in enumerate(layers):
        stack[..., index] = _layer(label_map, regions)
    header = _header(segmentation, layers, str(label_map.dtype))
    # mtime=0: the same segmentation is the same file, byte for byte.
    voxels = gzip.compress(stack.astype(stack.dtype.newbyteorder("<"), copy=False).tobytes(), compresslevel=6, mtime=0)
    with atomic_path(path) as partial, partial.open("wb") as stream:
        stream.write(header.encode())
        stream.write(voxels)


# ---- writing ----------------------------------------------------------------------------------------------------


def _layers_of(scheme: LabelScheme) -> list[list[Region]]:
    """The regions, each in the first layer where no other shares a label value with it."""
    layers: list[list[Region]] = []
    for region in scheme.regions:
        for layer in layers:
            if not any(set(region.labels) & set(other.labels) for other in layer):
                layer.append(region)
                break
        else:
            layers.append([region])
    return layers


def _value(region: Region) -> int:
    """A region's value in its layer: unique there, because no other region of the layer has any of its labels."""
    return min(region.labels)


def _layer(label_map: NDArray[Any], regions: Sequence[Region]) -> NDArray[Any]:
    highest = int(label_map.max())
    lookup = np.zeros(highest + 1, dtype=label_map.dtype)
    for region in regions:
        present = [label for label in region.labels if label <= highest]
        if present:  # the value of an empty region may be beyond the type
            lookup[present] = _value(region)
    layer: NDArray[Any] = lookup[label_map]
    return layer


def _header(segmentation: Segmentation, layers: Sequence[Sequence[Region]], dtype: str) -> str:
    geometry = segmentation.geometry
    several = len(layers) > 1
    axes = [f"({','.join(repr(float(v)) for v in column)})" for column in geometry.ijk_to_lps[:3, :3].T]
    fields = {
        "type": _NRRD_TYPES[dtype],
        "dimension": "4" if several else "3",
        "space": "left-posterior-superior",
        "sizes": _words(([len(layers)] if several else []) + list(geometry.size_ijk)),
        "space directions": _words((["none"] if several else []) + axes),
        "kinds": _words((["list"] if several else []) + ["domain"] * 3),
        "endian": "little",
        "encoding": "gzip",
        "space origin": f"({','.join(repr(o) for o in geometry.origin_lps_mm)})",
    }
    keys: dict[str, str] = {}
    layer_of = {region.name: index for index, layer in enumerate(layers) for region in layer}
    extent = _words(edge for size in geometry.size_ijk for edge in (0, size - 1))
    for index, region in enumerate(segmentation.scheme.regions):
        tags = f"{LABEL_VALUES_TAG}:{format_label_values(region.labels)}|"
        if region.terminology:
            tags += f"{_TERMINOLOGY_TAG}:{region.terminology.slicer_entry()}|"
        keys |= {
            f"Segment{index}_Color": _words(c / 255 for c in region.colour_rgb),
            f"Segment{index}_ColorAutoGenerated": "0",
            f"Segment{index}_Extent": extent,
            f"Segment{index}_ID": f"Segment_{index + 1}",
            f"Segment{index}_LabelValue": str(_value(region)),
            f"Segment{index}_Layer": str(layer_of[region.name]),
            f"Segment{index}_Name": region.name,
            f"Segment{index}_NameAutoGenerated": "0",
            f"Segment{index}_Tags": tags,
        }
    keys |= {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # read by Slicer up to 5.2
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    lines = ["NRRD0005"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    lines += [f"{name}:={_escape(value)}" for name, value in keys.items()]
    return "\n".join(lines) + "\n\n"


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values)


def _escape(text: str) -> str:
    # Source: the NRRD format's rule for key/value pairs (teem's nrrd/format.html).
    return text.replace("\\", "\\\\").replace("\n", "\\n")


# ---- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segment:
    region: Region  # its only label is the segment's value in its layer
    layer: int
    noted_labels: tuple[int, ...]  # the region's own, where we wrote the file


def _segments_of(keys: dict[str, str], path: Path) -> list[_Segment]:
    """The segments that the header describes, in order; [] for a plain label map."""
    numbers = sorted(int(m.group(1)) for key in keys if (m := re.fullmatch(r"Segment(\d+)_LabelValue", key)))
    segments: list[_Segment] = []
    names: set[str] = set()
    for position, number in enumerate(numbers):
        field = {key.split("_", 1)[1]: value for key, value in keys.items() if key.startswith(f"Segment{number}_")}
        name = _unused(field.get("Name", "").strip() or f"Segment {number + 1}", names)
        names.add(name)
        try:
            colour = [round(float(c) * 255) for c in field["Color"].split()] if "Color" in field else []
            default = DEFAULT_COLOURS_RGB[position % len(DEFAULT_COLOURS_RGB)]
            red, green, blue = colour or default
            tags = _tags(field.get("Tags", ""))
            terminology = Terminology.from_slicer_entry(tags.get(_TERMINOLOGY_TAG, ""))
            region = Region(name, (int(field["LabelValue"]),), (red, green, blue), terminology)
            noted = parse_label_values(tags.get(LABEL_VALUES_TAG, ""))
            segments.append(_Segment(region, int(field.get("Layer", "0")), noted))
        except ValueError as error:
            raise InputError(f"{path}: the description of segment '{name}' is damaged ({error}).") from error
    return segments


def _unused(name: str, names: set[str]) -> str:
    """The name, or where two segments have the same one (Slicer allows it) with a number after it."""
    candidate, number = name, 1
    while candidate in names:
        number += 1
        candidate = f"{name} ({number})"
    return candidate


def _tags(text: str) -> dict[str, str]:
    """Tags as Slicer writes them: "key:value|key:value|"; a terminology entry has no bar inside."""
    pairs = (tag.partition(":") for tag in text.split("|"))
    return {key.strip(): value for key, colon, value in pairs if colon}


def _from_segments(
    geometry: Geometry, layers: NDArray[Any], segments: Sequence[_Segment], scheme: LabelScheme | None, path: Path
) -> Segmentation:
    if max(segment.layer for segment in segments) >= layers.shape[3]:
        raise InputError(f"{path}: its header names more layers than there are; the file is damaged.")
    described = LabelScheme(tuple(segment.region for segment in segments))
    if scheme is None and layers.shape[3] == 1 and not described.overlapping:
        known = np.isin(layers[..., 0], [segment.region.labels[0] for segment in segments])
        plain = np.where(known, layers[..., 0], 0).astype(layers.dtype)
        found = Segmentation(geometry, described, plain, path.name)
        return found.relabelled([segment.noted_labels for segment in segments])
    masks = {s.region.name: layers[..., s.layer] == s.region.labels[0] for s in segments}
    if scheme is None:
        found = Segmentation.from_masks(geometry, masks, scheme=described, name=path.name)
        return found.relabelled([segment.noted_labels for segment in segments])
    return _on_scheme(geometry, masks, scheme, path)


def _masks(segmentation: Segmentation) -> dict[str, NDArray[np.bool_]]:
    return {region.name: mask for region, mask in segmentation.masks()}


def _on_scheme(
    geometry: Geometry, masks: dict[str, NDArray[np.bool_]], scheme: LabelScheme, path: Path
) -> Segmentation:
    """The masks as a label map with the scheme's own values."""
    missing = [name for name in scheme.names if name not in masks]
    if missing:
        raise InputError(f"{path} lacks the segment {', '.join(missing)}; it has {', '.join(masks)}.")
    found = Segmentation.from_masks(geometry, {name: masks[name] for name in scheme.names})
    meaning = {
        frozenset(r.name for r in scheme.regions if value in r.labels): value
        for value in sorted({value for region in scheme.regions for value in region.labels}, reverse=True)
    }
    lookup = np.zeros(int(found.label_map.max()) + 1, dtype=np.uint16)
    for value in range(1, len(lookup)):
        members = frozenset(r.name for r in found.scheme.regions if value in r.labels)
        if members and members not in meaning:
            raise InputError(
                f"{path} has voxels in {' and '.join(sorted(members))}, "
                "a combination that the label scheme does not know."
            )
        lookup[value] = meaning.get(members, 0)
    return Segmentation(geometry, scheme, _smallest(lookup[found.label_map]), path.name)


def _from_label_map(
    geometry: Geometry, label_map: NDArray[Any], scheme: LabelScheme | None, path: Path
) -> Segmentation:
    present = [int(value) for value in np.flatnonzero(np.bincount(label_map.ravel())) if value]
    if scheme is None:
        scheme = LabelScheme.plain({f"Label {value}": value for value in present or [1]})
    known = {value for region in scheme.regions for value in region.labels}
    unknown = [value for value in present if value not in known]
    if unknown:
        raise InputError(
            f"{path} has the label values {', '.join(map(str, unknown))}, which the label scheme does not know; "
            f"it knows {', '.join(map(str, sorted(known)))}."
        )
    return Segmentation(geometry, scheme, label_map, path.name)


def _whole_numbers(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """The array as the smallest unsigned type; refuses fractions, negative values and more than 16 bits."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(f"{path} is not a label map: its values run from {low} to {high}; 0 to 65535 are expected.")
    if np.issubdtype(array.dtype, np.floating) and not np.array_equal(array, np.rint(array)):
        raise InputError(f"{path} is not a label map: its values are not whole numbers.")
    return _smallest(array)


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)
