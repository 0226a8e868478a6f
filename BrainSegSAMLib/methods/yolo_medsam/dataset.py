"""Data sets for YOLO on disk: pictures and labels of slices, whose slices they are, and who learns from which.

    images/<case>_<plane>_<number>.png     three modalities as red, green and blue
    labels/<case>_<plane>_<number>.txt     a line for each object: kind, and the corners of its outline as shares of the
                                           picture; a box alone would be too large once the picture is turned
    manifest.csv                           picture → patient, case, slice, and where in the slice the picture lies
    <split>.yaml, <split>_<part>.txt       what Ultralytics takes as `data`: the pictures of each part

One set of pictures serves any number of splits, so their names differ: that of a cross-validation's first fold is
fold_0.yaml; where there is one split alone it is data.yaml, as Ultralytics' own data sets have it. All paths are
relative, so that the folder can be moved.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...boxes import SliceBox, check_boxes
from ...cases import Case
from ...errors import InputError
from ...files import atomic_path, write_text
from ...itk import simpleitk
from .slices import Slices

MANIFEST: Final = "manifest.csv"
PARTS: Final = ("train", "val", "test")
SHARES: Final = (6, 2, 2)
"""Of the patients in each part, as the paper splits its slices."""

_log = logging.getLogger(__name__)
Item = TypeVar("Item")

Split = Mapping[str, Sequence["DatasetSlice"]]
"""Part of `PARTS` → its slices; "train" at least."""


@dataclass(frozen=True)
class DatasetSlice:
    """One picture of a data set; a row of its manifest.

    Attributes:
        name: of its files, without an ending.
        patient: whom it is of.
        case_id: the examination.
        plane: of the slice.
        index: of the slice.
        row: of the whole slice, where the picture begins.
        column: likewise.
        boxes: how many it has; 0 for background.
    """

    name: str
    patient: str
    case_id: str
    plane: str
    index: int
    row: int
    column: int
    boxes: int


def write_slices(
    case: Case, slices: Slices, boxes: Sequence[SliceBox], indices: Iterable[int], root: Path, *, plane: str
) -> list[DatasetSlice]:
    """Write pictures and labels of some slices of a case.

    Args:
        case: whose slices they are.
        slices: as they are shown.
        boxes: of all its slices, in pixels of the whole slice.
        indices: of the slices to write; those without a box are background and have an empty labels file.
        root: folder of the data set.
        plane: of the slices.

    Raises:
        InputError: for a box that cannot be meant.
        OutputError: where a file cannot be written.
    """
    count, _, rows, columns = slices.frames.shape
    shown = [slices.in_frame(item) for item in boxes]
    check_boxes(shown, slices=count, shape=(rows, columns), name=case.case_id)
    written = []
    for index in indices:
        here = [item for item in shown if item.index == index]
        name = f"{case.case_id}_{plane}_{index:04d}"
        _write_picture(slices.frames[index], root / "images" / f"{name}.png")
        write_text("".join(_line(item, rows, columns) for item in here), root / "labels" / f"{name}.txt")
        patient = case.patient or case.case_id
        written.append(DatasetSlice(name, patient, case.case_id, plane, index, *slices.corner, len(here)))
    return written


def write_manifest(slices: Iterable[DatasetSlice], root: Path) -> None:
    """Write the manifest; it comes last, so a data set that has one is whole.

    Raises:
        OutputError: where it cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(field.name for field in fields(DatasetSlice))
    rows.writerows(astuple(item) for item in slices)
    write_text(text.getvalue(), root / MANIFEST)


def read_manifest(root: Path) -> list[DatasetSlice]:
    """The slices of a data set.

    Raises:
        InputError: where there is no manifest, or another file.
    """
    path = root / MANIFEST
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                DatasetSlice(r["name"], r["patient"], r["case_id"], r["plane"],
                             int(r["index"]), int(r["row"]), int(r["column"]), int(r["boxes"]))
                for r in csv.DictReader(stream)
            ]  # fmt: skip
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no manifest of a data set: {error}.") from error


def write_split(root: Path, name: str, split: Split, classes: Sequence[str]) -> Path:
    """Write who learns from which pictures.

    Args:
        root: folder of the data set.
        name: of the split's files.
        split: the parts.
        classes: names by number.

    Returns:
        The `.yaml` file that Ultralytics takes as `data`.

    Raises:
        InputError: where nothing in the training part has a box.
        OutputError: where a file cannot be written.
    """
    if not any(item.boxes for item in split["train"]):
        raise InputError(
            "None of the slices to learn from has a box; check the regions, the label values, and the least size of "
            "an object."
        )
    lines = []
    # Ultralytics wants a part "val" even where nothing is validated.
    for part, slices in {"val": split["train"][:1], **split}.items():
        write_text("".join(f"./images/{item.name}.png\n" for item in slices), root / f"{name}_{part}.txt")
        lines.append(f"{part}: {name}_{part}.txt")
    lines += ["names:", *(f"  {number}: {json.dumps(text)}" for number, text in enumerate(classes))]
    path = root / f"{name}.yaml"
    write_text("\n".join(lines) + "\n", path)
    return path


# ---- splits -------------------------------------------------------------------------------------------------------


def with_background(slices: Iterable[DatasetSlice], share: float) -> list[DatasetSlice]:
    """The slices with a box, and a share (0 to 1) of the others, evenly spaced; in the order of their names."""
    ordered = sorted(slices, key=lambda item: item.name)
    empty = [item for item in ordered if not item.boxes]
    chosen = np.rint(np.linspace(0, len(empty) - 1, round(share * len(empty)))).astype(int)
    kept = {empty[position].name for position in chosen}
    return [item for item in ordered if item.boxes or item.name in kept]


def split_by_case(slices: Iterable[DatasetSlice], parts: Mapping[str, Iterable[str]]) -> dict[str, list[DatasetSlice]]:
    """The slices of the cases of each part.

    Args:
        slices: of all cases.
        parts: part → case ids.
    """
    members = {part: set(case_ids) for part, case_ids in parts.items()}
    slices = list(slices)
    split = {part: [item for item in slices if item.case_id in ids] for part, ids in members.items()}
    assert patients_apart(split), "cases of one patient were dealt to several parts"
    return split


def deal_patients(cases: Sequence[Case], *, seed: int, shares: Sequence[int] = SHARES) -> dict[str, list[str]]:
    """Case ids of each part, patients dealt out at random.

    Args:
        cases: all; those of a patient stay together.
        seed: of the order.
        shares: of the patients, part by part; every part gets one at least.

    Raises:
        InputError: for fewer patients than parts.
    """
    of_patient: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        of_patient.setdefault(case.patient or case.case_id, []).append(case.case_id)
    if len(of_patient) < len(shares):
        raise InputError(
            f"A split by patient into {', '.join(PARTS)} needs {len(shares)} patients, but there "
            f"{'is only 1' if len(of_patient) == 1 else f'are only {len(of_patient)}'}; add cases of others."
        )
    order = [str(patient) for patient in np.random.default_rng(seed).permutation(sorted(of_patient))]
    dealt = _dealt(order, shares)
    return {part: sorted(i for patient in patients for i in of_patient[patient])
            for part, patients in zip(PARTS, dealt, strict=True)}  # fmt: skip


def split_by_slice(slices: Iterable[DatasetSlice], *, seed: int) -> dict[str, list[DatasetSlice]]:
    """The slices of each part, see `deal_slices`."""
    return deal_slices(sorted(slices, key=lambda item: item.name), seed=seed)


def deal_slices(slices: Sequence[Item], *, seed: int, shares: Sequence[int] = SHARES) -> dict[str, list[Item]]:
    """Slices dealt out one by one, as the paper does: only to see by how much that flatters a network.

    Neighbouring slices of a patient are nearly alike, so the test part has been seen in training.

    Args:
        slices: in an order that is always the same.
        seed: of the order in which they are dealt.
        shares: of the slices, part by part.
    """
    _log.warning(
        "The split is by slice: slices of one patient are in training and test alike, so the scores say nothing about "
        "other patients. Use it only to reproduce the paper."
    )
    dealt = _dealt([slices[i] for i in np.random.default_rng(seed).permutation(len(slices))], shares)
    return dict(zip(PARTS, dealt, strict=True))


def patients_apart(split: Split) -> bool:
    """Whether no patient is in two parts."""
    patients = [{item.patient for item in slices} for slices in split.values()]
    return sum(map(len, patients)) == len(set().union(*patients))


def _dealt(items: Sequence[Item], shares: Sequence[int]) -> list[list[Item]]:
    """Items in order to parts of these shares; each part gets one at least."""
    parts = np.arange(len(shares))
    ends = np.rint(np.cumsum(shares) / sum(shares) * len(items)).astype(int)
    ends = np.clip(ends, parts + 1, len(items) - len(shares) + parts + 1)
    starts = [0, *ends[:-1]]
    return [list(items[start:end]) for start, end in zip(starts, ends, strict=True)]


# ---- files --------------------------------------------------------------------------------------------------------


def _write_picture(frame: NDArray[np.uint8], path: Path) -> None:
    """uint8 (3, rows, columns) as a PNG with 24 bits a pixel."""
    sitk = simpleitk()
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(frame, 0, -1)), isVector=True)
    with atomic_path(path) as partial:
        sitk.WriteImage(image, str(partial))


def _line(item: SliceBox, rows: int, columns: int) -> str:
    column0, row0, column1, row1 = item.box
    corners = item.outline or ((column0, row0), (column1, row0), (column1, row1), (column0, row1))
    shares = [value for column, row in corners for value in ((column + 0.5) / columns, (row + 0.5) / rows)]
    return f"{item.kind} " + " ".join(f"{value:.6f}" for value in shares) + "\n"
