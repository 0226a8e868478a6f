"""What a segmentation's values mean: regions with names, colours and SNOMED CT codes, as in nnU-Net.

A region is a set of label values. A plain label is a region of one value; overlapping regions (whole tumour, tumour
core, enhancing tumour) share values. So one label map holds any set of overlapping structures exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError, ModelError

# Distinct, colour-blind-safe (Okabe and Ito 2008), for regions that bring no colour of their own.
DEFAULT_COLOURS_RGB: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)

LABEL_VALUES_TAG = "BrainSegSAM.LabelValues"
"""Segment tag with the label values of a region ("1 3"): Slicer's segments have no place of their own for them, and
without them a label map that went through a segmentation node or a .seg.nrrd would come back with other numbers."""


@dataclass(frozen=True)
class Code:
    """A coded term (DICOM style).

    Attributes:
        scheme: coding scheme designator, "SCT" for SNOMED CT.
        value: code value, e.g. "86049000".
        meaning: the term in words.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Terminology:
    """What a region is and where, in coded terms, as Slicer and DICOM SEG store it.

    Attributes:
        category: segmented property category, e.g. SCT 49755003 "Morphologically Altered Structure".
        type: segmented property type, e.g. SCT 86049000 "Neoplasm, Primary".
        anatomic_region: where it is, e.g. SCT 12738006 "Brain"; None where not stated.
    """

    category: Code
    type: Code
    anatomic_region: Code | None = None

    CONTEXT = "Segmentation category and type - DICOM master list"
    ANATOMY_CONTEXT = "Anatomic codes - DICOM master list"

    def slicer_entry(self) -> str:
        """The string that Slicer keeps in a segment's `TerminologyEntry` tag."""
        empty = "^^"
        parts = [self.CONTEXT, _caret(self.category), _caret(self.type), empty]
        region = _caret(self.anatomic_region) if self.anatomic_region else empty
        parts += [self.ANATOMY_CONTEXT if self.anatomic_region else "", region, empty]
        return "~".join(parts)

    @classmethod
    def from_slicer_entry(cls, entry: str) -> Terminology | None:
        """Read such a string; None where it names no category and type."""
        parts = entry.rstrip("|").split("~")
        if len(parts) < 3:
            return None
        category, kind = _from_caret(parts[1]), _from_caret(parts[2])
        if category is None or kind is None:
            return None
        return cls(category, kind, _from_caret(parts[5]) if len(parts) > 5 else None)


@dataclass(frozen=True)
class Region:
    """A named structure: the voxels that carry one of its label values.

    Attributes:
        name: shown to users and used as segment name; unique in its scheme.
        labels: label values (> 0) that belong to it.
        colour_rgb: 0-255.
        terminology: coded meaning, or None.
    """

    name: str
    labels: tuple[int, ...]
    colour_rgb: tuple[int, int, int]
    terminology: Terminology | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("A region needs a name.")
        if not self.labels or min(self.labels) < 1:
            raise InputError(f"Region '{self.name}' needs at least one label value, each 1 or more.")
        if len(self.colour_rgb) != 3 or not all(0 <= c <= 255 for c in self.colour_rgb):
            raise InputError(f"Region '{self.name}' has the colour {self.colour_rgb}; use three numbers from 0 to 255.")


@dataclass(frozen=True)
class LabelScheme:
    """The regions of a segmentation, in the order in which they are listed to users.

    Attributes:
        regions: at least one; names are unique.
    """

    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        names = [region.name for region in self.regions]
        if not names:
            raise InputError("A label scheme needs at least one region.")
        if len(set(names)) != len(names):
            raise InputError(f"Region names must differ, but they are: {', '.join(names)}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(region.name for region in self.regions)

    @property
    def overlapping(self) -> bool:
        """Whether any label value belongs to more than one region."""
        values = [value for region in self.regions for value in region.labels]
        return len(values) != len(set(values))

    def __getitem__(self, name: str) -> Region:
        for region in self.regions:
            if region.name == name:
                return region
        raise InputError(f"There is no region '{name}'; there are: {', '.join(self.names)}.")

    @classmethod
    def plain(cls, labels: Mapping[str, int]) -> LabelScheme:
        """A scheme of plain labels (name → value) with default colours."""
        return cls(
            tuple(
                Region(name, (value,), DEFAULT_COLOURS_RGB[i % len(DEFAULT_COLOURS_RGB)])
                for i, (name, value) in enumerate(labels.items())
            )
        )

    def as_list(self) -> list[dict[str, Any]]:
        """For `model.json` and records; `from_list` reads it back."""
        return [_region_as_dict(region) for region in self.regions]

    @classmethod
    def from_list(cls, entries: list[dict[str, Any]]) -> LabelScheme:
        """Read what `as_list` wrote.

        Raises:
            ModelError: where an entry lacks a name or labels.
        """
        try:
            return cls(tuple(_region_from_dict(entry, i) for i, entry in enumerate(entries)))
        except (KeyError, TypeError) as error:
            raise ModelError(f"The list of regions cannot be read: {error!r} is missing or of a wrong type.") from error


def format_label_values(labels: tuple[int, ...]) -> str:
    """The text of a region's `LABEL_VALUES_TAG`."""
    return " ".join(str(label) for label in labels)


def parse_label_values(text: str) -> tuple[int, ...]:
    """Label values of such a text; () where it holds anything else."""
    words = text.split()
    return tuple(int(word) for word in words) if all(word.isdecimal() and int(word) > 0 for word in words) else ()


def _region_as_dict(region: Region) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": region.name,
        "labels": list(region.labels),
        "colour_rgb": list(region.colour_rgb),
    }
    if region.terminology is not None:
        entry["terminology"] = {
            key: {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}
            for key, code in (
                ("category", region.terminology.category),
                ("type", region.terminology.type),
                ("anatomic_region", region.terminology.anatomic_region),
            )
            if code is not None
        }
    return entry


def _region_from_dict(entry: dict[str, Any], index: int) -> Region:
    colour = entry.get("colour_rgb") or DEFAULT_COLOURS_RGB[index % len(DEFAULT_COLOURS_RGB)]
    coded = entry.get("terminology")
    terminology = None
    if coded:
        region_code = coded.get("anatomic_region")
        terminology = Terminology(
            Code(**coded["category"]), Code(**coded["type"]), Code(**region_code) if region_code else None
        )
    return Region(
        entry["name"],
        tuple(int(value) for value in entry["labels"]),
        (int(colour[0]), int(colour[1]), int(colour[2])),
        terminology,
    )


def _caret(code: Code) -> str:
    return f"{code.scheme}^{code.value}^{code.meaning}"


def _from_caret(text: str) -> Code | None:
    parts = text.split("^")
    return Code(*parts[:3]) if len(parts) >= 3 and parts[1] else None
