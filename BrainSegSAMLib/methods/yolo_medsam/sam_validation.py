"""Scores masks from the true boxes on whole volumes: of a network, or of anything else that turns boxes into masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from ...backends.sam import Marks, SamSegmenter
from ...backends.sam_forward import SamForward
from ...backends.slice_features import DEFAULT_BUDGET_BYTES, SliceFeatures
from ...boxes import SliceBox, boxes_of
from ...components import label_components
from ...intensity import as_frames
from ...metrics import dice
from ...progress import Progress
from ...prompts import Box, slice_shape, slices_first
from ...scores import CaseScore
from ...training_volumes import BoolArray, TrainingVolume
from .slices import Slices

TITLE = "Cross-validation, masks from true boxes"
NOTE = (
    "Dice coefficient of each whole volume under the network that has not seen the case. Each piece of a region has "
    "the reference's box on every slice that shows it; the masks of a slice are joined. Mean over the cases that have "
    "the region in the last row."
)
SLICE_TITLE = "Split by slices, masks from true boxes"
SLICE_NOTE = (
    "Dice coefficient of those slices of each case that were left out, while others of the same patient were learned "
    "from, so it says nothing about other patients. Boxes and means as in a cross-validation."
)

Boxes = Mapping[int, Sequence[Box]]
"""Slice → the boxes on it."""
Segment = Callable[[TrainingVolume, Boxes], Iterable[tuple[int, BoolArray]]]
"""Volume, boxes → slice by slice its number and the masks of its boxes, bool (box, rows, columns)."""


def true_boxes(mask: BoolArray, plane: str) -> dict[int, list[Box]]:
    """The box of each 26-connected piece of a mask (z, y, x) on each slice that shows it."""
    components, _ = label_components(mask)
    found: dict[int, list[Box]] = {}
    for item in boxes_of(components, plane):
        found.setdefault(item.index, []).append(item.box)
    return found


def joined(masks: Iterable[tuple[int, BoolArray]], shape_zyx: tuple[int, int, int], plane: str) -> BoolArray:
    """The masks of all slices, each (box, rows, columns), as one volume (z, y, x)."""
    volume = np.zeros(shape_zyx, dtype=bool)
    slices = slices_first(volume, plane)
    for index, found in masks:
        slices[index] |= found.any(axis=0)
    return volume


@contextmanager
def by_network(
    segmenter: SamSegmenter,
    plane: str,
    *,
    head_only: bool = False,
    volumes: int = 1,
    progress: Progress | None = None,
) -> Iterator[Segment]:
    """Segmenting with a network; image features are freed when the block ends.

    Args:
        segmenter: the network.
        plane: whose slices are segmented.
        head_only: show it the head alone.
        volumes: how many of them keep their image features for later calls; they share the memory budget. So the
            encoder must stay as it is while the block lasts.
        progress: may cancel between passes of the encoder.
    """
    budget = DEFAULT_BUDGET_BYTES // volumes
    with ExitStack() as kept:
        known: dict[str, tuple[Slices, SliceFeatures[SamForward]]] = {}

        def segment(volume: TrainingVolume, boxes: Boxes) -> Iterable[tuple[int, BoolArray]]:
            if volume.case_id not in known:
                if len(known) >= volumes:
                    kept.close()
                    known.clear()
                slices = _shown(volume, plane, head_only)
                features = segmenter.encode(slices.frames, memory_budget_bytes=budget, progress=progress)
                known[volume.case_id] = slices, kept.enter_context(features)
            slices, features = known[volume.case_id]
            shape = slice_shape(volume.shape_zyx, plane)
            for index, logits in segmenter.find(features, _marks(boxes, slices)):
                yield index, slices.on_slice(logits > 0, shape)

        yield segment


def _shown(volume: TrainingVolume, plane: str, head_only: bool) -> Slices:
    frames = as_frames(volume.pictures, plane)
    if not head_only:
        return Slices(frames)
    rows, columns = volume.heads[plane]
    return Slices(frames[:, :, rows, columns], (rows.start, columns.start))


def _marks(boxes: Boxes, slices: Slices) -> dict[int, Marks]:
    """Boxes of whole slices as marks on what is shown of them."""
    shown = {i: [slices.in_frame(SliceBox(i, box)).box for box in on_slice] for i, on_slice in boxes.items()}
    return {index: Marks(boxes=np.array(on_slice, dtype=np.float64)) for index, on_slice in shown.items()}


def by_pixels(rule: Callable[[Box, NDArray[np.uint8]], BoolArray], channel: int, plane: str) -> Segment:
    """Segmenting with a rule of `baselines`, from one channel of the picture."""

    def segment(volume: TrainingVolume, boxes: Boxes) -> Iterable[tuple[int, BoolArray]]:
        slices = slices_first(volume.pictures[channel], plane)
        for index, on_slice in boxes.items():
            yield index, np.stack([rule(box, slices[index]) for box in on_slice])

    return segment


def score_volumes(
    segment: Segment,
    volumes: Sequence[TrainingVolume],
    regions: Mapping[int, str],
    *,
    plane: str,
    fold: int,
    progress: Progress,
    only: Mapping[str, Collection[int]] | None = None,
) -> list[CaseScore]:
    """Dice of every region of some volumes, from the true boxes.

    Args:
        segment: turns boxes into masks.
        volumes: that it has not seen.
        regions: number → name of those to score.
        plane: of the boxes.
        fold: for the table.
        progress: may cancel.
        only: case id → the slices that count; all where None.
    """
    scores = []
    for volume in volumes:
        found: dict[str, float | None] = {}
        for number, name in regions.items():
            progress.check()
            truth = volume.truth[number]
            if only is not None:
                truth = _of_slices(truth, plane, only[volume.case_id])
            boxes = {index: of for index, of in true_boxes(volume.truth[number], plane).items()
                     if only is None or index in only[volume.case_id]}  # fmt: skip
            masks = segment(volume, boxes)
            found[name] = dice(joined(masks, volume.shape_zyx, plane), truth) if truth.any() else None
        scores.append(CaseScore(volume.case_id, fold, found))
    return scores


def _of_slices(mask: BoolArray, plane: str, indices: Collection[int]) -> BoolArray:
    """What a mask (z, y, x) shows on some slices of a plane."""
    kept = np.zeros_like(mask)
    chosen = sorted(indices)
    slices_first(kept, plane)[chosen] = slices_first(mask, plane)[chosen]
    return kept
