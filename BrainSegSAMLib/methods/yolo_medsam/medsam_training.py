"""Trains SAM on boxes, from labelled cases to a model folder: cross-validation, scores, a final network of all cases.

One training for two purposes, which `SamTrainingConfig.trained` tells apart: a small network from scratch, and the mask
decoder of any network, fine-tuned as the paper does it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...backends.devices import resolve_precision
from ...backends.sam import SamSegmenter
from ...backends.sam_architecture import OFFICIAL, SamArchitecture
from ...backends.sam_network import build
from ...backends.weights import hash_of_weights, set_weights
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
from .dataset import deal_slices
from .embeddings import check_budget
from .sam_config import DECODER, FOLDS, SLICE, SamTrainingConfig
from .sam_fitting import DECODER_PREFIX, SamFit, fit
from .sam_validation import NOTE, SLICE_NOTE, SLICE_TITLE, TITLE, by_network, score_volumes
from .samples import training_slices
from .segmenter import SEGMENTERS

_Numbers = Mapping[str, Collection[int]]
"""Case → numbers of its slices."""


@dataclass(frozen=True, eq=False)
class _Training:
    """What all steps need."""

    cases: Mapping[str, Case]
    volumes: Mapping[str, TrainingVolume]
    splits: Sequence[Sequence[str]]
    config: SamTrainingConfig
    architecture: SamArchitecture
    starts: Starts
    template: Model
    work: Path
    device: str
    unseen: _Numbers = field(default_factory=dict)  # of slices that are not learned from, where slices are dealt out
    tested: _Numbers | None = None

    @property
    def regions(self) -> dict[int, str]:
        """Number → name of the regions that are learned, and so scored."""
        names = self.template.scheme.names
        weights = self.config.region_weights or (1.0,) * len(names)
        return {number: name for number, name in enumerate(names) if weights[number] > 0}


def train_medsam(
    cases: Sequence[Case],
    config: SamTrainingConfig,
    template: Model,
    *,
    work: Path,
    device: str = "cpu",
    label_values: Mapping[int, int] | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a SAM network on boxes; a call with the same work folder goes on where an earlier one ended.

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
    if config.split == FOLDS:
        splits = split_patients(cases, folds=config.folds, seed=config.seed, held_out=config.held_out)
    else:
        splits = [[]]
    starts = find_starts(config.start_from, architecture, splits, config.chosen_folds, kind=SEGMENTERS)
    by_id = {case.case_id: case for case in cases}
    names = [_name(fold) for fold in config.chosen_folds] + ([_name(None)] if config.trains_final else [])
    for name in names:
        starts.of(name)
    decisive = {name: value for name, value in config.as_dict().items() if name != "feature_budget_gib"}
    claim(work, cases, splits, {**decisive, "start_sha256": starts.sha256}, template)
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
    if config.split == SLICE:
        unseen, tested = _deal(by_id, volumes, config)
        training = replace(training, unseen=unseen, tested=tested)
    _check_features(training, progress)
    progress.stage("Training", total=len(names) * config.iterations, until=1.0)
    weights, scores = cross_validate(
        config.chosen_folds,
        lambda fold, iterations: _train(training, fold, iterations, progress),
        lambda fold, found: _score(training, fold, found, progress),
        iterations=config.iterations,
        final=config.trains_final,
        progress=progress,
    )
    return _write(training, weights, scores, progress)


def architecture_of(config: SamTrainingConfig) -> SamArchitecture:
    """The network that the settings ask for.

    Raises:
        InputError: for a name that is not known.
        ModelError: for numbers that make no network.
    """
    if not isinstance(config.architecture, str):
        return SamArchitecture.from_dict(config.architecture)
    if config.architecture not in OFFICIAL:
        raise InputError(
            f"There is no architecture '{config.architecture}'; there are: {', '.join(OFFICIAL)}, "
            "or give its numbers."
        )
    return OFFICIAL[config.architecture]


# ---- training -----------------------------------------------------------------------------------------------------


def _name(fold: int | None) -> str:
    return "final" if fold is None else f"fold_{fold}"


def _deal(
    cases: Iterable[str], volumes: Mapping[str, TrainingVolume], config: SamTrainingConfig
) -> tuple[_Numbers, _Numbers]:
    """The slices that are not learned from where slices are dealt out, and those of them that are tested."""
    shown = [(case_id, item.index) for case_id in sorted(cases)
             for item in training_slices(volumes[case_id], config, weight=1.0)]  # fmt: skip
    parts = deal_slices(shown, seed=config.seed)
    unseen: dict[str, set[int]] = {}
    tested: dict[str, set[int]] = {}
    for part, found in (("val", (unseen,)), ("test", (unseen, tested))):
        for case_id, index in parts[part]:
            for numbers in found:
                numbers.setdefault(case_id, set()).add(index)
    return unseen, tested


def _learned(training: _Training, fold: int | None) -> tuple[list[str], list[str]]:
    """Ids of the cases that a network learns from, without synthetic ones, and of those that decide when it stops."""
    config = training.config
    left_out = () if fold is None else training.splits[fold]
    learn_from = [case for case_id, case in training.cases.items() if case_id not in left_out]
    aside: list[str] = []
    if fold is not None and config.patience:
        aside = set_aside(learn_from, share=config.validation_share, seed=config.seed, fold=fold)
    return [case.case_id for case in learn_from if case.case_id not in aside], aside


def _features(training: _Training, name: str) -> Path:
    """Where a network's image features are kept; those of networks that begin alike are the same."""
    return training.work / (f"{name}_features" if training.starts.differ else "features")


def _check_features(training: _Training, progress: Progress) -> None:
    """Say what the image features of all networks take, and refuse what is too much."""
    config, architecture = training.config, training.architecture
    if not config.views:
        return
    synthetic = [synthetic_id(seed) for seed in config.synthetic_seeds]
    volumes: dict[Path, set[str]] = {}
    for fold in (*config.chosen_folds, *([None] if config.trains_final else [])):
        if not weights_path(training.work, _name(fold)).exists():
            volumes.setdefault(_features(training, _name(fold)), set()).update(_learned(training, fold)[0], synthetic)
    if not volumes:
        return
    slices = {
        case_id: len(training_slices(training.volumes[case_id], config, weight=1.0))
        - len(training.unseen.get(case_id, ()))
        for case_id in set().union(*volumes.values())
    }
    budget = config.feature_budget_gib
    check_budget(
        training.work,
        {folder: config.views * sum(slices[case_id] for case_id in ids) for folder, ids in volumes.items()},
        (architecture.width, architecture.feature_size, architecture.feature_size),
        budget_bytes=None if budget is None else budget * 2**30,
        progress=progress,
    )


def _train(training: _Training, fold: int | None, iterations: int, progress: Progress) -> Fitted:
    """The network of a fold, or of all cases."""
    config = training.config
    ids, aside = _learned(training, fold)
    synthetic = [synthetic_id(seed) for seed in config.synthetic_seeds]
    name = _name(fold)
    job = SamFit(
        name=name,
        volumes=[training.volumes[i] for i in (*ids, *synthetic)],
        weights=[*[1.0] * len(ids), *[config.synthetic_weight] * len(synthetic)],
        regions=training.regions,
        iterations=iterations,
        folder=training.work / name,
        features=_features(training, name),
        validation=[training.volumes[case_id] for case_id in aside],
        unseen=training.unseen,
        start=training.starts.of(name),
        device=training.device,
        precision=resolve_precision(config.precision, training.device),
    )
    return fit_once(
        weights_path(training.work, name),
        lambda: fit(job, config, training.architecture, progress=progress),
        iterations=iterations,
        progress=progress,
    )


# ---- results ------------------------------------------------------------------------------------------------------


def _score(training: _Training, fold: int, weights: Weights, progress: Progress) -> list[CaseScore]:
    """Dice of every left-out case, or of the left-out slices of all."""
    config, tested = training.config, training.tested

    def score() -> list[CaseScore]:
        network = build(training.architecture)
        stored = rounded(weights, half=config.half_precision_weights)
        set_weights(network, stored, weights_path(training.work, _name(fold)), training.architecture)
        segmenter = SamSegmenter(network.to(training.device), training.architecture, precision=config.precision)
        volumes = [training.volumes[case_id] for case_id in (training.splits[fold] if tested is None else tested)]
        with by_network(segmenter, config.plane, head_only=config.head_only, progress=progress) as segment:
            return score_volumes(
                segment, volumes, training.regions, plane=config.plane, fold=fold, progress=progress, only=tested
            )

    return score_once(
        training.work / f"scores_{fold}.json", score, way=[config.half_precision_weights], progress=progress
    )


def _write(training: _Training, weights: Weights, scores: Sequence[CaseScore], progress: Progress) -> Model:
    config, template = training.config, training.template
    left_out = () if config.trains_final else training.splits[config.chosen_folds[0]]
    title, note = (TITLE, NOTE) if config.split == FOLDS else (SLICE_TITLE, SLICE_NOTE)
    record = training_record(
        template,
        config.as_dict(),
        cases=set(training.cases) - set(left_out),
        synthetic=[synthetic_id(seed) for seed in config.synthetic_seeds],
    )
    stored = rounded(weights, half=config.half_precision_weights)
    if config.trained == DECODER:
        frozen = {name: value for name, value in stored.items() if not name.startswith(DECODER_PREFIX)}
        record["frozen_sha256"] = hash_of_weights(frozen)
    model = replace(
        template,
        preprocessing={"orientation": ORIENTATION},
        settings={
            **template.settings,
            "architecture": training.architecture.as_dict(),
            "windowing": {"lower": config.lower_percentile, "upper": config.upper_percentile},
            "plane": config.plane,
            "head_only": config.head_only,
        },
        results={**template.results, title: as_table(scores, list(training.regions.values()), note)},
        training=record,
    )
    return write_trained(model, stored, SEGMENTERS.weights_file, progress=progress)
