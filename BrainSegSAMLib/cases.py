"""Cases: one examination each, found in folders or tables, checked before any work, and loaded onto one grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .case_layouts import FoundFile, Group, find_groups
from .errors import InputError
from .files import read_json
from .geometry import Geometry
from .image import Image
from .modalities import REFERENCE, ModalityTable
from .resample import resample_channel
from .volumes import read_volume

_ADVICE: Final = "Rename the files, extend the table of modality names, or list the files in a CSV manifest."
_UNSAFE_NAME: Final = re.compile(r'[/\\:*?"<>|\x00-\x1f]|^\.|^\s|\s$|^$')


@dataclass(frozen=True)
class Case:
    """One examination: where its volumes lie.

    Attributes:
        case_id: names its results; unique among the cases found together.
        modalities: modality → file, or folder with one DICOM series; all that were recognised.
        reference: an expert's segmentation; None where there is none, or more than one.
        patient: who it is of; cases of one patient never part in a split.
        problem: why it cannot be used, as a sentence; "" where it can.
    """

    case_id: str
    modalities: Mapping[str, Path]
    reference: Path | None = None
    patient: str = ""
    problem: str = ""


def read_modality_table(path: Path) -> ModalityTable:
    """The default table of modality names, extended by a JSON file: {"t1ce": ["t1 mit KM", …], …}.

    Raises:
        InputError: where the file cannot be read or is of another form.
    """
    mapping = read_json(path)
    lists = mapping.values() if isinstance(mapping, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise InputError(f'{path} is not a table of modality names; write it as {{"t1ce": ["alias", "alias"], …}}.')
    return ModalityTable.default().extended(mapping)


def find_cases(source: Path, *, modalities: Sequence[str], table: ModalityTable | None = None) -> list[Case]:
    """Find the cases of a source.

    Args:
        source: one case folder; a folder of case folders; a flat folder of volumes, of one case or of several whose
            names share a beginning; an nnU-Net folder (`<case>_0000.nii.gz`, channels in the order of `modalities`); a
            BIDS dataset; folders with DICOM series; a volume; or a CSV manifest (column `case_id`, a column per
            modality, and where wanted `reference` and `patient`; paths are relative to the manifest).
        modalities: what the model needs, in its order and by its names.
        table: names of modalities; the default one where None.

    Returns:
        The cases by case id. One that lacks a modality, or has two files for it, carries a `problem`, so that the
        others can still be worked on.

    Raises:
        InputError: where there is no volume, where no case can be used, or where case ids repeat or are no file names.
    """
    names = (table or ModalityTable.default()).for_modalities(modalities)
    groups = find_groups(source, modalities, names)
    _check_ids(groups, source)
    cases = sorted((_case(group, modalities) for group in groups), key=lambda case: case.case_id)
    if all(case.problem for case in cases):
        others = f" The other {len(cases) - 1} cases cannot be used either." if len(cases) > 1 else ""
        raise InputError(cases[0].problem + others)
    return cases


def load_image(case: Case, modalities: Sequence[str], *, reference: str | None = None) -> tuple[Image, list[str]]:
    """Read a case's modalities onto one grid.

    Args:
        case: from `find_cases`, or made by hand.
        modalities: which ones, in the order of the channels.
        reference: the modality whose grid all others are brought onto; the first one where None.

    Returns:
        The image, and what was done to bring the modalities together, a sentence per modality that was changed.

    Raises:
        InputError: where the case has a `problem`, lacks a modality, or a file cannot be used.
        GeometryError: where a grid cannot be used, or grids overlap too little (`resample.MINIMUM_OVERLAP`).
    """
    if case.problem:
        raise InputError(case.problem)
    reference = reference or modalities[0]
    missing = [name for name in (*modalities, reference) if name not in case.modalities]
    if missing:
        found = ", ".join(case.modalities) or "nothing"
        raise InputError(f"Case '{case.case_id}' has no {missing[0]}; it has {found}.")
    reference_array, grid = read_volume(case.modalities[reference])
    channels: dict[str, NDArray[np.float32]] = {}
    actions: list[str] = []
    for name in modalities:
        if name == reference:
            channels[name] = reference_array
            continue
        channels[name], action = _read_onto(case, name, grid, reference)
        if action:
            actions.append(action)
    return Image(grid, channels, case.case_id), actions


def _read_onto(case: Case, name: str, grid: Geometry, reference: str) -> tuple[NDArray[np.float32], str]:
    path = case.modalities[name]
    array, own_grid = read_volume(path)
    return resample_channel(array, own_grid, grid, name=f"{name} ({path.name})", target_name=reference)


def _case(group: Group, modalities: Sequence[str]) -> Case:
    by_role: dict[str, list[FoundFile]] = {}
    for file in group.files:
        if file.role:
            by_role.setdefault(file.role, []).append(file)
    unnamed = [file for file in group.files if file.role is None]
    if len(modalities) == 1 and len(unnamed) == 1 and not set(by_role) - {REFERENCE}:
        by_role[modalities[0]] = unnamed  # one image for a model that wants one: its name need not say which
    references = by_role.pop(REFERENCE, [])
    return Case(
        group.case_id,
        {role: files[0].path for role, files in by_role.items() if len(files) == 1},
        references[0].path if len(references) == 1 else None,
        group.patient,
        _problem(group, by_role, modalities),
    )


def _problem(group: Group, by_role: Mapping[str, Sequence[FoundFile]], modalities: Sequence[str]) -> str:
    start = f"Case '{group.case_id}'"
    if not group.files:
        return f"{start} contains no volumes."
    for name in modalities:
        files = by_role.get(name, [])
        if not files:
            found = ", ".join(f"{file.shown} ({file.role or 'not recognised'})" for file in group.files)
            return f"{start}: modality '{name}' was not found among {found}. {_ADVICE}"
        if len(files) > 1:
            return f"{start}: modality '{name}' is ambiguous: {' and '.join(f.shown for f in files)}. {_ADVICE}"
        if not files[0].path.exists():
            return f"{start}: {files[0].path} ({name}) does not exist."
    return ""


def check_case_id(case_id: str, source: Path) -> None:
    """Refuse a case id that cannot name a file.

    Raises:
        InputError: naming the source that it is from.
    """
    if _UNSAFE_NAME.search(case_id):
        raise InputError(f"{source}: the case id '{case_id}' cannot name a file; use letters, digits, - and _.")


def _check_ids(groups: Sequence[Group], source: Path) -> None:
    for case_id, count in Counter(group.case_id for group in groups).items():
        if count > 1:
            raise InputError(f"{source} has the case id '{case_id}' {count} times; each case needs its own.")
        check_case_id(case_id, source)
