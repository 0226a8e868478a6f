"""Which models there are: those that ship, those that can be downloaded, and those that the user imported or trained.

`catalogue.json` lists the first two. The user's own lie, one folder each, in the models folder of their account.
"""

from __future__ import annotations

import difflib
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, OutputError
from ..files import output_sentence
from ..progress import Progress
from ..resources import resource_path
from .download import download_file
from .schema import read_described, stays_inside
from .store import MODEL_FILE

SCHEMA_NAME = "catalogue.schema.json"
FOLDER_VARIABLE = "BRAINSEGSAM_MODELS"
_DOWNLOADS = ".downloads"  # no model name begins with a dot


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        url: http or https.
        filename: name under which it is kept.
        size: in bytes, or None where not published.
        sha256: lower-case hexadecimal, or None where not published.
    """

    url: str
    filename: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        name: short name by which it is chosen.
        title: name shown to users.
        method: key in the table of methods.
        kind: "bundled" or "download".
        folder: where a bundled model lies; None for a download.
        file: what is downloaded; None for a bundled model.
        modalities: canonical names in channel order.
        licence: of the weights.
        citations: what to cite when it is used.
        demonstration: whether it is only a demonstration.
        notes: what a user should know before choosing it.
    """

    name: str
    title: str
    method: str
    kind: str
    folder: Path | None
    file: RemoteFile | None
    modalities: tuple[str, ...]
    licence: str
    citations: tuple[str, ...]
    demonstration: bool
    notes: str


def load_catalogue(path: Path | None = None) -> tuple[Entry, ...]:
    """Read a catalogue; the one that ships where `path` is None.

    Raises:
        ModelError: the file is missing or breaks its schema, a name occurs twice, or a path leaves the file's folder.
    """
    path = path or resource_path("Models", "catalogue.json")
    entries = tuple(_entry(data, path) for data in read_described(path, SCHEMA_NAME)["models"])
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"'{path}' lists '{twice[0]}' twice; names must differ.")
    return entries


def models_folder() -> Path:
    """Where the user's models lie: `BRAINSEGSAM_MODELS`, or the account's folder for application data."""
    override = os.environ.get(FOLDER_VARIABLE)
    if override:
        return Path(override).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = home / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return data / "BrainSegSAM" / "models"


def installed_models(*, catalogue: tuple[Entry, ...] | None = None, models_dir: Path | None = None) -> dict[str, Path]:
    """Every model that can be used now: name → folder, bundled ones first, then the user's by name."""
    entries = load_catalogue() if catalogue is None else catalogue
    found = {entry.name: entry.folder for entry in entries if entry.folder and (entry.folder / MODEL_FILE).is_file()}
    folder = models_dir or models_folder()
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(".") and (path / MODEL_FILE).is_file():
                found.setdefault(path.name, path)
    return found


def is_installed(name: str, *, catalogue: tuple[Entry, ...] | None = None, models_dir: Path | None = None) -> bool:
    """Whether the model of that name can be used now."""
    return name in installed_models(catalogue=catalogue, models_dir=models_dir)


def find_model(
    name_or_path: str | Path,
    *,
    catalogue: tuple[Entry, ...] | None = None,
    models_dir: Path | None = None,
) -> Path:
    """Folder of a model, given its name or its path; a name that is installed wins over a folder of that name here.

    Raises:
        ModelError: no such model; the message lists those that there are, or says how to get this one.
    """
    entries = load_catalogue() if catalogue is None else catalogue
    installed = installed_models(catalogue=entries, models_dir=models_dir)
    name = str(name_or_path)
    if name in installed:
        return installed[name]
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    for entry in entries:
        if entry.name == name:
            raise ModelError(_how_to_get(entry))
    known = [*installed, *(entry.name for entry in entries if entry.name not in installed)]
    raise ModelError(f"There is no model '{name}', neither by name nor as a folder. {_known(name, known)}")


def find_entry(name: str, *, catalogue: tuple[Entry, ...] | None = None) -> Entry:
    """The catalogue's entry of that name.

    Raises:
        ModelError: there is none; the message lists those that there are.
    """
    entries = load_catalogue() if catalogue is None else catalogue
    for entry in entries:
        if entry.name == name:
            return entry
    raise ModelError(f"The catalogue has no model '{name}'. {_known(name, [entry.name for entry in entries])}")


def download_path(entry: Entry, *, models_dir: Path | None = None) -> Path:
    """Where the published file of a model is kept until it is imported; a user may put it there by hand.

    Raises:
        ModelError: the model is bundled, so there is nothing to download.
    """
    if entry.file is None:
        raise ModelError(f"The model '{entry.name}' comes with BrainSegSAM; there is nothing to download.")
    return (models_dir or models_folder()) / _DOWNLOADS / entry.name / entry.file.filename


def download_model(entry: Entry, *, models_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch the published file of a model, checked against what is published of it.

    The file is what its makers publish; the method's importer makes a model folder of it.

    Returns:
        Path of the file.

    Raises:
        ModelError: the model is bundled.
        DownloadError, OutputError, Cancelled: as `download_file`.
    """
    path = download_path(entry, models_dir=models_dir)
    assert entry.file is not None  # download_path has refused bundled models
    return download_file(entry.file.url, path, size=entry.file.size, sha256=entry.file.sha256, progress=progress)


def discard_download(entry: Entry, *, models_dir: Path | None = None) -> None:
    """Remove what `download_model` keeps of a model, finished or not."""
    _remove_folder(download_path(entry, models_dir=models_dir).parent)


def remove_model(name: str, *, catalogue: tuple[Entry, ...] | None = None, models_dir: Path | None = None) -> Path:
    """Delete a model from the user's models folder, with what a download of it left behind.

    Returns:
        The folder that was deleted.

    Raises:
        ModelError: the model is bundled, or not installed.
        OutputError: it cannot be deleted.
    """
    entries = load_catalogue() if catalogue is None else catalogue
    folder = models_dir or models_folder()
    if any(entry.name == name and entry.folder is not None for entry in entries):
        raise ModelError(f"The model '{name}' comes with BrainSegSAM and cannot be removed.")
    installed = installed_models(catalogue=entries, models_dir=folder)
    if name not in installed:
        own = [known for known, path in installed.items() if path.parent == folder]
        raise ModelError(f"The model '{name}' is not installed in '{folder}'; there are: {', '.join(own) or 'none'}.")
    _remove_folder(installed[name])
    _remove_folder(folder / _DOWNLOADS / name)
    return installed[name]


def _entry(data: dict[str, Any], path: Path) -> Entry:
    folder = None
    if "path" in data:
        if not stays_inside(data["path"]):
            raise ModelError(f"'{path}': the path '{data['path']}' of '{data['name']}' leaves the catalogue's folder.")
        folder = path.parent.joinpath(*data["path"].split("/"))
    file = data.get("file")
    return Entry(
        name=data["name"],
        title=data["title"],
        method=data["method"],
        kind=data["kind"],
        folder=folder,
        file=RemoteFile(file["url"], file["filename"], file["size"], file["sha256"]) if file else None,
        modalities=tuple(data["modalities"]),
        licence=data["licence"],
        citations=tuple(data["citations"]),
        demonstration=data["demonstration"],
        notes=data.get("notes", ""),
    )


def _known(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"Did you mean '{close[0]}'? " if close else ""
    return f"{meant}Known models: {', '.join(known) or 'none'}."


def _how_to_get(entry: Entry) -> str:
    if entry.folder is not None:
        return (
            f"The model '{entry.name}' should come with BrainSegSAM, but '{entry.folder}' has no {MODEL_FILE}; "
            "this installation is incomplete: install it again, or train the model as the README says."
        )
    return f"The model '{entry.name}' is not installed yet; get it with 'brainsegsam models download {entry.name}'."


def _remove_folder(folder: Path) -> None:
    """Delete a folder so that it is gone from its place at once, even if deleting is interrupted."""
    if not folder.exists():
        return
    doomed = folder.with_name(f".removed-{secrets.token_hex(4)}-{folder.name}")
    try:
        folder.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise OutputError(output_sentence(folder, error).replace("written", "deleted")) from error
