"""A segmenter: a model folder of the method "sam" in memory, which finds what is marked on slices of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...backends.sam import Marks, SamSegmenter, load
from ...backends.sam_architecture import SamArchitecture
from ...backends.sam_network import build
from ...backends.slice_features import DEFAULT_BUDGET_BYTES
from ...boxes import SliceBox, by_slice, check_boxes
from ...image import Image
from ...intensity import picture_of
from ...models.published import Published, read_network
from ...models.store import Model
from ...progress import Progress
from ...prompts import PLANES, Prompt, slice_shape
from .slices import slices_of

METHOD: Final = "sam"
"""What `model.json` names as method of a segmenter."""

SEGMENTERS: Final = Published(
    method=METHOD,
    noun="segmenter",
    names=("SAM", "MedSAM"),
    architecture=SamArchitecture,
    build=build,
    weights_file="sam.pt",
    twins={"vit_b": "medsam"},
    resizable=False,
)
"""Model folders of segmenters, and the published checkpoints that become one."""


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A segmenter in memory.

    Attributes:
        model: its folder's description.
        network: finds what is marked.
        lower: percentile of the brain that becomes black.
        upper: percentile of the brain that becomes white.
        head_only: whether it is shown the head alone, see `slices.slices_of`.
    """

    model: Model
    network: SamSegmenter
    lower: float
    upper: float
    head_only: bool = False

    def picture(self, image: Image, modalities: Sequence[str]) -> NDArray[np.uint8]:
        """One to three modalities of an image as the network sees them, see `intensity.picture_of`."""
        return picture_of(image, modalities, lower=self.lower, upper=self.upper)


def draw(
    segmenter: Segmenter,
    picture: NDArray[np.uint8],
    boxes: Sequence[SliceBox],
    plane: str,
    *,
    memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Iterator[tuple[SliceBox, NDArray[np.bool_]]]:
    """What is in boxes; slices without one are not encoded.

    Args:
        segmenter: draws.
        picture: uint8 (3, z, y, x), axes LPS, as the segmenter's `picture` gives it.
        boxes: on slices of the plane, in any order.
        plane: a key of `prompts.PLANES`.
        memory_budget_bytes: of image features; what exceeds it goes to a temporary file.
        batch_size: slices that are encoded in one pass.
        progress: may cancel.

    Returns:
        Each box with its mask, bool (rows, columns), by slice.

    Raises:
        InputError: a box that leaves its slice.
        ModelError, OutputError, Cancelled: as `SliceFeatures.gather`.
    """
    if not boxes:
        return
    shape = slice_shape(picture.shape[1:], plane)
    check_boxes(boxes, slices=picture.shape[1 + PLANES[plane]], shape=shape, name="The boxes")
    shown = [Prompt(1, plane, item.index, box=item.box) for item in boxes]
    slices = slices_of(picture, plane, head_only=segmenter.head_only, prompts=shown)
    on_slice = by_slice(boxes)
    marks = {
        index: Marks(np.array([slices.in_frame(item).box for item in items])) for index, items in on_slice.items()
    }
    with segmenter.network.encode(
        slices.frames, memory_budget_bytes=memory_budget_bytes, batch_size=batch_size, progress=progress
    ) as features:
        for index, logits in segmenter.network.find(features, marks):
            yield from zip(on_slice[index], slices.on_slice(logits > 0, shape), strict=True)


def load_segmenter(model: Model, *, device: str, trust: bool, precision: str = "auto") -> Segmenter:
    """Load a model folder of the method "sam".

    Args:
        model: as read from the folder.
        device: torch device name.
        trust: allow weights that need arbitrary unpickling.
        precision: "auto", "fp32" or "bf16"; see `backends.devices.resolve_precision`.

    Raises:
        ModelError: where the model is no segmenter, or its weights do not fit its architecture.
        DependencyError: where segment-anything is not installed.
    """
    found = read_network(model, SEGMENTERS)
    network = load(found.architecture, found.weights, device=device, trust=trust, precision=precision)
    return Segmenter(model, network, found.lower, found.upper, model.settings.get("head_only") is True)
