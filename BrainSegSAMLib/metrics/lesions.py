"""Lesion by lesion: which were found, which missed, which invented, and how well each was outlined.

As in BraTS 2023: the reference is dilated, and what then hangs together (26 neighbours) is one lesion, so that the
satellites of a tumour are no lesions of their own. A piece of the prediction belongs to a lesion where it touches its
dilation. The Dice of a lesion is that of its own voxels and of all pieces that belong to it; a piece that belongs to
none is a false lesion.

What counts as one lesion differs between diseases (`LesionRules`), so a number says nothing without its rules.

Source: Moawad et al. 2023, https://arxiv.org/abs/2306.00838, and its code, BraTS-2023-Metrics@43c9052:metrics.py.
There a reference lesion of at most 50 mm³ is left out whether found or not; so it is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..components import label_components
from ..settings import require

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionRules:
    """What counts as one lesion, and which lesions count.

    Attributes:
        dilation_voxels: steps of the dilation (18 neighbours) that joins pieces of the reference.
        ignored_mm3: lesions of the reference up to this volume do not count, found or not.

    Raises:
        InputError: for a value that is negative or has no end.
    """

    dilation_voxels: int = 3
    ignored_mm3: float = 50.0

    def __post_init__(self) -> None:
        require(self.dilation_voxels >= 0, "dilation_voxels", self.dilation_voxels, "0 or more")
        require(0 <= self.ignored_mm3 < math.inf, "ignored_mm3", self.ignored_mm3, "0 or more, with an end")

    @property
    def said(self) -> str:
        """The rules for users, one sentence."""
        joined = f"that meet after {self.dilation_voxels} step{'s' * (self.dilation_voxels > 1)} of dilation"
        pieces = joined if self.dilation_voxels else "that hang together (26 neighbours)"
        counted = f"those of up to {self.ignored_mm3:g} mm³ do not count" if self.ignored_mm3 else "all of them count"
        return f"Voxels of the reference {pieces} are one lesion, and {counted}."


BRATS_GLIOMA: Final = LesionRules()
"""Of adult glioma, Sub-Saharan Africa and paediatrics in BraTS 2023; metastases have 1 voxel and 2 mm³."""

ISLES_STROKE: Final = LesionRules(dilation_voxels=0, ignored_mm3=0.0)
"""Of stroke in ISLES 2022, whose emboli are small and many (github.com/ezequieldlrosa/isles22, utils/eval_utils.py)."""


@dataclass(frozen=True, eq=False)
class LesionMatch:
    """The lesions of one region.

    Attributes:
        dice: of each lesion of the reference that counts; 0 for a missed one.
        found: bool, whether any piece of the prediction belongs to it.
        false_positives: pieces of the prediction that belong to no lesion.
    """

    dice: NDArray[np.float64]
    found: BoolArray
    false_positives: int

    @property
    def false_negatives(self) -> int:
        """Lesions of the reference that were missed."""
        return int(np.count_nonzero(~self.found))

    @property
    def f1(self) -> float:
        """2·found per 2·found, missed and false ones; 1 where there is no lesion at all."""
        found = int(np.count_nonzero(self.found))
        total = 2 * found + self.false_negatives + self.false_positives
        return 2 * found / total if total else 1.0

    @property
    def mean_dice(self) -> float:
        """Mean Dice of all lesions, false ones counting as 0; 1 where there is no lesion at all."""
        total = len(self.dice) + self.false_positives
        return float(self.dice.sum()) / total if total else 1.0


def match_lesions(
    reference: BoolArray,
    prediction: BoolArray,
    pieces: NDArray[np.int32],
    *,
    voxel_mm3: float,
    rules: LesionRules = BRATS_GLIOMA,
) -> LesionMatch:
    """Match the lesions of two masks.

    Args:
        reference: bool (z, y, x).
        prediction: of the same shape.
        pieces: of the prediction, numbered from 1 (`components.label_components`).
        voxel_mm3: volume of a voxel.
        rules: what counts.
    """
    lesions, count = label_components(_dilated(reference, rules.dilation_voxels))
    sizes = np.bincount(lesions[reference], minlength=count + 1)
    shared = np.bincount(lesions[reference & prediction], minlength=count + 1)
    piece_sizes = np.bincount(pieces[prediction]) if prediction.any() else np.zeros(1, dtype=np.intp)
    touching = prediction & (lesions > 0)
    width = len(piece_sizes)
    pairs = np.unique(lesions[touching].astype(np.int64) * width + pieces[touching])
    of_lesion, of_piece = np.divmod(pairs, width)
    predicted = np.bincount(of_lesion, piece_sizes[of_piece], minlength=count + 1)
    counts = np.flatnonzero(sizes * voxel_mm3 > rules.ignored_mm3)
    return LesionMatch(
        2 * shared[counts] / (sizes[counts] + predicted[counts]),
        predicted[counts] > 0,
        int(np.count_nonzero(piece_sizes[1:])) - len(np.unique(of_piece)),
    )


def _dilated(mask: BoolArray, steps: int) -> BoolArray:
    """A mask after steps of dilation by the 18 neighbours that share a face or an edge; a new array."""
    grown: BoolArray = mask.copy()
    for _ in range(min(steps, max(mask.shape))):  # beyond, nothing is left to grow into
        # The 19 voxels are three squares of nine, each a row dilated along another axis.
        along_x, along_y = _dilated_along(grown, 2), _dilated_along(grown, 1)
        result = _dilated_along(along_x, 1)
        result |= _dilated_along(along_x, 0)
        result |= _dilated_along(along_y, 0)
        grown = result
    return grown


def _dilated_along(mask: BoolArray, axis: int) -> BoolArray:
    grown: BoolArray = mask.copy()
    moved, kept = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
    moved[1:] |= kept[:-1]
    moved[:-1] |= kept[1:]
    return grown
