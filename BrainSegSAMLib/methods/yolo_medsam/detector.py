"""A detector: a model folder of the method "yolo_detector" in memory, which finds the boxes of lesions in a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...backends.yolo import YoloDetector, load
from ...backends.yolo_architecture import YoloArchitecture
from ...boxes import SliceBox, Track, link
from ...errors import ModelError
from ...image import Image
from ...intensity import LOWER_PERCENTILE, MAX_CHANNELS, UPPER_PERCENTILE, picture_of
from ...models.store import Model
from ...progress import Progress
from .detector_config import DetectionSettings
from .slices import slices_of

METHOD: Final = "yolo_detector"
"""What `model.json` names as method of a detector."""


@dataclass(frozen=True, eq=False)
class Detector:
    """A detector in memory.

    Attributes:
        model: its folder's description; the kinds of its boxes are the model's regions, in order.
        network: what finds boxes.
        settings: how it looks at volumes.
        lower: percentile of the brain that becomes black.
        upper: percentile of the brain that becomes white.
    """

    model: Model
    network: YoloDetector
    settings: DetectionSettings
    lower: float
    upper: float

    def picture(self, image: Image) -> NDArray[np.uint8]:
        """The model's modalities of an image as the network sees them: uint8 (3, z, y, x).

        Raises:
            InputError: as `intensity.picture_of`.
        """
        return picture_of(image, self.model.modalities, lower=self.lower, upper=self.upper)

    def find(self, pictures: NDArray[np.uint8], *, progress: Progress | None = None) -> tuple[Track, ...]:
        """The lesions of a volume.

        Args:
            pictures: uint8 (3, z, y, x), axes LPS.
            progress: advanced by one for each slice; may cancel.

        Returns:
            By confidence, the highest first; boxes are in pixels of the whole slices of the settings' plane. Empty
            where nothing is found.
        """
        found = find_boxes(self.network, pictures, self.settings, progress=progress)
        return link(found, self.settings.link)


def find_boxes(
    network: YoloDetector,
    pictures: NDArray[np.uint8],
    settings: DetectionSettings,
    *,
    confidence: float | None = None,
    progress: Progress | None = None,
) -> list[SliceBox]:
    """The boxes on each slice of a volume, not yet linked.

    Args:
        network: what finds them.
        pictures: uint8 (3, z, y, x), axes LPS.
        settings: how it looks at volumes.
        confidence: of a box, at least; the settings' where None.
        progress: advanced by one for each slice; may cancel.

    Returns:
        By slice and then by confidence, in pixels of the whole slices.
    """
    slices = slices_of(pictures, settings.plane, head_only=settings.head_only)
    found = network.detect(
        slices.frames,
        image_size=settings.image_size,
        confidence=settings.confidence if confidence is None else confidence,
        overlap=settings.overlap,
        progress=progress,
    )
    return [slices.in_slice(item) for item in found]


def load_detector(model: Model, *, device: str, trust: bool = False, precision: str = "auto") -> Detector:
    """Load a model folder of the method "yolo_detector".

    Args:
        model: as read from the folder.
        device: torch device name.
        trust: allow weights that need arbitrary unpickling.
        precision: "auto", "fp32" or "bf16"; see `backends.devices.resolve_precision`.

    Raises:
        ModelError: where the model is no detector, its weights do not fit its architecture, or its classes or channels
            do not fit its regions and modalities.
        InputError: where its settings cannot be used.
        DependencyError: where ultralytics is not installed.
    """
    if model.method != METHOD:
        raise ModelError(f"The model '{model.name}' is of the method '{model.method}'; a detector is of '{METHOD}'.")
    if len(model.weights) != 1:
        raise ModelError(f"The detector '{model.name}' must list one weights file, but lists {len(model.weights)}.")
    described = model.settings.get("architecture")
    if not isinstance(described, dict):
        raise ModelError(f"The detector '{model.name}' does not say its architecture; train it again.")
    architecture = YoloArchitecture.from_dict(described)
    regions = model.scheme.names
    if architecture.classes != len(regions):
        raise ModelError(
            f"The detector '{model.name}' tells {architecture.classes} kinds of object apart, but its model.json names "
            f"{len(regions)} regions ({', '.join(regions)}); train it again."
        )
    if not 1 <= len(model.modalities) <= MAX_CHANNELS:
        raise ModelError(
            f"The detector '{model.name}' names {len(model.modalities)} modalities, but sees one to {MAX_CHANNELS}."
        )
    windowing = model.settings.get("windowing", {})
    path = model.path_of(model.weights[0].path)
    overlapping = model.scheme.overlapping
    return Detector(
        model,
        load(architecture, path, device=device, trust=trust, precision=precision, several_kinds=overlapping),
        DetectionSettings.from_dict(model.settings.get("detection", {})),
        float(windowing.get("lower", LOWER_PERCENTILE)),
        float(windowing.get("upper", UPPER_PERCENTILE)),
    )
