"""The command that trains a model: a recipe and labelled cases in, a model folder and the record of the run out.

A recipe says everything that decides the result; see `recipes`. A model of the method "ssnet" is composed of two, each
of which is trained first where the recipe names one for it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .backends.devices import gpu_devices, resolve_device
from .batch import Workers, core_count
from .console import add_worker_options, parse_setting
from .errors import BrainSegSAMError, Cancelled, InputError, ModelError, OutputError
from .files import check_writable, output_sentence, write_json
from .labelled_images import labelled_cases
from .methods.nnunet.config import TrainingConfig
from .methods.nnunet.training import TrainingRun, train
from .methods.ssnet.composing import PRIOR_FOLDER, TRACKER_FOLDER, compose, describe
from .methods.ssnet.tracker_config import TrackerTrainingConfig
from .methods.ssnet.tracker_training import train_tracker
from .methods.yolo_medsam.detector_config import DetectorTrainingConfig
from .methods.yolo_medsam.detector_training import COLUMNS as DETECTION_COLUMNS
from .methods.yolo_medsam.detector_training import train_detector
from .methods.yolo_medsam.medsam_training import train_medsam
from .methods.yolo_medsam.sam_config import SamTrainingConfig
from .models.catalogue import find_model, is_installed
from .models.store import MODEL_FILE, Model, check_name, load_model
from .progress import Progress
from .recipes import PARTS, Recipe, SSNetRecipe, read_recipe
from .remote import Remote, location
from .remote_cases import mirror
from .runs import RECORD_VERSION, RUN_FILE, versions


@dataclass(frozen=True)
class TrainJob:
    """What to train, from what, and where to.

    Attributes:
        recipe: JSON file, see `recipes`.
        source: labelled cases; what `cases.find_cases` takes.
        output: the model folder to make.
        work: folder for intermediate files, by which an interrupted training is resumed; `<output>.work` where None.
        device: "auto", or a torch device name.
        at_once: folds of an nnU-Net that are trained at the same time.
        gpus: how many GPUs train one nnU-Net or detector together.
        workers: processes that prepare the cases; None sizes them to the machine and the cases.
        scheduler: address of a running Dask cluster that prepares them instead; see `batch.Workers`.
        name: of the model, instead of the recipe's; "" keeps it.
        title: as `name`.
        overrides: settings of the training to use instead of the recipe's. Of an ssnet recipe: settings of SSNet, and
            those of the two trainings after "prior." and "tracker.".
    """

    recipe: Path
    source: Path
    output: Path
    work: Path | None = None
    device: str = "auto"
    at_once: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)
    gpus: int = 1
    workers: int | None = 1
    scheduler: str | None = None
    name: str = ""
    title: str = ""

    @property
    def work_folder(self) -> Path:
        """Where intermediate files lie."""
        output = self.output.absolute()
        return self.work or output.with_name(output.name + ".work")


@dataclass(frozen=True, eq=False)
class _Plan:
    """A training with everything checked that can be before it starts.

    Attributes:
        model: the model to be, without weights.
        case_ids: that it learns from.
        settings: all of the training, for the record.
        device: torch device name.
        start: trains it and writes its folder.
    """

    model: Model
    case_ids: tuple[str, ...]
    settings: Mapping[str, Any]
    device: str
    start: Callable[[Progress], Model]


def run(job: TrainJob, *, progress: Progress | None = None) -> Model:
    """Train a model; the work folder gets `run.json`.

    Raises:
        InputError, GeometryError: where the recipe or a case cannot be used.
        ModelError: where there is a model in the output folder already.
        OutputError: where the output folder holds something else, or files cannot be written.
        BrainSegSAMError: where the training fails.
        Cancelled: when the progress was cancelled; the same call resumes it.
    """
    progress = progress or Progress()
    started = time.time()
    plan = _plan(job)
    check_writable(job.output.absolute().parent)
    status, model = "finished", None
    try:
        model = plan.start(progress)
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
            "cases": list(plan.case_ids),
            "settings": dict(plan.settings),
            "device": plan.device,
            "at_once": job.at_once,
            "versions": versions(),
            "model_sha256": model.sha256 if model else None,
            "results": dict(model.results) if model else {},
        }
        write_json(record, job.work_folder / RUN_FILE)
    return model


def _plan(job: TrainJob) -> _Plan:
    recipe = read_recipe(job.recipe)
    if job.scheduler:
        job = replace(job, source=job.source.absolute())  # workers have a current folder of their own
    _check_folders(job)
    return _plan_ssnet(job, recipe) if isinstance(recipe, SSNetRecipe) else _plan_network(job, recipe)


def _check_folders(job: TrainJob) -> None:
    """Fail before the training, not after it, where its model cannot take its place."""
    output, work = job.output.absolute(), job.work_folder.absolute()
    if (output / MODEL_FILE).exists():
        raise ModelError(f"There is a model in '{job.output}' already; choose another folder or remove it.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"'{job.output}' holds something else; choose a folder for the model that is not there yet.")
    if work == output or output in work.parents:
        raise InputError(f"The work folder '{work}' lies in the model's own folder '{output}'; choose another.")


# ---- one network --------------------------------------------------------------------------------------------------


def _plan_network(job: TrainJob, recipe: Recipe) -> _Plan:
    config = recipe.config(job.overrides)
    template = recipe.template(job.output)
    template = replace(template, name=check_name(job.name or template.name), title=job.title or template.title)
    device = resolve_device(job.device)
    cases = labelled_cases(job.source, template.modalities)
    work = job.work_folder
    workers = Workers(job.workers, job.scheduler)

    def start(progress: Progress) -> Model:
        if isinstance(config, TrackerTrainingConfig):
            return train_tracker(
                cases, config, template, work=work, device=device, label_values=recipe.label_values, workers=workers,
                progress=progress,
            )  # fmt: skip
        if isinstance(config, DetectorTrainingConfig):
            return train_detector(
                cases, config, template, work=work, device=device, gpus=job.gpus, label_values=recipe.label_values,
                workers=workers, progress=progress,
            )  # fmt: skip
        if isinstance(config, SamTrainingConfig):
            return train_medsam(
                cases, config, template, work=work, device=device, label_values=recipe.label_values, workers=workers,
                progress=progress,
            )  # fmt: skip
        execution = TrainingRun(work, device, job.at_once, core_count(), workers, job.gpus)
        return train(cases, config, template, run=execution, label_values=recipe.label_values, progress=progress)

    _check_shares(job, recipe.method, config, device)
    return _Plan(template, tuple(case.case_id for case in cases), config.as_dict(), device, start)


def _check_shares(job: TrainJob, method: str, config: object, device: str) -> None:
    """Fail before the training where it cannot be shared out as asked."""
    if job.at_once > 1 and not isinstance(config, TrainingConfig):
        raise InputError(f"Networks of the method {method} are trained one by one; leave --at-once at 1.")
    if job.gpus == 1:
        return
    if not isinstance(config, (TrainingConfig, DetectorTrainingConfig)):
        raise InputError(f"Networks of the method {method} are trained on one GPU; leave --gpus at 1.")
    if job.at_once > 1:
        raise InputError("Either several folds are trained at once (--at-once), or one on several GPUs (--gpus).")
    found = len(gpu_devices()) if device == "cuda" else 0
    if job.gpus > found:
        raise InputError(
            f"--gpus is {job.gpus}, but with the device '{device}' there are {found} GPUs to share; leave --device out "
            "and give --gpus at most as many as this machine has."
        )


# ---- a model composed of two --------------------------------------------------------------------------------------


def _plan_ssnet(job: TrainJob, recipe: SSNetRecipe) -> _Plan:
    """Both parts are planned, and checked to fit each other, before the first is trained."""
    own, of_parts = _split(job.overrides)
    settings = {**recipe.settings, **own}
    name, title = job.name or recipe.name, job.title or recipe.title
    trainings, plans, models = {}, {}, {}
    for part in PARTS:
        path = recipe.recipe_of(part)
        if path is not None:
            trainings[part] = _training_of(part, path, job, of_parts[part])
            plans[part] = _plan(trainings[part])
            models[part] = plans[part].model
        elif of_parts[part]:
            raise InputError(f"The {part} is a model that exists, so its training has no {', '.join(of_parts[part])}.")
        else:
            models[part] = load_model(_existing(recipe.parts[part], recipe.folder))
    if not trainings:
        raise InputError(f"{job.recipe} names two models that exist; use 'brainsegsam models compose' instead.")
    made = describe(
        models[PRIOR_FOLDER], models[TRACKER_FOLDER], name=name, title=title, settings=settings
    )

    def start(progress: Progress) -> Model:
        folders = {part: model.folder for part, model in models.items() if part not in trainings}
        with _temporary_folder(job.work_folder) as finished:
            for number, (part, training) in enumerate(trainings.items(), start=1):
                share = progress.part(part, until=number / len(trainings))
                folders[part] = run(replace(training, output=finished / part), progress=share).folder
            return compose(
                folders[PRIOR_FOLDER], folders[TRACKER_FOLDER], job.output,
                name=name, title=title, settings=settings,
            )  # fmt: skip

    learned = sorted({case_id for plan in plans.values() for case_id in plan.case_ids})
    described = {**made.settings, **{part: plan.settings for part, plan in plans.items()}}
    return _Plan(made, tuple(learned), described, resolve_device(job.device), start)


def _split(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """SSNet's own settings, and those of the two trainings, whose names begin with the part's."""
    own: dict[str, Any] = {}
    of_parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in overrides.items():
        part, dot, rest = name.partition(".")
        if dot and part in of_parts:
            of_parts[part][rest] = value
        else:
            own[name] = value
    return own, of_parts


def _training_of(part: str, recipe: Path, job: TrainJob, overrides: Mapping[str, Any]) -> TrainJob:
    """The job that trains a part, in a work folder of its own; its output is decided when it starts."""
    if isinstance(read_recipe(recipe), SSNetRecipe):
        raise InputError(f"{job.recipe}: the {part} cannot be composed itself, as {recipe} says.")
    work = job.work_folder / part
    at_once, gpus = (job.at_once, job.gpus) if part == PRIOR_FOLDER else (1, 1)
    output = work.with_name(f".{part}")
    return replace(
        job, recipe=recipe, output=output, work=work, at_once=at_once, gpus=gpus, overrides=overrides, name="", title=""
    )  # fmt: skip


def _existing(text: str, folder: Path) -> Path:
    """A model by name, or by its folder beside the recipe."""
    beside = folder / text
    return beside if beside.is_dir() and not is_installed(text) else find_model(text)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".finished-", dir=parent)
    except OSError as error:
        raise OutputError(output_sentence(parent, error)) from error
    with folder as path:
        yield Path(path)


# ---- command line -------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options; device and progress are the caller's."""
    parser.add_argument("--recipe", required=True, type=Path, metavar="JSON", help="what to train and how")
    parser.add_argument("--input", required=True, type=location, help="labelled cases, as for predict")
    parser.add_argument("--output", required=True, type=Path, help="model folder to make")
    parser.add_argument("--name", default="", help="name of the model (default: the recipe's)")
    parser.add_argument("--title", default="", help="name shown to users (default: the recipe's)")
    parser.add_argument("--work", type=Path, help="folder for intermediate files (default: OUTPUT.work)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="folds trained side by side (default: 1)")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="GPUs that train one nnU-Net or detector together (default: 1)"
    )
    add_worker_options(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the training to use instead of the recipe's, e.g. epochs=10, or prior.epochs=10 of a recipe "
        "of two; the value is JSON",
    )


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run`.
    """
    for name, value in (("--at-once", options.at_once), ("--gpus", options.gpus)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be 1 or more.")
    job = TrainJob(
        options.recipe,
        Path(),
        options.output,
        options.work,
        options.device,
        options.at_once,
        dict(parse_setting(text) for text in options.set),
        options.gpus,
        options.workers,
        options.scheduler,
        options.name,
        options.title,
    )
    source = options.input
    if isinstance(source, Remote):  # kept with the intermediate files, because every step and every resumption reads it
        progress.log(f"Copying {source} into the work folder.")
        source = mirror(source, job.work_folder / "input")
    model = run(replace(job, source=source), progress=progress)
    for title, table in model.results.items():
        yield f"{title} (mean):"
        for name, value in zip(table["columns"][2:], (table["rows"] or [[]])[-1][2:], strict=False):
            measure = "" if name in DETECTION_COLUMNS else "Dice "  # other columns are regions
            score = f"{measure}{value:.3f}" if isinstance(value, (int, float)) else value or "in none of the cases"
            yield f"  {name}: {score}"
    yield f"The model lies in {model.folder}."
