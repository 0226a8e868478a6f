"""Checks of the JSON files that describe models, with one sentence per fault.

A `model.json` may come from anybody, so nothing in it is used before its schema, and the paths in it, were checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ModelError
from ..json_schema import first_fault

_MAX_BYTES = 16 * 2**20  # such files hold kilobytes; a larger one is something else
_valid: set[tuple[str, bytes]] = set()
"""Schema and content of what was found valid before: an interface reads the same files each time that it is opened."""


def read_described(path: Path, schema_name: str) -> dict[str, Any]:
    """Read a JSON object from `path` and check it.

    Args:
        path: the JSON file.
        schema_name: file name of the schema (draft 2020-12) beside this module.

    Raises:
        ModelError: where the file cannot be read, is no JSON object, is of a newer format, or breaks its schema.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"'{path}' is larger than {_MAX_BYTES // 2**20} MiB and so is not a model description.")
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' is not valid JSON ({error}); restore it or install the model again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"'{path}' must hold one JSON object, but holds a {type(data).__name__}.")
    known = (schema_name, hashlib.sha256(text.encode()).digest())
    if known not in _valid:
        check_described(data, schema_name, path)
        _valid.add(known)
    return data


def check_described(data: Mapping[str, Any], schema_name: str, path: Path) -> None:
    """Check `data` against a schema beside this module; `path` is named in messages.

    Raises:
        ModelError: one sentence that names the file and the field.
    """
    schema = json.loads((Path(__file__).parent / schema_name).read_text(encoding="utf-8"))
    _check_format_version(data, schema, path)
    if fault := first_fault(data, schema):
        raise ModelError(f"'{path}': {fault}")


def stays_inside(relative: str) -> bool:
    """Whether a path from a file or archive (forward slashes) names something below its folder, on any system."""
    if not relative or "\\" in relative or ":" in relative or "\0" in relative:
        return False
    path = PurePosixPath(relative)
    return not path.is_absolute() and ".." not in path.parts and path.parts != ()


def _check_format_version(data: Mapping[str, Any], schema: Mapping[str, Any], path: Path) -> None:
    known = schema["properties"]["format_version"]["const"]
    version = data.get("format_version")
    if isinstance(version, int) and version > known:
        raise ModelError(
            f"'{path}' has format version {version}, but this BrainSegSAM reads versions up to {known}; "
            "update BrainSegSAM."
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
