"""The command `models`: what there is, what one of them is, and how to get, make or remove one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from .console import STYLES, parse_setting
from .errors import InputError, ModelError
from .methods.nnunet.importing import FROM_READER, Origin, import_nnunet, install_nnunet
from .methods.ssnet.composing import compose as compose_ssnet
from .methods.ssnet.tracker import TRACKERS
from .methods.yolo_medsam.composing import compose as compose_yolo_medsam
from .methods.yolo_medsam.segmenter import SEGMENTERS
from .models.catalogue import find_entry, find_model, installed_models, load_catalogue, models_folder, remove_model
from .models.published import SUFFIXES, import_checkpoint, install_checkpoint
from .models.store import Model, load_model
from .progress import Progress

_PUBLISHED = (TRACKERS, SEGMENTERS)
_ORIENTATIONS = {"reader": FROM_READER, "stored": None, "LPS": "LPS", "RAS": "RAS"}


def add_subcommands(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(dest="models_action", metavar="ACTION", required=True)
    actions.add_parser("list", help="models that are installed and those that can be downloaded")
    info = actions.add_parser("info", help="everything about one model")
    info.add_argument("name", help="name, or model folder")
    importing = actions.add_parser(
        "import", help="make a model of a trained nnU-Net v2 (results folder, zip), or of a checkpoint of SAM or SAM 2"
    )
    importing.add_argument(
        "source", type=Path,
        help="nnU-Net results folder, or zip made by nnU-Net's export; or a checkpoint (.pt, .pth, .safetensors) of "
        "SAM, MedSAM, SAM 2, SAM 2.1 or MedSAM2",
    )
    importing.add_argument("--name", required=True, help="name of the new model: lower-case letters, digits, . _ -")
    importing.add_argument("--title", default="", help="name shown to users")
    importing.add_argument("--licence", default="not stated", help="licence of the weights")
    importing.add_argument("--cite", action="append", default=[], help="what to cite; may be given several times")
    importing.add_argument("--modalities", nargs="+", help="names of the channels, in order")
    importing.add_argument(
        "--orientation",
        choices=list(_ORIENTATIONS),
        default="reader",
        help="axes of the training images; 'reader': as its plans tell, 'stored': voxel order as stored",
    )
    importing.add_argument("--configuration", help="which one, where the folder holds several, e.g. 3d_fullres")
    importing.add_argument("--folds", nargs="+", help="folds to take; all where left out")
    importing.add_argument("--checkpoint", default="checkpoint_final.pth", help="file name of the checkpoints")
    importing.add_argument(
        "--network", choices=[name for kind in _PUBLISHED for name in kind.architecture.official()],
        help="of a checkpoint: which network it is, or was fine-tuned from; recognised where left out, but MedSAM and "
        "MedSAM2 by the file's name alone",
    )
    importing.add_argument(
        "--image-size", type=int, metavar="PIXELS",
        help="of a SAM 2 checkpoint: side of the network's input; 1024 where left out, 512 for MedSAM2",
    )
    importing.add_argument("--trust", action="store_true", help="load checkpoints that need arbitrary unpickling")
    composing = actions.add_parser(
        "compose",
        help="make one model of two: of one that segments and a tracker (SSNet), or of what finds boxes and a "
        "segmenter (yolo_medsam)",
    )
    first = composing.add_mutually_exclusive_group(required=True)
    first.add_argument("--prior", help="model that segments, whose lesions are tracked or boxed: name, or model folder")
    first.add_argument("--detector", help="model that finds boxes: name, or model folder")
    second = composing.add_mutually_exclusive_group(required=True)
    second.add_argument("--tracker", help="model that tracks the prior's lesions: name, or model folder")
    second.add_argument("--segmenter", help="model that draws what is in the boxes: name, or model folder")
    composing.add_argument("--name", required=True, help="name of the new model: lower-case letters, digits, . _ -")
    composing.add_argument("--title", default="", help="name shown to users")
    composing.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the method, e.g. answer=ensemble of SSNet or confidence=0.4 of boxes; the value is JSON",
    )
    download = actions.add_parser("download", help="download a model of the catalogue")
    download.add_argument("name")
    for parser_with_work in (importing, download):
        parser_with_work.add_argument("--progress", choices=STYLES, default="auto", help="how progress is shown")
    remove = actions.add_parser("remove", help="delete a model that was downloaded, imported or trained")
    remove.add_argument("name")


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterable[str]:
    """Do what was asked; gives the lines to show.

    Raises:
        ModelError, InputError, DownloadError, OutputError, Cancelled: as the functions of `models`,
            `methods.nnunet.importing` and of the `composing` of methods.
    """
    action: str = options.models_action
    if action == "list":
        return _list()
    if action == "info":
        return describe_model(load_model(find_model(options.name)))
    if action == "import":
        return _import(options, progress)
    if action == "compose":
        return _compose(options)
    if action == "download":
        return [f"Installed in {_download(options.name, progress).folder}"]
    return [f"Removed {remove_model(options.name)}"]


def describe_model(model: Model) -> list[str]:
    """All that a user should know of a model, as lines."""
    lines = [
        f"{model.title} ({model.name}, version {model.version})",
        *([model.description] if model.description else []),
        f"Use          {model.intended_use}",
        f"Method       {model.method}",
        f"Needs        {', '.join(model.modalities)}",
        f"Gives        {', '.join(model.scheme.names)}",
        f"Licence      {model.licence}",
        f"Folder       {model.folder} ({sum(file.size for file in model.weights) / 1e6:.1f} MB of weights)",
        f"SHA-256      {model.sha256}",
    ]
    lines += [f"Cite         {citation}" for citation in model.citations]
    for title, table in model.results.items():
        lines += ["", title, *_table([table["columns"], *table["rows"]])]
        if table.get("note"):
            lines.append(table["note"])
    return lines


def _list() -> list[str]:
    installed = installed_models()
    entries = {entry.name: entry for entry in load_catalogue()}
    rows = [["NAME", "STATE", "METHOD", "NEEDS", "TITLE"]]
    for name, folder in installed.items():
        try:
            model = load_model(folder, verify_hashes=False)
        except ModelError as error:
            rows.append([name, "broken", "", "", str(error)])
            continue
        state = "bundled" if name in entries and entries[name].folder is not None else "installed"
        title = f"{model.title}: {model.intended_use}" if model.demonstration else model.title
        rows.append([name, state, model.method, "+".join(model.modalities), title])
    for entry in entries.values():
        if entry.name not in installed:
            state = "download" if entry.file is not None else "missing"
            rows.append([entry.name, state, entry.method, "+".join(entry.modalities), entry.title])
    return [*_table(rows), "", f"Your own models lie in {models_folder()}"]


def _import(options: argparse.Namespace, progress: Progress) -> list[str]:
    destination = models_folder() / options.name
    if options.source.suffix.lower() in SUFFIXES:
        return describe_model(
            import_checkpoint(
                options.source,
                destination,
                kinds=_PUBLISHED,
                network=options.network,
                image_size=options.image_size,
                modalities=options.modalities,
                title=options.title,
                licence=options.licence,
                citations=options.cite,
                trust=options.trust,
                progress=progress,
            )
        )
    model = import_nnunet(
        options.source,
        destination,
        configuration=options.configuration,
        modalities=options.modalities,
        orientation=_ORIENTATIONS[options.orientation],
        folds=options.folds,
        checkpoint=options.checkpoint,
        origin=Origin(title=options.title, licence=options.licence, citations=tuple(options.cite)),
        trust=options.trust,
        progress=progress,
    )
    return describe_model(model)


def _compose(options: argparse.Namespace) -> list[str]:
    if options.detector and options.tracker:
        raise InputError("A tracker follows the lesions of a prior, so give --prior in place of --detector.")
    compose = compose_ssnet if options.tracker else compose_yolo_medsam
    model = compose(
        find_model(options.prior or options.detector),
        find_model(options.tracker or options.segmenter),
        models_folder() / options.name,
        title=options.title,
        settings=dict(parse_setting(text) for text in options.set),
    )
    return describe_model(model)


def _download(name: str, progress: Progress) -> Model:
    entry = find_entry(name)
    if entry.file is None:
        raise ModelError(f"The model '{name}' comes with BrainSegSAM; there is nothing to download.")
    if entry.method in {kind.method for kind in _PUBLISHED}:
        return install_checkpoint(entry, kinds=_PUBLISHED, progress=progress)
    return install_nnunet(entry, progress=progress)


def _table(rows: Iterable[Iterable[object]]) -> list[str]:
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
