"""Trains nnU-Net from labelled cases to a model folder: convert, plan, preprocess, train, score, keep the weights.

nnU-Net itself runs in child processes (see `backends.nnunet_training`); everything lies in one work folder, and a
second call with the same work folder goes on where the first one ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from ...backends.nnunet_training import (
    CHECKPOINT_NAME,
    SETTINGS_FILE,
    ChildJob,
    WorkFolder,
    keep_weights,
    run_children,
)
from ...batch import Workers
from ...cases import Case
from ...errors import InputError, ModelError
from ...files import read_json, write_json
from ...labelled_images import load_labelled, split_patients
from ...models.store import MODEL_FILE, Model, write_model
from ...progress import Measured, Progress
from .config import TrainingConfig
from .dataset import ORIENTATION, write_dataset
from .validation import CaseScore, as_tables, validate_fold

_JSON_FILES = ("dataset.json", "plans.json")
_MOST_WORKERS = 12


@dataclass(frozen=True)
class TrainingRun:
    """How and where a training runs; nothing here changes what is learned beyond rounding.

    Attributes:
        work: folder for intermediate files; of this training alone. Made where missing.
        device: torch device name.
        at_once: folds that are trained at the same time; on a CPU each gets its share of the cores.
        cores: number of processor cores to use.
        workers: which processes convert the cases.
        gpus: how many GPUs train one network together (nnU-Net's own distributed training).
    """

    work: Path
    device: str = "cpu"
    at_once: int = 1
    cores: int = 1
    workers: Workers = field(default_factory=lambda: Workers(1))
    gpus: int = 1


@dataclass(frozen=True, eq=False)
class _Training:
    """What all steps need."""

    cases: Mapping[str, Case]
    config: TrainingConfig
    template: Model
    label_values: Mapping[int, int]
    run: TrainingRun
    work: WorkFolder
    splits: Sequence[Sequence[str]] = field(default_factory=list)


def train(
    cases: Sequence[Case],
    config: TrainingConfig,
    template: Model,
    *,
    run: TrainingRun,
    label_values: Mapping[int, int] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a model and write its folder.

    Args:
        cases: each with a reference; at least as many patients as folds.
        config: all that decides the training.
        template: the model to be: folder, name, modalities, regions, licence, settings of prediction, …; `weights`,
            `preprocessing` and `results` are filled in, `training` is completed.
        run: how and where to run; an interrupted training is resumed by the same call.
        label_values: value in the references' files → value in the regions, for those that differ.
        progress: gets the stages and a line per epoch; where it is cancelled, a state to resume from is saved.

    Returns:
        The model, as written to `template.folder`.

    Raises:
        InputError, GeometryError: where a case or a setting cannot be used.
        ModelError: where there is a model already.
        BrainSegSAMError: where nnU-Net fails; the message names its log.
        OutputError: where files cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    if (template.folder / MODEL_FILE).exists():
        raise ModelError(f"There is a model in '{template.folder}' already; choose another folder or remove it.")
    splits = split(cases, config)
    work = WorkFolder(run.work.absolute())
    by_id = {case.case_id: case for case in cases}
    training = _Training(by_id, config, template, dict(label_values or {}), run, work, splits)
    _prepare(training, progress)
    _train_folds(training, progress)
    scores = _validate(training, progress)
    return _write(training, scores)


def split(cases: Sequence[Case], config: TrainingConfig) -> list[list[str]]:
    """Case ids left out in each fold: as configured, or patients dealt out at random (by the seed).

    Raises:
        InputError: where a configured id is not there or comes twice, or there are fewer patients than folds.
    """
    return split_patients(cases, folds=config.folds, seed=config.seed, held_out=config.held_out)


# ---- planning and preprocessing -----------------------------------------------------------------------------------


def _prepare(training: _Training, progress: Progress) -> None:
    """Everything before the first iteration; skipped where the work folder has it already."""
    config, work = training.config, training.work
    marker = work.root / "prepared.json"
    wanted = _identity(training)
    if marker.exists():
        if read_json(marker) != wanted:
            raise InputError(
                f"The work folder {work.root} holds another training (other cases or settings); "
                "choose another work folder, or delete it to start anew."
            )
        return
    synthetic = write_dataset(
        list(training.cases.values()),
        work,
        modalities=training.template.modalities,
        scheme=training.template.scheme,
        label_values=training.label_values,
        synthetic_seeds=config.synthetic_seeds,
        progress=progress,
        workers=training.run.workers,
    )
    progress.stage("Planning and preprocessing", until=0.05)
    overrides = ("patch_size", "batch_size", "features_per_stage", "convolutions_per_stage")
    task = {
        "task": "prepare",
        "planner": config.planner,
        "configuration": config.configuration,
        "target_spacing_mm": config.target_spacing_mm,
        "overrides": {key: getattr(config, key) for key in (*overrides, "convolutions_per_stage_decoder")},
        "processes": training.run.cores,
        "preprocessed": str(work.preprocessed),
    }
    # nnU-Net's planner asks for at least one loading process, although it starts none.
    run_children([ChildJob("prepare", task, workers=1)], work, progress=progress, on_message=lambda _message: None)
    everything = [*sorted(training.cases), *synthetic]
    left_out = [list(fold) for fold in training.splits]
    cross_validation = [{"train": [i for i in everything if i not in fold], "val": fold} for fold in left_out]
    final = [{"train": everything, "val": fold} for fold in left_out]
    write_json(cross_validation + final, work.preprocessed / "splits_final.json")
    write_json(_trainer_settings(config, synthetic), work.preprocessed / SETTINGS_FILE)
    write_json(wanted, marker)


def _identity(training: _Training) -> dict[str, Any]:
    """What must be the same for a training to be resumed."""
    files = [
        path for case in training.cases.values() for path in (*case.modalities.values(), case.reference) if path
    ]
    config = training.config.as_dict()
    for only_of_the_result in ("train_folds", "prediction_patch_size", "half_precision_weights"):
        del config[only_of_the_result]
    return {
        "config": _as_json(config),
        "held_out": _as_json(training.splits),
        "regions": _as_json(training.template.scheme.as_list()),
        "files": sorted([str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files),
    }


def _trainer_settings(config: TrainingConfig, synthetic: Sequence[str]) -> dict[str, Any]:
    names = (
        "folds", "epochs", "iterations_per_epoch", "validation_iterations_per_epoch", "optimiser", "learning_rate",
        "weight_decay", "warm_up_iterations", "weight_average_decay", "oversample_foreground", "augmentation_strength",
        "bias_field", "transplant_probability", "lesion_contrast", "precision", "checkpoint_every_epochs", "seed",
    )  # fmt: skip
    return {
        **{name: getattr(config, name) for name in names},
        "case_weights": dict.fromkeys(synthetic, config.synthetic_weight),
        "final": {"epochs": config.final_epochs, "learning_rate": config.final_learning_rate},
    }


# ---- training -----------------------------------------------------------------------------------------------------


def _train_folds(training: _Training, progress: Progress) -> None:
    config = training.config
    chosen = config.chosen_folds
    final = tuple(config.folds + fold for fold in chosen) if config.final_epochs else ()
    iterations = dict.fromkeys(chosen, config.epochs * config.iterations_per_epoch)
    iterations |= dict.fromkeys(final, config.final_epochs * config.iterations_per_epoch)
    done = dict.fromkeys(iterations, 0)
    progress.stage("Training", total=sum(iterations.values()), until=0.95)

    def hear(message: dict[str, Any]) -> None:
        fold = message["fold"]
        if "iteration" in message:
            progress.advance(max(0, message["iteration"] - done[fold]))
            done[fold] = message["iteration"]
        elif "epoch" in message:
            name = f"fold {fold}" if fold < config.folds else f"fold {fold - config.folds}, all cases"
            epoch, epochs = int(message["epoch"]), int(message["epochs"])
            values = {"loss": message["loss/train"], "validation Dice": message["dice/validation"]}
            progress.log(
                f"{name}: epoch {epoch} of {epochs}, loss {values['loss']:.3f}, "
                f"validation Dice {values['validation Dice']:.3f}",
                measured=Measured(name, epoch, epochs, values),
            )

    for folds in (chosen, final):  # a final fold begins with the weights of its fold of the cross-validation
        missing = [fold for fold in folds if not _checkpoint(training, fold).exists()]
        for fold in folds:
            if fold not in missing:
                progress.advance(iterations[fold])
        jobs = [_fold_job(training, fold) for fold in missing]
        run_children(jobs, training.work, progress=progress, on_message=hear, at_once=training.run.at_once)


def _fold_job(training: _Training, fold: int) -> ChildJob:
    run = training.run
    on_cpu = run.device == "cpu"
    task = {
        "task": "train",
        "configuration": training.config.configuration,
        "fold": fold,
        "device": run.device,
        "gpus": run.gpus,
        "threads": max(1, run.cores // run.at_once) if on_cpu else None,
    }
    # On a CPU, loading in the training process costs nothing extra and makes runs repeat.
    loaders = max(2, min(_MOST_WORKERS, (run.cores - 1) // run.gpus))
    return ChildJob(f"fold_{fold}", task, workers=0 if on_cpu else loaders)


def _checkpoint(training: _Training, fold: int) -> Path:
    return training.work.results(training.config.configuration) / f"fold_{fold}" / CHECKPOINT_NAME


# ---- results ------------------------------------------------------------------------------------------------------


def _validate(training: _Training, progress: Progress) -> list[CaseScore]:
    """Dice of every left-out case, kept per fold so that a resumed training scores it in the same way only once."""
    folder = training.work.root / "cross_validation"
    model = _model_of(training, folder, first_fold=0)
    chosen = training.config.chosen_folds
    progress.stage("Scoring the left-out cases", total=sum(len(training.splits[f]) for f in chosen), until=1.0)
    template = training.template
    config = training.config
    way = _as_json([template.settings, config.prediction_patch_size, config.half_precision_weights])
    scores: list[CaseScore] = []
    for fold in chosen:
        kept = folder / f"scores_{fold}.json"
        known = read_json(kept) if kept.exists() else {}
        if known.get("way") == way:
            scores += [CaseScore(**row) for row in known["scores"]]
            continue
        new = validate_fold(
            model,
            fold,
            training.splits[fold],
            load_case=lambda case_id: load_labelled(
                training.cases[case_id], template.modalities, template.scheme, training.label_values
            ),
            device=training.run.device,
            progress=progress,
        )
        write_json({"way": way, "scores": [asdict(score) for score in new]}, kept)
        scores += new
    return scores


def _model_of(training: _Training, folder: Path, *, first_fold: int) -> Model:
    """Write a model folder of the networks that begin with this one of nnU-Net's folds."""
    results = training.work.results(training.config.configuration)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _JSON_FILES:
        shutil.copyfile(results / name, folder / name)
    if training.config.prediction_patch_size is not None:
        plans = read_json(folder / "plans.json")
        plans["configurations"][training.config.configuration]["patch_size"] = training.config.prediction_patch_size
        write_json(plans, folder / "plans.json")
    files = list(_JSON_FILES)
    for fold in training.config.chosen_folds:
        files.append(f"fold_{fold}/{CHECKPOINT_NAME}")
        source = _checkpoint(training, first_fold + fold)
        keep_weights(source, folder / files[-1], half=training.config.half_precision_weights)
    preprocessing = {"orientation": ORIENTATION}
    model = replace(training.template, folder=folder, preprocessing=preprocessing, results={}, training={})
    return write_model(model, files=files)


def _write(training: _Training, scores: Sequence[CaseScore]) -> Model:
    config, template = training.config, training.template
    # Beside its place first: a model folder is whole or not there.
    staging = template.folder.with_name(f".{template.folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    written = _model_of(training, staging, first_fold=config.folds if config.final_epochs else 0)
    complete = replace(
        written,
        results={**template.results, **as_tables(scores, template.scheme.names)},
        training={
            **template.training,
            "cases": sorted(training.cases),
            "synthetic_cases": [f"synthetic_{seed}" for seed in config.synthetic_seeds],
            "seed": config.seed,
            "settings": _as_json(config.as_dict()),
            "date": date.today().isoformat(),
        },
    )
    write_model(complete)
    if template.folder.is_dir() and not any(template.folder.iterdir()):
        template.folder.rmdir()
    staging.rename(template.folder)
    return replace(complete, folder=template.folder)


def _as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from a JSON file."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value
