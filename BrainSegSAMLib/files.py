"""Writing files whole or not at all, and hashing them.

Every result goes through `atomic_path`, so that a kill, a full disk or an error in the middle of writing never leaves a
partial file under a final name: what is there is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError, OutputError

PARTIAL_PREFIX = ".partial-"
"""How the names of files that are still being written begin; a killed process may leave one behind."""

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EACCES: "you have no permission to write there; choose another folder",
    errno.EPERM: "you have no permission to write there; choose another folder",
    errno.EROFS: "it lies on a read-only disk; choose another folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of its path is a file, not a folder; choose another folder",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
}


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary path beside `final` to write to; it takes the final name only when the block ends without an error.

    Args:
        final: where the finished file shall lie; its folder is made where it is missing.

    Yields:
        A path in the same folder that ends like `final` (".nii.gz" stays ".nii.gz"). Nothing exists there yet.

    Raises:
        OutputError: where the file cannot be written (permissions, full disk); the message names it and says why.
    """
    partial = final.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(4)}-{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(final)
    except OSError as error:
        raise OutputError(output_sentence(final, error)) from error
    finally:
        # Gone already after success; a disk that fails here must not hide the error that brought us here.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Fail before the work, not after it, where nothing can be written into a folder; it is made where missing.

    Raises:
        OutputError: as `atomic_path`.
    """
    probe = folder / f"{PARTIAL_PREFIX}{secrets.token_hex(4)}"
    with atomic_path(probe) as partial:
        partial.write_bytes(b"")
    probe.unlink(missing_ok=True)


def output_sentence(path: Path, error: OSError) -> str:
    """Why a file cannot be written, and what to do, as one sentence."""
    reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
    return f"{path} cannot be written: {reason}."


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file whole or not at all; raises `OutputError` as `atomic_path` does."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def json_text(data: Any) -> str:
    """What `write_json` writes: sorted keys, two spaces; NaN and infinity are refused.

    Raises:
        ValueError: where `data` holds a number that JSON does not know.
    """
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def cell_text(text: str) -> str:
    """Text for a CSV table that people open: an apostrophe stands before what a spreadsheet would take for a formula.

    A carriage return becomes a space, because Python's writer puts no quotation marks around it.

    Source: OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
    """
    shown = text.replace("\r", " ")
    return f"'{shown}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else shown


def write_json(data: Any, path: Path) -> None:
    """Write a JSON file whole or not at all, in UTF-8; see `json_text`.

    Raises:
        OutputError: as `atomic_path`.
        ValueError: as `json_text`.
    """
    write_text(json_text(data), path)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: where it is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise InputError(f"{path} is not a valid JSON file: {error}.") from error


def sha256_of(path: Path) -> str:
    """SHA-256 (64 hexadecimal digits) of a file, or of a folder: its files' names and contents, sorted by name.

    Raises:
        InputError: where something cannot be read.
    """
    try:
        if path.is_dir():
            digest = hashlib.sha256()
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                digest.update(f"{_sha256_of_file(file)}  {file.relative_to(path).as_posix()}\n".encode())
            return digest.hexdigest()
        return _sha256_of_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
