"""The two things that every method takes and gives: an Image and a Segmentation, each on one Geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import GeometryError, InputError
from .geometry import Geometry
from .labels import DEFAULT_COLOURS_RGB, LabelScheme, Region

Box = tuple[slice, slice, slice]
"""A part of a grid, in the order of numpy axes."""


@dataclass(frozen=True, eq=False)
class Image:
    """One or several modalities of one examination on one grid.

    Attributes:
        geometry: the grid.
        channels: modality name → float32 (z, y, x), in a fixed order; finite intensities in the scanner's own units.
        name: for messages and records, e.g. the case id.
    """

    geometry: Geometry
    channels: Mapping[str, NDArray[np.float32]]
    name: str = "image"

    def __post_init__(self) -> None:
        if not self.channels:
            raise InputError(f"{self.name} has no modality.")
        for modality, array in self.channels.items():
            if array.shape != self.geometry.shape_zyx:
                raise GeometryError(
                    f"{self.name}: modality '{modality}' has the shape {array.shape} (z, y, x), "
                    f"but its grid has {self.geometry.shape_zyx}."
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(self.channels)

    def stack(self, modalities: Sequence[str]) -> NDArray[np.float32]:
        """float32 (C, z, y, x) of the modalities in the order asked for.

        Raises:
            InputError: where one is missing; the message lists what there is.
        """
        missing = [m for m in modalities if m not in self.channels]
        if missing:
            raise InputError(
                f"{self.name} lacks {', '.join(missing)}; needed are {', '.join(modalities)}, "
                f"found are {', '.join(self.modalities)}."
            )
        return np.stack([self.channels[m] for m in modalities]).astype(np.float32, copy=False)


def members(label_map: NDArray[np.unsignedinteger[Any]], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Where a label map carries one of some values: bool, of its shape."""
    found = np.empty(label_map.shape, dtype=np.bool_)
    for part, within in zip(label_map, found, strict=True):  # a part stays in the processor's cache
        np.equal(part, labels[0], out=within)
        for label in labels[1:]:
            within |= part == label
    return found


def bounding_box(mask: NDArray[Any]) -> Box:
    """The smallest part of an array (z, y, x) that holds all that is not 0; three empty slices where nothing is."""
    z = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(z):
        return slice(0, 0), slice(0, 0), slice(0, 0)
    # Seen along z, what is left is a picture: the other two axes cost nothing then.
    seen = np.asarray(mask[z[0] : z[-1] + 1].any(axis=0))
    y, x = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labelled voxels on one grid.

    Attributes:
        geometry: the grid.
        scheme: what the label values mean.
        label_map: unsigned integer (z, y, x); 0 is background. Regions that overlap share label values (see `labels`).
        name: for messages and records.
        record: how it was made (model, settings, geometry actions, timings), for `run.json` and users.
        stages: name → what a method of several stages had on its way, for users to compare and choose; each on the
            same grid, with a scheme of its own. Names suit file names.
    """

    geometry: Geometry
    scheme: LabelScheme
    label_map: NDArray[np.unsignedinteger[Any]]
    name: str = "segmentation"
    record: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Segmentation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label_map.shape != self.geometry.shape_zyx:
            raise GeometryError(
                f"{self.name}: the label map has the shape {self.label_map.shape} (z, y, x), "
                f"but its grid has {self.geometry.shape_zyx}."
            )
        if not np.issubdtype(self.label_map.dtype, np.unsignedinteger):
            raise InputError(f"{self.name}: a label map holds unsigned integers, not {self.label_map.dtype}.")

    def mask(self, region: str) -> NDArray[np.bool_]:
        """Bool (z, y, x): the voxels of one region."""
        return members(self.label_map, self.scheme[region].labels)

    def masks(self) -> Iterator[tuple[Region, NDArray[np.bool_]]]:
        """Each region with its mask, one at a time."""
        for region in self.scheme.regions:
            yield region, self.mask(region.name)

    def volume_ml(self, region: str) -> float:
        """Volume of one region in millilitres."""
        return float(np.count_nonzero(self.mask(region))) * self.geometry.voxel_volume_mm3 / 1000.0

    def relabelled(self, labels: Sequence[tuple[int, ...]]) -> Segmentation:
        """The same masks with other label values, as they were before a format that does not keep them.

        Args:
            labels: for each region, in order, the values that it had.

        Returns:
            The same segmentation with these values, or itself where they no longer describe the masks.
        """
        if not all(labels):
            return self
        highest = max(max(values) for values in labels)
        dtype = np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.uint32
        lookup = np.zeros(int(self.label_map.max()) + 1, dtype=dtype)
        for value in np.flatnonzero(np.bincount(self.label_map.ravel())):
            members = [value in region.labels for region in self.scheme.regions]
            fitting = [new for new in range(1, highest + 1) if [new in values for values in labels] == members]
            if any(members) and not fitting:
                return self
            lookup[value] = fitting[0] if any(members) else 0
        regions = tuple(replace(r, labels=new) for r, new in zip(self.scheme.regions, labels, strict=True))
        return Segmentation(self.geometry, LabelScheme(regions), lookup[self.label_map], self.name, self.record)

    @classmethod
    def from_masks(
        cls, geometry: Geometry, masks: Mapping[str, NDArray[np.bool_]], *, scheme: LabelScheme | None = None,
        name: str = "segmentation",
    ) -> Segmentation:
        """From arbitrary, possibly overlapping masks.

        Every distinct combination of regions that occurs becomes one label value, so nothing is lost.

        Args:
            geometry: the grid.
            masks: region name → bool (z, y, x).
            scheme: where given, its names, colours and codes are used; its label values are replaced.
            name: for messages.
        """
        if not masks:
            raise InputError(f"{name}: there is no mask.")
        combined = np.zeros(geometry.shape_zyx, dtype=np.uint32)
        combinations: list[frozenset[str]] = [frozenset()]
        for region, mask in masks.items():
            inside = np.asarray(mask, dtype=bool)
            if inside.shape != geometry.shape_zyx:
                raise GeometryError(f"{name}: mask '{region}' has the shape {inside.shape}, not {geometry.shape_zyx}.")
            lookup = np.arange(len(combinations), dtype=np.uint32)
            for old in np.flatnonzero(np.bincount(combined[inside])):
                lookup[old] = len(combinations)
                combinations.append(combinations[old] | {region})
            combined[inside] = lookup[combined[inside]]
        occurring = np.flatnonzero(np.bincount(combined.ravel()))
        used = [0, *(int(old) for old in occurring if old != 0)]  # 0 stays background, even where there is none
        regions = []
        for position, region in enumerate(masks):
            values = tuple(value for value, old in enumerate(used) if region in combinations[old])
            known = scheme[region] if scheme is not None else None
            regions.append(
                Region(
                    region,
                    # An empty mask keeps its place in the list with a value that no voxel carries.
                    values or (len(used) + position,),
                    known.colour_rgb if known else DEFAULT_COLOURS_RGB[position % len(DEFAULT_COLOURS_RGB)],
                    known.terminology if known else None,
                )
            )
        highest = max(value for region in regions for value in region.labels)
        new_value = np.zeros(len(combinations), dtype=np.uint8 if highest < 256 else np.uint16)
        new_value[used] = np.arange(len(used))
        label_map = new_value[combined]
        return cls(geometry, LabelScheme(tuple(regions)), label_map, name)
