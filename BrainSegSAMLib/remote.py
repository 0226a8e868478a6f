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
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from .cases import Case
from .errors import DependencyError, InputError, OutputError
from .files import PARTIAL_PREFIX, read_json
from .modalities import REFERENCE, ModalityTable
from .volumes import volume_stem, volume_suffix

_URL: Final = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]+)://(?P<credentials>[^/@]*@)?(?P<rest>.+)")
# Small text beside volumes; everything else that is no volume may be DICOM, and only its content tells.
_TEXT: Final = frozenset({".json", ".csv", ".tsv", ".txt", ".md", ".bval", ".bvec", ".xml", ".html", ".pdf", ".png",
                           ".raw", ".zraw"})
_DATA_FILE: Final = re.compile(r"^(?:data ?file|ElementDataFile)\s*[:=]\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_TABLES: Final = (".csv", ".tsv")


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
                    system.makedirs(str(target.parent), exist_ok=True)
                    system.put_file(str(source), partial)
                    system.mv(partial, str(target))
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


@contextlib.contextmanager
def named_as(source: Remote) -> Iterator[tuple[Path, Remote, dict[str, RemoteFile]]]:
    """A local folder with the names of a remote one, in which cases can be looked for.

    Volumes are empty there; tables, and what may be DICOM by its name, are whole, because their contents say which
    cases there are.

    Yields:
        The folder, or the table in it where the URL is that of a table; what its names are relative to; and `listing`.

    Raises:
        InputError: where the source cannot be listed or read.
    """
    name = PurePosixPath(source.url).name
    is_table = name.lower().endswith(_TABLES) or bool(volume_suffix(Path(name)))
    root = Remote(source.url.rsplit("/", 1)[0]) if is_table else source
    listing = root.listing()
    with tempfile.TemporaryDirectory(prefix="brainsegsam-names-") as folder:
        top = Path(folder) / (PurePosixPath(root.url).name or "cases")
        whole = {}
        for relative in listing:
            local = top / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            if _is_telling(local) or (is_table and relative == name):
                whole[relative] = local
            else:
                local.touch()
        if whole:
            root.fetch(whole)
        yield (top / name if is_table else top), root, listing


def fetch_segmentations(source: Remote, folder: Path, *, table: ModalityTable) -> Path:
    """Copy the segmentations of a remote folder to this machine, with tables and records, and without images.

    Args:
        source: a folder.
        folder: where to.
        table: names of modalities; a volume that is named as one is an image.

    Returns:
        The copy, named like the source.

    Raises:
        InputError: where the source cannot be listed or read.
    """
    top = folder / (PurePosixPath(source.url).name or "cases")
    wanted = {}
    for name in source.listing():
        path = Path(name)
        is_told = path.suffix.lower() in (".json", *_TABLES)
        if is_told or (volume_suffix(path) and table.recognise(volume_stem(path)) in (None, REFERENCE)):
            wanted[name] = top / name
    top.mkdir(parents=True, exist_ok=True)
    source.fetch(wanted)
    return top


def fetch_case(source: Remote, case: Case, modalities: Iterable[str], folder: Path) -> tuple[Case, dict[str, str]]:
    """Copy a case's files to this machine.

    Args:
        source: what the case's paths are relative to.
        case: from `cases.find_cases` in a folder of `named_as`, with relative paths.
        modalities: which of them.
        folder: where to.

    Returns:
        The case with the paths of the copies; and the state of each modality, as `state_of` gives it.

    Raises:
        InputError: where a file cannot be read.
    """
    local: dict[str, Path] = {}
    states: dict[str, str] = {}
    for number, name in enumerate(modalities):
        path = case.modalities[name]
        place = folder / str(number)
        if volume_suffix(path):
            local[name] = place / path.name
            states[name] = source.fetch({path.as_posix(): local[name]})[path.as_posix()]
            _fetch_data_file(source, path, local[name])
            continue
        # A DICOM series: a folder of its own, or, of several in one folder, one file that stands for its series.
        is_folder = source.is_folder(path.as_posix())
        series = path if is_folder else path.parent
        copy = place / series.name
        states[name] = source.fetch({series.as_posix(): copy})[series.as_posix()]
        local[name] = copy if is_folder else copy / path.name
    return replace(case, modalities=local), states


def state_of(path: Path, listing: Mapping[str, RemoteFile]) -> str:
    """The state of a modality: of its file, or of all files of its DICOM series' folder; "" where there is none."""
    name = path.as_posix()
    if volume_suffix(path):
        return listing[name].state if name in listing else ""
    folder = path.parent.as_posix() if name in listing else name
    prefix = "" if folder == "." else f"{folder}/"
    return _combined({name: file.state for name, file in listing.items() if name.startswith(prefix)})


def _fetch_data_file(source: Remote, path: Path, local: Path) -> None:
    """Copy the file with the voxels that a header (.nhdr, .mhd) names."""
    if local.suffix.lower() in (".nhdr", ".mhd"):
        match = _DATA_FILE.search(local.read_bytes()[:100_000].decode("latin-1"))
        if match and match[1].upper() not in ("LOCAL", "LIST"):
            source.fetch({(path.parent / match[1]).as_posix(): local.parent / match[1]})


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
    return _combined(states)


def _combined(states: Mapping[str, str]) -> str:
    """One text for the files of a folder; names count by their last part only, so that the folder's name does not."""
    lines = sorted(f"{PurePosixPath(name).name} {state}" for name, state in states.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_telling(path: Path) -> bool:
    return not volume_suffix(path) and path.suffix.lower() not in _TEXT


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in PurePosixPath(name).parts)


def _join(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).strip("/")
