"""Model folders that hold other models whole: each part is a model of its own in a folder named after its role."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ModelError, OutputError
from ..files import output_sentence
from .store import MODEL_FILE, Model, load_model, write_model


def write_composed(made: Model, parts: Mapping[str, Model], destination: Path) -> Model:
    """Write a model that is composed of others.

    Args:
        made: its description, without folder and weights.
        parts: role, which is also the name of the part's folder → the part.
        destination: folder of the new model; not there, or empty.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: where there is a model at `destination` already.
        OutputError: where files cannot be written.
    """
    check_free(destination)
    # Beside its place first: a model folder is whole or not there.
    staging = destination.parent / f".composing-{secrets.token_hex(4)}"
    try:
        for role, part in parts.items():
            _copy(part, staging / role)
        files = [f"{role}/{path}" for role, part in parts.items() for path in _files_of(part)]
        write_model(replace(made, folder=staging), files=files)
        if destination.is_dir():
            destination.rmdir()
        staging.rename(destination)
    except OSError as error:
        raise OutputError(output_sentence(destination, error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_model(destination, verify_hashes=False)


def check_free(destination: Path) -> None:
    """Refuse a place for a model where something lies.

    Raises:
        ModelError: where a file or a folder that is not empty lies at `destination`.
    """
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise ModelError(f"There is a model at '{destination}' already; remove it first or choose another name.")


def origins(parts: Mapping[str, Model]) -> dict[str, Any]:
    """What a composed model is made of, for the section "training" of its `model.json`."""
    return {
        "composed_of": {
            role: {"name": part.name, "version": part.version, "sha256": part.sha256} for role, part in parts.items()
        }
    }


def _files_of(part: Model) -> tuple[str, ...]:
    return (MODEL_FILE, *(file.path for file in part.weights))


def _copy(part: Model, folder: Path) -> None:
    for path in _files_of(part):
        target = folder.joinpath(*path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part.path_of(path), target)
