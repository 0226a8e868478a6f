"""Trains a detector from labelled cases to a model folder: data set, cross-validation, a network of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...backends.devices import resolve_precision
from ...backends.weights import set_weights
from ...backends.yolo import YoloDetector
from ...backends.yolo_architecture import YoloArchitecture
from ...backends.yolo_gpus import train_on_gpus
from ...backends.yolo_network import build
from ...backends.yolo_package import LICENCE
from ...backends.yolo_training import YoloTraining, train
from ...batch import Workers
from ...boxes import SliceBox, link
from ...cases import Case
from ...errors import InputError
from ...files import read_json, sha256_of, write_json
from ...fitting import Fitted, Weights
from ...labelled_images import split_patients
from ...metrics.detection import LEAST_CONFIDENCE, score_boxes, share_found
from ...models.store import Model
from ...progress import Progress
from ...training_volumes import ORIENTATION, TrainingVolume, VolumeSettings, load_volumes, synthetic_id
from ...trainings import (
    as_json,
    check_template,
    claim,
    cross_validate,
    fit_once,
    rounded,
    set_aside,
    training_record,
    weights_path,
    write_trained,
)
from .dataset import (
    MANIFEST,
    DatasetSlice,
    Split,
    deal_patients,
    read_manifest,
    split_by_case,
    split_by_slice,
    with_background,
    write_manifest,
    write_slices,
    write_split,
)
from .detector import METHOD, find_boxes
from .detector_config import DetectionSettings, DetectorTrainingConfig
from .slices import background_slices, known_boxes, slices_of

WEIGHTS_FILE: Final = "detector.pt"
TITLE: Final = "Boxes on slices that were not learned from"
CASE_TITLE: Final = "Boxes on slices that were not learned from, by case"
COLUMNS: Final = ("precision", "recall", "mAP50", "mAP50-95", "boxes found")
_NOTE: Final = (
    "One box for each connected piece of a region of {mm3:g} mm³ or more, on each slice that shows {pixels} or more of "
    "its pixels; slices that show smaller pieces alone do not count. Precision and recall at the confidence where F1 "
    "is highest, IoU 0.5. 'Boxes found' is the share of the known boxes with which a box of a linked track has an IoU "
    "of 0.5, at the model's own confidence."
)


@dataclass(frozen=True, eq=False)
class _Training:
    """What all steps need."""

    cases: Mapping[str, Case]
    volumes: Mapping[str, TrainingVolume]
    slices: Sequence[DatasetSlice]
    splits: Sequence[Split]
    config: DetectorTrainingConfig
    architecture: YoloArchitecture
    detection: DetectionSettings
    template: Model
    work: Path
    device: str
    gpus: int

    @property
    def dataset(self) -> Path:
        """Folder of the data set."""
        return self.work / "dataset"


@dataclass(frozen=True)
class _Score:
    """Of one case, or of all left-out cases of a fold together.

    Attributes:
        name: of the case or fold.
        fold: whose network found the boxes.
        together: whether it is of all cases.
        values: as `COLUMNS`; None where nothing was to be found.
    """

    name: str
    fold: int
    together: bool
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class _Boxes:
    """Of the tested slices of a case: all found, those of linked tracks at the model's confidence, and those known."""

    found: Sequence[SliceBox]
    linked: Sequence[SliceBox]
    known: Sequence[SliceBox]


def train_detector(
    cases: Sequence[Case],
    config: DetectorTrainingConfig,
    template: Model,
    *,
    work: Path,
    device: str = "cpu",
    gpus: int = 1,
    label_values: Mapping[int, int] | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a detector; a call with the same work folder goes on where an earlier one ended.

    Args:
        cases: each with the template's modalities and a reference.
        config: settings.
        template: the model to be, without weights; its `folder` is where it shall lie, its regions are what is found.
        work: folder for intermediate files, the data set among them; of this training alone. Made where missing.
        device: torch device name.
        gpus: how many GPUs train one network together (Ultralytics' own distributed training).
        label_values: value in the references' files → value in the template's scheme, for those that differ.
        workers: which processes read the cases; sized to machine and cases where None.
        progress: gets the stages, and may cancel.

    Returns:
        The model as it lies in its folder, with the scores of boxes on slices that were not learned from.

    Raises:
        InputError, GeometryError: where a case or setting cannot be used, or the work folder is of another training.
        ModelError: where there is a model in the folder already, or the architecture cannot be built.
        DependencyError: where ultralytics is not installed.
        OutputError: where a file cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    check_template(template, config.synthetic_seeds)
    architecture = config.network(len(template.scheme.regions))
    detection = config.detection(template.settings.get("detection"))
    if config.start_from and not Path(config.start_from).is_file():
        raise InputError(f"The setting start_from names '{config.start_from}', but there is no such file.")
    by_id = {case.case_id: case for case in cases}
    parts = _parts(cases, config)
    start = {"start_sha256": sha256_of(Path(config.start_from))} if config.start_from else {}
    claim(work, cases, [part["test"] for part in parts], {**config.as_dict(), **start}, template)
    settings = VolumeSettings(
        (config.plane,), config.lower_percentile, config.upper_percentile, config.minimum_object_mm3
    )
    volumes = load_volumes(
        cases, template.modalities, template.scheme, settings,
        label_values=label_values or {}, synthetic_seeds=config.synthetic_seeds, progress=progress,
        workers=workers,
    )  # fmt: skip
    slices = _write_dataset(by_id, volumes, config, work / "dataset", progress)
    progress.log(f"Note: {LICENCE}")
    training = _Training(
        by_id, volumes, slices, _splits(slices, parts, config), config, architecture, detection, template, work, device,
        gpus,
    )  # fmt: skip
    weights, scores = _train_all(training, progress)
    return _write(training, weights, scores, progress)


# ---- who learns from what -----------------------------------------------------------------------------------------


def _parts(cases: Sequence[Case], config: DetectorTrainingConfig) -> list[dict[str, list[str]]]:
    """Case ids of the parts, for each network; where slices are dealt out, all cases are in all parts."""
    ids = [case.case_id for case in cases]
    if config.split == "slice":
        return [{"train": ids, "val": ids, "test": ids}]
    if config.split == "patient":
        return [deal_patients(cases, seed=config.seed)]
    found = []
    for fold, left_out in enumerate(
        split_patients(cases, folds=config.folds, seed=config.seed, held_out=config.held_out)
    ):
        parts = {"train": [i for i in ids if i not in left_out], "test": list(left_out)}
        if config.patience:
            learn_from = [case for case in cases if case.case_id in parts["train"]]
            parts["val"] = set_aside(learn_from, share=config.validation_share, seed=config.seed, fold=fold)
            parts["train"] = [i for i in parts["train"] if i not in parts["val"]]
        found.append(parts)
    return found


def _splits(
    slices: Sequence[DatasetSlice], parts: Sequence[Mapping[str, Sequence[str]]], config: DetectorTrainingConfig
) -> list[Split]:
    made_up = set(_synthetic(config))
    real = [item for item in slices if item.case_id not in made_up]
    made = [item for item in slices if item.case_id in made_up]
    if config.split == "slice":
        splits = [split_by_slice(real, seed=config.seed)]
    else:
        splits = [split_by_case(real, of_network) for of_network in parts]
    return [{**split, "train": with_background([*split["train"], *made], config.background_share)} for split in splits]


def _synthetic(config: DetectorTrainingConfig) -> list[str]:
    """Case ids of the synthetic cases, which every network learns from."""
    return [synthetic_id(seed) for seed in config.synthetic_seeds]


def _write_dataset(
    cases: Mapping[str, Case], volumes: Mapping[str, TrainingVolume], config: DetectorTrainingConfig, root: Path,
    progress: Progress,
) -> list[DatasetSlice]:  # fmt: skip
    """Pictures and labels of all slices that have a box or are background."""
    if (root / MANIFEST).exists():
        return read_manifest(root)
    progress.stage("Writing slices", total=len(volumes), until=0.04)
    written: list[DatasetSlice] = []
    for case_id, volume in volumes.items():
        slices = slices_of(volume.pictures, config.plane, head_only=config.head_only)
        boxes = known_boxes(volume, config.plane, minimum_pixels=config.minimum_pixels)
        indices = sorted({item.index for item in boxes} | set(background_slices(volume, config.plane)))
        case = cases.get(case_id, Case(case_id, {}))
        written += write_slices(case, slices, boxes, indices, root, plane=config.plane)
        progress.advance()
    write_manifest(written, root)
    return written


# ---- training -----------------------------------------------------------------------------------------------------


def _train_all(training: _Training, progress: Progress) -> tuple[Weights, list[_Score]]:
    """The weights to keep, and the scores of what was left out."""
    config = training.config
    folds = config.chosen_folds if config.split == "folds" else (0,)
    final = config.final and config.split == "folds"
    progress.stage("Training", total=(len(folds) + final) * config.epochs, until=1.0)
    return cross_validate(
        folds,
        lambda fold, epochs: _train(training, fold, epochs, progress),
        lambda fold, weights: _score(training, fold, weights, progress),
        iterations=config.epochs,
        final=final,
        progress=progress,
    )


def _train(training: _Training, fold: int | None, epochs: int, progress: Progress) -> Fitted:
    """The network of a fold, or of all cases."""
    config = training.config
    name = "final" if fold is None else f"fold_{fold}"
    everybody: Split = {"train": with_background(training.slices, config.background_share)}
    split = everybody if fold is None else training.splits[fold]
    # Ultralytics' usual name, where the data set has one split alone.
    data_name = name if config.split == "folds" else "data"
    data = write_split(training.dataset, data_name, split, training.template.scheme.names)
    job = YoloTraining(
        name=name,
        data=data,
        folder=training.work / name,
        epochs=epochs,
        image_size=config.image_size,
        batch_size=config.batch_size,
        validated="val" in split,
        patience=config.patience,
        start=Path(config.start_from) if config.start_from else None,
        intensity_change=config.intensity_change,
        mosaic_free_epochs=config.mosaic_free_epochs,
        workers=config.workers,
        device=training.device,
        gpus=training.gpus,
        precision=resolve_precision(config.precision, training.device),
        seed=config.seed,
        options=config.options(),
    )

    def fit() -> Fitted:
        way = train_on_gpus if job.gpus > 1 else train
        trained = way(job, training.architecture, progress=progress)
        return Fitted(trained.weights, trained.epochs)

    return fit_once(weights_path(training.work, name), fit, iterations=epochs, progress=progress)


# ---- results ------------------------------------------------------------------------------------------------------


def _score(training: _Training, fold: int, weights: Weights, progress: Progress) -> list[_Score]:
    """Scores of the slices left out, kept so that a resumed training does not score twice in the same way."""
    path = training.work / f"scores_{fold}.json"
    way = as_json({"detection": training.detection.as_dict(), "half": training.config.half_precision_weights})
    known = read_json(path) if path.exists() else {}
    if isinstance(known, dict) and known.get("way") == way:
        return [_Score(one["name"], one["fold"], one["together"], tuple(one["values"])) for one in known["scores"]]
    network = build(training.architecture)
    stored = rounded(weights, half=training.config.half_precision_weights)
    set_weights(network, stored, weights_path(training.work, f"fold_{fold}"), training.architecture)
    overlapping = training.template.scheme.overlapping
    detector = YoloDetector(network.to(training.device).eval(), training.architecture, several_kinds=overlapping)
    tested: dict[str, set[int]] = {}
    for item in training.splits[fold]["test"]:
        tested.setdefault(item.case_id, set()).add(item.index)
    boxes = {case_id: _boxes(training, detector, case_id, of, progress) for case_id, of in tested.items()}
    scores = [_Score(i, fold, False, _values([of_case])) for i, of_case in sorted(boxes.items())]
    scores.append(_Score(f"fold {fold}", fold, True, _values(list(boxes.values()))))
    for score in scores:
        named = zip(COLUMNS, score.values, strict=True)
        found = ", ".join(f"{name} {value:.3f}" for name, value in named if value is not None)
        progress.log(f"fold {fold}: {score.name}: {found or 'nothing was to be found'}")
    write_json({"way": way, "scores": [asdict(score) for score in scores]}, path)
    return scores


def _boxes(
    training: _Training, detector: YoloDetector, case_id: str, indices: set[int], progress: Progress
) -> _Boxes:
    """The boxes of a case's tested slices; those of tracks are linked over all slices first."""
    config, volume, detection = training.config, training.volumes[case_id], training.detection
    listening = Progress(lambda _update: progress.check())
    found = find_boxes(detector, volume.pictures, detection, confidence=LEAST_CONFIDENCE, progress=listening)
    sure = [item for item in found if item.confidence >= detection.confidence]
    linked = [box for track in link(sure, detection.link) for box in track.boxes]
    known = known_boxes(volume, config.plane, minimum_pixels=config.minimum_pixels)
    return _Boxes(*([item for item in boxes if item.index in indices] for boxes in (found, linked, known)))


def _values(cases: Sequence[_Boxes]) -> tuple[float | None, ...]:
    if not any(of.known for of in cases):
        return (None,) * len(COLUMNS)
    score = score_boxes([(of.found, of.known) for of in cases])
    found = share_found([(of.linked, of.known) for of in cases])
    return score.precision, score.recall, score.map50, score.map50_95, found


def _table(scores: Sequence[_Score], config: DetectorTrainingConfig) -> dict[str, Any]:
    """One row a score, means of those where something was to be found in the last row."""
    ordered = sorted(scores, key=lambda score: (score.name, score.fold))
    rows: list[list[Any]] = [[s.name, s.fold, *(_rounded(value) for value in s.values)] for s in ordered]
    scored = [s.values for s in scores if None not in s.values]
    means = np.mean(np.array(scored, dtype=float), axis=0).tolist() if scored else [None] * len(COLUMNS)
    rows.append(["mean", None, *(_rounded(value) for value in means)])
    note = _NOTE.format(mm3=config.minimum_object_mm3, pixels=config.minimum_pixels)
    return {"columns": ["case", "fold", *COLUMNS], "rows": rows, "note": note}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _write(training: _Training, weights: Weights, scores: Sequence[_Score], progress: Progress) -> Model:
    config, template = training.config, training.template
    learned = set(training.cases)
    if not (config.final and config.split == "folds"):
        kept = training.splits[config.chosen_folds[0] if config.split == "folds" else 0]
        learned &= {item.case_id for part in ("train", "val") for item in kept.get(part, ())}
    model = replace(
        template,
        method=METHOD,
        preprocessing={"orientation": ORIENTATION},
        settings={
            **template.settings,
            "architecture": training.architecture.as_dict(),
            "detection": training.detection.as_dict(),
            "windowing": {"lower": config.lower_percentile, "upper": config.upper_percentile},
        },
        results={
            **template.results,
            CASE_TITLE: _table([score for score in scores if not score.together], config),
            TITLE: _table([score for score in scores if score.together], config),
        },
        training=training_record(template, config.as_dict(), cases=learned, synthetic=_synthetic(config)),
    )
    stored = rounded(weights, half=config.half_precision_weights)
    return write_trained(model, stored, WEIGHTS_FILE, progress=progress)
