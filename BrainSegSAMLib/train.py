"""The command that trains a model: a recipe and labelled cases in, a model folder and the record of the run out.

A recipe is one JSON file with everything that decides the result: what the model is (name, modalities, regions,
licence), how it is trained (settings and seed), and how references name their labels. So one command repeats a model.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .backends.devices import resolve_device
from .cases import Case, find_cases
from .console import parse_setting
from .errors import BrainSegSAMError, Cancelled, InputError
from .files import read_json, write_json
from .labels import LabelScheme
from .methods.nnunet.config import TrainingConfig
from .methods.nnunet.training import TrainingRun, train
from .methods.ssnet.tracker import METHOD as TRACKER
from .methods.ssnet.tracker_config import TrackerTrainingConfig
from .methods.ssnet.tracker_training import train_tracker
from .models.store import Model
from .progress import Progress
from .runs import RECORD_VERSION, RUN_FILE, versions

NNUNET = "nnunet"
METHODS = (NNUNET, TRACKER)
_FILLED_IN = ("folder", "weights", "preprocessing", "results", "scheme", "method")


@dataclass(frozen=True)
class TrainJob:
    """What to train, from what, and where to.

    Attributes:
        recipe: JSON file, see `Recipe`.
        source: labelled cases; what `cases.find_cases` takes.
        output: the model folder to make.
        work: folder for intermediate files, by which an interrupted training is resumed; `<output>.work` where None.
        device: "auto", or a torch device name.
        at_once: folds that are trained at the same time.
        overrides: settings of the training to use instead of the recipe's.
    """

    recipe: Path
    source: Path
    output: Path
    work: Path | None = None
    device: str = "auto"
    at_once: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Recipe:
    """A recipe as read.

    Attributes:
        model: fields of `Model`, as in model.json: name, title, modalities, regions, licence, settings, citations, …
        training: settings of `TrainingConfig` or `TrackerTrainingConfig`; what is not named keeps its default.
        label_values: value in the references' files → value in the regions, for those that differ.
        method: one of `METHODS`.
    """

    model: Mapping[str, Any]
    training: Mapping[str, Any]
    label_values: Mapping[int, int]
    method: str = NNUNET

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe.

        Raises:
            InputError: where the file is no recipe; the message says what is missing.
        """
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise InputError(f'{path} is not a recipe: it has no section "model". See Resources/Models/recipes.')
        unknown = sorted(set(content) - {"method", "model", "training", "label_values"})
        missing = sorted({"name", "title", "modalities", "regions", "licence"} - set(content["model"]))
        if unknown or missing:
            raise InputError(
                f"{path} is not a recipe: "
                + (f"unknown is {', '.join(unknown)}." if unknown else f"its model lacks {', '.join(missing)}.")
            )
        try:
            label_values = {int(key): int(value) for key, value in content.get("label_values", {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f'{path}: "label_values" must map numbers to numbers, as in {{"4": 3}}.') from error
        method = content.get("method", NNUNET)
        if method not in METHODS:
            raise InputError(f"{path}: the method '{method}' cannot be trained; use one of: {', '.join(METHODS)}.")
        return cls(content["model"], content.get("training", {}), label_values, method)

    def config(self, overrides: Mapping[str, Any]) -> TrainingConfig | TrackerTrainingConfig:
        """The settings of the training, some of them replaced.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        kind = TrackerTrainingConfig if self.method == TRACKER else TrainingConfig
        return kind.from_dict({**self.training, **overrides})

    def template(self, folder: Path) -> Model:
        """The model that it describes, without what training fills in.

        Raises:
            InputError: for a field that a model does not have.
        """
        values = {key: value for key, value in self.model.items() if key != "regions"}
        wrong = sorted(set(values) - {f.name for f in fields(Model)} | set(values) & set(_FILLED_IN))
        if wrong:
            raise InputError(f'The recipe\'s section "model" has {", ".join(wrong)}, which cannot be set there.')
        values |= {key: tuple(values[key]) for key in ("modalities", "citations") if key in values}
        return Model(folder=folder, method=self.method, scheme=LabelScheme.from_list(self.model["regions"]), **values)


def run(job: TrainJob, *, progress: Progress | None = None) -> Model:
    """Train a model; the work folder gets `run.json`.

    Raises:
        InputError, GeometryError: where the recipe or a case cannot be used.
        ModelError: where there is a model in the output folder already.
        BrainSegSAMError: where the training fails.
        Cancelled: when the progress was cancelled; the same call resumes it.
    """
    progress = progress or Progress()
    started = time.time()
    recipe = Recipe.read(job.recipe)
    config = recipe.config(job.overrides)
    template = recipe.template(job.output)
    device = resolve_device(job.device)
    cases = labelled_cases(job.source, template)
    work = job.work or job.output.with_name(job.output.name + ".work")
    status, model = "finished", None
    try:
        model = _train(cases, config, template, recipe.label_values, job.at_once, work, device, progress)
    except Cancelled:
        status = "cancelled"
        raise
    except BrainSegSAMError as error:
        status = f"failed: {error}"
        raise
    finally:
        record = {
            "record_version": RECORD_VERSION,
            "command": "train",
            "status": status,
            "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "recipe": str(job.recipe),
            "source": str(job.source),
            "output": str(job.output),
            "cases": [case.case_id for case in cases],
            "settings": config.as_dict(),
            "device": device,
            "at_once": job.at_once,
            "versions": versions(),
            "model_sha256": model.sha256 if model else None,
            "results": dict(model.results) if model else {},
        }
        write_json(record, work / RUN_FILE)
    return model


def _train(
    cases: list[Case], config: TrainingConfig | TrackerTrainingConfig, template: Model, label_values: Mapping[int, int],
    at_once: int, work: Path, device: str, progress: Progress,
) -> Model:  # fmt: skip
    """Hand over to the method that the settings belong to."""
    if isinstance(config, TrackerTrainingConfig):
        if at_once > 1:
            raise InputError("The networks of a tracker are trained one after the other; leave --at-once at 1.")
        return train_tracker(
            cases, config, template, work=work, device=device, label_values=label_values, progress=progress
        )
    execution = TrainingRun(work, device, at_once, os.cpu_count() or 1)
    return train(cases, config, template, run=execution, label_values=label_values, progress=progress)


def labelled_cases(source: Path, template: Model) -> list[Case]:
    """The cases of a folder, all of which must have every modality and a reference.

    Raises:
        InputError: naming the first case that cannot be used.
    """
    cases = find_cases(source, modalities=template.modalities)
    for case in cases:
        if case.problem:
            raise InputError(case.problem)
        if case.reference is None:
            raise InputError(
                f"Case '{case.case_id}' has no reference segmentation, or several; "
                "name one file of the case '…seg', or list it in a CSV manifest under 'reference'."
            )
    return cases


# ---- command line -------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options; device and progress are the caller's."""
    parser.add_argument("--recipe", required=True, type=Path, metavar="JSON", help="what to train and how")
    parser.add_argument("--input", required=True, type=Path, help="labelled cases, as for predict")
    parser.add_argument("--output", required=True, type=Path, help="model folder to make")
    parser.add_argument("--work", type=Path, help="folder for intermediate files (default: OUTPUT.work)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="folds trained side by side (default: 1)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the training to use instead of the recipe's, e.g. epochs=10; the value is JSON",
    )


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run`.
    """
    if options.at_once < 1:
        raise InputError(f"--at-once is {options.at_once}; it must be 1 or more.")
    job = TrainJob(
        options.recipe,
        options.input,
        options.output,
        options.work,
        options.device,
        options.at_once,
        dict(parse_setting(text) for text in options.set),
    )
    model = run(job, progress=progress)
    for title, table in model.results.items():
        yield f"{title} (mean):"
        for name, value in zip(table["columns"][2:], table["rows"][-1][2:], strict=True):
            yield f"  {name}: Dice {value:.3f}" if value is not None else f"  {name}: in none of the cases"
    yield f"The model lies in {model.folder}."
