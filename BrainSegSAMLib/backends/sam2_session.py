"""Follows several objects through the slices at once, each in its own direction, with a memory of its own.

All tracks advance in lock-step by their distance from their own prompted slice, so that tracks of different objects,
directions and prompted slices have memories of the same shape and go through the network as one batch. What a track
sees is exactly what sam2's video predictor would show it in a fresh state with this one object and direction.

Source: Ravi et al., SAM 2, arXiv:2408.00714, section 4 (memory bank); facebookresearch/sam2, `sam2_video_predictor.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from .sam2_forward import Sam2Forward
from .slice_features import SliceFeatures

if TYPE_CHECKING:
    import torch

PROMPT_LOGIT = 10.0
"""Logit inside a mask that was given as prompt; minus this outside (as sam2)."""

_TOKENS = 2**16  # of memories, that the tracks in one pass attend to: 9 tracks at 512 pixels, 2 at 1024


@dataclass(frozen=True, eq=False)
class Seed:
    """Where one track starts, and which way it goes. Exactly one of mask, box and points is given.

    Attributes:
        slice_index: the prompted slice.
        direction: +1 towards higher slice numbers, -1 towards lower ones.
        mask: bool (rows, columns) of the object on this slice.
        box: column and row of one corner, column and row of the opposite one, in pixels (first pixel: 0 to 1).
        points: (column, row) each, in pixels.
        point_labels: 1 (in the object) or 0 (outside) for each point.
    """

    slice_index: int
    direction: int
    mask: NDArray[np.bool_] | None = None
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] | None = None
    point_labels: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """What one track found on one slice.

    Attributes:
        track: number of the seed.
        slice_index: the slice.
        logits: float32 (rows, columns); the object is where they are above 0.
        object_score: logit that the object is on this slice at all; where it is not above 0, no logit is above 0.
    """

    track: int
    slice_index: int
    logits: NDArray[np.float32]
    object_score: float


@dataclass
class _Track:
    """One track's memory: slices by their distance from the prompted one."""

    number: int
    seed: Seed
    spatial: dict[int, torch.Tensor] = field(default_factory=dict)
    pointer: dict[int, torch.Tensor] = field(default_factory=dict)

    def slice_at(self, offset: int) -> int:
        return self.seed.slice_index + offset * self.seed.direction

    def remember(
        self, offset: int, spatial: torch.Tensor, pointer: torch.Tensor, *, spatials: int, pointers: int
    ) -> None:
        """Add what was found; forget what is too far back, never the prompted slice."""
        self.spatial[offset], self.pointer[offset] = spatial, pointer
        for memory, length in ((self.spatial, spatials), (self.pointer, pointers)):
            for old in [key for key in memory if key and key <= offset - length]:
                del memory[old]


class Session:
    """Tracks under way; made by `Sam2Tracker.begin`."""

    def __init__(self, features: SliceFeatures[Sam2Forward], seeds: Sequence[Seed]) -> None:
        """Start one track for each seed.

        Args:
            features: of the slices.
            seeds: one for each object and direction.

        Raises:
            InputError: no seed, or one that does not fit the slices.
        """
        if not seeds:
            raise InputError("Tracking needs at least one prompt.")
        for seed in seeds:
            _check_seed(seed, features.count, features.slice_shape)
        self._forward = features.encoder
        self._features = features
        # Bounds the memory, whatever the number of tracks; and a CPU's cache prefers little at a time.
        self._batch_size = max(1, _TOKENS // (self._forward.network.num_maskmem * self._forward.side**2))
        self._tracks = {number: _Track(number, seed) for number, seed in enumerate(seeds)}
        self._offset = 0

    def stop(self, track: int) -> None:
        """End a track; its memory is freed. A track that has ended already may be named."""
        self._tracks.pop(track, None)

    def step(self) -> list[Step]:
        """Advance every track that is alive by one slice; the first step gives the prompted slices themselves.

        Returns:
            One result for each, in the order of the seeds; an empty list when all tracks have ended.

        Raises:
            ModelError: features, masks or scores that are not finite, as damaged weights give them.
            Cancelled, OutputError: as `SliceFeatures.gather`.
        """
        import torch

        self._tracks = {number: track for number, track in self._tracks.items() if self._inside(track)}
        tracks = list(self._tracks.values())
        found: list[Step] = []
        with torch.inference_mode():
            if self._offset == 0:
                found = self._prompted(tracks)
            else:
                for begin in range(0, len(tracks), self._batch_size):
                    found += self._followed(tracks[begin : begin + self._batch_size])
        self._offset += 1
        return found

    def _inside(self, track: _Track) -> bool:
        return 0 <= track.slice_at(self._offset) < self._features.count

    def _prompted(self, tracks: Sequence[_Track]) -> list[Step]:
        """The prompted slices; a prompt that two directions share is computed once."""
        done: dict[tuple[object, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]] = {}
        steps = []
        for track in tracks:
            seed = track.seed
            key = (seed.slice_index, id(seed.mask), seed.box, seed.points, seed.point_labels)
            if key not in done:
                done[key] = self._prompt(seed)
            low, spatial, pointer, score = done[key]
            self._remember(track, spatial, pointer)
            steps.append(self._result(track, low, score))
        return steps

    def _prompt(self, seed: Seed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Logits, memory, pointer and object score of a prompted slice; here sam2's own code is used as it is."""
        features = self._features.gather([seed.slice_index])[:3]
        out = self._forward.network.track_step(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=[level.flatten(2).permute(2, 0, 1) for level in features],
            current_vision_pos_embeds=[],
            feat_sizes=[tuple(level.shape[-2:]) for level in features],
            point_inputs=self._point_inputs(seed),
            mask_inputs=self._mask_input(seed),
            output_dict={},
            num_frames=self._features.count,
            run_mem_encoder=False,
        )
        logits, scores = out["pred_masks"], out["object_score_logits"]
        memory = self._forward.encode_memory(features[-1], logits, scores, prompted=True)
        return logits[0], memory[0], out["obj_ptr"][0], float(scores[0, 0])

    def _followed(self, tracks: Sequence[_Track]) -> list[Step]:
        """One slice further for one batch of tracks."""
        high, middle, low, tokens = self._features.gather([track.slice_at(self._offset) for track in tracks])
        conditioned = self._forward.attend(
            tokens,
            _stacked([track.spatial for track in tracks]),
            _stacked([track.pointer for track in tracks]),
            offset=self._offset,
            count=self._features.count,
        )
        logits, pointers, scores = self._forward.decode(conditioned, high, middle)
        memory = self._forward.encode_memory(low, logits, scores, prompted=False)
        steps = []
        for row, track in enumerate(tracks):
            self._remember(track, memory[row], pointers[row])
            steps.append(self._result(track, logits[row], float(scores[row, 0])))
        return steps

    def _remember(self, track: _Track, spatial: torch.Tensor, pointer: torch.Tensor) -> None:
        import torch

        # sam2 keeps its memories in bfloat16, too.
        track.remember(
            self._offset,
            spatial.to(torch.bfloat16),
            pointer,
            spatials=self._forward.network.num_maskmem - 1,
            pointers=self._forward.network.max_obj_ptrs_in_encoder - 1,
        )

    def _result(self, track: _Track, low: torch.Tensor, score: float) -> Step:
        import torch

        if not (math.isfinite(score) and bool(torch.isfinite(low).all())):
            raise ModelError("The masks of this model are not finite: its weights are damaged.")
        mask = track.seed.mask
        if self._offset == 0 and mask is not None:
            logits = np.where(mask, PROMPT_LOGIT, -PROMPT_LOGIT).astype(np.float32)
        else:
            logits = _resized(low[None].float(), self._features.slice_shape)[0, 0].cpu().numpy()
        return Step(track.number, track.slice_at(self._offset), logits, score)

    def _mask_input(self, seed: Seed) -> torch.Tensor | None:
        """The mask on the network's grid, float32 (1, 1, image_size, image_size) of 0 and 1."""
        import torch

        if seed.mask is None:
            return None
        network = self._forward.network
        size = (network.image_size, network.image_size)
        mask = torch.from_numpy(np.ascontiguousarray(seed.mask, dtype=np.float32))[None, None]
        resized = torch.nn.functional.interpolate(
            mask, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        # sam2's threshold is 0.5; a mask so small that nothing reaches it would vanish.
        highest = float(resized.max())
        return (resized >= (0.5 if highest >= 0.5 else highest / 2)).float().to(network.device)

    def _point_inputs(self, seed: Seed) -> dict[str, torch.Tensor] | None:
        """Points, or the corners of the box as points of their own kinds, in the network's pixels."""
        import torch

        if seed.mask is not None:
            return None
        if seed.box is not None:
            coordinates, labels = [list(seed.box[:2]), list(seed.box[2:])], [2, 3]
        else:
            coordinates, labels = [list(point) for point in seed.points or ()], list(seed.point_labels or ())
        rows, columns = self._features.slice_shape
        network = self._forward.network
        scale = torch.tensor([network.image_size / columns, network.image_size / rows])
        return {
            "point_coords": (torch.tensor([coordinates], dtype=torch.float32) * scale).to(network.device),
            "point_labels": torch.tensor([labels], dtype=torch.int32, device=network.device),
        }


def _stacked(memories: Sequence[dict[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
    """Distance → the memories of all tracks at this distance, float32 (track, …)."""
    import torch

    return {past: torch.stack([memory[past] for memory in memories]).float() for past in memories[0]}


def _resized(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch

    if masks.shape[-2:] == size:
        return masks
    return torch.nn.functional.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)


def _check_seed(seed: Seed, count: int, shape: tuple[int, int]) -> None:
    if not 0 <= seed.slice_index < count:
        raise InputError(f"The prompt lies on slice {seed.slice_index}, but there are slices 0 to {count - 1}.")
    if seed.direction not in (-1, 1):
        raise InputError(f"The direction of a track must be 1 or -1, not {seed.direction}.")
    if sum(prompt is not None for prompt in (seed.mask, seed.box, seed.points)) != 1:
        raise InputError("A prompt needs exactly one of: a mask, a box, points.")
    if seed.mask is not None:
        _check_mask(seed.mask, shape)
    elif seed.box is not None:
        _check_box(seed.box, shape)
    else:
        _check_points(seed.points or (), seed.point_labels or (), shape)


def _check_mask(mask: NDArray[np.bool_], shape: tuple[int, int]) -> None:
    if mask.shape != shape or mask.dtype != np.bool_:
        raise InputError(f"A prompt mask must be bool {shape} as the slices, not {mask.dtype} {mask.shape}.")
    if not mask.any():
        raise InputError("The prompt mask is empty; mark the object on its slice.")


def _check_box(box: tuple[float, float, float, float], shape: tuple[int, int]) -> None:
    left, top, right, bottom = box
    rows, columns = shape
    if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
        raise InputError(
            f"The box {box} (column, row, column, row) does not lie within the slice of {columns} columns and {rows} "
            "rows, or its corners are not ordered."
        )


def _check_points(points: Sequence[tuple[float, float]], labels: Sequence[int], shape: tuple[int, int]) -> None:
    rows, columns = shape
    if not points or len(points) != len(labels) or not set(labels) <= {0, 1} or 1 not in labels:
        raise InputError("Point prompts need a label, 1 (object) or 0 (outside), for each point, and one of them 1.")
    for column, row in points:
        if not (0 <= column <= columns and 0 <= row <= rows):
            raise InputError(
                f"The point at column {column}, row {row} lies outside the slice of {columns} columns and {rows} rows."
            )
