"""A case in memory: its reference and every method's prediction on one grid, and an image to show them on.

That grid is the reference's, grown until it holds every prediction: a reference that was cut to what is labelled, as
Slicer and DICOM SEG do it, is empty beyond, and what is predicted there is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import GeometryError, InputError
from .geometry import Geometry
from .image import Segmentation, bounding_box, members
from .labels import LabelScheme
from .metrics import BRATS_GLIOMA, DEFAULT_TOLERANCE_MM, METRICS, LesionRules
from .pairs import READY, Pair
from .resample import resample_channel, resample_segmentation
from .segmentation_files import names_its_segments, read_segmentation
from .volumes import read_volume

_PREFERRED: Final = ("flair", "t1ce", "dwi", "t2", "t1")
_BACKGROUND_OVERLAP: Final = 0.5
_HIGHEST_VALUE: Final = 65535  # `segmentation_files.read_segmentation` takes no more
_LARGEST_FIELD_MM: Final = 500.0  # of one examination of a head; what is farther apart is of two


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the numbers of a case beside its files.

    Attributes:
        scheme: what label values mean.
        regions: names of those that are evaluated.
        metrics: keys of those that are measured, in the order of `metrics.METRICS`.
        label_values: value in a reference's label map → value in the scheme, for those that differ.
        tolerance_mm: of the surface Dice.
        lesions: what counts as one lesion.
        resample: bring predictions whose voxels lie between the reference's onto those instead of refusing them.
        pictures: draw each case.

    Raises:
        InputError: where a label value cannot be in a file, or means one that the scheme does not have.
    """

    scheme: LabelScheme
    regions: tuple[str, ...]
    metrics: tuple[str, ...] = tuple(METRICS)
    label_values: Mapping[int, int] = field(default_factory=dict)
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    lesions: LesionRules = BRATS_GLIOMA
    resample: bool = False
    pictures: bool = True

    def __post_init__(self) -> None:
        for value, meant in self.label_values.items():
            if value > _HIGHEST_VALUE:
                raise InputError(f"--label-values {value}={meant}: label maps hold values up to {_HIGHEST_VALUE}.")
            if meant and meant not in self.known_values:
                raise InputError(
                    f"--label-values {value}={meant}: the label scheme has no value {meant}; it knows "
                    f"{', '.join(map(str, self.known_values))}, and 0 for background."
                )

    @property
    def known_values(self) -> list[int]:
        """The label values of the scheme."""
        return sorted({value for region in self.scheme.regions for value in region.labels})

    def as_dict(self) -> dict[str, Any]:
        """For records."""
        return {
            "labels": self.scheme.as_list(),
            "regions": list(self.regions),
            "metrics": list(self.metrics),
            "label_values": {str(value): meant for value, meant in self.label_values.items()},
            "tolerance_mm": self.tolerance_mm,
            "lesions": asdict(self.lesions),
            "resample": self.resample,
            "pictures": self.pictures,
        }


@dataclass(frozen=True, eq=False)
class LoadedPair:
    """A case in memory.

    Attributes:
        pair: what was read.
        reference: None where it cannot be used; on a grid that holds all predictions.
        predictions: method → its segmentation on the same grid.
        problems: method → why it cannot be evaluated.
        notes: method → what was done to its prediction, a sentence each; those of "" are of the case.
        background: intensities (z, y, x) on the reference's grid to show it on.
    """

    pair: Pair
    reference: Segmentation | None
    predictions: Mapping[str, Segmentation]
    problems: Mapping[str, str]
    notes: Mapping[str, list[str]]
    background: NDArray[np.float32] | None


def load_pair(pair: Pair, settings: EvaluationSettings) -> LoadedPair:
    """Read a case; what cannot be read is named in `problems`, so that the other methods are still evaluated."""
    problems = {name: one.problem for name, one in pair.candidates.items() if one.status != READY}
    ready = [name for name in pair.candidates if name not in problems]
    notes: dict[str, list[str]] = {"": []}
    if not ready or pair.reference is None:
        return LoadedPair(pair, None, {}, problems, notes, None)
    try:
        reference = read_reference(pair.reference, settings)
    except InputError as error:
        return LoadedPair(pair, None, {}, {**problems, **dict.fromkeys(ready, str(error))}, notes, None)
    predictions: dict[str, Segmentation] = {}
    for name in ready:
        try:
            predictions[name], notes[name] = _prediction(pair, name, reference, settings)
        except InputError as error:
            problems[name] = str(error)
    reference, predictions = _on_one_grid(reference, predictions, notes, settings)
    background = None
    if predictions and settings.pictures:
        background, notes[""] = _background(pair.images, reference.geometry)
    return LoadedPair(pair, reference, predictions, problems, notes, background)


def read_reference(path: Path, settings: EvaluationSettings) -> Segmentation:
    """Read a reference: by the names of its segments where it names them, else with the label values of the settings.

    Raises:
        InputError, GeometryError: as `segmentation_files.read_segmentation`; and where a value or segment is not of the
            scheme.
    """
    if names_its_segments(path):
        return _read(path, settings)[0]
    raw = read_segmentation(path)
    highest = max([int(raw.label_map.max()), *settings.label_values, *settings.label_values.values()])
    lookup = np.arange(highest + 1, dtype=np.uint8 if highest < 256 else np.uint16)
    for value, meant in settings.label_values.items():
        lookup[value] = meant
    label_map = lookup[raw.label_map]
    known = settings.known_values
    present = np.flatnonzero(np.bincount(label_map.ravel()))
    unknown = [int(value) for value in present if value and int(value) not in known]
    if unknown:
        raise InputError(
            f"{path} has the label values {', '.join(map(str, unknown))}, which the label scheme does not know; it "
            f"knows {', '.join(map(str, known))}. Where a value means one of these, say so, e.g. "
            f"--label-values {unknown[-1]}={max(known)}."
        )
    return Segmentation(raw.geometry, settings.scheme, label_map, path.name)


def _read(path: Path, settings: EvaluationSettings) -> tuple[Segmentation, list[str]]:
    """A segmentation that has all regions that are evaluated, and what to know of it."""
    if not names_its_segments(path):
        return read_segmentation(path, settings.scheme), []
    found = read_segmentation(path)  # by names: its label values may be anything
    names = found.scheme.names
    missing = [name for name in settings.regions if name not in names]
    if missing:
        raise InputError(f"{path} lacks the segment {', '.join(missing)}; it has {', '.join(names)}.")
    more = [name for name in names if name not in settings.scheme.names]
    return found, [f"{path.name} has further segments, which are not compared: {', '.join(more)}."] if more else []


def _background(images: Mapping[str, Path], geometry: Geometry) -> tuple[NDArray[np.float32] | None, list[str]]:
    """Intensities to show a case on, on its reference's grid; None, and why, where there are none."""
    if not images:
        return None, []
    modality = next((name for name in _PREFERRED if name in images), next(iter(images)))
    try:
        array, own = read_volume(images[modality])
        if geometry.overlap_fraction(own) < _BACKGROUND_OVERLAP:
            raise GeometryError(f"it lies elsewhere ({geometry.difference(own)})")
        return resample_channel(array, own, geometry, name=modality, target_name="the reference")[0], []
    except InputError as error:
        return None, [f"The image {images[modality]} cannot be shown: {error}"]


def _prediction(
    pair: Pair, name: str, reference: Segmentation, settings: EvaluationSettings
) -> tuple[Segmentation, list[str]]:
    """A prediction on its own grid, which can be brought onto the reference's, and what to know of it."""
    found = pair.candidates[name].found
    assert found is not None
    assert pair.reference is not None
    segmentation, notes = _read(found.path, settings)
    own, geometry = segmentation.geometry, reference.geometry
    difference = geometry.difference(own)
    may_be_cut = names_its_segments(found.path) or names_its_segments(pair.reference)
    if difference and _lies_elsewhere(own, geometry, may_be_cut=may_be_cut):
        raise GeometryError(
            f"{found.path} lies elsewhere than the reference of case '{pair.case_id}' ({difference}); it is of another "
            "examination, or its position is lost."
        )
    if difference and not settings.resample and not geometry.shares_lattice(own):
        raise GeometryError(
            f"{found.path} lies on another grid than the reference of case '{pair.case_id}' ({difference}). "
            "Resample it, or ask for it with --resample."
        )
    return segmentation, notes


def _lies_elsewhere(one: Geometry, other: Geometry, *, may_be_cut: bool) -> bool:
    """Whether two grids cannot be of one examination; those that are cut to what is labelled need not meet."""
    if one.overlap_fraction(other) or other.overlap_fraction(one):
        return False
    both = one.grown_to_hold(other)
    return not may_be_cut or max(np.multiply(both.size_ijk, both.spacing_ijk_mm)) > _LARGEST_FIELD_MM


def _on_one_grid(
    reference: Segmentation,
    predictions: Mapping[str, Segmentation],
    notes: Mapping[str, list[str]],
    settings: EvaluationSettings,
) -> tuple[Segmentation, dict[str, Segmentation]]:
    """All on the reference's grid, grown until it holds every prediction; `notes` gets what was done to which."""
    own = target = reference.geometry
    for one in predictions.values():
        if own.shares_lattice(one.geometry):
            target = target.grown_to_hold(one.geometry)
        elif one.label_map.any():
            target = target.grown_to_hold(_labelled_part(one))
    start = np.rint(target.to_ijk(own.origin_lps_mm)).astype(int)
    inside = tuple(slice(a, a + size) for a, size in zip(start[::-1], own.shape_zyx, strict=True))
    moved: dict[str, Segmentation] = {}
    for name, one in predictions.items():
        moved[name] = resample_segmentation(one, target)
        difference = own.difference(one.geometry)
        if not difference:
            continue
        if own.shares_lattice(one.geometry):
            said = f"Its grid has other voxels than the reference's ({difference}); both are compared on all of them."
        else:
            before, after = (sum(s.volume_ml(region) for region in settings.regions) for s in (one, moved[name]))
            said = (
                f"Resampled onto the reference's grid ({difference}); the volume of its regions went from "
                f"{before:.2f} to {after:.2f} mL."
            )
        marked = members(moved[name].label_map, [v for region in settings.regions for v in one.scheme[region].labels])
        beyond = (np.count_nonzero(marked) - np.count_nonzero(marked[inside])) * target.voxel_volume_mm3 / 1000
        if beyond:
            said += f" {beyond:.2f} mL lie beyond the reference's grid, where the reference counts as empty."
        notes[name].append(said)
    return resample_segmentation(reference, target), moved


def _labelled_part(segmentation: Segmentation) -> Geometry:
    z, y, x = bounding_box(segmentation.label_map)
    return segmentation.geometry.window(
        (x.start, y.start, z.start), (x.stop - x.start, y.stop - y.start, z.stop - z.start)
    )
