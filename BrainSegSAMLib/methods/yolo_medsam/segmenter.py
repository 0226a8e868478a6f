"""A segmenter: a model folder of the method "sam" in memory, which finds what is marked on slices of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...backends.sam import Marks, SamSegmenter, load
from ...backends.sam_architecture import SamArchitecture
from ...backends.sam_forward import SamForward
from ...backends.sam_network import build
from ...backends.slice_features import SliceFeatures
from ...boxes import SliceBox, by_slice
from ...image import Image
from ...intensity import picture_of
from ...models.published import Published, read_network
from ...models.store import Model

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
    network: SamSegmenter, features: SliceFeatures[SamForward], boxes: Iterable[SliceBox]
) -> Iterator[tuple[SliceBox, NDArray[np.bool_]]]:
    """What is in boxes; slices without one are not encoded.

    Args:
        network: of the segmenter.
        features: of the slices that the boxes lie on, as its `encode` gives them.
        boxes: in any order.

    Returns:
        Each box with its mask, bool (rows, columns), by slice.

    Raises:
        InputError, ModelError, OutputError, Cancelled: as `SamSegmenter.find`.
    """
    on_slice = by_slice(boxes)
    marks = {index: Marks(np.array([item.box for item in items])) for index, items in on_slice.items()}
    for index, logits in network.find(features, marks):
        for item, one in zip(on_slice[index], logits, strict=True):
            yield item, one > 0


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
