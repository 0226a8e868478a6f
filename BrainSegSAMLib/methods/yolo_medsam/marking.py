"""Finds the objects that are marked on slices of a volume, and puts them into it; each object is its marks' own.

A slice is segmented by itself: what is not marked on it is not found on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ...backends.sam import Marks
from ...backends.slice_features import DEFAULT_BUDGET_BYTES
from ...errors import InputError
from ...progress import Progress
from ...prompts import PLANES, Prompt, slices_first
from .slices import Slices, slices_of

if TYPE_CHECKING:
    from ...backends.sam_forward import SamForward
    from ...backends.slice_features import SliceFeatures


class Network(Protocol):
    """What finds marked objects; `backends.sam.SamSegmenter`."""

    def encode(
        self, frames: NDArray[np.uint8], *, memory_budget_bytes: int, batch_size: int, progress: Progress | None
    ) -> SliceFeatures[SamForward]:
        """Image features of uint8 (slice, 3, rows, columns), computed when they are first needed."""
        ...

    def find(
        self, features: SliceFeatures[SamForward], marks: Mapping[int, Marks]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Slice by slice, logits (object, rows, columns) of what is marked."""
        ...


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a volume.

    Attributes:
        owner: int32 (z, y, x), axes LPS: number of the object that a voxel belongs to, 0 for none; where several claim
            it, the one that is surest.
        missed: prompts at which nothing was found.
    """

    owner: NDArray[np.int32]
    missed: tuple[Prompt, ...]


def find_marked(
    network: Network,
    picture: NDArray[np.uint8],
    prompts: Sequence[Prompt],
    *,
    head_only: bool = False,
    memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Found:
    """Find what prompts mark, boxes or points.

    Args:
        network: a segmenter's.
        picture: uint8 (3, z, y, x), axes LPS.
        prompts: any number on any slices of any planes; those of one object share its number.
        head_only: as `Segmenter.head_only`.
        memory_budget_bytes: of image features; what exceeds it goes to a temporary file.
        batch_size: slices that are encoded in one pass.
        progress: a slice is a unit; may cancel.

    Raises:
        InputError: a prompt that is a mask, or one that does not fit the volume.
        ModelError, OutputError, Cancelled: as `SliceFeatures.gather`.
    """
    progress = progress or Progress()
    if any(prompt.mask is not None for prompt in prompts):
        raise InputError("What is drawn already needs no segmenter; mark objects by boxes or points.")
    planes = {plane: _groups([p for p in prompts if p.plane == plane]) for plane in PLANES}
    progress.stage("Finding what is marked", total=sum(len(group) for groups in planes.values() for group in groups))
    owner = np.zeros(picture.shape[1:], np.int32)
    best = np.zeros(picture.shape[1:], np.float32)
    missed = []
    for plane, groups in planes.items():
        views = slices_first(owner, plane), slices_first(best, plane)
        on_plane = [prompt for prompt in prompts if prompt.plane == plane]
        slices = slices_of(picture, plane, head_only=head_only, prompts=on_plane)
        with network.encode(
            slices.frames,
            memory_budget_bytes=memory_budget_bytes,
            batch_size=batch_size,
            progress=progress,
        ) as features:
            for group in groups:
                marks = {index: _marks(on_slice, slices) for index, on_slice in group.items()}
                for index, shown in network.find(features, marks):
                    logits = slices.on_slice(shown, views[0].shape[1:], beyond=-np.inf)
                    missed += [p for p, one in zip(group[index], logits, strict=True) if not _claim(p, one, views)]
                    progress.advance()
    return Found(owner, tuple(missed))


def _groups(prompts: Sequence[Prompt]) -> list[dict[int, list[Prompt]]]:
    """Prompts by slice, those with boxes apart from those with one point, two points, …."""
    groups: dict[int, dict[int, list[Prompt]]] = {}
    for prompt in prompts:
        groups.setdefault(len(prompt.points), {}).setdefault(prompt.index, []).append(prompt)
    return list(groups.values())


def _marks(prompts: Sequence[Prompt], slices: Slices) -> Marks:
    """Prompts of one kind, on one slice, in pixels of what is shown of it."""
    corner = np.array(slices.corner[::-1], np.float64)
    if prompts[0].box is not None:
        return Marks(np.array([prompt.box for prompt in prompts], np.float64) - np.tile(corner, 2))
    points = np.array([prompt.points for prompt in prompts], np.float64) - corner
    return Marks(None, points, np.array([prompt.point_labels for prompt in prompts], np.int64))


def _claim(prompt: Prompt, logits: NDArray[np.float32], views: tuple[NDArray[np.int32], NDArray[np.float32]]) -> bool:
    """Give the object the pixels of its slice of which it is surer than the others; whether it was found at all."""
    owner, best = (view[prompt.index] for view in views)
    surer = logits > best
    owner[surer] = prompt.object_id
    best[surer] = logits[surer]
    return bool((logits > 0).any())
