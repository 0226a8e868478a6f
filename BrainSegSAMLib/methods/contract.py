"""What every method offers, whatever network is inside."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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
