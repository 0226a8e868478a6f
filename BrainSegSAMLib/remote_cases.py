"""Cases and results behind URLs: looked for by their names, copied here when their turn comes, and back."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from .cases import Case
from .files import read_json, write_json
from .modalities import REFERENCE, ModalityTable
from .remote import Remote, RemoteFile, combined_state
from .segmentation_files import names_its_segments
from .volumes import HEADER_SUFFIXES, volume_stem, volume_suffix, voxel_names, voxels_below

# Small text beside volumes; everything else that is no volume may be DICOM, and only its content tells.
_TEXT: Final = frozenset({".json", ".csv", ".tsv", ".txt", ".md", ".bval", ".bvec", ".xml", ".html", ".pdf", ".png",
                           ".raw", ".zraw"})
_TABLES: Final = (".csv", ".tsv")


@contextlib.contextmanager
def named_as(source: Remote) -> Iterator[tuple[Path, Remote, dict[str, RemoteFile]]]:
    """A local folder with the names of a remote one, in which cases can be looked for.

    Volumes are empty there; tables, and what may be DICOM by its name, are whole, because their contents say which
    cases there are; and so are headers, which say where their voxels are.

    Yields:
        The folder, or the table in it where the URL is that of a table; what its names are relative to; and `listing`,
        in which a header has changed where its voxels have.

    Raises:
        InputError: where the source cannot be listed or read.
    """
    root, name = _root_of(source)
    listing = root.listing()
    with tempfile.TemporaryDirectory(prefix="brainsegsam-names-") as folder:
        top = Path(folder) / (PurePosixPath(root.url).name or "cases")
        whole = {}
        for relative in listing:
            local = top / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            if _is_telling(local) or relative == name:
                whole[relative] = local
            else:
                local.touch()
        if whole:
            root.fetch(whole)
        for relative in listing:
            if voxels := _beside(relative, voxel_names(top / relative)):
                state = combined_state({one: listing[one].state for one in (relative, *voxels) if one in listing})
                listing[relative] = replace(listing[relative], state=state)
        yield (top / name if name else top), root, listing


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
    listing = source.listing()
    for name in listing:
        path = Path(name)
        is_told = path.suffix.lower() in (".json", *_TABLES)
        is_image = volume_suffix(path) and table.recognise(volume_stem(path)) not in (None, REFERENCE)
        if is_told or names_its_segments(path) or (volume_suffix(path) and not is_image):
            wanted[name] = top / name
    top.mkdir(parents=True, exist_ok=True)
    source.fetch(wanted)
    voxels = {one for name, local in wanted.items() for one in _beside(name, voxel_names(local))}
    if more := {name: top / name for name in voxels - set(wanted) if name in listing}:
        source.fetch(more)
    return top


def mirror(source: Remote, folder: Path) -> Path:
    """Make a folder hold what lies behind a URL; files that have not changed since an earlier call stay untouched.

    Args:
        source: a folder, or a table, whose paths are relative to where it lies.
        folder: of this machine, for this alone.

    Returns:
        The folder in it that stands for the URL, or the table.

    Raises:
        InputError: where something cannot be read.
    """
    root, table = _root_of(source)
    top, states_file = folder / (PurePosixPath(root.url).name or "cases"), folder / ".states.json"
    states = {name: file.state for name, file in root.listing().items()}
    known = read_json(states_file) if states_file.is_file() else {}
    root.fetch({name: top / name for name, state in states.items() if known.get(name) != state})
    for name in set(known) - set(states):
        (top / name).unlink(missing_ok=True)
    write_json(states, states_file)
    return top / table if table else top


@contextlib.contextmanager
def results_for(place: Path | Remote) -> Iterator[Path]:
    """A folder of this machine for results: the place itself, or a temporary one that is copied to a URL at the end.

    Args:
        place: where the results shall lie.

    Raises:
        OutputError: where a result cannot be written.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="brainsegsam-results-") as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            place.put({path.relative_to(folder).as_posix(): path for path in files})


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
            states[name] = _fetch_volume(source, path.as_posix(), local[name])
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
    return combined_state({name: file.state for name, file in listing.items() if name.startswith(prefix)})


def _fetch_volume(source: Remote, name: str, local: Path) -> str:
    """Copy a volume, with its voxels where it is a header; gives the state of the whole."""
    states = source.fetch({name: local})
    if voxels := voxels_below(local):
        states |= source.fetch(dict(zip(_beside(name, voxels), (local.parent / one for one in voxels), strict=True)))
        return combined_state(states)
    return states[name]


def _beside(name: str, others: Iterable[str]) -> list[str]:
    """Names relative to a file's folder, as names relative to where the file's own name is relative to."""
    return [str(PurePosixPath(name).parent / other) for other in others]


def _root_of(source: Remote) -> tuple[Remote, str]:
    """The folder of a URL, and the name of the table or volume in it that the URL is of; "" where it is of a folder."""
    name = PurePosixPath(source.url).name
    if name.lower().endswith(_TABLES) or volume_suffix(Path(name)):
        return Remote(source.url.rsplit("/", 1)[0]), name
    return source, ""


def _is_telling(path: Path) -> bool:
    suffix = volume_suffix(path)
    return suffix in HEADER_SUFFIXES or not (suffix or path.suffix.lower() in _TEXT)
