"""How far two masks, or two label maps, hold the same voxels: Dice, IoU, precision, recall, specificity and volumes.

All follow from four counts. Source: Taha and Hanbury 2015, https://doi.org/10.1186/s12880-015-0068-x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Voxels of a pair of masks.

    Attributes:
        shared: in both.
        reference: in the reference.
        prediction: in the prediction.
        grid: in the whole grid.
    """

    shared: int
    reference: int
    prediction: int
    grid: int

    @property
    def dice(self) -> float:
        """2·shared per voxel of either; 1 where both are empty."""
        total = self.reference + self.prediction
        return 2 * self.shared / total if total else 1.0

    @property
    def iou(self) -> float:
        """Shared per voxel of the union; 1 where both are empty."""
        union = self.reference + self.prediction - self.shared
        return self.shared / union if union else 1.0

    @property
    def precision(self) -> float:
        """Shared per voxel of the prediction; where that is empty, 1 if the reference is so too, else 0."""
        return self.shared / self.prediction if self.prediction else float(not self.reference)

    @property
    def recall(self) -> float:
        """Shared per voxel of the reference; where that is empty, 1 if the prediction is so too, else 0."""
        return self.shared / self.reference if self.reference else float(not self.prediction)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def specificity(self) -> float | None:
        """Share of the reference's background that is the prediction's too; None where there is no background."""
        background = self.grid - self.reference
        return 1 - (self.prediction - self.shared) / background if background else None

    @property
    def volume_similarity(self) -> float:
        """1 less the difference of the volumes per their sum; 1 where both are empty."""
        total = self.reference + self.prediction
        return 1 - abs(self.prediction - self.reference) / total if total else 1.0


def count(reference: NDArray[np.bool_], prediction: NDArray[np.bool_], *, grid: int | None = None) -> Counts:
    """Count two bool masks of one shape.

    Args:
        reference: any shape.
        prediction: of the same.
        grid: voxels of the whole grid, where the masks are a part of it that holds all that is set.
    """
    return Counts(
        int(np.count_nonzero(reference & prediction)),
        int(np.count_nonzero(reference)),
        int(np.count_nonzero(prediction)),
        reference.size if grid is None else grid,
    )


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice coefficient of two bool masks of one shape; 1 where both are empty."""
    return count(first, second).dice


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two bool masks of one shape; 1 where both are empty."""
    return count(first, second).iou


def highest_mean_dice(mean_iou: float) -> float:
    """The largest mean Dice that cases of a mean IoU can have.

    Dice is 2·IoU/(1+IoU), a concave function, so its mean is at most that function of the mean IoU, whatever the
    cases. A published pair above it is not of one set of masks.
    """
    return 2 * mean_iou / (1 + mean_iou)
