"""Makes an SSNet model of a prior and a tracker: one folder that holds both whole, each still a model of its own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ...errors import ModelError, OutputError
from ...files import output_sentence
from ...labels import DEFAULT_COLOURS_RGB, LabelScheme, Region
from ...models.store import MODEL_FILE, Model, check_name, load_model, write_model
from .config import SSNetSettings
from .tracker import METHOD as TRACKER_METHOD
from .tracker import tracker_inputs

METHOD: Final = "ssnet"
PRIOR_FOLDER: Final = "prior"
TRACKER_FOLDER: Final = "tracker"
CITATION: Final = "Jang et al., SSNet (nnU-Net v2 with SAM-Track for lesions in brain MRI)."


def compose(
    prior: Path, tracker: Path, destination: Path, *, title: str = "", settings: Mapping[str, Any] | None = None
) -> Model:
    """Make an SSNet model.

    Args:
        prior: model folder whose lesions are tracked, e.g. of the method "nnunet".
        tracker: model folder of the method "sam2_tracker".
        destination: folder of the new model; its name becomes the model's.
        title: name shown to users; made of the two models' where "".
        settings: of `config.SSNetSettings`, in one flat table, that differ from the defaults.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: where one of the two cannot be used for this, or there is a model at `destination` already.
        InputError: for settings that cannot be used.
        OutputError: where files cannot be written.
    """
    check_name(destination.name)
    if destination.exists():
        raise ModelError(f"There is a model at '{destination}' already; remove it first or choose another name.")
    parts = {PRIOR_FOLDER: load_model(prior), TRACKER_FOLDER: load_model(tracker)}
    made = _described(parts[PRIOR_FOLDER], parts[TRACKER_FOLDER], SSNetSettings.from_dict(settings or {}), title)
    staging = destination.parent / f".composing-{secrets.token_hex(4)}"
    try:
        for name, part in parts.items():
            _copy(part, staging / destination.name / name)
        files = [f"{name}/{path}" for name, part in parts.items()
                 for path in (MODEL_FILE, *(file.path for file in part.weights))]
        written = write_model(
            replace(made, folder=staging / destination.name, name=destination.name), files=files
        )
        written.folder.rename(destination)
    except OSError as error:
        raise OutputError(output_sentence(destination, error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_model(destination, verify_hashes=False)


def _copy(part: Model, folder: Path) -> None:
    for path in (MODEL_FILE, *(file.path for file in part.weights)):
        target = folder.joinpath(*path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part.path_of(path), target)


def _described(prior: Model, tracker: Model, settings: SSNetSettings, title: str) -> Model:
    if tracker.method != TRACKER_METHOD:
        raise ModelError(f"'{tracker.name}' is of the method '{tracker.method}'; a tracker is of '{TRACKER_METHOD}'.")
    if prior.method in (METHOD, TRACKER_METHOD):
        raise ModelError(f"'{prior.name}' is of the method '{prior.method}'; the prior must be a model that segments.")
    if settings.region is not None:
        _ = prior.scheme[settings.region]  # refuses a name that the prior does not have
    shown = [name for group in tracker_inputs(tracker, prior, settings.inputs) for name in group]
    licences = dict.fromkeys((prior.licence, tracker.licence))
    return Model(
        folder=Path(),
        name="ssnet",
        title=title or f"SSNet: {prior.title} and {tracker.title}",
        method=METHOD,
        modalities=tuple(dict.fromkeys((*prior.modalities, *shown))),
        scheme=LabelScheme((tracked_region(prior.scheme, settings.region),)),
        licence=" and ".join(licences),
        settings=settings.as_dict(),
        description=(
            f"The lesions that '{prior.name}' finds, each tracked through the slices by '{tracker.name}'. The answer "
            f"is {'what the prior gave' if settings.answer == 'prior' else 'the ensemble of the tracks'}; every stage "
            "is written beside it."
        ),
        training={
            "composed_of": {
                role: {"name": part.name, "version": part.version, "sha256": part.sha256}
                for role, part in ((PRIOR_FOLDER, prior), (TRACKER_FOLDER, tracker))
            }
        },
        citations=tuple(dict.fromkeys((CITATION, *prior.citations, *tracker.citations))),
        demonstration=prior.demonstration or tracker.demonstration,
        intended_use=(tracker if tracker.demonstration else prior).intended_use,
    )


def tracked_region(scheme: LabelScheme, region: str | None) -> Region:
    """The one region of an SSNet model, with the label value 1.

    It is the prior's that is named; for all together, the one that holds them all, or "Lesion" where none does.
    """
    if region is not None:
        chosen = scheme[region]
        return Region(chosen.name, (1,), chosen.colour_rgb, chosen.terminology)
    everything = {label for one in scheme.regions for label in one.labels}
    for one in scheme.regions:
        if set(one.labels) == everything:
            return Region(one.name, (1,), one.colour_rgb, one.terminology)
    return Region("Lesion", (1,), DEFAULT_COLOURS_RGB[0])
