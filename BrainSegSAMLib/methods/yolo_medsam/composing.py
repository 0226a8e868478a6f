"""Makes a model of the method "yolo_medsam" of what finds boxes and of what draws masks in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...errors import ModelError
from ...intensity import MAX_CHANNELS
from ...models.composed import check_free, origins, write_composed
from ...models.published import ANY_MODALITY
from ...models.store import Model, check_name, load_model
from .. import OTHER_METHODS
from .config import YoloMedSAMSettings
from .detector import METHOD as DETECTOR_METHOD
from .segmenter import METHOD as SEGMENTER_METHOD

METHOD: Final = "yolo_medsam"
DETECTOR_FOLDER: Final = "detector"
PRIOR_FOLDER: Final = "prior"
SEGMENTER_FOLDER: Final = "segmenter"
CITATION: Final = "Zhou & Yu, YOLOv5 and MedSAM for brain tumours."


def compose(
    source: Path,
    segmenter: Path,
    destination: Path,
    *,
    name: str = "",
    title: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """Make a model of the method "yolo_medsam".

    Args:
        source: model folder that finds boxes: of a detector, or of a model that segments, e.g. an nnU-Net.
        segmenter: model folder of the method "sam".
        destination: folder of the new model; not there, or empty.
        name: of the new model; that of its folder where "".
        title: name shown to users; made of the two models' where "".
        settings: of `config.YoloMedSAMSettings` that differ from the defaults.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: where one of the two cannot be used for this, or there is a model at `destination` already.
        InputError: for settings that cannot be used.
        OutputError: where files cannot be written.
    """
    check_free(destination)
    first, second = load_model(source), load_model(segmenter)
    made = describe(first, second, name=name or destination.name, title=title, settings=settings)
    return write_composed(made, _parts(first, second), destination)


def describe(
    source: Model, segmenter: Model, *, name: str, title: str = "", settings: Mapping[str, Any] | None = None
) -> Model:
    """The model that two others would make; their weights need not exist yet.

    Args:
        source: that finds boxes.
        segmenter: that draws masks in them.
        name: of the new model.
        title: see `compose`.
        settings: see `compose`.

    Returns:
        The model without folder and weights.

    Raises:
        ModelError: where one of the two cannot be used for this, or no model can be called so.
        InputError: for settings that cannot be used.
    """
    chosen = YoloMedSAMSettings.from_dict(settings or {})
    if segmenter.method != SEGMENTER_METHOD:
        raise ModelError(
            f"'{segmenter.name}' is of the method '{segmenter.method}'; what draws masks in boxes is of "
            f"'{SEGMENTER_METHOD}'."
        )
    if source.method != DETECTOR_METHOD and source.method in (METHOD, *OTHER_METHODS):
        raise ModelError(
            f"'{source.name}' is of the method '{source.method}'; boxes come from a detector, which is of "
            f"'{DETECTOR_METHOD}', or from a model that segments by itself."
        )
    chosen.check_used(by_detector=source.method == DETECTOR_METHOD)
    parts = _parts(source, segmenter)
    shown = segmenter_inputs(segmenter, source, chosen)
    licences = dict.fromkeys(part.licence for part in parts.values())
    return Model(
        folder=Path(),
        name=check_name(name),
        title=title or f"Boxes to masks: {source.title} and {segmenter.title}",
        method=METHOD,
        modalities=tuple(dict.fromkeys((*source.modalities, *shown))),
        scheme=source.scheme,
        licence=" and ".join(licences),
        settings=chosen.as_dict(),
        description=f"The lesions that '{source.name}' finds, drawn in their boxes by '{segmenter.name}'.",
        training=origins(parts),
        results={f"{part.name}: {table}": held for part in parts.values() for table, held in part.results.items()},
        citations=tuple(dict.fromkeys((CITATION, *source.citations, *segmenter.citations))),
        demonstration=source.demonstration or segmenter.demonstration,
        intended_use=(segmenter if segmenter.demonstration else source).intended_use,
    )


def segmenter_inputs(segmenter: Model, source: Model, settings: YoloMedSAMSettings) -> tuple[str, ...]:
    """What the segmenter sees as the colours of its picture.

    A segmenter that was trained on modalities sees those; one that was trained on photographs or on any modality
    (SAM, MedSAM) sees the first three of the model that finds the boxes.

    Args:
        segmenter: its model.
        source: the model that finds the boxes.
        settings: whose `inputs`, where given, count instead.
    """
    if settings.inputs:
        return settings.inputs
    return source.modalities[:MAX_CHANNELS] if segmenter.modalities == (ANY_MODALITY,) else segmenter.modalities


def _parts(source: Model, segmenter: Model) -> dict[str, Model]:
    role = DETECTOR_FOLDER if source.method == DETECTOR_METHOD else PRIOR_FOLDER
    return {role: source, SEGMENTER_FOLDER: segmenter}
