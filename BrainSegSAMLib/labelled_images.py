"""Cases with their references: what methods are trained with, and how patients are dealt out to the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .cases import Case, find_cases, load_image
from .errors import GeometryError, InputError
from .image import Image
from .labels import LabelScheme
from .segmentation_files import read_segmentation


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """A case in memory with its reference.

    Attributes:
        image: as read.
        labels: uint8 (z, y, x) on the image's grid, in the values of the model's scheme.
    """

    image: Image
    labels: NDArray[np.uint8]


def labelled_cases(source: Path, modalities: Sequence[str]) -> list[Case]:
    """The cases of a folder, all of which must have every modality and a reference.

    Raises:
        InputError: naming the first case that cannot be used.
    """
    cases = find_cases(source, modalities=modalities)
    for case in cases:
        if case.problem:
            raise InputError(case.problem)
        if case.reference is None:
            raise InputError(
                f"Case '{case.case_id}' has no reference segmentation, or several; "
                "name one file of the case '…seg', or list it in a CSV manifest under 'reference'."
            )
    return cases


def load_labelled(
    case: Case, modalities: Sequence[str], scheme: LabelScheme, label_values: Mapping[int, int]
) -> LabelledImage:
    """Read a case and its reference.

    Args:
        case: with a reference.
        modalities: channels in order.
        scheme: of the model.
        label_values: value in the reference's file → value in the scheme, for those that differ.

    Raises:
        InputError: without a reference, or where it holds a value that the scheme does not know.
        GeometryError: where the reference lies on another grid than the image.
    """
    if case.reference is None:
        raise InputError(f"Case '{case.case_id}' has no reference segmentation, or several; one is needed.")
    image, _ = load_image(case, modalities)
    reference = read_segmentation(case.reference)
    if not image.geometry.is_same_grid(reference.geometry):
        raise GeometryError(
            f"{case.reference} lies on another grid than the images of case '{case.case_id}': "
            f"{image.geometry.difference(reference.geometry)}. Resample it first."
        )
    labels = np.zeros(reference.label_map.shape, dtype=np.uint8)
    known = {value for region in scheme.regions for value in region.labels}
    for value in np.unique(reference.label_map):
        meant = label_values.get(int(value), int(value))
        if meant and meant not in known:
            raise InputError(f"{case.reference} holds the label {value}, which none of the regions has.")
        labels[reference.label_map == value] = meant
    return LabelledImage(image, labels)


def split_patients(
    cases: Sequence[Case], *, folds: int, seed: int, held_out: Sequence[Sequence[str]] = ()
) -> list[list[str]]:
    """Case ids left out in each fold: as named, or patients dealt out at random.

    Args:
        cases: all of them; cases of one patient never part where patients are dealt out.
        folds: how many.
        seed: of the random order.
        held_out: case ids of each fold; dealt out where empty.

    Raises:
        InputError: where a named id is not there or comes twice, one case of a patient is left out where another is
            learned from, or there are fewer patients than folds.
    """
    ids = {case.case_id for case in cases}
    patients: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        patients.setdefault(case.patient or case.case_id, []).append(case.case_id)
    if held_out:
        named = [case_id for fold in held_out for case_id in fold]
        unknown = sorted(set(named) - ids)
        if unknown or len(set(named)) != len(named):
            wrong = ", ".join(unknown) or "a case twice"
            raise InputError(f"The setting held_out names {wrong}; the cases are: {', '.join(sorted(ids))}.")
        for fold in held_out:
            for patient, of_one in patients.items():
                parted = set(of_one) - set(fold)
                if parted and len(parted) < len(of_one):
                    raise InputError(
                        f"The setting held_out parts the cases of patient '{patient}': it leaves "
                        f"{', '.join(sorted(set(of_one) - parted))} out, but {', '.join(sorted(parted))} would be "
                        "learned from. Leave them out together."
                    )
        return [list(fold) for fold in held_out]
    if len(patients) < folds:
        raise InputError(f"{folds} folds need as many patients, but there are only {len(patients)}.")
    order = np.random.default_rng(seed).permutation(list(patients))
    dealt = [order[fold::folds] for fold in range(folds)]
    return [sorted(case_id for patient in fold for case_id in patients[patient]) for fold in dealt]
