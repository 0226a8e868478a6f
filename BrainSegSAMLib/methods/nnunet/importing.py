"""Makes a model folder of a trained nnU-Net v2 by anybody: a results folder, or the zip that nnU-Net exports.

The model folder stays a valid nnU-Net trained-model folder, so nnU-Net's own commands work on it. Checkpoints are
stripped of what only training needs (the optimiser's state, the log) and saved again without anything that would need
arbitrary unpickling; weights and predictions are the same.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends.checkpoints import load_checkpoint, save_checkpoint
from ...backends.nnunet import CHECKPOINT_NAME
from ...errors import ModelError, OutputError
from ...files import output_sentence
from ...models.archives import list_archive, unpack
from ...models.catalogue import Entry, discard_download, download_model, models_folder
from ...models.store import Model, check_name, load_model, write_model
from ...progress import Progress
from .description import channel_modalities, label_scheme, read_object, training_orientation

FROM_READER = "from reader"
"""Orientation that follows from the reader named in the plans."""

_PLANS, _DATASET = "plans.json", "dataset.json"
_KEPT = ("trainer_name", "inference_allowed_mirroring_axes", "current_epoch")


@dataclass(frozen=True)
class _Wish:
    """What is to be imported, and how; see `import_nnunet`."""

    source: Path
    configuration: str | None
    modalities: Sequence[str] | None
    orientation: str | None
    folds: Sequence[str] | None
    checkpoint: str
    origin: Origin
    trust: bool


@dataclass(frozen=True)
class Origin:
    """What a model's files do not say of themselves.

    Attributes:
        title: shown to users; the dataset's name where empty.
        description: what it segments.
        licence: of the weights.
        citations: what to cite.
        demonstration: whether it is only a demonstration.
    """

    title: str = ""
    description: str = ""
    licence: str = "not stated"
    citations: tuple[str, ...] = ()
    demonstration: bool = False


def import_nnunet(
    source: Path,
    destination: Path,
    *,
    configuration: str | None = None,
    modalities: Sequence[str] | None = None,
    orientation: str | None = FROM_READER,
    folds: Sequence[str] | None = None,
    checkpoint: str = CHECKPOINT_NAME,
    origin: Origin | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Import a trained nnU-Net v2 model into a new model folder.

    Args:
        source: a trained-model folder (`dataset.json`, `plans.json`, `fold_*`), a folder with one such at most two
            levels below, or a zip of either, as `nnUNetv2_export_model_to_zip` writes it.
        destination: the model folder to make; its last part becomes the model's name.
        configuration: which one, where there are several: "3d_fullres", or the trained-model folder's name.
        modalities: names of the channels in order; from `dataset.json` where None.
        orientation: axes of the training images: "LPS", "RAS", None (voxel order as stored), or `FROM_READER`.
        folds: names ("0", …, "all") of the folds to take; where None all numbered ones, or else "all".
        checkpoint: file name of the checkpoints to take.
        origin: title, licence, citations.
        trust: allow checkpoints that need arbitrary unpickling.
        progress: gets the stages; may cancel.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: no trained nnU-Net v2 in `source`, several, an incomplete or unreadable one, one that cannot be
            used, a zip entry that leaves its folder, or a destination that exists.
        OutputError: where files cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    source, destination = Path(source), Path(destination)
    check_name(destination.name)
    if destination.exists():
        raise ModelError(f"There is a model at '{destination}' already; remove it first or choose another name.")
    if not source.exists():
        raise ModelError(f"'{source}' does not exist; give a trained nnU-Net folder or its exported zip.")
    wish = _Wish(source, configuration, modalities, orientation, folds, checkpoint, origin or Origin(), trust)
    with _staging(destination) as staging:
        made = staging / destination.name
        trained, chosen = _trained_folder(wish, staging / ".unpacked", progress)
        _make(wish, trained, chosen, made, progress)
        made.rename(destination)
    return load_model(destination, verify_hashes=False)


def install_nnunet(
    entry: Entry, *, models_dir: Path | None = None, trust: bool = False, progress: Progress | None = None
) -> Model:
    """Download a model of the catalogue and import it under its name; the downloaded file is deleted at the end.

    Raises:
        ModelError, DownloadError, OutputError, Cancelled: as `download_model` and `import_nnunet`.
    """
    progress = progress or Progress()
    destination = (models_dir or models_folder()) / entry.name
    if destination.exists():
        raise ModelError(f"The model '{entry.name}' is installed already in '{destination}'.")
    archive = download_model(entry, models_dir=models_dir, progress=progress.part("download", until=0.8))
    origin = Origin(entry.title, entry.notes, entry.licence, entry.citations, entry.demonstration)
    model = import_nnunet(
        archive,
        destination,
        modalities=entry.modalities,
        origin=origin,
        trust=trust,
        progress=progress.part("import", until=1.0),
    )
    discard_download(entry, models_dir=models_dir)
    return model


# ---- finding the trained model ------------------------------------------------------------------------------------


def _trained_folder(wish: _Wish, unpacked: Path, progress: Progress) -> tuple[Path, list[str]]:
    """The trained-model folder in the source and its chosen folds; of an archive, only these are unpacked."""
    source = wish.source
    if source.is_dir():
        levels = ("*", "*/*", "*/*/*", "*/*/*/*")
        names = [path.relative_to(source).as_posix() for level in levels for path in source.glob(level)]
    else:
        names = list_archive(source)
    root = _choose(_roots(names), wish.configuration, source)
    inside = {name.removeprefix(root): name for name in names if name.startswith(root)}
    folds = _chosen_folds(list(inside), wish.folds, wish.checkpoint, source)
    if source.is_dir():
        return source / root, folds
    needed = [_PLANS, _DATASET, *(f"fold_{fold}/{wish.checkpoint}" for fold in folds)]
    unpack(source, [inside[name] for name in needed], unpacked, progress=progress)
    return unpacked / root, folds


def _roots(names: Iterable[str]) -> list[str]:
    """Folders (relative, "" or with a slash at the end) that hold both of nnU-Net's JSON files."""
    present = set(names)
    roots = [name.removesuffix(_PLANS) for name in present if name.split("/")[-1] == _PLANS]
    return sorted(root for root in roots if root + _DATASET in present)


def _choose(roots: list[str], configuration: str | None, source: Path) -> str:
    if not roots:
        raise ModelError(
            f"'{source}' holds no trained nnU-Net v2: there is no folder with {_DATASET}, {_PLANS} and "
            f"fold_*/{CHECKPOINT_NAME}. (Models of nnU-Net v1, which have plans.pkl, cannot be used.)"
        )
    listed = ", ".join(f"'{root.rstrip('/') or '.'}'" for root in roots)
    if configuration is not None:
        chosen = configuration.rstrip("/") + "/"
        roots = [r for r in roots if chosen in (r, r.rstrip("/").split("/")[-1] + "/", r.split("__")[-1])]
        if not roots:
            raise ModelError(f"'{source}' holds no trained model '{configuration}'; it holds: {listed}.")
    if len(roots) > 1:
        raise ModelError(
            f"'{source}' holds several trained models: {listed}. Choose one with --configuration (the last part of its "
            "name, or the whole name)."
        )
    return roots[0]


def _chosen_folds(names: list[str], folds: Sequence[str] | None, checkpoint: str, source: Path) -> list[str]:
    """Which folds to take, from the names of a trained-model folder's files (relative to it)."""
    parts = [match.groups() for name in names if (match := re.fullmatch(r"fold_([^/]+)/([^/]+\.pth)", name))]
    there = sorted(fold for fold, file in parts if file == checkpoint)
    if not there:
        others = sorted({file for _, file in parts})
        advice = f" It has {', '.join(others)}: choose one with --checkpoint." if others else ""
        raise ModelError(
            f"'{source}' has no fold_*/{checkpoint}: its training did not finish or was not copied.{advice}"
        )
    if folds is None:
        return [fold for fold in there if fold != "all"] or there
    absent = [fold for fold in folds if fold not in there]
    if absent or not folds:
        raise ModelError(f"'{source}' has no fold {', '.join(absent)} with {checkpoint}; it has: {', '.join(there)}.")
    return list(folds)


# ---- making the model folder --------------------------------------------------------------------------------------


def _make(wish: _Wish, trained: Path, chosen: list[str], made: Path, progress: Progress) -> None:
    """Fill the model folder `made` from the chosen folds of a trained-model folder."""
    dataset, plans = read_object(trained / _DATASET), read_object(trained / _PLANS)
    modalities = channel_modalities(dataset, wish.modalities, trained / _DATASET)
    scheme = label_scheme(dataset, trained / _DATASET)
    progress.stage("Importing the checkpoints", total=len(chosen))
    configurations = set()
    for fold in chosen:
        path = trained / f"fold_{fold}" / wish.checkpoint
        stripped = _stripped(load_checkpoint(path, trust=wish.trust), path)
        configurations.add(stripped["init_args"]["configuration"])
        save_checkpoint(stripped, made / f"fold_{fold}" / CHECKPOINT_NAME)
        progress.advance()
    configuration = _one_configuration(configurations, plans, trained)
    for name in (_DATASET, _PLANS):  # byte for byte: in dataset.json the order of the labels has a meaning
        shutil.copyfile(trained / name, made / name)
    orientation, note = wish.orientation, "Orientation as given at import."
    if orientation == FROM_READER:
        orientation, note = training_orientation(plans)
    data = str(plans.get("dataset_name") or "not stated")
    model = Model(
        folder=made,
        name=made.name,
        title=wish.origin.title or (data if data != "not stated" else made.name),
        method="nnunet",
        modalities=modalities,
        scheme=scheme,
        licence=wish.origin.licence,
        settings={"folds": chosen, "mirroring": True, "tile_step_size": 0.5},
        preprocessing={"orientation": orientation, "note": note},
        description=wish.origin.description,
        training={
            "data": data,
            "settings": {
                "imported_from": wish.source.name,
                "checkpoint": wish.checkpoint,
                "configuration": configuration,
                "trainer": stripped["trainer_name"],
                "plans": plans.get("plans_name"),
            },
        },
        citations=wish.origin.citations,
        demonstration=wish.origin.demonstration,
    )
    write_model(model, files=[_DATASET, _PLANS, *(f"fold_{fold}/{CHECKPOINT_NAME}" for fold in chosen)])


def _stripped(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What nnU-Net's prediction reads of a checkpoint.

    Raises:
        ModelError: where it is not one of nnU-Net v2.
    """
    import torch

    weights, arguments = checkpoint.get("network_weights"), checkpoint.get("init_args")
    if not isinstance(weights, Mapping) or not isinstance(arguments, Mapping) or "trainer_name" not in checkpoint:
        held = ", ".join(str(key) for key in list(checkpoint)[:5])
        raise ModelError(f"'{path}' is not a checkpoint of nnU-Net v2, but of another method: it holds {held}.")
    if not all(isinstance(value, torch.Tensor) for value in weights.values()) or "configuration" not in arguments:
        raise ModelError(f"'{path}' is not a checkpoint of nnU-Net v2: its weights or settings are of another kind.")
    fold = arguments.get("fold", 0)
    # A tensor may be a view into a large one, so each is copied; but nnU-Net's networks list one weight under up to
    # three names, and copied once it keeps the file a third as large.
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    kept = {}
    for name, value in weights.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if place not in copies:
            copies[place] = value.detach().clone()
        kept[str(name)] = copies[place]
    return {
        "network_weights": kept,
        "init_args": {
            "configuration": str(arguments["configuration"]),
            "fold": fold if isinstance(fold, (int, str)) else str(fold),
        },
        **{key: _plain(checkpoint[key]) for key in _KEPT if key in checkpoint},
    }


def _plain(value: Any) -> Any:
    """Numbers, text and tuples of them without NumPy's types."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value.item() if hasattr(value, "item") else value


def _one_configuration(configurations: set[str], plans: Mapping[str, Any], trained: Path) -> str:
    if len(configurations) > 1:
        listed = ", ".join(sorted(configurations))
        raise ModelError(f"The folds in '{trained}' are of different configurations: {listed}.")
    configuration = configurations.pop()
    planned = plans.get("configurations")
    if not isinstance(planned, Mapping) or configuration not in planned:
        raise ModelError(
            f"'{trained / _PLANS}' does not describe the configuration '{configuration}' of the checkpoints; the "
            "folder mixes files of different trainings."
        )
    if "cascade" in configuration or planned[configuration].get("previous_stage"):
        raise ModelError(f"'{trained}' is the second stage of a cascade and cannot be used alone; import another one.")
    return configuration


@contextlib.contextmanager
def _staging(destination: Path) -> Iterator[Path]:
    """A hidden folder beside `destination`, so that a rename puts the finished model into place; always removed."""
    staging = destination.parent / f".importing-{secrets.token_hex(4)}"
    try:
        staging.mkdir(parents=True)
        yield staging
    except OSError as error:
        raise OutputError(output_sentence(destination, error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
