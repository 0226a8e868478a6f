"""What every training does around its networks: work folder, what they begin with, cross-validation, model folder.

Networks are trained one after the other in this process; everything lies in one work folder, and a second call with the
same work folder goes on where the first one ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from .backends.architecture import Architecture
from .backends.checkpoints import load_checkpoint, save_checkpoint
from .cases import Case
from .errors import InputError, ModelError
from .files import read_json, sha256_of, write_json
from .fitting import Fitted, Weights
from .models.catalogue import find_model, is_installed
from .models.published import Published, read_network
from .models.store import MODEL_FILE, Model, load_model, write_model
from .phantom import CHANNELS
from .progress import Progress
from .scores import CaseScore

if TYPE_CHECKING:
    from torch import Tensor

Score = TypeVar("Score")

MARKER: Final = "prepared.json"
"""File of a work folder that says whose it is."""

_ONLY_OF_THE_RESULT: Final = ("train_folds", "final", "half_precision_weights", "checkpoint_every")


def check_template(template: Model, synthetic_seeds: Sequence[int]) -> None:
    """Refuse, before any work, a model that cannot be trained on pictures.

    Raises:
        ModelError: where there is a model in its folder already.
        InputError: for more than three modalities, or synthetic cases that lack one.
    """
    if (template.folder / MODEL_FILE).exists():
        raise ModelError(f"There is a model in '{template.folder}' already; choose another folder or remove it.")
    if len(template.modalities) > 3:
        raise InputError(
            f"The network sees one to three modalities as the colours of a picture, but the model names "
            f"{', '.join(template.modalities)}; leave some out."
        )
    unknown = sorted(set(template.modalities) - set(CHANNELS))
    if synthetic_seeds and unknown:
        raise InputError(
            f"Synthetic cases have no {', '.join(unknown)}, only {', '.join(CHANNELS)}; leave synthetic_seeds empty."
        )


def claim(
    work: Path, cases: Iterable[Case], splits: Sequence[Sequence[str]], settings: Mapping[str, Any], template: Model
) -> None:
    """Make the work folder this training's own; refuse one of another training.

    Args:
        work: made where missing.
        cases: that are learned from.
        splits: case ids left out in each fold.
        settings: of the training; those that change nothing but what is kept of it may differ from call to call.
        template: the model to be.

    Raises:
        InputError: where the folder is of other cases or settings.
    """
    files = [path for case in cases for path in (*case.modalities.values(), case.reference) if path]
    decisive = {name: value for name, value in settings.items() if name not in _ONLY_OF_THE_RESULT}
    wanted = {
        "config": as_json(decisive),
        "held_out": as_json(splits),
        "modalities": list(template.modalities),
        "regions": as_json(template.scheme.as_list()),
        "files": sorted([str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files),
    }
    marker = work / MARKER
    if not marker.exists():
        write_json(wanted, marker)
    elif read_json(marker) != wanted:
        raise InputError(
            f"The work folder {work} holds another training (other cases or settings); "
            "choose another work folder, or delete it to start anew."
        )


# ---- what networks begin with ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Starts:
    """The weights file that each network of a training begins with.

    Attributes:
        path: the file, or the work folder of a training with one for each network; None: random weights.
    """

    path: Path | None

    @property
    def differ(self) -> bool:
        """Whether each network has its own."""
        return self.path is not None and self.path.is_dir()

    @property
    def sha256(self) -> str | None:
        """Of the file, or of what the work folder says of itself."""
        if self.path is None:
            return None
        return sha256_of(self.path / MARKER if self.differ else self.path)

    def of(self, name: str) -> Path | None:
        """That of a network, e.g. of "fold_0".

        Raises:
            InputError: where the work folder has none.
        """
        if self.path is None or not self.differ:
            return self.path
        file = weights_path(self.path, name)
        if not file.is_file():
            raise InputError(
                f"The setting start_from names the work folder {self.path}, which has no network '{name}'; finish that "
                "training first."
            )
        return file


def find_starts(
    start_from: str,
    architecture: Architecture,
    splits: Sequence[Sequence[str]],
    folds: Iterable[int],
    *,
    kind: Published,
) -> Starts:
    """What the setting `start_from` names; refused where a network would begin with what it is scored on.

    Args:
        start_from: a weights file; a model's name or folder; or the work folder of a training, of which each network
            takes the one that left out the same cases. "" for random weights.
        architecture: of this training's networks.
        splits: case ids left out in each fold.
        folds: those that are trained.
        kind: of the networks.

    Raises:
        InputError: another architecture, a model that has learned from cases that a fold leaves out, or a work folder
            of other networks or with other cases left out.
        ModelError: a model that is none of the kind, or cannot be read.
    """
    if not start_from:
        return Starts(None)
    path = Path(start_from)
    if not path.exists() and is_installed(start_from):
        path = find_model(start_from)
    if (path / MARKER).is_file():
        return _of_work_folder(path, architecture, splits, kind)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and not (folder / MODEL_FILE).is_file():
        _refuse_seen(f"network '{path}'", _seen_by(path), splits, folds)
        return Starts(path)
    model = load_model(folder)
    described = read_network(model, kind)
    if described.architecture != architecture:
        raise InputError(
            f"The model '{folder}' has another architecture than this training; set 'architecture' to that of its "
            "model.json, or start from another model."
        )
    _refuse_seen(f"model '{folder}'", set(model.training.get("cases", ())), splits, folds)
    return Starts(described.weights)


def _seen_by(weights: Path) -> set[str]:
    """Ids of the cases that a weights file has learned from, as far as a work folder around it says so."""
    marker = weights.parent.parent / MARKER
    name = weights.parent.name
    if not marker.is_file() or not (name == "final" or name.startswith("fold_")):
        return set()
    left_out = enumerate(read_json(marker).get("held_out", ()))
    return {case_id for fold, ids in left_out if name != f"fold_{fold}" for case_id in ids}


def _refuse_seen(what: str, seen: set[str], splits: Sequence[Sequence[str]], folds: Iterable[int]) -> None:
    """Raise InputError where a fold would be scored on cases that its network has begun with."""
    for fold in folds:
        known = sorted(seen & set(splits[fold]))
        if known:
            raise InputError(
                f"The {what} has learned from {', '.join(known)}, which fold {fold} leaves out to be scored. "
                "Start from the work folder of its training instead, where every fold has a network of its own."
            )


def _of_work_folder(path: Path, architecture: Architecture, splits: Sequence[Sequence[str]], kind: Published) -> Starts:
    made_of = read_json(path / MARKER)
    described = made_of.get("config", {}).get("architecture")
    if described is None:
        raise InputError(f"The work folder {path} holds no training of {kind.names[0]}; start from another one.")
    official = kind.architecture.official()
    named = isinstance(described, str)
    if (official.get(described) if named else kind.architecture.from_dict(described)) != architecture:
        raise InputError(f"The networks in the work folder {path} have another architecture than this training.")
    if made_of["held_out"] != as_json(splits):
        raise InputError(
            f"The training in the work folder {path} left out other cases in its folds than this one would; set "
            "held_out to the same."
        )
    return Starts(path)


# ---- networks -------------------------------------------------------------------------------------------------------


def set_aside(cases: Sequence[Case], *, share: float, seed: int, fold: int) -> list[str]:
    """Ids of the training cases that decide when to stop: never those that are scored afterwards.

    Args:
        cases: of the training patients of a fold.
        share: of these patients, at least one.
        seed: draws them.
        fold: number of the fold.

    Raises:
        InputError: where no patient would be left to learn from.
    """
    patients: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        patients.setdefault(case.patient or case.case_id, []).append(case.case_id)
    count = max(1, round(share * len(patients)))
    if count >= len(patients):
        raise InputError(
            f"There are only {len(patients)} patients to train with in fold {fold}, too few to set some aside for "
            "stopping early; set patience to 0."
        )
    chosen = np.random.default_rng([seed, fold]).permutation(sorted(patients))[:count]
    return sorted(case_id for patient in chosen for case_id in patients[str(patient)])


def cross_validate(
    folds: Sequence[int],
    train: Callable[[int | None, int], Fitted],
    score: Callable[[int, Weights], list[Score]],
    *,
    iterations: int,
    final: bool,
    progress: Progress,
) -> tuple[Weights, list[Score]]:
    """Train and score the network of every fold, then, where asked for, one of all cases.

    Args:
        folds: their numbers, in the order in which they are trained.
        train: fold, or None for all cases; iterations at most → the network.
        score: fold, weights → the scores of its left-out cases, of any kind.
        iterations: of each network.
        final: whether the network of all cases is trained, and then kept; else the first fold's is kept.
        progress: advanced for the iterations that the final network leaves out.

    Returns:
        The weights to keep, and all scores.
    """
    scores: list[Score] = []
    fitted: list[Fitted] = []
    for fold in folds:
        fitted.append(train(fold, iterations))
        scores += score(fold, fitted[-1].weights)
    kept = fitted[0]
    if final:
        # Nothing is left to decide when to stop, so it is trained for as long as was best in the cross-validation.
        needed = round(float(np.mean([network.iterations for network in fitted])))
        kept = train(None, needed)
        progress.advance(iterations - needed)
    return kept.weights, scores


def weights_path(work: Path, name: str) -> Path:
    """Where the weights of a network lie in the work folder, e.g. of "fold_0"."""
    return work / name / "weights.pt"


def fit_once(path: Path, fit: Callable[[], Fitted], *, iterations: int, progress: Progress) -> Fitted:
    """Train a network and keep its weights, or read them where that was done before."""
    if path.exists():
        state = load_checkpoint(path)
        progress.advance(iterations)
        return Fitted(state["model"], state["iterations"])
    fitted = fit()
    save_checkpoint({"model": fitted.weights, "iterations": fitted.iterations}, path)
    return fitted


def score_once(
    path: Path, score: Callable[[], list[CaseScore]], *, way: Sequence[Any], progress: Progress
) -> list[CaseScore]:
    """Score a fold and keep the result, or read it where that was done before.

    Args:
        path: where the scores are kept.
        score: does it.
        way: all that decides how it is done beside the network, for JSON; scores that were made otherwise do not count.
        progress: gets a line for each case.
    """
    known = read_json(path) if path.exists() else {}
    if isinstance(known, dict) and known.get("way") == as_json(way):
        return [CaseScore(**row) for row in known["scores"]]
    scores = score()
    for item in scores:
        found = ", ".join(f"{name} {value:.3f}" for name, value in item.dice.items() if value is not None)
        progress.log(f"fold {item.fold}: {item.case_id}: Dice {found}")
    write_json({"way": as_json(way), "scores": [asdict(item) for item in scores]}, path)
    return scores


def rounded(weights: Mapping[str, Tensor], *, half: bool) -> Weights:
    """The weights as they are stored, in half precision or whole."""
    return {name: value.half() if half and value.is_floating_point() else value for name, value in weights.items()}


def write_trained(template: Model, weights: Weights, file: str, *, progress: Progress) -> Model:
    """Write the folder of a trained model; it is whole or not there.

    Args:
        template: all that model.json says, without the weights.
        weights: as they are stored.
        file: name for the weights file.
        progress: may cancel before.

    Returns:
        The model in its folder.
    """
    progress.check()
    staging = template.folder.with_name(f".{template.folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_checkpoint(weights, staging / file)
    complete = write_model(replace(template, folder=staging), files=[file])
    if template.folder.is_dir() and not any(template.folder.iterdir()):
        template.folder.rmdir()
    staging.rename(template.folder)
    return replace(complete, folder=template.folder)


def training_record(
    template: Model, settings: Mapping[str, Any], *, cases: Iterable[str], synthetic: Iterable[str]
) -> dict[str, Any]:
    """The section "training" of model.json: what the recipe says, and what was done.

    Args:
        template: the model to be.
        settings: of the training, "seed" among them.
        cases: ids of those that the kept network has learned from.
        synthetic: ids of synthetic ones.
    """
    return {
        **template.training,
        "cases": sorted(cases),
        "synthetic_cases": list(synthetic),
        "seed": settings["seed"],
        "settings": as_json(settings),
        "date": date.today().isoformat(),
    }


def as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from a JSON file."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value
