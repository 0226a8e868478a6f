"""What every method offers, whatever network is inside."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..image import Image, Segmentation
from ..models.store import Model
from ..progress import Progress


@runtime_checkable
class Predictor(Protocol):
    """A Model in memory, ready for any number of images."""

    @property
    def model(self) -> Model:
        """The model that predicts."""
        ...

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        """Segment one image.

        Args:
            image: holds at least the model's modalities; others are ignored. Any voxel order, spacing and obliqueness.
            progress: gets the stages, and may cancel.

        Returns:
            A segmentation on the image's own grid, with the model's LabelScheme; `record` says what was done.

        Raises:
            InputError: where a modality is missing or the image cannot be used.
            Cancelled: when the progress was cancelled.
        """
        ...


@runtime_checkable
class ProbabilityPredictor(Predictor, Protocol):
    """A Predictor that can also say how probable each region is in each voxel."""

    def predict_with_probabilities(
        self, image: Image, *, progress: Progress | None = None
    ) -> tuple[Segmentation, NDArray[np.float32]]:
        """Segment one image, and give the probabilities.

        Args:
            image: as for `predict`.
            progress: as for `predict`.

        Returns:
            What `predict` gives; and float32 (region, z, y, x) from 0 to 1 on the image's grid, regions in the order of
            the model's LabelScheme. Clean-up of the segmentation does not change them.

        Raises:
            InputError, Cancelled: as `predict`.
        """
        ...
