"""Where boxes come from: a detector that looks at every slice, or the pieces of what another model has segmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...boxes import SliceBox, Track, boxes_of, link
from ...components import label_components, remove_small
from ...geometry import AxisOrder, Geometry
from ...image import Image
from ...progress import Progress
from ...prompts import slice_shape, slice_spacing_mm
from ..contract import Predictor
from .config import YoloMedSAMSettings
from .detector import Detector

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Found:
    """The boxes of an image.

    Attributes:
        tracks: boxes of each lesion, whose kind is the number of its region.
        kept: bool (z, y, x) for each region, axes LPS: what belongs to it without a box.
        record: how they were found.
    """

    tracks: Sequence[Track]
    kept: Sequence[BoolArray]
    record: Mapping[str, Any] = field(default_factory=dict)


class BoxSource(Protocol):
    """Finds boxes in an image."""

    def find(self, image: Image, geometry: Geometry, order: AxisOrder, progress: Progress) -> Found:
        """The boxes of an image.

        Args:
            image: as read.
            geometry: its grid with axes LPS, on which boxes are given.
            order: from the image's axes to LPS.
            progress: gets the stages, and may cancel.
        """
        ...


class DetectedBoxes:
    """Boxes of a detector, linked across slices."""

    def __init__(self, detector: Detector, settings: YoloMedSAMSettings) -> None:
        self._detector = detector
        self._settings = settings

    def find(self, image: Image, geometry: Geometry, order: AxisOrder, progress: Progress) -> Found:
        """See `BoxSource.find`; lesions that show on fewer than `minimum_slices` slices are dropped."""
        settings = self._settings
        found = self._detector.detect(
            order.apply(self._detector.picture(image)),
            plane=settings.plane,
            confidence=settings.minimum_confidence,
            overlap=settings.overlap,
            progress=progress,
        )
        tracks = link(found, settings.linking)
        model = self._detector.model
        record: dict[str, Any] = {"model": model.name, "model_sha256": model.sha256, "boxes": len(found)}
        dropped = len(found) - sum(box.confidence > 0 for track in tracks for box in track.boxes)
        if dropped:
            record["notes"] = [f"{dropped} boxes of lesions on fewer than {settings.minimum_slices} slices were dropped."]
        return Found(tracks, [np.zeros(geometry.shape_zyx, bool) for _ in model.scheme.regions], record)


class PriorBoxes:
    """Boxes around the pieces of every region that another model segments; small pieces keep its voxels."""

    def __init__(self, prior: Predictor, settings: YoloMedSAMSettings) -> None:
        self._prior = prior
        self._settings = settings

    def find(self, image: Image, geometry: Geometry, order: AxisOrder, progress: Progress) -> Found:
        """See `BoxSource.find`."""
        settings, model = self._settings, self._prior.model
        segmented = self._prior.predict(image, progress=progress)
        shape = slice_shape(geometry.shape_zyx, settings.plane)
        _, row_mm, column_mm = slice_spacing_mm(geometry, settings.plane)
        margin = np.array([-settings.margin_mm / column_mm, -settings.margin_mm / row_mm] * 2) * [1, 1, -1, -1]
        tracks: list[Track] = []
        kept: list[BoolArray] = []
        for kind, name in enumerate(model.scheme.names):
            mask = order.apply(segmented.mask(name))
            large = remove_small(mask, geometry.spacing_zyx_mm, min_volume_mm3=settings.minimum_lesion_mm3)
            kept.append(mask & ~large)
            components, count = label_components(large)
            for number in range(1, count + 1):
                boxes = [_larger(box, margin, shape) for box in boxes_of(
                    np.where(components == number, components, 0), settings.plane, kind=kind)]  # fmt: skip
                tracks.append(Track(tuple(boxes), kind, 1.0))
        return Found(tracks, kept, {"model": model.name, "model_sha256": model.sha256, "boxes": len(tracks)})


def _larger(item: SliceBox, margin: NDArray[np.float64], shape: tuple[int, int]) -> SliceBox:
    """The box with a margin in pixels on each side, but within its slice of (rows, columns)."""
    rows, columns = shape
    sides = np.clip(np.array(item.box) + margin, -0.5, [columns - 0.5, rows - 0.5] * 2).tolist()
    return replace(item, box=(sides[0], sides[1], sides[2], sides[3]))
