"""Folders behind a URL: any that fsspec knows (s3://bucket/cases, sftp://host/data, ftp://…, gs://…).

Cases are copied to this machine when they are worked on and no longer kept than that; results are copied from it, each
file whole or not at all. Programs that read volumes want files, so nothing is read through the network piece by piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from .errors import DependencyError, InputError, OutputError
from .files import PARTIAL_PREFIX, read_json

_URL: Final = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]+)://(?P<credentials>[^/@]*@)?(?P<rest>.+)")


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file.

    Attributes:
        size: bytes.
        state: a text that changes when the file does.
    """

    size: int
    state: str


@dataclass(frozen=True)
class Remote:
    """A folder behind a URL.

    Attributes:
        url: as the user wrote it; may hold a user's name and password, so it is not shown: `str()` leaves them out.
    """

    url: str

    def __str__(self) -> str:
        match = _URL.fullmatch(self.url)
        return f"{match['protocol']}://{match['rest']}" if match else self.url

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def listing(self, *, may_be_missing: bool = False) -> dict[str, RemoteFile]:
        """The files below, by relative name; those whose name, or whose folder's, begins with a dot are left out.

        Raises:
            InputError: where the folder cannot be listed, or there is none.
        """
        with self._opened(self._reading) as (system, root):
            found = system.find(root, detail=True) if system.exists(root) else {}
            if not found and not may_be_missing:
                raise FileNotFoundError(root)
            names = {_below(path, root): (path, info) for path, info in found.items() if info["type"] == "file"}
            return {
                name: RemoteFile(int(info["size"] or 0), str(system.checksum(path)))
                for name, (path, info) in names.items()
                if _is_visible(name)
            }

    def fetch(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Copy files to this machine.

        Args:
            files: relative name, of a file or of a folder with files → where to.

        Returns:
            State of each, as in `listing`; of a folder one text for all its files.

        Raises:
            InputError: where one cannot be read.
        """
        with self._opened(self._reading) as (system, root):
            return {name: _fetch(system, _join(root, name), target) for name, target in files.items()}

    def read_jsons(self, names: Iterable[str]) -> Iterator[Any]:
        """The contents of JSON files, one after the other, in one connection; None for one that is not there.

        Raises:
            InputError: where one cannot be read.
        """
        with tempfile.TemporaryDirectory() as folder, self._opened(self._reading) as (system, root):
            local = Path(folder) / "content.json"
            for name in names:
                if system.isfile(_join(root, name)):
                    system.get_file(_join(root, name), str(local))
                    yield read_json(local)
                else:
                    yield None

    def is_folder(self, name: str) -> bool:
        """Whether a relative name is that of a folder.

        Raises:
            InputError: where the server cannot be asked.
        """
        with self._opened(self._reading) as (system, root):
            return bool(system.isdir(_join(root, name)))

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy files there, in this order, each under another name first, so that it is whole or not there.

        Raises:
            OutputError: where one cannot be written.
        """
        with self._opened(self._writing) as (system, root):
            for name, source in files.items():
                target = PurePosixPath(_join(root, name))
                partial = str(target.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(4)}-{target.name}"))
                try:
                    # Makes folders where a server has them; a bucket that is not there is an error, and is not made.
                    system.put_file(str(source), partial)
                    _rename(system, partial, str(target))
                except BaseException:
                    with contextlib.suppress(Exception):
                        system.rm_file(partial)
                    raise

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that are there.

        Raises:
            OutputError: where one cannot be removed.
        """
        with self._opened(self._writing) as (system, root):
            for name in names:
                if system.exists(_join(root, name)):
                    system.rm_file(_join(root, name))

    def check_writable(self) -> None:
        """Fail before the work, not after it, where nothing can be written there.

        Raises:
            OutputError: as `put`.
        """
        probe = f"{PARTIAL_PREFIX}{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / probe).write_bytes(b"probe")
            self.put({probe: Path(folder) / probe})
        self.remove([probe])

    def _reading(self, reason: str) -> InputError:
        return InputError(f"{self} cannot be read: {reason}.")

    def _writing(self, reason: str) -> OutputError:
        return OutputError(f"{self} cannot be written: {reason}.")

    @contextlib.contextmanager
    def _opened(self, complain: Callable[[str], Exception]) -> Iterator[tuple[Any, str]]:
        """The file system and the folder's path in it; a connection of its own, because threads cannot share one."""
        import fsspec

        try:
            system, root = fsspec.url_to_fs(self.url)
            system.invalidate_cache()
            yield system, str(root)
        except (InputError, OutputError):
            raise
        except ImportError as error:
            raise DependencyError(f"{self} cannot be used: {error}.") from error
        except FileNotFoundError as error:
            raise complain("it, or a file in it, does not exist") from error
        except Exception as error:  # each kind of server has errors of its own
            raise complain(f"{type(error).__name__}: {str(error).rstrip('.')}") from error


def location(text: str) -> Path | Remote:
    """What a user names on the command line: a path, or a folder behind a URL."""
    match = _URL.fullmatch(text)
    if match is None:
        return Path(text)
    if match["protocol"] in ("file", "local"):
        return Path(match["rest"])
    return Remote(text.rstrip("/"))


def known_to_others(place: Path | Remote) -> Path | Remote:
    """The same place, by a name that does not depend on the current folder: workers have one of their own."""
    return place.absolute() if isinstance(place, Path) else place


def _rename(system: Any, path: str, target: str) -> None:
    """Rename a file, or copy and remove it where a kind of server cannot rename."""
    from fsspec import AbstractFileSystem

    if type(system).mv is AbstractFileSystem.mv:  # it would take a name with [, * or ? for a pattern
        system.cp_file(path, target)
        system.rm_file(path)
    else:
        system.mv(path, target)


def _fetch(system: Any, path: str, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not system.isdir(path):
        if not system.exists(path):
            raise FileNotFoundError(path)
        state = str(system.checksum(path))
        system.get_file(path, str(target))
        return state
    states = {}
    for inner in system.find(path):
        relative = _below(inner, path)
        if _is_visible(relative):
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            states[relative] = str(system.checksum(inner))
            system.get_file(inner, str(target / relative))
    return combined_state(states)


def combined_state(states: Mapping[str, str]) -> str:
    """One text for the files of a folder; names count by their last part only, so that the folder's name does not."""
    lines = sorted(f"{PurePosixPath(name).name} {state}" for name, state in states.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in PurePosixPath(name).parts)


def _join(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).strip("/")
