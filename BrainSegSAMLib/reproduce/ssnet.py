"""SSNet's Table I with what is measured here beside it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..backends.devices import resolve_device
from ..cases import Case, load_image
from ..console import parse_setting
from ..errors import GeometryError, InputError
from ..files import write_json
from ..geometry import Geometry
from ..labelled_images import labelled_cases
from ..methods import load_predictor
from ..methods.ssnet.composing import METHOD as SSNET
from ..methods.ssnet.composing import PRIOR_FOLDER, TRACKER_FOLDER
from ..methods.ssnet.predictor import AGREEMENT_STAGE, ENSEMBLE_STAGE
from ..metrics import ISLES_STROKE, METRICS, POLICY, Metric, highest_mean_dice, measure
from ..models.catalogue import find_model
from ..models.store import Model, load_model
from ..progress import Progress
from ..runs import RECORD_VERSION, versions
from ..segmentation_files import read_segmentation
from ..statistics import summarise
from .consistency import contradiction
from .files import check_output

TABLE_I: Final[dict[str, tuple[float, float]]] = {
    "nnU-Net v2": (0.569, 0.702),
    "adc": (0.417, 0.566),
    "b0": (0.420, 0.567),
    "b1000": (0.460, 0.614),
    "ensemble": (0.463, 0.611),
}
"""Mean IoU and mean Dice of ten test patients. Source: Jang et al., SSNet, Table I."""

MEASURED: Final = ("dice", "iou", "precision", "recall", "volume_difference", "hd95", "assd", "nsd", "lesion_f1")
"""Metrics of each stage; the paper gives the first two."""

LESIONS: Final = ISLES_STROKE
"""The paper's patients have strokes; it separates lesions, and gives no rule for counting them."""

_SAME_MODALITY: Final = {"dwi": "b1000"}
"""How the table of modalities calls what the paper calls otherwise."""


@dataclass(frozen=True)
class ReproduceJob:
    """What to measure, and where to write it.

    Attributes:
        model: name in the catalogue, or model folder, of the method "ssnet".
        source: labelled cases; what `cases.find_cases` takes.
        output: JSON file with every case's numbers.
        labels: values of the references that count as lesion; all where empty.
        device: "auto", or a torch device name.
        trust: allow weights that need arbitrary unpickling.
        settings: of the method, that differ from the model's.
    """

    model: str
    source: Path
    output: Path
    labels: tuple[int, ...] = ()
    device: str = "auto"
    trust: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One stage of one case.

    Attributes:
        case_id: the case.
        stage: of the method.
        values: key of `MEASURED` → its value, None where not defined.
    """

    case_id: str
    stage: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Line:
    """One row of the table: the paper's means and ours; None where there is none."""

    name: str
    paper: tuple[float, float] | None
    measured: tuple[float, float] | None


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        scores: of each stage of each case.
        lines: of the table.
        seen: part → ids of the cases that it has learned from: the numbers there say nothing.
    """

    scores: Sequence[Score]
    lines: Sequence[Line]
    seen: Mapping[str, Sequence[str]]


def mean_scores(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    """Stage → mean IoU and mean Dice over cases.

    Published tables break the inequality between the two; it is asserted here, where only a mistake of ours could.
    """
    means = {}
    for stage in dict.fromkeys(score.stage for score in scores):
        iou, dice = (summarise(_of_stage(scores, stage, key)).mean or 0.0 for key in ("iou", "dice"))
        assert dice <= highest_mean_dice(iou) + 1e-9, f"{stage}: mean Dice {dice} is impossible for mean IoU {iou}"
        means[stage] = (iou, dice)
    return means


def _of_stage(scores: Sequence[Score], stage: str, key: str) -> dict[str, float | None]:
    return {score.case_id: score.values[key] for score in scores if score.stage == stage}


def table(means: Mapping[str, tuple[float, float]], prior: str) -> list[Line]:
    """The paper's Table I with ours beside it: the prior first, the ensemble last, votes matched by modality.

    Args:
        means: from `mean_scores`.
        prior: name of the prior's stage.
    """
    ours = {_SAME_MODALITY.get(stage, stage): value for stage, value in means.items()}
    ours["nnU-Net v2"] = ours.pop(prior)
    votes = [name for name in (*TABLE_I, *ours) if name not in ("nnU-Net v2", ENSEMBLE_STAGE)]
    names = ["nnU-Net v2", *dict.fromkeys(votes), ENSEMBLE_STAGE]
    return [Line(name, TABLE_I.get(name), ours.get(name)) for name in names]


def run(job: ReproduceJob, *, progress: Progress | None = None) -> Result:
    """Segment labelled cases with SSNet, and score each of its stages.

    Raises:
        ModelError: where the model cannot be used.
        InputError, GeometryError: where the model is of another method, or a case or its reference cannot be used.
        OutputError: where the file cannot be written.
        Cancelled: when the progress was cancelled; nothing is written then.
    """
    progress = progress or Progress()
    model = load_model(find_model(job.model))
    if model.method != SSNET:
        raise InputError(
            f"The model '{model.name}' is of the method '{model.method}'; reproduce {SSNET} needs one of '{SSNET}': "
            "make one with 'brainsegsam models compose'."
        )
    cases = labelled_cases(job.source, model.modalities)
    check_output(job.output)
    device = resolve_device(job.device)
    progress.stage("Loading the model", until=0.02)
    predictor = load_predictor(model.folder, device=device, trust=job.trust, overrides=dict(job.settings))
    scores: list[Score] = []
    records = {}
    prior = ""
    for index, case in enumerate(cases):
        part = progress.part(case.case_id, until=0.02 + 0.98 * (index + 1) / len(cases))
        image, _ = load_image(case, model.modalities)
        reference = _reference(case, image.geometry, job.labels)
        result = predictor.predict(image, progress=part)
        records[case.case_id] = dict(result.record)
        prior = next(iter(result.stages))
        for stage, found in result.stages.items():
            if stage != AGREEMENT_STAGE:
                scores.append(Score(case.case_id, stage, measure(
                    reference, found.label_map > 0, spacing_zyx_mm=image.geometry.spacing_zyx_mm, lesions=LESIONS,
                    metrics=MEASURED,
                )))  # fmt: skip
    measured = Result(scores, table(mean_scores(scores), prior), _seen(model, cases))
    write_json(_record(job, model, device, measured, records), job.output)
    return measured


def _seen(model: Model, cases: Sequence[Case]) -> dict[str, list[str]]:
    given = {case.case_id for case in cases}
    parts = {part: load_model(model.folder / part, verify_hashes=False) for part in (PRIOR_FOLDER, TRACKER_FOLDER)}
    return {f"{one.name} ({part})": sorted(given & set(one.training.get("cases", ()))) for part, one in parts.items()}


def _reference(case: Case, geometry: Geometry, labels: Sequence[int]) -> NDArray[np.bool_]:
    assert case.reference is not None
    reference = read_segmentation(case.reference)
    if not reference.geometry.is_same_grid(geometry):
        raise GeometryError(
            f"{case.reference} lies on another grid than the images of case '{case.case_id}': "
            f"{geometry.difference(reference.geometry)}. Resample it first."
        )
    return np.isin(reference.label_map, labels) if labels else np.asarray(reference.label_map > 0)


def _record(
    job: ReproduceJob,
    model: Model,
    device: str,
    result: Result,
    records: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "record_version": RECORD_VERSION,
        "command": f"reproduce {SSNET}",
        "versions": versions(),
        "model": {"name": model.name, "sha256": model.sha256},
        "device": device,
        "source": str(job.source),
        "labels": list(job.labels),
        "lesions": asdict(LESIONS),
        "settings": dict(job.settings),
        "cases": [
            {"case_id": one.case_id, "stage": one.stage, **{key: _rounded(value) for key, value in one.values.items()}}
            for one in result.scores
        ],
        "table": [{"stage": line.name, "paper": line.paper, "measured": line.measured} for line in result.lines],
        "learned_from": {name: list(ids) for name, ids in result.seen.items()},
        "records": dict(records),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


# ---- command line -------------------------------------------------------------------------------------------------


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run`.
    """
    if options.compare or options.label_values:
        raise InputError(f"reproduce {SSNET} takes neither --compare nor --label-values.")
    job = ReproduceJob(
        options.model,
        options.input,
        options.output,
        tuple(options.labels),
        options.device,
        options.trust,
        dict(parse_setting(text) for text in options.set),
    )
    result = run(job, progress=progress)
    scores = result.scores
    stages = list(dict.fromkeys(score.stage for score in scores))
    cases = list(dict.fromkeys(score.case_id for score in scores))
    by_key = {(score.case_id, score.stage): score.values["dice"] for score in scores}
    wide = max(len(name) for name in (*cases, "Dice of case"))
    yield f"{'Dice of case':<{wide}}  " + "  ".join(f"{stage:>12}" for stage in stages)
    for case_id in cases:
        yield f"{case_id:<{wide}}  " + "  ".join(f"{by_key[case_id, stage]:12.3f}" for stage in stages)
    yield ""
    yield f"{'':<16}{'paper (10 patients)':>22}{f'measured ({len(cases)} cases)':>22}"
    yield f"{'Mean of':<16}{'IoU':>11}{'Dice':>11}{'IoU':>11}{'Dice':>11}"
    for line in result.lines:
        cells = [value for pair in (line.paper, line.measured) for value in (pair or (None, None))]
        yield f"{line.name:<16}" + "".join(f"{'–':>11}" if value is None else f"{value:11.3f}" for value in cells)
    yield ""
    yield from _further(scores, stages)
    yield ""
    yield from filter(None, (contradiction(f"Paper, {name}", *row) for name, row in TABLE_I.items()))
    for name, ids in result.seen.items():
        if ids:
            yield f"{name} has learned from {', '.join(ids)}: there its numbers say nothing about other patients."
    yield "The paper's patients are others (stroke, not published), so compare the order of the rows, not the columns."
    yield f"Every number is in {job.output}"


def _further(scores: Sequence[Score], stages: Sequence[str]) -> Iterator[str]:
    """What the paper does not give: the means of the other metrics, with the number of cases where some have none."""
    shown = [METRICS[key] for key in MEASURED if key not in ("iou", "dice")]
    yield f"{'Mean of':<16}" + "".join(f"{_heading(metric):>24}" for metric in shown)
    for stage in stages:
        row = f"{stage:<16}"
        for metric in shown:
            found = summarise(_of_stage(scores, stage, metric.key))
            text = "–" if found.mean is None else f"{found.mean:.3f}"
            row += f"{f'{text} ({found.count} cases)' if found.undefined else text:>24}"
        yield row
    yield f"{POLICY} {LESIONS.said}"


def _heading(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title
