"""Where boxes come from: a detector that looks at every slice, or the pieces of what another model has segmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...boxes import SliceBox, Track, boxes_by_component
from ...components import label_components, remove_small
from ...geometry import AxisOrder, Geometry
from ...image import Image
from ...models.store import Model
from ...progress import Progress
from ...prompts import PLANES, slice_shape, slice_spacing_mm
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

    @property
    def plane(self) -> str:
        """On whose slices boxes lie, a key of `prompts.PLANES`."""
        ...

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
        chosen = detector.settings
        if settings.confidence is not None:
            chosen = replace(chosen, confidence=settings.confidence)
        if settings.minimum_slices is not None:
            chosen = replace(chosen, link=replace(chosen.link, minimum_slices=settings.minimum_slices))
        self._detector = replace(detector, settings=chosen)

    @property
    def plane(self) -> str:
        """See `BoxSource.plane`."""
        return self._detector.settings.plane

    def find(self, image: Image, geometry: Geometry, order: AxisOrder, progress: Progress) -> Found:
        """See `BoxSource.find`."""
        detector = self._detector
        progress.stage("Looking for lesions", total=geometry.shape_zyx[PLANES[self.plane]])
        tracks = detector.find(order.apply(detector.picture(image)), progress=progress)
        kept = [np.zeros(geometry.shape_zyx, bool) for _ in detector.model.scheme.regions]
        return Found(tracks, kept, {**_origin(detector.model), "detection": detector.settings.as_dict()})


class PriorBoxes:
    """Boxes around the pieces of every region that another model segments; small pieces keep its voxels."""

    def __init__(self, prior: Predictor, settings: YoloMedSAMSettings) -> None:
        self._prior = prior
        self._settings = settings

    @property
    def plane(self) -> str:
        """See `BoxSource.plane`."""
        return self._settings.plane

    def find(self, image: Image, geometry: Geometry, order: AxisOrder, progress: Progress) -> Found:
        """See `BoxSource.find`."""
        settings = self._settings
        segmented = self._prior.predict(image, progress=progress)
        _, row_mm, column_mm = slice_spacing_mm(geometry, settings.plane)
        margin = settings.margin_mm / np.array([column_mm, row_mm])
        shape = slice_shape(geometry.shape_zyx, settings.plane)
        tracks: list[Track] = []
        kept: list[BoolArray] = []
        for kind, (_, mask) in enumerate(segmented.masks()):
            upright = order.apply(mask)
            large = remove_small(upright, geometry.spacing_zyx_mm, min_volume_mm3=settings.minimum_lesion_mm3)
            kept.append(upright & ~large)
            pieces, _ = label_components(large)
            for boxes in boxes_by_component(pieces, settings.plane, kind=kind).values():
                tracks.append(Track(tuple(_larger(box, margin, shape) for box in boxes), kind, 1.0))
        return Found(tracks, kept, {**_origin(self._prior.model), **segmented.record})


def _origin(model: Model) -> dict[str, Any]:
    return {"model": model.name, "model_sha256": model.sha256}


def _larger(item: SliceBox, margin: NDArray[np.float64], shape: tuple[int, int]) -> SliceBox:
    """The box with a margin (columns, rows) in pixels on each side, but within its slice of (rows, columns)."""
    rows, columns = shape
    low = np.maximum(np.array(item.box[:2]) - margin, -0.5)
    high = np.minimum(np.array(item.box[2:]) + margin, [columns - 0.5, rows - 0.5])
    return replace(item, box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])))
