"""Trains a tracker from labelled cases to a model folder: cross-validation, scores, a final network of all cases.

Networks are trained one after the other in this process; everything lies in one work folder, and a second call with the
same work folder goes on where the first one ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...backends.checkpoints import load_checkpoint, save_checkpoint
from ...backends.devices import resolve_precision
from ...backends.sam2 import Sam2Tracker
from ...backends.sam2_architecture import OFFICIAL, Sam2Architecture
from ...backends.sam2_network import build
from ...backends.weights import set_weights
from ...cases import Case
from ...errors import InputError, ModelError
from ...files import read_json, write_json
from ...geometry import Geometry
from ...image import Image
from ...labelled_images import LabelledImage, load_labelled, split_patients
from ...models.store import MODEL_FILE, Model, load_model, write_model
from ...phantom import CHANNELS, ORIGIN_LPS_MM, make_phantom
from ...progress import Progress
from .clips import ORIENTATION, TrainingVolume, make_volume
from .config import TrackingSettings
from .tracker_config import TrackerTrainingConfig
from .tracker_fitting import Fit, Fitted, fit
from .tracker_validation import TITLE, TrackingScore, as_table, score_volumes

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE: Final = "tracker.pt"
_SYNTHETIC: Final = "synthetic"
_FINAL: Final = "final"


@dataclass(frozen=True, eq=False)
class _Training:
    """What all steps need."""

    cases: Mapping[str, Case]
    volumes: Mapping[str, TrainingVolume]
    splits: Sequence[Sequence[str]]
    config: TrackerTrainingConfig
    architecture: Sam2Architecture
    template: Model
    work: Path
    device: str

    @property
    def regions(self) -> dict[int, str]:
        """Number → name of the regions that are learned, and so scored."""
        names = self.template.scheme.names
        weights = self.config.region_weights or (1.0,) * len(names)
        return {number: name for number, name in enumerate(names) if weights[number] > 0}


def train_tracker(
    cases: Sequence[Case],
    config: TrackerTrainingConfig,
    template: Model,
    *,
    work: Path,
    device: str = "cpu",
    label_values: Mapping[int, int] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a tracker; a call with the same work folder goes on where an earlier one ended.

    Args:
        cases: each with the template's modalities and a reference.
        config: settings.
        template: the model to be, without weights; its `folder` is where it shall lie.
        work: folder for intermediate files; of this training alone. Made where missing.
        device: torch device name.
        label_values: value in the references' files → value in the template's scheme, for those that differ.
        progress: gets the stages, and may cancel.

    Returns:
        The model as it lies in its folder, with one row a case of cross-validated Dice in its `results`.

    Raises:
        InputError, GeometryError: where a case or setting cannot be used, or the work folder is of another training.
        ModelError: where there is a model in the folder already, or the architecture cannot be built.
        OutputError: where a file cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    if (template.folder / MODEL_FILE).exists():
        raise ModelError(f"There is a model in '{template.folder}' already; choose another folder or remove it.")
    architecture = architecture_of(config)
    _check(config, template)
    splits = split_patients(cases, folds=config.folds, seed=config.seed, held_out=config.held_out)
    by_id = {case.case_id: case for case in cases}
    _claim(work, by_id, splits, config, template)
    volumes = _prepare(by_id, config, template, label_values or {}, progress)
    training = _Training(by_id, volumes, splits, config, architecture, template, work, device)
    weights, scores = _train_all(training, progress)
    return _write(training, weights, scores)


def architecture_of(config: TrackerTrainingConfig) -> Sam2Architecture:
    """The network that the settings ask for.

    Raises:
        InputError: for a name that is not known.
        ModelError: for numbers that make no network.
    """
    if not isinstance(config.architecture, str):
        return Sam2Architecture.from_dict(config.architecture)
    if config.architecture not in OFFICIAL:
        raise InputError(
            f"There is no architecture '{config.architecture}'; there are: {', '.join(OFFICIAL)}, "
            "or give its numbers."
        )
    return OFFICIAL[config.architecture]


def _check(config: TrackerTrainingConfig, template: Model) -> None:
    count = len(template.scheme.regions)
    if config.region_weights and len(config.region_weights) != count:
        raise InputError(f"The setting region_weights has {len(config.region_weights)} numbers for {count} regions.")
    if len(template.modalities) > 3:
        raise InputError(
            f"A tracker sees one to three modalities as the colours of a picture, but the model names "
            f"{', '.join(template.modalities)}; leave some out."
        )
    unknown = sorted(set(template.modalities) - set(CHANNELS))
    if config.synthetic_seeds and unknown:
        raise InputError(
            f"Synthetic cases have no {', '.join(unknown)}, only {', '.join(CHANNELS)}; leave synthetic_seeds empty."
        )


# ---- preparing ----------------------------------------------------------------------------------------------------


def _claim(
    work: Path, cases: Mapping[str, Case], splits: Sequence[Sequence[str]], config: TrackerTrainingConfig,
    template: Model,
) -> None:  # fmt: skip
    """Make the work folder this training's own; refuse one of another training."""
    marker = work / "prepared.json"
    files = [path for case in cases.values() for path in (*case.modalities.values(), case.reference) if path]
    settings = config.as_dict()
    for only_of_the_result in ("train_folds", "final", "half_precision_weights", "checkpoint_every"):
        del settings[only_of_the_result]
    wanted = {
        "config": _as_json(settings),
        "held_out": _as_json(splits),
        "modalities": list(template.modalities),
        "regions": _as_json(template.scheme.as_list()),
        "files": sorted([str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files),
    }
    if not marker.exists():
        write_json(wanted, marker)
    elif read_json(marker) != wanted:
        raise InputError(
            f"The work folder {work} holds another training (other cases or settings); "
            "choose another work folder, or delete it to start anew."
        )


def _prepare(
    cases: Mapping[str, Case], config: TrackerTrainingConfig, template: Model, label_values: Mapping[int, int],
    progress: Progress,
) -> dict[str, TrainingVolume]:  # fmt: skip
    """Every case, and every synthetic one, in memory."""
    progress.stage("Reading cases", total=len(cases) + len(config.synthetic_seeds), until=0.02)
    volumes = {}
    for case_id, case in cases.items():
        labelled = load_labelled(case, template.modalities, template.scheme, label_values)
        volumes[case_id] = make_volume(labelled.image, labelled.labels, template.modalities, template.scheme, config)
        progress.advance()
    for seed in config.synthetic_seeds:
        made = _synthetic(seed)
        volumes[made.image.name] = make_volume(
            made.image, made.labels, template.modalities, template.scheme, config
        )
        progress.advance()
    return volumes


def _synthetic(seed: int) -> LabelledImage:
    phantom = make_phantom(seed)
    grid = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm, ORIGIN_LPS_MM)
    return LabelledImage(Image(grid, phantom.channels, _synthetic_id(seed)), phantom.labels)


def _synthetic_id(seed: int) -> str:
    return f"synthetic_{seed}"


# ---- training -----------------------------------------------------------------------------------------------------


def _train_all(training: _Training, progress: Progress) -> tuple[dict[str, Tensor], list[TrackingScore]]:
    """The weights to keep, and the scores of the cross-validation."""
    config = training.config
    folds = config.chosen_folds
    networks = len(folds) + (1 if config.final else 0)
    progress.stage("Training", total=config.synthetic_iterations + networks * config.iterations, until=1.0)
    start = _start(training, progress)
    scores: list[TrackingScore] = []
    kept: Fitted | None = None
    lengths = []
    for fold in folds:
        fitted = _fold(training, fold, start, progress)
        scores += _score(training, fold, fitted.weights, progress)
        lengths.append(fitted.iterations)
        kept = kept or fitted
    if config.final:
        # Nothing is left to decide when to stop, so it is trained for as long as was best in the cross-validation.
        iterations = round(float(np.mean(lengths)))
        job = _job(training, _FINAL, list(training.cases), iterations, start)
        kept = _fit(training, job, progress)
        progress.advance(config.iterations - iterations)
    assert kept is not None
    return kept.weights, scores


def _start(training: _Training, progress: Progress) -> Path | None:
    """The weights that every network begins with: given ones, or learned from synthetic cases."""
    config = training.config
    given = _given_weights(config.start_from, training.architecture)
    if not config.synthetic_iterations:
        return given
    job = _job(training, _SYNTHETIC, [], config.synthetic_iterations, given)
    config = replace(config, encoder_learning_rate_factor=config.synthetic_encoder_factor)
    if config.made_up_weight > 0:
        config = config.without_regions(len(training.template.scheme.regions))
    _fit(replace(training, config=config), job, progress)
    return _weights_path(training, _SYNTHETIC)


def _given_weights(start_from: str, architecture: Sam2Architecture) -> Path | None:
    if not start_from:
        return None
    path = Path(start_from)
    if not path.is_dir():
        return path
    model = load_model(path)
    described = model.settings.get("architecture")
    if described is None or Sam2Architecture.from_dict(described) != architecture:
        raise InputError(
            f"The model '{path}' has another architecture than this training; set 'architecture' to that of its "
            "model.json, or start from another model."
        )
    return model.path_of(model.weights[0].path)


def _fold(training: _Training, fold: int, start: Path | None, progress: Progress) -> Fitted:
    left_out = training.splits[fold]
    learn_from = [case_id for case_id in training.cases if case_id not in left_out]
    aside = _set_aside(training, learn_from, fold)
    job = _job(
        training, f"fold_{fold}", [i for i in learn_from if i not in aside], training.config.iterations, start, aside
    )
    return _fit(training, job, progress)


def _set_aside(training: _Training, case_ids: Sequence[str], fold: int) -> list[str]:
    """Cases of the training patients that decide when to stop: never those that are scored afterwards."""
    config = training.config
    if config.patience == 0:
        return []
    patients: dict[str, list[str]] = {}
    for case_id in sorted(case_ids):
        patients.setdefault(training.cases[case_id].patient or case_id, []).append(case_id)
    count = max(1, round(config.validation_share * len(patients)))
    if count >= len(patients):
        raise InputError(
            f"There are only {len(patients)} patients to train with in fold {fold}, too few to set some aside for "
            "stopping early; set patience to 0."
        )
    chosen = np.random.default_rng([config.seed, fold]).permutation(sorted(patients))[:count]
    return sorted(case_id for patient in chosen for case_id in patients[str(patient)])


def _job(
    training: _Training, name: str, case_ids: Sequence[str], iterations: int, start: Path | None,
    validation: Sequence[str] = (),
) -> Fit:  # fmt: skip
    config = training.config
    synthetic = [_synthetic_id(seed) for seed in config.synthetic_seeds]
    return Fit(
        name=name,
        volumes=[training.volumes[i] for i in (*case_ids, *synthetic)],
        weights=[*[1.0] * len(case_ids), *[config.synthetic_weight if case_ids else 1.0] * len(synthetic)],
        regions=training.regions,
        iterations=iterations,
        folder=training.work / name,
        validation=[training.volumes[case_id] for case_id in validation],
        start=start,
        device=training.device,
        precision=resolve_precision(config.precision, training.device),
    )


def _weights_path(training: _Training, name: str) -> Path:
    return training.work / name / "weights.pt"


def _fit(training: _Training, job: Fit, progress: Progress) -> Fitted:
    """Train a network, or read it where that was done before."""
    path = _weights_path(training, job.name)
    if path.exists():
        state = load_checkpoint(path)
        progress.advance(job.iterations)
        return Fitted(state["model"], state["iterations"])
    fitted = fit(job, training.config, training.architecture, progress=progress)
    save_checkpoint({"model": fitted.weights, "iterations": fitted.iterations}, path)
    return fitted


# ---- results ------------------------------------------------------------------------------------------------------


def _score(
    training: _Training, fold: int, weights: Mapping[str, Tensor], progress: Progress
) -> list[TrackingScore]:
    """Dice of every left-out case, kept per fold so that a resumed training scores it in the same way only once."""
    kept = training.work / f"scores_{fold}.json"
    way = _as_json([asdict(TrackingSettings()), training.config.half_precision_weights])
    known = read_json(kept) if kept.exists() else {}
    if known.get("way") == way:
        return [TrackingScore(**row) for row in known["scores"]]
    network = build(training.architecture)
    rounded = _rounded(weights, half=training.config.half_precision_weights)
    set_weights(network, rounded, _weights_path(training, f"fold_{fold}"), training.architecture)
    tracker = Sam2Tracker(network.to(training.device), training.architecture)
    volumes = [training.volumes[case_id] for case_id in training.splits[fold]]
    scores = score_volumes(tracker, volumes, training.regions, fold=fold, progress=progress)
    for score in scores:
        found = ", ".join(f"{name} {value:.3f}" for name, value in score.dice.items() if value is not None)
        progress.log(f"fold {fold}: {score.case_id}: Dice {found}")
    write_json({"way": way, "scores": [asdict(score) for score in scores]}, kept)
    return scores


def _rounded(weights: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """The weights as they are stored."""
    return {name: value.half() if half and value.is_floating_point() else value for name, value in weights.items()}


def _write(training: _Training, weights: Mapping[str, Tensor], scores: Sequence[TrackingScore]) -> Model:
    config, template = training.config, training.template
    # Beside its place first: a model folder is whole or not there.
    staging = template.folder.with_name(f".{template.folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_checkpoint(_rounded(weights, half=config.half_precision_weights), staging / WEIGHTS_FILE)
    model = replace(
        template,
        folder=staging,
        preprocessing={"orientation": ORIENTATION},
        settings={
            **template.settings,
            "architecture": training.architecture.as_dict(),
            "windowing": {"lower": config.lower_percentile, "upper": config.upper_percentile},
        },
        results={**template.results, TITLE: as_table(scores, list(training.regions.values()))},
        training={
            **template.training,
            "cases": sorted(training.cases) if config.final else sorted(_first_fold_cases(training)),
            "synthetic_cases": [_synthetic_id(seed) for seed in config.synthetic_seeds],
            "seed": config.seed,
            "settings": _as_json(config.as_dict()),
            "date": date.today().isoformat(),
        },
    )
    complete = write_model(model, files=[WEIGHTS_FILE])
    if template.folder.is_dir() and not any(template.folder.iterdir()):
        template.folder.rmdir()
    staging.rename(template.folder)
    return replace(complete, folder=template.folder)


def _first_fold_cases(training: _Training) -> set[str]:
    return set(training.cases) - set(training.splits[training.config.chosen_folds[0]])


def _as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from a JSON file."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value
