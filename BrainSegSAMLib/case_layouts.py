"""Which files belong to one case: folders of cases, flat folders, nnU-Net's imagesTs, BIDS, DICOM, CSV manifests.

A layout only groups files and says what each seems to hold; `cases` decides whether a group makes a usable case.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .dicom import find_series, is_dicom
from .errors import InputError
from .modalities import OTHER, REFERENCE, ModalityTable
from .volumes import volume_stem, volume_suffix

_NNUNET_NAME: Final = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_BIDS_SKIPPED: Final = frozenset({"func", "fmap", "eeg", "meg", "beh"})
_BIDS_SESSION: Final = re.compile(r"ses-[A-Za-z0-9]+")
_PATIENT: Final = (
    re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?"),  # BIDS
    re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+"),  # BraTS 2023 and later: patient, then time point
)


@dataclass(frozen=True)
class FoundFile:
    """A volume and what it seems to hold.

    Attributes:
        path: a file, or a folder with one DICOM series.
        role: modality, `modalities.REFERENCE`, `modalities.OTHER`, or None where its name tells nothing.
        shown: how messages call it.
    """

    path: Path
    role: str | None
    shown: str


@dataclass(frozen=True)
class Group:
    """The files of one case."""

    case_id: str
    patient: str
    files: tuple[FoundFile, ...]


def find_groups(source: Path, modalities: Sequence[str], table: ModalityTable) -> list[Group]:
    """The groups of files below a source; see `cases.find_cases` for what a source may be.

    Raises:
        InputError: where the source does not exist, is of another kind, or holds no volume.
    """
    if source.is_file():
        return _from_file(source, table)
    if not source.is_dir():
        raise InputError(f"{source} does not exist.")
    volumes = _volumes_in(source)
    if volumes:
        return _nnunet(volumes, modalities) or _flat(source, volumes, modalities, table)
    subjects = [child for child in _folders_in(source) if child.name.startswith("sub-") and _bids_files(child)]
    if subjects:
        groups = [group for subject in subjects for group in _bids_subject(subject, table)]
    elif source.name.startswith("sub-") and _bids_files(source):
        groups = _bids_subject(source, table)
    elif (files := _dicom_files(source, table)) or any(file.role for file in _dicom_folders(source, table)):
        groups = [_group(_name_of(source), files or _dicom_folders(source, table))]
    else:
        groups = [_case_folder(child, table) for child in _folders_in(source)]
    if not any(group.files for group in groups):
        raise InputError(f"{source} contains no volumes: no NIfTI, NRRD, MHA or DICOM file, and no folder with any.")
    return groups


# ---- folders -------------------------------------------------------------------------------------------------------


def _case_folder(folder: Path, table: ModalityTable) -> Group:
    volumes = [FoundFile(path, table.recognise(volume_stem(path)), path.name) for path in _volumes_in(folder)]
    return _group(folder.name, volumes or _dicom_files(folder, table) or _dicom_folders(folder, table))


def _flat(folder: Path, volumes: Sequence[Path], modalities: Sequence[str], table: ModalityTable) -> list[Group]:
    """Volumes side by side: one case, or several told apart by what their names say besides the modality."""
    files = [FoundFile(path, table.recognise(volume_stem(path)), path.name) for path in volumes]
    images = [file for file in files if file.role not in (REFERENCE, OTHER)]
    roles = Counter(file.role for file in images if file.role)
    unnamed = len(modalities) == 1 and not roles and len(images) > 1  # a folder of single images: each is a case
    if not unnamed and max(roles.values(), default=0) < 2:
        return [_group(_name_of(folder), files)]
    keys = {file.path: table.without_modality(volume_stem(file.path)) for file in files}
    members: dict[str, list[FoundFile]] = {}
    for file in images if unnamed else [file for file in images if file.role]:
        members.setdefault(keys[file.path], []).append(file)
    if "" in members:
        return [_group(_name_of(folder), files)]
    members = _joined(members, set(modalities))
    placed = {file.path for group in members.values() for file in group}
    for file in files:
        if file.path not in placed:
            key = keys[file.path]
            owners = [name for name in members if key.startswith(name) or (key and name.startswith(key))]
            members.setdefault(max(owners, key=len, default=key), []).append(file)
    return [_group(key, sorted(group, key=lambda file: file.path)) for key, group in sorted(members.items())]


def _joined(members: dict[str, list[FoundFile]], wanted: set[str]) -> dict[str, list[FoundFile]]:
    """The groups, where "p1_2" with a single second T1 goes back to "p1": it is an ambiguity there, not a case."""
    joined = dict(members)
    for key in sorted(members, key=len, reverse=True):
        owners = [name for name in joined if name != key and re.match(re.escape(name) + r"[_\-. ]", key)]
        if owners and not wanted <= {file.role for file in joined[key]}:
            joined[max(owners, key=len)] = joined[max(owners, key=len)] + joined.pop(key)
    return joined


def _nnunet(volumes: Sequence[Path], modalities: Sequence[str]) -> list[Group]:
    """Volumes named `<case>_<channel, 4 digits>`; [] where that is not what the folder holds."""
    matches = {path: _NNUNET_NAME.fullmatch(volume_stem(path)) for path in volumes}
    members: dict[str, list[FoundFile]] = {}
    for path, match in matches.items():
        if match is None:
            return []
        channel = int(match["channel"])
        role = modalities[channel] if channel < len(modalities) else None
        members.setdefault(match["case"], []).append(FoundFile(path, role, path.name))
    if not all(any(file.role == modalities[0] for file in files) for files in members.values()):
        return []  # numbered otherwise, e.g. patient_0001, patient_0002
    for case, files in members.items():
        folder = files[0].path.parent
        label = folder.with_name(folder.name.replace("images", "labels")) / (case + volume_suffix(files[0].path))
        if label.parent != folder and label.is_file():
            files.append(FoundFile(label, REFERENCE, label.name))
    return [_group(case, files) for case, files in sorted(members.items())]


# ---- BIDS ----------------------------------------------------------------------------------------------------------


def _bids_subject(subject: Path, table: ModalityTable) -> list[Group]:
    sessions: dict[str, list[FoundFile]] = {}
    for path in _bids_files(subject):
        session = path.parent.parent.name if path.parent.parent != subject else ""
        case_id = f"{subject.name}_{session}" if session else subject.name
        sessions.setdefault(case_id, []).append(FoundFile(path, table.recognise(volume_stem(path)), path.name))
    return [_group(case_id, files) for case_id, files in sessions.items()]


def _bids_files(subject: Path) -> list[Path]:
    """The volumes in a subject's (or its sessions') folders anat, dwi, …."""
    kinds: list[Path] = []
    for child in _folders_in(subject):
        kinds += _folders_in(child) if _BIDS_SESSION.fullmatch(child.name) else [child]
    return [path for kind in kinds if kind.name not in _BIDS_SKIPPED for path in _volumes_in(kind)]


# ---- DICOM ---------------------------------------------------------------------------------------------------------


def _dicom_files(folder: Path, table: ModalityTable) -> list[FoundFile]:
    """The series that lie directly in a folder, each named by its description (a single one also by the folder)."""
    if not any(is_dicom(path) for path in _files_in(folder)[:20]):
        return []
    series = find_series(folder)
    if len(series) == 1:
        role = table.recognise(series[0].description) or table.recognise(folder.name)
        return [FoundFile(folder, role, f"{folder.name} ('{series[0].description}')")]
    return [FoundFile(s.files[0], table.recognise(s.description), f"series '{s.description}'") for s in series]


def _dicom_folders(folder: Path, table: ModalityTable) -> list[FoundFile]:
    """The series in the folders of a case folder; a folder's name counts before the series' description."""
    found = []
    for child in _folders_in(folder):
        for file in _dicom_files(child, table):
            role = table.recognise(child.name) if file.path == child else None
            found.append(FoundFile(file.path, role or file.role, file.shown))
    return found


# ---- single files --------------------------------------------------------------------------------------------------


def _from_file(path: Path, table: ModalityTable) -> list[Group]:
    if path.suffix.lower() in (".csv", ".tsv"):
        return _manifest(path, table)
    if volume_suffix(path):
        stem = volume_stem(path)
        return [_group(stem, [FoundFile(path, table.recognise(stem), path.name)])]
    raise InputError(f"{path} is neither a folder, nor a volume, nor a CSV manifest.")


def _manifest(path: Path, table: ModalityTable) -> list[Group]:
    """A table with the column case_id, a column per modality, and where wanted `reference` and `patient`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            rows = list(csv.DictReader(stream, delimiter=max("\t;,", key=first.count), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}.") from error
    columns = [column for column in (rows[0] if rows else {}) if column]
    by_name = {column.strip().lower(): column for column in columns}
    if "case_id" not in by_name:
        raise InputError(
            f"{path} needs the column case_id and at least one row; its columns are: {', '.join(columns) or 'none'}."
        )
    extra = {by_name["case_id"], by_name.get("patient")}
    roles = {column: table.recognise(column) for column in columns if column not in extra}
    groups = []
    for row in rows:
        case_id = (row[by_name["case_id"]] or "").strip()
        files = [
            FoundFile(path.parent / text, role, f"{text} (column '{column}')")
            for column, role in roles.items()
            if role and (text := (row[column] or "").strip())
        ]
        patient = (row[by_name["patient"]] or "").strip() if "patient" in by_name else ""
        groups.append(_group(case_id, files, patient))
    return groups


# ---- small parts ---------------------------------------------------------------------------------------------------


def _group(case_id: str, files: Sequence[FoundFile], patient: str = "") -> Group:
    return Group(case_id, patient or patient_of(case_id), tuple(files))


def patient_of(case_id: str) -> str:
    """The patient that a case id tells by BIDS' or BraTS' rules; the case id itself where it tells none."""
    match = next((m for pattern in _PATIENT if (m := pattern.fullmatch(case_id))), None)
    return match[1] if match else case_id


def _name_of(folder: Path) -> str:
    return folder.resolve().name or "case"


def _visible_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}.") from error


def _files_in(folder: Path) -> list[Path]:
    return [path for path in _visible_in(folder) if path.is_file()]


def _volumes_in(folder: Path) -> list[Path]:
    return [path for path in _files_in(folder) if volume_suffix(path)]


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in _visible_in(folder) if path.is_dir()]
