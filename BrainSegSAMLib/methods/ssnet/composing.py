"""Makes an SSNet model of a prior and a tracker: one folder that holds both whole, each still a model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...errors import ModelError
from ...labels import DEFAULT_COLOURS_RGB, LabelScheme, Region
from ...models.composed import check_free, origins, write_composed
from ...models.store import Model, check_name, load_model
from .. import OTHER_METHODS
from .config import SSNetSettings
from .tracker import METHOD as TRACKER_METHOD
from .tracker import tracker_inputs

METHOD: Final = "ssnet"
PRIOR_FOLDER: Final = "prior"
TRACKER_FOLDER: Final = "tracker"
CITATION: Final = "Jang et al., SSNet (nnU-Net v2 with SAM-Track for lesions in brain MRI)."


def compose(
    prior: Path,
    tracker: Path,
    destination: Path,
    *,
    name: str = "",
    title: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """Make an SSNet model.

    Args:
        prior: model folder whose lesions are tracked, e.g. of the method "nnunet".
        tracker: model folder of the method "sam2_tracker".
        destination: folder of the new model; not there, or empty.
        name: of the new model; that of its folder where "".
        title: name shown to users; made of the two models' where "".
        settings: of `config.SSNetSettings`, in one flat table, that differ from the defaults.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: where one of the two cannot be used for this, or there is a model at `destination` already.
        InputError: for settings that cannot be used.
        OutputError: where files cannot be written.
    """
    check_free(destination)
    parts = {PRIOR_FOLDER: load_model(prior), TRACKER_FOLDER: load_model(tracker)}
    made = describe(
        parts[PRIOR_FOLDER], parts[TRACKER_FOLDER], name=name or destination.name, title=title, settings=settings
    )
    return write_composed(made, parts, destination)


def describe(
    prior: Model, tracker: Model, *, name: str, title: str = "", settings: Mapping[str, Any] | None = None
) -> Model:
    """The model that two others would make; their weights need not exist yet.

    Args:
        prior: whose lesions are tracked.
        tracker: that tracks them.
        name: of the new model.
        title: see `compose`.
        settings: see `compose`.

    Returns:
        The model without folder and weights.

    Raises:
        ModelError: where one of the two cannot be used for this, or no model can be called so.
        InputError: for settings that cannot be used.
    """
    chosen = SSNetSettings.from_dict(settings or {})
    if tracker.method != TRACKER_METHOD:
        raise ModelError(f"'{tracker.name}' is of the method '{tracker.method}'; a tracker is of '{TRACKER_METHOD}'.")
    if prior.method in (METHOD, *OTHER_METHODS):
        raise ModelError(f"'{prior.name}' is of the method '{prior.method}'; the prior must be a model that segments.")
    shown = [modality for group in tracker_inputs(tracker, prior, chosen.inputs) for modality in group]
    licences = dict.fromkeys((prior.licence, tracker.licence))
    return Model(
        folder=Path(),
        name=check_name(name),
        title=title or f"SSNet: {prior.title} and {tracker.title}",
        method=METHOD,
        modalities=tuple(dict.fromkeys((*prior.modalities, *shown))),
        scheme=LabelScheme((tracked_region(prior.scheme, chosen.region),)),
        licence=" and ".join(licences),
        settings=chosen.as_dict(),
        description=(
            f"The lesions that '{prior.name}' finds, each tracked through the slices by '{tracker.name}'. The answer "
            f"is {'what the prior gave' if chosen.answer == 'prior' else 'the ensemble of the tracks'}; every stage "
            "is written beside it."
        ),
        training=origins({PRIOR_FOLDER: prior, TRACKER_FOLDER: tracker}),
        results={f"{part.name}: {table}": held for part in (prior, tracker) for table, held in part.results.items()},
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
