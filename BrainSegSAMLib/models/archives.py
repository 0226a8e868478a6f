"""Zip archives from anybody: looked through before anything is written, then only what is asked for is unpacked.

An archive may name files outside the folder it is unpacked into, hold links, or grow to any size. Each is refused.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import ModelError, OutputError
from ..files import output_sentence
from ..progress import Progress
from .schema import stays_inside

MAX_UNPACKED_BYTES = 32 * 2**30
"""More than any published nnU-Net model unpacks to; a larger archive is refused."""

_MAX_ENTRIES = 100_000
_CHUNK_BYTES = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)


def list_archive(path: Path) -> list[str]:
    """Names of the files in a zip archive (forward slashes), after all its entries were checked.

    Raises:
        ModelError: it is no zip file or is damaged, an entry would leave the target folder or is a link, or it would
            unpack to more than `MAX_UNPACKED_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (*_BROKEN, ValueError) as error:
        raise ModelError(f"'{path}' is not a zip file or is damaged ({error}); copy or download it again.") from error
    if len(entries) > _MAX_ENTRIES:
        raise ModelError(f"'{path}' is refused: it has {len(entries)} entries, more than any model needs.")
    for entry in entries:
        _check_entry(entry, path)
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED_BYTES:
        raise ModelError(
            f"'{path}' is refused: it would unpack to {total / 2**30:.0f} GiB; at most "
            f"{MAX_UNPACKED_BYTES / 2**30:.0f} GiB are allowed."
        )
    return [entry.filename for entry in entries if not entry.is_dir()]


def unpack(path: Path, names: Iterable[str], folder: Path, *, progress: Progress | None = None) -> None:
    """Unpack some files of an archive that `list_archive` has listed, with their paths, below `folder`.

    Args:
        path: the archive.
        names: as listed.
        folder: made where it is missing.
        progress: gets one stage in bytes; may cancel.

    Raises:
        ModelError: the archive is damaged or encrypted.
        OutputError: the disk is too small, or a file cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path) as archive:
            entries = [archive.getinfo(name) for name in names]
            total = sum(entry.file_size for entry in entries)
            free = shutil.disk_usage(folder).free
            if total > free:
                raise OutputError(
                    f"'{path}' cannot be unpacked in {folder}: it needs {total / 2**20:.0f} MiB, but the disk has only "
                    f"{free / 2**20:.0f} MiB free."
                )
            progress.stage(f"Unpacking {path.name}", total=total)
            for entry in entries:
                _check_entry(entry, path)
                target = folder.joinpath(*entry.filename.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile never gives more bytes than the entry states, and compares its CRC at the end.
                with archive.open(entry) as source, target.open("xb") as stream:
                    while chunk := source.read(_CHUNK_BYTES):
                        stream.write(chunk)
                        progress.advance(len(chunk))
    except OSError as error:
        raise OutputError(output_sentence(folder, error)) from error
    except _BROKEN as error:
        raise ModelError(f"'{path}' is damaged or encrypted ({error}); copy or download it again.") from error


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    if not stays_inside(entry.filename):
        raise ModelError(
            f"'{path}' is refused: its entry '{entry.filename}' would be written outside the target folder. "
            "Nothing was unpacked."
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ModelError(
            f"'{path}' is refused: its entry '{entry.filename}' is a link or device. Nothing was unpacked."
        )
