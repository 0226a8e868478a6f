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
from ...metrics import dice
from ...metrics.detection import LEAST_CONFIDENCE
from ...progress import Progress
from ...prompts import slices_first
from .baselines import BASELINES
from .composing import segmenter_inputs
from .config import YoloMedSAMSettings
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
    boxes = [*known, *linked]
    sources = {id(item): TRUE_BOXES for item in known} | {id(item): FOUND_BOXES for item in linked}
    scores: dict[tuple[str, str, int], float] = {}
    grey = slices_first(picture[-1], plane)
    for name, rule in BASELINES.items():
        drawn: Iterable[tuple[SliceBox, BoolArray]] = ((item, rule(item.box, grey[item.index])) for item in boxes)
        scores |= {(name, *key): value for key, value in _scores(drawn, sources, truth, plane)}
    for name, segmenter in segmenters.items():
        shown = segmenter_inputs(segmenter.model, detector.model, YoloMedSAMSettings())
        drawn = draw(segmenter, segmenter.picture(image, shown), boxes, plane, progress=progress)
        scores |= {(name, *key): value for key, value in _scores(drawn, sources, truth, plane)}
    return Measured(found, linked, known, scores)


def _scores(
    drawn: Iterable[tuple[SliceBox, BoolArray]], sources: Mapping[int, str], truth: Sequence[BoolArray], plane: str
) -> Iterator[tuple[tuple[str, int], float]]:
    """Source of the boxes and kind, and the Dice of their masks joined."""
    volumes = {(source, kind): np.zeros_like(mask) for source in (TRUE_BOXES, FOUND_BOXES)
               for kind, mask in enumerate(truth)}  # fmt: skip
    for item, mask in drawn:
        slices_first(volumes[sources[id(item)], item.kind], plane)[item.index] |= mask
    for key, volume in volumes.items():
        yield key, dice(volume, truth[key[1]])
