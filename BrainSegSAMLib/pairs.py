"""Which prediction belongs to which reference: label maps found in folders and tables, and paired by case id.

Nothing vanishes: a case that only one side has, or that a side has twice, stays in the list with the sentence that says
so, because a mean over the cases that happened to be there is not the mean that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .case_layouts import Group, find_groups, patient_of
from .cases import check_case_id
from .errors import InputError
from .files import read_json
from .modalities import OTHER, REFERENCE, ModalityTable
from .segmentation_files import LABEL_MAP_SUFFIXES, SEGMENTATION_SUFFIX, names_its_segments
from .volumes import volume_stem, volume_suffix

MISSING, EXTRA, DUPLICATE, FAILED, READY = "missing", "extra", "duplicate", "failed", "ready"


@dataclass(frozen=True)
class FoundSegmentation:
    """A segmentation on disk.

    Attributes:
        case_id: whose.
        path: a label map, a .seg.nrrd or a .seg.dcm.
        patient: who the case is of.
        images: modality → image of the same case that lies beside it, or that it was predicted from.
        segments: the .seg.nrrd of the same result, where `path` is a label map that `predict` wrote.
        problem: why it cannot be used, as a sentence; "" where nothing is known against it.
    """

    case_id: str
    path: Path
    patient: str
    images: Mapping[str, Path] = field(default_factory=dict)
    segments: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class Candidate:
    """What one method has for a case.

    Attributes:
        status: READY, MISSING (it has none), EXTRA (there is no reference), DUPLICATE (there are several) or FAILED
            (it, or the reference, cannot be used).
        found: the prediction; None where it is missing, cannot be used, or is not the only one.
        problem: why it cannot be evaluated, as a sentence; "" where it can.
    """

    status: str
    found: FoundSegmentation | None = None
    problem: str = ""


@dataclass(frozen=True)
class Pair:
    """A case with its reference and what every method has for it.

    Attributes:
        case_id: the case.
        patient: who it is of.
        reference: None where there is none, or several.
        candidates: method → its prediction.
        images: modality → image to show it on.
    """

    case_id: str
    patient: str
    reference: Path | None
    candidates: Mapping[str, Candidate]
    images: Mapping[str, Path] = field(default_factory=dict)


def find_segmentations(source: Path, *, table: ModalityTable | None = None) -> list[FoundSegmentation]:
    """Find the segmentations of a source, whoever made them.

    Args:
        source: a folder that `predict` wrote; a flat folder of label maps, .seg.nrrd or .seg.dcm files named by case
            (a word such as "seg" or "label" after the case id is left out); a folder of case folders, each with one
            segmentation, images beside it or not; a BIDS dataset; a single file; or a CSV manifest with the columns
            `case_id`, `reference` and where wanted `patient` and modalities.
        table: names of modalities; the default one where None.

    Returns:
        All of them by case id; one that comes twice is there twice, and one whose record is damaged has a problem.

    Raises:
        InputError: where the source does not exist, holds no segmentation, or has a case id that cannot name a file.
    """
    table = table or ModalityTable.default()
    if source.is_file() and _is_label_map(source):
        found = [_found(_stem(source), source)]
    elif source.is_dir() and any(_is_label_map(path) for path in _files_in(source)):
        found = _side_by_side(source, table)
    else:
        found = [one for group in find_groups(source, (), table) for one in _of_group(group)]
    if not found:
        raise InputError(
            f"{source} contains no segmentation: no {', '.join(LABEL_MAP_SUFFIXES)} file that is named as one "
            "(…seg, …label, …mask), and no folder with any."
        )
    for one in found:
        check_case_id(one.case_id, source)
    return sorted(found, key=lambda one: (one.case_id, str(one.path)))


def pair_cases(
    references: Sequence[FoundSegmentation],
    predictions: Mapping[str, Sequence[FoundSegmentation]],
    *,
    images: Mapping[str, Mapping[str, Path]] | None = None,
) -> list[Pair]:
    """Pair by case id.

    Args:
        references: from `find_segmentations`.
        predictions: method → the same of its folder.
        images: case id → modality → image, which go before those that lie beside a segmentation.

    Returns:
        A pair for every case id of either side, by case id.

    Raises:
        InputError: where no case can be evaluated.
    """
    by_side = {name: _by_id(found) for name, found in predictions.items()}
    known = _by_id(references)
    ids = sorted(set(known).union(*by_side.values()))
    pairs = []
    for case_id in ids:
        candidates = {name: _candidate(case_id, name, known, found) for name, found in by_side.items()}
        of_case = known.get(case_id, [])
        everywhere = [*of_case, *(c.found for c in candidates.values() if c.found is not None)]
        beside: dict[str, Path] = {}
        for found in everywhere:
            beside = beside or dict(found.images)
        patient = next((found.patient for found in everywhere), patient_of(case_id))
        reference = of_case[0].path if len(of_case) == 1 and not of_case[0].problem else None
        pairs.append(Pair(case_id, patient, reference, candidates, (images or {}).get(case_id) or beside))
    if not any(one.status in (READY, FAILED) for pair in pairs for one in pair.candidates.values()):
        shown = {"the reference": list(known), **{f"'{name}'": list(found) for name, found in by_side.items()}}
        has = "; ".join(f"{name} has {_some(case_ids)}" for name, case_ids in shown.items())
        raise InputError(f"No case can be evaluated, because no case id is there on both sides exactly once: {has}.")
    return pairs


def _candidate(
    case_id: str,
    name: str,
    known: Mapping[str, Sequence[FoundSegmentation]],
    found: Mapping[str, Sequence[FoundSegmentation]],
) -> Candidate:
    of_case, references = found.get(case_id, ()), known.get(case_id, ())
    if len(references) > 1:
        return Candidate(DUPLICATE, None, f"Case '{case_id}' has {len(references)} references: {_paths(references)}.")
    if len(of_case) > 1:
        text = f"'{name}' has {len(of_case)} predictions for case '{case_id}': {_paths(of_case)}. Keep one of them."
        return Candidate(DUPLICATE, None, text)
    if not of_case:
        return Candidate(MISSING, None, f"'{name}' has no prediction for case '{case_id}'.")
    if not references:
        text = f"'{name}' has a prediction for case '{case_id}', which has no reference."
        return Candidate(EXTRA, of_case[0], text)
    problem = references[0].problem or of_case[0].problem
    return Candidate(FAILED, None, problem) if problem else Candidate(READY, of_case[0])


# ---- folders --------------------------------------------------------------------------------------------------------


def _side_by_side(folder: Path, table: ModalityTable) -> list[FoundSegmentation]:
    """The cases of a folder of files: those that `predict` wrote by their records, any other by its label maps.

    In a folder with records, files without one are those of methods' stages, or what a killed run left, and are no
    results.
    """
    recorded = _recorded(folder)
    damaged = {one.case_id for one in recorded if one.problem}
    if len(damaged) < len(recorded):
        return recorded
    return [*recorded, *(one for one in _flat(folder, table) if one.case_id not in damaged)]


def _recorded(folder: Path) -> list[FoundSegmentation]:
    """The cases of a folder that have a record beside their segmentation, damaged ones with a problem."""
    found = []
    for path in _files_in(folder):
        segments = path.with_suffix(SEGMENTATION_SUFFIX)
        if path.suffix == ".json" and segments.is_file():
            try:
                one = _of_record(path)
            except InputError as error:
                text = f"The record of case '{path.stem}' cannot be used: {error} Predict the case again."
                one = replace(_found(path.stem, segments), problem=text)
            found += [one] if one is not None else []
    return found


def _of_record(path: Path) -> FoundSegmentation | None:
    """The case that a record of `predict` is of; None for any other JSON file.

    Raises:
        InputError: where it is no JSON, or a record that does not name its files.
    """
    record = read_json(path)
    outputs = record.get("outputs") if isinstance(record, dict) else None
    if not isinstance(outputs, dict) or not {"label_map", "segmentation"} <= set(outputs):
        return None
    try:
        label_map, segments = (path.parent / outputs[kind]["file"] for kind in ("label_map", "segmentation"))
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} does not say which files the results are in.") from error
    return _found(str(record.get("case_id", path.stem)), label_map, images=_inputs(record), segments=segments)


def _inputs(record: Mapping[str, Any]) -> dict[str, Path]:
    """What the record says the case was predicted from, where it is still there."""
    inputs = record.get("inputs")
    named = inputs.items() if isinstance(inputs, dict) else ()
    places = {name: entry.get("path") for name, entry in named if isinstance(entry, dict)}
    paths = {name: Path(place) for name, place in places.items() if isinstance(place, str)}
    return {name: path for name, path in paths.items() if path.exists()}


def _flat(folder: Path, table: ModalityTable) -> list[FoundSegmentation]:
    """Files side by side; where some are named as images and some as segmentations, the images are shown below them."""
    roles = {path: table.recognise(_stem(path)) for path in _files_in(folder) if _is_label_map(path)}
    named = [path for path, role in roles.items() if role == REFERENCE]
    images = {path: role for path, role in roles.items() if role not in (None, REFERENCE, OTHER)}
    label_maps = named if named and images else [path for path, role in roles.items() if role != OTHER]
    found = []
    for path in label_maps:
        case_id = _stem(path)
        if roles[path] == REFERENCE:
            case_id = table.without_modality(case_id) or folder.resolve().name
        beside = {str(role): image for image, role in images.items() if table.without_modality(_stem(image)) == case_id}
        found.append(_found(case_id, path, images=beside if named else {}))
    return found


def _of_group(group: Group) -> list[FoundSegmentation]:
    """The segmentations of a case folder, a BIDS session or a row of a manifest."""
    named = [file for file in group.files if file.role == REFERENCE]
    images: dict[str, Path] = {}
    for file in group.files:
        if file.role not in (None, REFERENCE, OTHER) and file.role not in images:
            images[str(file.role)] = file.path
    if not named and not images and len(group.files) == 1:
        named = list(group.files)  # a folder with one file: its name need not say what it is
    return [_found(group.case_id, file.path, patient=group.patient, images=images) for file in named]


# ---- small parts ----------------------------------------------------------------------------------------------------


def _found(
    case_id: str,
    path: Path,
    *,
    patient: str = "",
    images: Mapping[str, Path] | None = None,
    segments: Path | None = None,
) -> FoundSegmentation:
    return FoundSegmentation(case_id, path, patient or patient_of(case_id), dict(images or {}), segments)


def _by_id(found: Sequence[FoundSegmentation]) -> dict[str, list[FoundSegmentation]]:
    members: dict[str, list[FoundSegmentation]] = {}
    for one in found:
        members.setdefault(one.case_id, []).append(one)
    return members


def _is_label_map(path: Path) -> bool:
    return bool(volume_suffix(path)) or names_its_segments(path)


def _stem(path: Path) -> str:
    """The name without its suffix; ".seg.nrrd" and ".seg.dcm" are one suffix."""
    return path.with_suffix("").stem if names_its_segments(path) else volume_stem(path)


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}.") from error


def _paths(found: Sequence[FoundSegmentation]) -> str:
    return " and ".join(str(one.path) for one in found)


def _some(case_ids: Sequence[str]) -> str:
    shown = ", ".join(case_ids[:3])
    return f"{shown} and {len(case_ids) - 3} more" if len(case_ids) > 3 else shown or "none"
