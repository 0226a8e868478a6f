"""A trained model on disk: one folder with a `model.json` and the files it lists, whatever the method.

The description is checked against `model.schema.json`, and the listed files against their sizes and hashes, before
anything is used. What `model.json` says is all that the panel, the command line and the methods need to know.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from ..files import sha256_of, write_json
from ..labels import LabelScheme
from .schema import check_described, read_described, stays_inside

FORMAT_VERSION = 1
MODEL_FILE = "model.json"
SCHEMA_NAME = "model.schema.json"
NOT_CLINICAL = "Research and teaching; not for clinical use."


@dataclass(frozen=True)
class WeightsFile:
    """One file that a prediction reads.

    Attributes:
        path: relative to the model folder, with forward slashes.
        sha256: of its bytes, in lower-case hexadecimal.
        size: in bytes.
    """

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, eq=False)
class Model:
    """What `model.json` says of a model.

    Attributes:
        folder: where it lies.
        name: short name by which it is chosen (lower-case letters, digits, and . _ - between them).
        title: name shown to users.
        method: key in the table of methods, e.g. "nnunet".
        modalities: canonical names in channel order.
        scheme: the regions that it segments.
        licence: of the weights; an SPDX identifier where there is one.
        settings: the method's own settings.
        preprocessing: "orientation" ("LPS" or "RAS": axes into which images are brought first; None: voxel order as
            stored), and what the method adds.
        weights: every file that a prediction reads.
        description: what it segments, in a few sentences.
        version: of this model.
        training: how it was trained (data, data_licence, cases, command, seed, settings, date, …).
        results: measured: title of a table → {"columns": [text], "rows": [[text, number or None]], "note": text}.
        citations: what to cite when it is used.
        demonstration: whether it is only a demonstration.
        intended_use: one sentence, shown wherever the model is offered.
    """

    folder: Path
    name: str
    title: str
    method: str
    modalities: tuple[str, ...]
    scheme: LabelScheme
    licence: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=lambda: {"orientation": None})
    weights: tuple[WeightsFile, ...] = ()
    description: str = ""
    version: str = "1.0"
    training: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    citations: tuple[str, ...] = ()
    demonstration: bool = False
    intended_use: str = NOT_CLINICAL

    @property
    def orientation(self) -> str | None:
        """Axes into which images are brought before prediction: "LPS", "RAS", or None for the voxel order as stored."""
        value: str | None = self.preprocessing.get("orientation")
        return value

    @property
    def sha256(self) -> str:
        """Hash of all that decides what the model predicts, for run records.

        SHA-256 of the compact, key-sorted JSON of method, modalities, regions, preprocessing, settings and weights
        (with their hashes); titles, licence and results do not enter.
        """
        described = self.as_dict()
        decisive = ("method", "modalities", "regions", "preprocessing", "settings", "weights")
        text = json.dumps({key: described[key] for key in decisive}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def path_of(self, relative: str) -> Path:
        """Full path of one of the files listed in `weights`."""
        return self.folder.joinpath(*relative.split("/"))

    def as_dict(self) -> dict[str, Any]:
        """The content of `model.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "version": self.version,
            "method": self.method,
            "modalities": list(self.modalities),
            "regions": self.scheme.as_list(),
            "preprocessing": dict(self.preprocessing),
            "settings": dict(self.settings),
            "weights": [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in self.weights],
            "training": dict(self.training),
            "results": dict(self.results),
            "licence": self.licence,
            "citations": list(self.citations),
            "demonstration": self.demonstration,
            "intended_use": self.intended_use,
        }


def check_name(name: str) -> str:
    """The name itself, if a model may be called so.

    Raises:
        ModelError: it has other characters than lower-case letters, digits, and single . _ - between them, or too many.
    """
    if len(name) > 64 or not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name):
        raise ModelError(
            f"A model cannot be called '{name[:80]}'; use at most 64 lower-case letters and digits, with single . _ - "
            "between them."
        )
    return name


def load_model(folder: Path | str, *, verify_hashes: bool = True) -> Model:
    """Read and check a model folder.

    Args:
        folder: with a `model.json`.
        verify_hashes: also compare the SHA-256 of every listed file; presence and size are always checked.

    Raises:
        ModelError: naming the file and the fault: no such folder, no or a broken `model.json`, a newer format, a listed
            file that is missing, cut short, changed, or outside the folder.
    """
    folder = Path(folder)
    description = folder / MODEL_FILE
    if not folder.is_dir():
        raise ModelError(f"There is no model folder '{folder}'.")
    if not description.is_file():
        advice = "Give a folder that holds one."
        if (folder / "plans.json").is_file() and (folder / "dataset.json").is_file():
            advice = "It looks like an nnU-Net folder: import it with 'brainsegsam models import'."
        raise ModelError(f"'{folder}' is not a model folder, because it has no {MODEL_FILE}. {advice}")
    model = _from_dict(read_described(description, SCHEMA_NAME), description)
    for file in model.weights:
        _check_file(model, file, verify_hashes=verify_hashes)
    return model


def check_described_model(description: Mapping[str, Any], path: Path) -> None:
    """Refuse now, before a long training, what `write_model` would refuse after it.

    Args:
        description: fields of a model.json, without those that training fills in.
        path: where they stand, for the message.

    Raises:
        ModelError: one sentence that names the file and the field.
    """
    weights = [{"path": "weights", "sha256": "0" * 64, "size": 0}]
    blank = Model(Path(), "", "", "", (), LabelScheme.plain({"none": 1}), "").as_dict()
    check_described({**blank, **description, "weights": weights}, SCHEMA_NAME, path)


def write_model(model: Model, *, files: Iterable[str] | None = None) -> Model:
    """Write `model.json` into `model.folder`, with sizes and hashes taken from the files as they lie there.

    Args:
        model: what to write; its `weights` are replaced. Change an existing model with `dataclasses.replace`.
        files: relative paths (forward slashes) of every file that a prediction reads; None: those of `model.weights`.

    Returns:
        The model with its new `weights`.

    Raises:
        ModelError: where a file is missing or the description breaks its schema.
        OutputError: where `model.json` cannot be written.
    """
    paths = [file.path for file in model.weights] if files is None else sorted(files)
    described = replace(model, weights=tuple(_measure(model.folder, path) for path in paths))
    target = model.folder / MODEL_FILE
    try:
        # Through JSON and back, so that what is checked is what will be read: tuples become lists.
        data = json.loads(json.dumps(described.as_dict(), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(f"'{target}' cannot be written, because a value in it does not fit JSON: {error}.") from error
    check_described(data, SCHEMA_NAME, target)
    checked = _from_dict(data, target)
    write_json(data, target)
    return checked


def _from_dict(data: Mapping[str, Any], path: Path) -> Model:
    _check_tables(data.get("results", {}), path)
    try:
        scheme = LabelScheme.from_list(data["regions"])
    except InputError as error:
        raise ModelError(f"'{path}': the field 'regions' is not valid: {error}") from error
    return Model(
        folder=path.parent,
        name=data["name"],
        title=data["title"],
        method=data["method"],
        modalities=tuple(data["modalities"]),
        scheme=scheme,
        licence=data["licence"],
        settings=data["settings"],
        preprocessing=data["preprocessing"],
        weights=tuple(WeightsFile(file["path"], file["sha256"], file["size"]) for file in data["weights"]),
        description=data.get("description", ""),
        version=data["version"],
        training=data.get("training", {}),
        results=data.get("results", {}),
        citations=tuple(data.get("citations", ())),
        demonstration=data["demonstration"],
        intended_use=data["intended_use"],
    )


def _check_tables(results: Mapping[str, Any], path: Path) -> None:
    for title, table in results.items():
        width = len(table["columns"])
        for index, row in enumerate(table["rows"]):
            if len(row) != width:
                raise ModelError(
                    f"'{path}': row {index} of the results '{title}' has {len(row)} cells for {width} columns."
                )


def _check_file(model: Model, file: WeightsFile, *, verify_hashes: bool) -> None:
    again = f"Install the model '{model.name}' again."
    path = _inside(model.folder, file.path)
    if not path.is_file():
        raise ModelError(f"The model '{model.name}' lacks its file '{path}'. {again}")
    size = path.stat().st_size
    if size != file.size:
        fault = "is cut short" if size < file.size else "has been changed"
        raise ModelError(f"'{path}' {fault}: it has {size} bytes instead of {file.size}. {again}")
    if verify_hashes and sha256_of(path) != file.sha256:
        raise ModelError(f"'{path}' has been changed: its SHA-256 is not the one in {MODEL_FILE}. {again}")


def _measure(folder: Path, relative: str) -> WeightsFile:
    path = _inside(folder, relative)
    if not path.is_file():
        raise ModelError(f"The model file '{path}' does not exist, so it cannot be listed in {MODEL_FILE}.")
    return WeightsFile(relative, sha256_of(path), path.stat().st_size)


def _inside(folder: Path, relative: str) -> Path:
    if not stays_inside(relative):
        raise ModelError(
            f"'{folder / MODEL_FILE}' lists the file '{relative}', which lies outside the model folder; it is refused."
        )
    return folder.joinpath(*relative.split("/"))
