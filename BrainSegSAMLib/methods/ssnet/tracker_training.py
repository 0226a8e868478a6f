"""Trains a tracker from labelled cases to a model folder: cross-validation, scores, a final network of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from ...backends.devices import resolve_precision
from ...backends.sam2 import Sam2Tracker
from ...backends.sam2_architecture import OFFICIAL, Sam2Architecture
from ...backends.sam2_network import build
from ...backends.weights import set_weights
from ...batch import Workers
from ...cases import Case
from ...errors import InputError
from ...fitting import Fitted, Weights
from ...labelled_images import split_patients
from ...models.store import Model
from ...progress import Progress
from ...scores import CaseScore, as_table
from ...training_volumes import ORIENTATION, TrainingVolume, load_volumes, synthetic_id
from ...trainings import (
    Starts,
    check_template,
    claim,
    cross_validate,
    find_starts,
    fit_once,
    rounded,
    score_once,
    set_aside,
    training_record,
    weights_path,
    write_trained,
)
from .config import TrackingSettings
from .tracker import TRACKERS
from .tracker_config import TrackerTrainingConfig
from .tracker_fitting import Fit, fit
from .tracker_validation import NOTE, TITLE, score_volumes

WEIGHTS_FILE: Final = "tracker.pt"
_SYNTHETIC: Final = "synthetic"


@dataclass(frozen=True, eq=False)
class _Training:
    """What all steps need."""

    cases: Mapping[str, Case]
    volumes: Mapping[str, TrainingVolume]
    splits: Sequence[Sequence[str]]
    config: TrackerTrainingConfig
    architecture: Sam2Architecture
    starts: Starts
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
    workers: Workers | None = None,
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
        workers: which processes read the cases; sized to machine and cases where None.
        progress: gets the stages, and may cancel.

    Returns:
        The model as it lies in its folder, with one row a case of cross-validated Dice in its `results`.

    Raises:
        InputError, GeometryError: where a case or setting cannot be used, a network would begin with weights that have
            seen its left-out cases, or the work folder is of another training.
        ModelError: where there is a model in the folder already, or weights do not fit the architecture.
        OutputError: where a file cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    check_template(template, config.synthetic_seeds)
    architecture = architecture_of(config)
    count = len(template.scheme.regions)
    if config.region_weights and len(config.region_weights) != count:
        raise InputError(f"The setting region_weights has {len(config.region_weights)} numbers for {count} regions.")
    splits = split_patients(cases, folds=config.folds, seed=config.seed, held_out=config.held_out)
    starts = find_starts(config.start_from, architecture, splits, config.chosen_folds, kind=TRACKERS)
    by_id = {case.case_id: case for case in cases}
    names = [_name(fold) for fold in config.chosen_folds] + ([_name(None)] if config.final else [])
    for name in [_SYNTHETIC] if config.synthetic_iterations else names:
        starts.of(name)
    claim(work, cases, splits, {**config.as_dict(), "start_sha256": starts.sha256}, template)
    volumes = load_volumes(
        cases,
        template.modalities,
        template.scheme,
        config.volumes,
        label_values=label_values or {},
        synthetic_seeds=config.synthetic_seeds,
        progress=progress,
        workers=workers,
    )
    training = _Training(by_id, volumes, splits, config, architecture, starts, template, work, device)
    weights, scores = _train_all(training, progress)
    return _write(training, weights, scores, progress)


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


# ---- training -----------------------------------------------------------------------------------------------------


def _train_all(training: _Training, progress: Progress) -> tuple[Weights, list[CaseScore]]:
    """The weights to keep, and the scores of the cross-validation."""
    config = training.config
    networks = len(config.chosen_folds) + (1 if config.final else 0)
    progress.stage("Training", total=config.synthetic_iterations + networks * config.iterations, until=1.0)
    if config.synthetic_iterations:
        _train_on_synthetic_cases(training, progress)
    return cross_validate(
        config.chosen_folds,
        lambda fold, iterations: _train(training, fold, iterations, progress),
        lambda fold, weights: _score(training, fold, weights, progress),
        iterations=config.iterations,
        final=config.final,
        progress=progress,
    )


def _train_on_synthetic_cases(training: _Training, progress: Progress) -> None:
    """The network that all others begin with."""
    config = training.config
    job = _job(training, _SYNTHETIC, [], config.synthetic_iterations, training.starts.of(_SYNTHETIC))
    config = replace(config, encoder_learning_rate_factor=config.synthetic_encoder_factor)
    if config.made_up_weight > 0:
        config = config.without_regions(len(training.template.scheme.regions))
    _fit(replace(training, config=config), job, progress)


def _name(fold: int | None) -> str:
    return "final" if fold is None else f"fold_{fold}"


def _train(training: _Training, fold: int | None, iterations: int, progress: Progress) -> Fitted:
    """The network of a fold, or of all cases."""
    config, name = training.config, _name(fold)
    left_out = () if fold is None else training.splits[fold]
    learn_from = [case for case_id, case in training.cases.items() if case_id not in left_out]
    aside: list[str] = []
    if fold is not None and config.patience:
        aside = set_aside(learn_from, share=config.validation_share, seed=config.seed, fold=fold)
    ids = [case.case_id for case in learn_from if case.case_id not in aside]
    synthetic = weights_path(training.work, _SYNTHETIC)
    start = synthetic if config.synthetic_iterations else training.starts.of(name)
    return _fit(training, _job(training, name, ids, iterations, start, aside), progress)


def _job(
    training: _Training, name: str, case_ids: Sequence[str], iterations: int, start: Path | None,
    validation: Sequence[str] = (),
) -> Fit:  # fmt: skip
    config = training.config
    synthetic = [synthetic_id(seed) for seed in config.synthetic_seeds]
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


def _fit(training: _Training, job: Fit, progress: Progress) -> Fitted:
    return fit_once(
        weights_path(training.work, job.name),
        lambda: fit(job, training.config, training.architecture, progress=progress),
        iterations=job.iterations,
        progress=progress,
    )


# ---- results ------------------------------------------------------------------------------------------------------


def _score(training: _Training, fold: int, weights: Weights, progress: Progress) -> list[CaseScore]:
    """Dice of every left-out case."""

    def score() -> list[CaseScore]:
        network = build(training.architecture)
        stored = rounded(weights, half=training.config.half_precision_weights)
        set_weights(network, stored, weights_path(training.work, _name(fold)), training.architecture)
        tracker = Sam2Tracker(network.to(training.device), training.architecture)
        volumes = [training.volumes[case_id] for case_id in training.splits[fold]]
        return score_volumes(tracker, volumes, training.regions, fold=fold, progress=progress)

    way = [asdict(TrackingSettings()), training.config.half_precision_weights]
    return score_once(training.work / f"scores_{fold}.json", score, way=way, progress=progress)


def _write(training: _Training, weights: Weights, scores: Sequence[CaseScore], progress: Progress) -> Model:
    config, template = training.config, training.template
    left_out = () if config.final else training.splits[config.chosen_folds[0]]
    model = replace(
        template,
        preprocessing={"orientation": ORIENTATION},
        settings={
            **template.settings,
            "architecture": training.architecture.as_dict(),
            "windowing": {"lower": config.lower_percentile, "upper": config.upper_percentile},
        },
        results={**template.results, TITLE: as_table(scores, list(training.regions.values()), NOTE)},
        training=training_record(
            template,
            config.as_dict(),
            cases=set(training.cases) - set(left_out),
            synthetic=[synthetic_id(seed) for seed in config.synthetic_seeds],
        ),
    )
    return write_trained(
        model, rounded(weights, half=config.half_precision_weights), WEIGHTS_FILE, progress=progress
    )
