"""YOLO and MedSAM's Tables 1 and 2 with what is measured here beside them.

Table 1 is measured slice by slice, as in the paper. Table 2 is the Dice of whole volumes, from the true boxes and from
those that the detector finds. In both, models also show what their own training measured on what it left out, by
patients or, as the paper does, by slices.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..backends.devices import resolve_device
from ..boxes import SliceBox
from ..console import parse_setting
from ..errors import InputError
from ..files import write_json
from ..image import Image
from ..labelled_images import labelled_cases, load_labelled
from ..methods.yolo_medsam.composing import DETECTOR_FOLDER, METHOD, SEGMENTER_FOLDER
from ..methods.yolo_medsam.detector import METHOD as DETECTOR
from ..methods.yolo_medsam.detector import load_detector
from ..methods.yolo_medsam.detector_training import TITLE as DETECTOR_TABLE
from ..methods.yolo_medsam.measuring import FOUND_BOXES, TRUE_BOXES, Measured, measure
from ..methods.yolo_medsam.sam_validation import SLICE_TITLE as DICE_BY_SLICES
from ..methods.yolo_medsam.sam_validation import TITLE as DICE_BY_PATIENTS
from ..methods.yolo_medsam.segmenter import METHOD as SEGMENTER
from ..methods.yolo_medsam.segmenter import Segmenter, load_segmenter
from ..metrics.detection import DetectionScore, score_boxes, share_found
from ..models.catalogue import find_model
from ..models.published import ANY_MODALITY
from ..models.store import Model, load_model
from ..progress import Progress
from ..runs import RECORD_VERSION, versions
from .files import check_output

TABLE_1: Final = {"YOLOv5s": (0.91669, None, 0.86116, 0.63171), "YOLOv5l": (0.93441, None, 0.90303, 0.71470)}
"""Precision, recall (not given), mAP50, mAP50-95. Source: Zhou & Yu, Table 1."""
TABLE_2: Final = {"SAM": 0.692, "MedSAM": 0.723, "MedSAM, fine-tuned": 0.889}
"""Dice; the paper does not say of what boxes, nor how it is averaged. Source: Zhou & Yu, Table 2."""

_DICE_TABLES: Final = {DICE_BY_PATIENTS: "patients", DICE_BY_SLICES: "slices"}
_SPLIT_BY: Final = {"folds": "patients", "patient": "patients", "slice": "slices"}


@dataclass(frozen=True)
class ReproduceJob:
    """What to measure, and where to write it.

    Attributes:
        model: name in the catalogue, or model folder, of the method "yolo_medsam" with a detector.
        source: labelled cases; what `cases.find_cases` takes.
        output: JSON file with every case's numbers.
        compare: further models, of the methods "yolo_detector" and "sam": names or folders.
        label_values: value in the references' files → value in the model's scheme, for those that differ.
        device: "auto", or a torch device name.
        trust: allow weights that need arbitrary unpickling.
        precision: "auto", "fp32" or "bf16"; see `backends.devices.resolve_precision`.
    """

    model: str
    source: Path
    output: Path
    compare: tuple[str, ...] = ()
    label_values: Mapping[int, int] = field(default_factory=dict)
    device: str = "auto"
    trust: bool = False
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class Result:
    """What was measured.

    Attributes:
        regions: what is looked for.
        cases: case id → its numbers.
        detection: of all cases together.
        recall: share of the known boxes that the linked ones find.
        seen: part → ids of the cases that it has learned from: its numbers there say nothing.
        tables: detector, and how its training was split → the table of that training.
        dice_tables: segmenter, and how its training was split → the table of that training.
    """

    regions: tuple[str, ...]
    cases: Mapping[str, Measured]
    detection: DetectionScore
    recall: float
    seen: Mapping[str, Sequence[str]]
    tables: Mapping[str, Mapping[str, Any]]
    dice_tables: Mapping[str, Mapping[str, Any]]


def run(job: ReproduceJob, *, progress: Progress | None = None) -> Result:
    """Measure boxes and masks on labelled cases.

    Raises:
        ModelError: where a model cannot be used.
        InputError, GeometryError: where a model is of another method, or a case or its reference cannot be used.
        OutputError: where the file cannot be written.
        Cancelled: when the progress was cancelled; nothing is written then.
    """
    progress = progress or Progress()
    model = load_model(find_model(job.model))
    if model.method != METHOD or not (model.folder / DETECTOR_FOLDER).is_dir():
        raise InputError(
            f"The model '{model.name}' has no detector; reproduce {METHOD} needs a model of a detector and a "
            "segmenter: make one with 'brainsegsam models compose'."
        )
    others = [load_model(find_model(name)) for name in job.compare]
    wrong = [other.name for other in others if other.method not in (DETECTOR, SEGMENTER)]
    if wrong:
        raise InputError(f"What is compared must be detectors and segmenters; {', '.join(wrong)} is neither.")
    own = load_model(model.folder / SEGMENTER_FOLDER)
    described = load_model(model.folder / DETECTOR_FOLDER)
    _check_names([described, own, *others])
    of_segmenters = {part.name: part for part in (*(other for other in others if other.method == SEGMENTER), own)}
    modalities = {name: None for part in (model, *of_segmenters.values()) for name in part.modalities}
    modalities.pop(ANY_MODALITY, None)
    cases = labelled_cases(job.source, list(modalities))
    check_output(job.output)
    device = resolve_device(job.device)
    progress.stage("Loading the models", until=0.02)
    detector = load_detector(described, device=device, trust=job.trust, precision=job.precision)
    segmenters: dict[str, Segmenter] = {
        name: load_segmenter(part, device=device, trust=job.trust, precision=job.precision)
        for name, part in of_segmenters.items()
    }
    measured: dict[str, Measured] = {}
    for number, case in enumerate(cases, start=1):
        part = progress.part(case.case_id, until=0.02 + 0.98 * number / len(cases))
        labelled = load_labelled(case, list(modalities), model.scheme, job.label_values)
        geometry, order = labelled.image.geometry.reoriented("LPS")
        channels = {name: order.apply(array) for name, array in labelled.image.channels.items()}
        upright = order.apply(labelled.labels)
        truth = [np.isin(upright, region.labels) for region in model.scheme.regions]
        image = Image(geometry, channels, case.case_id)
        measured[case.case_id] = measure(image, truth, detector, segmenters, progress=part)
    parts = {described.name: described, **of_segmenters}
    result = Result(
        model.scheme.names,
        measured,
        score_boxes([(one.found, one.known) for one in measured.values()]),
        share_found([(one.linked, one.known) for one in measured.values()]),
        {name: sorted(set(part.training.get("cases", ())) & set(measured)) for name, part in parts.items()},
        {_with_split(part): part.results[DETECTOR_TABLE] for part in (described, *others)
         if DETECTOR_TABLE in part.results},
        {f"{name}, split by {by}": part.results[title] for name, part in of_segmenters.items()
         for title, by in _DICE_TABLES.items() if title in part.results},
    )  # fmt: skip
    write_json(_record(job, model, device, result), job.output)
    return result


def _check_names(models: Sequence[Model]) -> None:
    hashes: dict[str, str] = {}
    for one in models:
        if hashes.setdefault(one.name, one.sha256) != one.sha256:
            raise InputError(f"Two of the models are called '{one.name}'; rename one, so that tables tell them apart.")


def _with_split(detector: Model) -> str:
    split = detector.training.get("settings", {}).get("split")
    return f"{detector.name}, split by {_SPLIT_BY[split]}" if split in _SPLIT_BY else detector.name


def _record(job: ReproduceJob, model: Model, device: str, result: Result) -> dict[str, Any]:
    def listed(boxes: Sequence[SliceBox]) -> list[list[float]]:
        return [[box.index, box.kind, round(box.confidence, 4), *(round(side, 2) for side in box.box)] for box in boxes]

    score = result.detection
    return {
        "record_version": RECORD_VERSION,
        "command": f"reproduce {METHOD}",
        "versions": versions(),
        "model": {"name": model.name, "sha256": model.sha256},
        "device": device,
        "source": str(job.source),
        "compare": list(job.compare),
        "detection": {
            "precision": score.precision, "recall": score.recall, "map50": score.map50, "map50_95": score.map50_95,
            "confidence": score.confidence, "share_found": result.recall,
        },
        "dice": [
            {"case_id": case_id, "masks": name, "boxes": source, "region": result.regions[kind], "dice": value}
            for case_id, one in result.cases.items()
            for (name, source, kind), value in one.dice.items()
        ],
        "boxes": {
            case_id: {"columns": "slice, kind, confidence, column0, row0, column1, row1", "linked": listed(one.linked)}
            for case_id, one in result.cases.items()
        },
        "learned_from": {name: list(ids) for name, ids in result.seen.items()},
        "own_tables": dict(result.tables),
        "own_dice": dict(result.dice_tables),
    }  # fmt: skip


def mean_dice(result: Result, name: str, source: str, kind: int) -> float:
    """Mean over cases of the Dice of a segmenter's or baseline's masks of a kind."""
    return float(np.mean([one.dice[name, source, kind] for one in result.cases.values()]))


# ---- command line -------------------------------------------------------------------------------------------------


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run`.
    """
    settings = dict(parse_setting(text) for text in options.set)
    precision = settings.pop("precision", "auto")
    if settings or options.labels:
        raise InputError(f"reproduce {METHOD} takes neither --labels nor settings other than precision.")
    job = ReproduceJob(
        options.model, options.input, options.output, tuple(options.compare), _numbers(options.label_values),
        options.device, options.trust, precision,
    )  # fmt: skip
    result = run(job, progress=progress)
    yield from _table_1(result)
    yield ""
    yield from _table_2(result)
    for name, ids in result.seen.items():
        if ids:
            yield f"{name} has learned from {', '.join(ids)}: there its numbers say nothing about other patients."
    yield f"Every number is in {job.output}"


def _numbers(texts: Sequence[str]) -> dict[int, int]:
    found = {}
    for text in texts:
        first, _, second = text.partition("=")
        if not (first.isdecimal() and second.isdecimal()):
            raise InputError(f"--label-values takes pairs of numbers as 4=3, not '{text}'.")
        found[int(first)] = int(second)
    return found


def _table_1(result: Result) -> Iterator[str]:
    score = result.detection
    rows: dict[str, Sequence[float | None]] = {
        **{f"paper, split by slices: {name}": values for name, values in TABLE_1.items()},
        f"measured, {len(result.cases)} cases": (score.precision, score.recall, score.map50, score.map50_95),
        **{f"left out in training: {name}": table["rows"][-1][2:6] for name, table in result.tables.items()},
    }
    wide = max(44, *(len(name) + 1 for name in rows))
    yield f"{'Table 1: boxes, slice by slice':<{wide}}{'P':>9}{'R':>9}{'mAP50':>9}{'mAP50-95':>10}"
    for name, values in rows.items():
        yield f"{name:<{wide}}" + _cells(values)
    yield "Measured: one box for each connected piece of a region on each slice, however small; mAP by COCO's rules."
    yield "The paper's mAP is YOLOv5's own, which joins the points of recall by trapezia: a few thousandths lower."
    for name, table in result.tables.items():
        yield f"Left out in training, {name}: {table.get('note', '')}"
    yield f"Linked boxes find {result.recall:.3f} of the known boxes (IoU 0.5 or more)."


def _cells(values: Sequence[float | None]) -> str:
    shown = ["–" if value is None else f"{value:.3f}" for value in values]
    return "".join(text.rjust(width) for text, width in zip(shown, (9, 9, 9, 10), strict=True))


def _table_2(result: Result) -> Iterator[str]:
    rows: dict[str, tuple[float | None, ...]] = {f"paper: {name}": (value, None) for name, value in TABLE_2.items()}
    names = dict.fromkeys(name for one in result.cases.values() for name, _, _ in one.dice)
    for kind, region in enumerate(result.regions):
        for name in names:
            means = (mean_dice(result, name, source, kind) for source in (TRUE_BOXES, FOUND_BOXES))
            rows[f"measured: {region}, {name}"] = tuple(means)
    for name, table in result.dice_tables.items():
        for region, value in zip(table["columns"][2:], table["rows"][-1][2:], strict=True):
            if value is not None:
                rows[f"left out in training: {region}, {name}"] = value, None
    wide = max(44, *(len(name) + 1 for name in rows))
    yield f"{'Table 2: Dice':<{wide}}{TRUE_BOXES:>14}{FOUND_BOXES:>14}"
    for name, values in rows.items():
        yield f"{name:<{wide}}" + "".join(("–" if value is None else f"{value:.3f}").rjust(14) for value in values)
    yield "The paper names neither the boxes of its Table 2 nor how its Dice is averaged; ours is of whole volumes."
    for name, table in result.dice_tables.items():
        yield f"Left out in training, {name}: {table.get('note', '')}"
