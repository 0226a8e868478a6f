"""Measures a detector and segmenters on one labelled case: boxes found, and Dice of masks from true and found boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...boxes import SliceBox, boxes_of, link
from ...components import label_components
from ...image import Image
from ...intensity import as_frames
from ...progress import Progress
from ...prompts import slices_first
from ...scores import dice
from .baselines import BASELINES
from .composing import segmenter_inputs
from .config import YoloMedSAMSettings
from .detection_scores import LEAST_CONFIDENCE
from .detector import Detector, find_boxes
from .segmenter import Segmenter, draw

BoolArray = NDArray[np.bool_]

TRUE_BOXES: Final = "true boxes"
FOUND_BOXES: Final = "found boxes"


@dataclass(frozen=True, eq=False)
class Measured:
    """One case.

    Attributes:
        found: every box that the detector is sure of by `LEAST_CONFIDENCE` or more; for average precision.
        linked: the boxes of the lesions that it finds with its own settings, gaps filled.
        known: the reference's, one for each connected piece on each slice.
        dice: (segmenter or baseline, `TRUE_BOXES` or `FOUND_BOXES`, kind) → Dice of the volume.
    """

    found: Sequence[SliceBox]
    linked: Sequence[SliceBox]
    known: Sequence[SliceBox]
    dice: Mapping[tuple[str, str, int], float]


def measure(
    image: Image,
    truth: Sequence[BoolArray],
    detector: Detector,
    segmenters: Mapping[str, Segmenter],
    *,
    progress: Progress | None = None,
) -> Measured:
    """Measure one case.

    Args:
        image: axes LPS.
        truth: for each of the detector's kinds, bool (z, y, x) on the image's grid.
        detector: whose boxes count.
        segmenters: name → what draws masks in boxes; the baselines without a network are measured beside them.
        progress: may cancel.

    Raises:
        InputError: where the image lacks a modality.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    plane = detector.settings.plane
    picture = detector.picture(image)
    found = find_boxes(detector.network, picture, detector.settings, confidence=LEAST_CONFIDENCE, progress=progress)
    sure = [item for item in found if item.confidence >= detector.settings.confidence]
    linked = [box for track in link(sure, detector.settings.link) for box in track.boxes]
    known = [
        box for kind, mask in enumerate(truth) for box in boxes_of(label_components(mask)[0], plane, kind=kind)
    ]
    scores: dict[tuple[str, str, int], float] = {}
    for source, boxes in ((TRUE_BOXES, known), (FOUND_BOXES, linked)):
        grey = slices_first(picture[-1], plane)
        for name, rule in BASELINES.items():
            masks = ((item, rule(item.box, grey[item.index])) for item in boxes)
            scores |= {(name, source, kind): value for kind, value in _scores(masks, truth, plane)}
    for name, segmenter in segmenters.items():
        shown = segmenter_inputs(segmenter.model, detector.model, YoloMedSAMSettings())
        frames = as_frames(segmenter.picture(image, shown), plane)
        with segmenter.network.encode(frames, progress=progress) as features:
            for source, boxes in ((TRUE_BOXES, known), (FOUND_BOXES, linked)):
                masks = draw(segmenter.network, features, boxes)
                scores |= {(name, source, kind): value for kind, value in _scores(masks, truth, plane)}
    return Measured(found, linked, known, scores)


def _scores(
    masks: Iterable[tuple[SliceBox, BoolArray]], truth: Sequence[BoolArray], plane: str
) -> Iterator[tuple[int, float]]:
    """Kind, and Dice of its masks joined."""
    volumes = [np.zeros_like(mask) for mask in truth]
    slices = [slices_first(volume, plane) for volume in volumes]
    for item, mask in masks:
        slices[item.kind][item.index] |= mask
    for kind, (volume, whole) in enumerate(zip(volumes, truth, strict=True)):
        yield kind, dice(volume, whole)
