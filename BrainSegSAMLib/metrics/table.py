"""The metrics of segmentations: name, unit, range, which way is better, and what a value means in one sentence.

Commands, tables and reports take names and units from here, so that one number is called alike everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import InputError

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True)
class Metric:
    """One number about a pair of masks, a reference and a prediction.

    Attributes:
        key: name in files and in code.
        title: for users.
        unit: "mm", "ml", "lesions", "components", or "" for a share.
        better: which values are better: "higher", "lower", or those nearer to "zero" (from both sides).
        lowest: least value that can occur.
        highest: largest value that can occur; infinite where there is no bound.
        meaning: what a value says, one sentence.
        both_empty: value where neither mask has a voxel.
        one_empty: value where exactly one mask has a voxel; None where there is none that means anything, and "counted"
            where the metric counts something that is known then too.
        undefined: why a value can be missing, one sentence; "" where it never is.
        source: who defined it.
    """

    key: str
    title: str
    unit: str
    better: Better
    lowest: float
    highest: float
    meaning: str
    both_empty: float | None
    one_empty: float | Literal["counted"] | None
    undefined: str
    source: str


_TAHA: Final = "Taha and Hanbury 2015, https://doi.org/10.1186/s12880-015-0068-x"
_RELOADED: Final = "Maier-Hein et al. 2024, Metrics Reloaded, https://doi.org/10.1038/s41592-023-02151-z"
_BRATS: Final = "BraTS 2023, lesion-wise evaluation (Moawad et al. 2023, https://arxiv.org/abs/2306.00838)"
_NO_DISTANCE: Final = "Only one of the two masks has a voxel, so there is no distance between them."
_NO_BACKGROUND: Final = "The reference fills the whole grid, so there is no background to be right about."


def _share(key: str, title: str, meaning: str, source: str, undefined: str = "") -> Metric:
    return Metric(key, title, "", "higher", 0.0, 1.0, meaning, 1.0, 0.0, undefined, source)


def _distance(key: str, title: str, meaning: str, source: str) -> Metric:
    return Metric(key, title, "mm", "lower", 0.0, math.inf, meaning, 0.0, None, _NO_DISTANCE, source)


def _lesion_share(key: str, title: str, meaning: str) -> Metric:
    # Counted: lesions of the reference that are too small do not count, so a prediction without any can be right.
    return Metric(key, title, "", "higher", 0.0, 1.0, meaning, 1.0, "counted", "", _BRATS)


def _count(key: str, title: str, unit: str, meaning: str, source: str) -> Metric:
    return Metric(key, title, unit, "lower", 0.0, math.inf, meaning, 0.0, "counted", "", source)


_ALL: Final = (
    _share("dice", "Dice", "Shared voxels, twice, per voxel of either mask.", _TAHA),
    _share("iou", "IoU", "Shared voxels per voxel of the union (Jaccard index).", _TAHA),
    _share("precision", "Precision", "Share of the predicted voxels that are right.", _TAHA),
    _share("recall", "Recall", "Share of the reference's voxels that were found (sensitivity).", _TAHA),
    _share("f1", "F1", "Harmonic mean of precision and recall; of voxels, so the same number as Dice.", _TAHA),
    Metric(
        "specificity", "Specificity", "", "higher", 0.0, 1.0,
        "Share of the background voxels of the whole grid that were left alone; near 1 for any small structure.",
        1.0, "counted", _NO_BACKGROUND, _TAHA,
    ),
    Metric(
        "volume_difference", "Volume difference", "ml", "zero", -math.inf, math.inf,
        "Predicted less reference volume; positive where too much was segmented.", 0.0, "counted", "", _TAHA,
    ),
    _share("volume_similarity", "Volume similarity",
           "1 less the difference of the volumes per their sum; says nothing about place.", _TAHA),
    _distance("hd", "Hausdorff distance",
              "Longest way from a border voxel of one mask to the nearest of the other.", _RELOADED),
    _distance("hd95", "HD95",
              "Way that 95 % of the border voxels stay below, of the two directions the longer.", _RELOADED),
    _distance("asd", "ASD", "Mean way from the prediction's border voxels to the reference's border.", _TAHA),
    _distance("assd", "ASSD", "Mean way from the border voxels of each mask to the border of the other.", _RELOADED),
    _share("nsd", "Surface Dice", "Share of both surfaces, by area, that lie within the tolerance of the other.",
           "Nikolov et al. 2021, https://doi.org/10.2196/26151"),
    _share("cl_dice", "clDice", "Harmonic mean of the shares of each mask's centre lines that lie in the other mask.",
           "Shit et al. 2021, https://arxiv.org/abs/2003.07311"),
    _lesion_share("lesion_f1", "Lesion F1", "Lesions found, twice, per lesion of the reference or the prediction."),
    _lesion_share("lesion_dice", "Lesion-wise Dice", "Mean Dice of all lesions; those missed or invented count as 0."),
    _count("lesion_false_positives", "False lesions", "lesions",
           "Predicted lesions that touch none of the reference's.", _BRATS),
    _count("lesion_false_negatives", "Missed lesions", "lesions",
           "Lesions of the reference that no predicted one touches.", _BRATS),
    _count("betti0_error", "Betti-0 error", "components",
           "Difference of the numbers of connected components (26 neighbours).", "Hu et al. 2019, https://arxiv.org/abs/1906.05404"),
)  # fmt: skip

METRICS: Final[Mapping[str, Metric]] = {metric.key: metric for metric in _ALL}
"""Key → metric, in the order in which they are listed."""


def chosen(keys: Iterable[str] | None) -> tuple[Metric, ...]:
    """The metrics of these keys, in the table's order; all where `keys` is None.

    Raises:
        InputError: where there is no metric of that name.
    """
    wanted = set(METRICS if keys is None else keys)
    unknown = sorted(wanted - set(METRICS))
    if unknown or not wanted:
        raise InputError(f"There is no metric '{', '.join(unknown)}'; there are: {', '.join(METRICS)}.")
    return tuple(metric for metric in _ALL if metric.key in wanted)
