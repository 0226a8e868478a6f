"""One case measured: its reference and every method's prediction in, numbers and a picture out, as one JSON file.

The file is what makes a long evaluation safe to interrupt: a case is finished exactly when its file is there and was
made of the same inputs with the same settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .errors import BrainSegSAMError, Cancelled, GeometryError, InputError
from .files import read_json, sha256_of, write_json
from .geometry import Geometry
from .image import Segmentation
from .labels import LabelScheme
from .metrics import DEFAULT_TOLERANCE_MM, METRICS, measure_case
from .overlays import overlay
from .pairs import READY, Pair
from .pipeline import describe_failure
from .progress import Progress
from .resample import resample_channel, resample_segmentation
from .segmentation_files import SEGMENTATION_SUFFIX, read_segmentation
from .volumes import read_volume

CASE_VERSION: Final = 1
EVALUATED, FAILED = "evaluated", "failed"
_PREFERRED: Final = ("flair", "t1ce", "dwi", "t2", "t1")
_BACKGROUND_OVERLAP: Final = 0.5


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the numbers of a case beside its files.

    Attributes:
        scheme: what label values mean.
        regions: names of those that are evaluated.
        metrics: keys of those that are measured, in the order of `metrics.METRICS`.
        label_values: value in a reference's label map → value in the scheme, for those that differ.
        tolerance_mm: of the surface Dice.
        resample: bring predictions on other grids onto the reference's instead of refusing them.
        pictures: draw each case.
    """

    scheme: LabelScheme
    regions: tuple[str, ...]
    metrics: tuple[str, ...] = tuple(METRICS)
    label_values: Mapping[int, int] = field(default_factory=dict)
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    resample: bool = False
    pictures: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For records."""
        return {
            "labels": self.scheme.as_list(),
            "regions": list(self.regions),
            "metrics": list(self.metrics),
            "label_values": {str(value): meant for value, meant in self.label_values.items()},
            "tolerance_mm": self.tolerance_mm,
            "resample": self.resample,
            "pictures": self.pictures,
        }


@dataclass(frozen=True, eq=False)
class LoadedPair:
    """A case in memory.

    Attributes:
        pair: what was read.
        reference: None where it cannot be used.
        predictions: method → its segmentation on the reference's grid.
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


@dataclass(frozen=True)
class CaseEvaluator:
    """What is done with each case of an evaluation; a `batch.CaseWork`.

    Attributes:
        settings: of the evaluation.
        folder: where the cases' files go.
    """

    settings: EvaluationSettings
    folder: Path

    def load(self, item: Pair) -> LoadedPair:
        """Read a case; what cannot be read is named in `problems`, so that other methods are still evaluated."""
        problems = {name: one.problem for name, one in item.candidates.items() if one.status != READY}
        notes: dict[str, list[str]] = {"": []}
        ready = [name for name in item.candidates if name not in problems]
        reference = None
        try:
            if ready and item.reference is not None:
                reference = read_reference(item.reference, self.settings)
        except BrainSegSAMError as error:
            problems |= {name: str(error) for name in ready}
        predictions: dict[str, Segmentation] = {}
        for name in ready if reference is not None else ():
            assert reference is not None
            try:
                predictions[name], notes[name] = self._prediction(item, name, reference)
            except Cancelled:
                raise
            except Exception as error:  # of one method; the others are evaluated
                problems[name] = describe_failure(error)
        background = None
        if reference is not None and predictions and self.settings.pictures:
            background, note = _background(item.images, reference.geometry)
            notes[""] += note
        return LoadedPair(item, reference, predictions, problems, notes, background)

    def compute(self, loaded: LoadedPair, progress: Progress) -> dict[str, Any]:
        """Measure and draw a case; gives the content of its file."""
        pair, reference = loaded.pair, loaded.reference
        names = self.settings.regions
        progress.stage("Measuring", total=len(loaded.predictions) + 1)
        notes = list(loaded.notes[""])
        reference_ml = None
        if reference is not None:
            reference_ml = {region: reference.volume_ml(region) for region in names}
            if not any(reference_ml.values()):
                notes.append("The reference is empty: it has no voxel of any region.")
        methods: dict[str, Any] = {}
        for name, candidate in pair.candidates.items():
            if name in loaded.problems:
                status = candidate.status if candidate.status != READY else FAILED
                methods[name] = {"status": status, "problem": loaded.problems[name], "notes": [], "regions": {}}
                continue
            assert reference is not None
            methods[name] = {
                "status": EVALUATED,
                "problem": "",
                "notes": loaded.notes[name],
                "regions": self._measure(reference, loaded.predictions[name]),
            }
            progress.advance()
        picture = None
        if reference is not None and loaded.predictions and self.settings.pictures:
            picture = overlay(reference, loaded.predictions, regions=names, background=loaded.background)
        return {
            "case_version": CASE_VERSION,
            "fingerprint": fingerprint(pair, self.settings),
            "case_id": pair.case_id,
            "patient": pair.patient,
            "notes": notes,
            "reference_ml": reference_ml,
            "methods": methods,
            "picture": picture,
        }

    def save(self, item: Pair, computed: dict[str, Any]) -> str:
        """Write the case's file; gives what came out in a few words."""
        write_json(computed, case_file(self.folder, item.case_id))
        return summary_line(computed)

    def _prediction(self, pair: Pair, name: str, reference: Segmentation) -> tuple[Segmentation, list[str]]:
        found = pair.candidates[name].found
        assert found is not None
        segmentation, notes = _read(found.path, self.settings)
        geometry = reference.geometry
        difference = geometry.difference(segmentation.geometry)
        if difference and not self.settings.resample:
            raise GeometryError(
                f"{found.path} lies on another grid than the reference of case '{pair.case_id}' ({difference}). "
                "Resample it, or ask for it with --resample."
            )
        if difference:
            segmentation, note = _onto(segmentation, geometry, difference, self.settings.regions)
            notes.append(note)
        return segmentation, notes

    def _measure(self, reference: Segmentation, prediction: Segmentation) -> dict[str, Any]:
        regions, metrics = self.settings.regions, self.settings.metrics
        measured = measure_case(
            reference, prediction, regions=regions, tolerance_mm=self.settings.tolerance_mm, metrics=metrics
        )
        return {name: {"volume_ml": prediction.volume_ml(name), "metrics": measured[name]} for name in regions}


def case_file(folder: Path, case_id: str) -> Path:
    """Where the numbers and the picture of a case lie."""
    return folder / f"{case_id}.json"


def failed_case(pair: Pair, problem: str) -> dict[str, Any]:
    """What stands in the tables for a case whose file could not be made."""
    methods = {
        name: {
            "status": FAILED if candidate.status == READY else candidate.status,
            "problem": candidate.problem or problem,
            "notes": [],
            "regions": {},
        }
        for name, candidate in pair.candidates.items()
    }
    return {"case_id": pair.case_id, "patient": pair.patient, "notes": [], "reference_ml": None, "methods": methods}


def is_finished(pair: Pair, settings: EvaluationSettings, folder: Path) -> bool:
    """Whether a file lies there that was made of the same inputs with the same settings."""
    try:
        found = read_json(case_file(folder, pair.case_id))
        return bool(found["fingerprint"] == fingerprint(pair, settings))
    except (InputError, KeyError, TypeError):
        return False


def fingerprint(pair: Pair, settings: EvaluationSettings) -> str:
    """SHA-256 (64 hexadecimal digits) of all that decides a case's file.

    Raises:
        InputError: where a file cannot be read.
    """
    files = {f"image {name}": path for name, path in pair.images.items()} if settings.pictures else {}
    files |= {f"method {n}": c.found.path for n, c in pair.candidates.items() if c.status == READY and c.found}
    if pair.reference is not None:
        files["reference"] = pair.reference
    content = {
        "version": [CASE_VERSION, __version__],
        "settings": settings.as_dict(),
        "case": [pair.case_id, pair.patient],
        "status": {name: [candidate.status, candidate.problem] for name, candidate in pair.candidates.items()},
        "files": {name: sha256_of(path) if path.exists() else "" for name, path in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def summary_line(result: Mapping[str, Any]) -> str:
    """What came out of a case, in a few words: the mean over regions of the first metric, for each method."""
    parts = []
    for name, method in result["methods"].items():
        firsts = [next(iter(region["metrics"].items())) for region in method["regions"].values()]
        known = [value for _, value in firsts if value is not None]
        said = f"{METRICS[firsts[0][0]].title} {float(np.mean(known)):.3f}" if known else method["status"]
        parts.append(f"{name} {said}" if len(result["methods"]) > 1 else said)
    return ", ".join(parts)


def read_reference(path: Path, settings: EvaluationSettings) -> Segmentation:
    """Read a reference: a .seg.nrrd by the names of its segments, a label map with the label values of the settings.

    Raises:
        InputError, GeometryError: as `segmentation_files.read_segmentation`; and where a value or segment is not of the
            scheme.
    """
    if path.name.lower().endswith(SEGMENTATION_SUFFIX):
        return _read(path, settings)[0]
    raw = read_segmentation(path)
    highest = max([int(raw.label_map.max()), *settings.label_values, *settings.label_values.values()])
    lookup = np.arange(highest + 1, dtype=np.uint8 if highest < 256 else np.uint16)
    for value, meant in settings.label_values.items():
        lookup[value] = meant
    label_map = lookup[raw.label_map]
    known = {value for region in settings.scheme.regions for value in region.labels}
    present = np.flatnonzero(np.bincount(label_map.ravel()))
    unknown = [int(value) for value in present if value and int(value) not in known]
    if unknown:
        raise InputError(
            f"{path} has the label values {', '.join(map(str, unknown))}, which the label scheme does not know; it "
            f"knows {', '.join(map(str, sorted(known)))}. Where a value means one of these, say so, e.g. "
            f"--label-values {unknown[-1]}={max(known)}."
        )
    return Segmentation(raw.geometry, settings.scheme, label_map, path.name)


def _read(path: Path, settings: EvaluationSettings) -> tuple[Segmentation, list[str]]:
    """A segmentation that has all regions that are evaluated, and what to know of it."""
    if not path.name.lower().endswith(SEGMENTATION_SUFFIX):
        return read_segmentation(path, settings.scheme), []
    found = read_segmentation(path)  # by names: its label values may be anything
    names = found.scheme.names
    missing = [name for name in settings.regions if name not in names]
    if missing:
        raise InputError(f"{path} lacks the segment {', '.join(missing)}; it has {', '.join(names)}.")
    more = [name for name in names if name not in settings.scheme.names]
    return found, [f"{path.name} has further segments, which are not compared: {', '.join(more)}."] if more else []


def _onto(
    segmentation: Segmentation, geometry: Geometry, difference: str, regions: Sequence[str]
) -> tuple[Segmentation, str]:
    moved = resample_segmentation(segmentation, geometry)
    before, after = (sum(one.volume_ml(name) for name in regions) for one in (segmentation, moved))
    if before and not after:
        raise GeometryError(
            f"{segmentation.name} does not overlap the reference's grid ({difference}); it is of another examination, "
            "or its position is lost."
        )
    note = f"Resampled onto the reference's grid ({difference}); the volume of its regions went from {before:.2f} to "
    return moved, note + f"{after:.2f} mL."


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
    except BrainSegSAMError as error:
        return None, [f"The image {images[modality]} cannot be shown: {error}"]
