"""Follows objects through clips with gradients: what `sam2_session` does at prediction, for training.

All tracks of a batch begin with the same kind of prompt and advance together. Every slice is encoded once for all
tracks that see it.

Source: Ravi et al. 2024, SAM 2, https://arxiv.org/abs/2408.00714, appendix D.2; facebookresearch/sam2,
`sam2/modeling/sam2_base.py` and `training/model/sam2.py` (Apache-2.0).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_OPEN = 1.0  # object score, at least, with which a mask passes

Clicks = Callable[["Tensor"], tuple["Tensor", "Tensor"]]
"""Low-resolution logits (track, rows, columns) → one more point of each track: coordinates (track, 1, 2) in the
network's pixels, column first, and labels int32 (track, 1)."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """What is followed through a batch of clips.

    Attributes:
        order: int64 (track, step): which of the images each track sees at each step.
        targets: bool (track, step, S, S): the object, on the network's grid.
        boxes: float32 (track, 2, 2): two corners (column, row) in the network's pixels, as prompt of the first step;
            None: the prompt is the first target.
        clicks: gives one more point of each track for an answer to a box; asked `click_rounds` times.
        click_rounds: 0 for no correction.
    """

    order: Tensor
    targets: Tensor
    boxes: Tensor | None = None
    clicks: Clicks | None = None
    click_rounds: int = 0


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network said of one slice of each track.

    Attributes:
        step: which slice of the track.
        logits: float32 (track, candidate, S/4, S/4).
        ious: float32 (track, candidate): how good it believes them to be.
        object_scores: float32 (track,): logits of "the object is in the slice".
    """

    step: int
    logits: Tensor
    ious: Tensor
    object_scores: Tensor


@dataclass(eq=False)
class _Walk:
    """One batch on its way."""

    network: Any
    tracks: Tracks
    levels: list[Tensor]
    position: Tensor
    sizes: list[tuple[int, int]]
    gate: _Gate
    memory: dict[str, dict[int, dict[str, Any]]] = field(
        default_factory=lambda: {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    )


class _Gate:
    """Lets a mask pass where its object is in the slice, even if the network does not believe it yet.

    Masks of slices in which the network sees no object are replaced by a constant, so nothing could be learned from
    them; with random weights that would be half of all. The score itself is kept as it was, for its own loss.
    """

    def __init__(self) -> None:
        self.present: Tensor | None = None
        self.score: Tensor | None = None

    def __call__(self, _module: Module, _arguments: object, output: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        *others, score = output
        self.score = score.float()
        if self.present is None:
            return output
        return (*others, torch.where(self.present[:, None], score.clamp(min=_OPEN), score))


def follow(network: Module, images: Tensor, tracks: Tracks) -> list[Answer]:
    """Follow objects through clips; the answers carry gradients where the network's mode does.

    Args:
        network: sam2's `SAM2Base`, in train mode.
        images: float32 (image, 3, S, S), prepared as for prediction.
        tracks: what to follow.

    Returns:
        The answers in the order in which they were given: one a step, and for boxes one more for each round of
        clicks. The first step of tracks that begin with a mask has none: the prompt itself is the answer.
    """
    with _gated(network) as gate:
        walk = _begin(network, images, tracks, gate)
        answers = []
        for step in range(tracks.order.shape[1]):
            answers += _take_step(walk, step)
    return answers


def open_memory(network: Any) -> None:
    """Change random weights so that prompt and memory count from the first iteration on.

    With random weights a memory's tokens are averaged over the whole slice, and a mask is a twentieth of them; a
    network that begins there learns to do without. Equal biases of queries and keys make attention look, by the rotary
    encoding of position, at the same place of the slices before; the masks' part of a memory is made as strong as the
    image's, and masks as strong as what decides them. Our own measure, found by trial on small networks.
    """
    import torch

    with torch.no_grad():
        for layer in network.memory_attention.layers:
            attention = layer.cross_attn_image
            for projection in (attention.q_proj, attention.k_proj):
                projection.bias.fill_(2.5)
                projection.weight.mul_(0.5)
            attention.out_proj.weight.mul_(3.0)
        network.memory_encoder.mask_downsampler.encoder[-1].weight.mul_(4.0)
        network.memory_encoder.out_proj.weight.mul_(2.0)
        for layers in network.sam_mask_decoder.output_hypernetworks_mlps:
            layers.layers[-1].weight.mul_(4.0)


def set_dropout(network: Any, rate: float) -> None:
    """Give every layer of memory attention this rate of dropout; 0 also lets attention take its fast path."""
    for module in network.memory_attention.modules():
        if hasattr(module, "dropout_p"):
            module.dropout_p = rate
        elif type(module).__name__ == "Dropout":
            module.p = rate


@contextlib.contextmanager
def _gated(network: Any) -> Iterator[_Gate]:
    gate = _Gate()
    handle = network.sam_mask_decoder.register_forward_hook(gate)
    try:
        yield gate
    finally:
        handle.remove()


def _begin(network: Any, images: Tensor, tracks: Tracks, gate: _Gate) -> _Walk:
    encoded = network.forward_image(images)
    maps = encoded["backbone_fpn"][-network.num_feature_levels :]
    position = encoded["vision_pos_enc"][-1][:1].flatten(2).permute(2, 0, 1)
    sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
    return _Walk(network, tracks, [level.flatten(2).permute(2, 0, 1) for level in maps], position, sizes, gate)


def _take_step(walk: _Walk, step: int) -> list[Answer]:
    network, tracks = walk.network, walk.tracks
    images = tracks.order[:, step]
    levels = [level[:, images] for level in walk.levels]
    target = tracks.targets[:, step]
    mask = target[:, None].float() if step == 0 and tracks.boxes is None else None
    points = _corners(tracks.boxes) if step == 0 and tracks.boxes is not None else None
    # What the network believes of a slice whose mask is given has no loss of its own, so it must stay as at prediction.
    walk.gate.present = target.flatten(1).any(1) if mask is None else None
    current, heads, fine, mixed = network._track_step(
        frame_idx=step,
        is_init_cond_frame=step == 0,
        current_vision_feats=levels,
        current_vision_pos_embeds=[walk.position.expand(-1, len(images), -1)],
        feat_sizes=walk.sizes,
        point_inputs=points,
        mask_inputs=mask,
        output_dict=walk.memory,
        # As many as in a volume: the distance of object pointers is measured in terms of it.
        num_frames=max(tracks.order.shape[1], network.max_obj_ptrs_in_encoder),
        track_in_reverse=False,
        prev_sam_mask_logits=None,
    )
    answers = [] if mask is not None else [_answer(step, heads, walk.gate)]
    for _ in range(tracks.click_rounds if points is not None and tracks.clicks is not None else 0):
        points, heads = _correct(walk, points, heads, fine, mixed)
        answers.append(_answer(step, heads, walk.gate))
    _, _, _, _, high_resolution, pointer, score = heads
    current["obj_ptr"] = pointer
    network._encode_memory_in_output(levels, walk.sizes, points, True, high_resolution, score, current)
    walk.memory["cond_frame_outputs" if step == 0 else "non_cond_frame_outputs"][step] = current
    return answers


def _corners(boxes: Tensor) -> Mapping[str, Tensor]:
    import torch

    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes.device)  # kinds of point: first, second corner
    return {"point_coords": boxes, "point_labels": labels.expand(len(boxes), -1)}


def _correct(
    walk: _Walk, points: Mapping[str, Tensor] | None, heads: tuple[Any, ...], fine: Any, mixed: Tensor
) -> tuple[Mapping[str, Tensor], tuple[Any, ...]]:
    """One more point for each track, and the answers with it."""
    import torch

    assert points is not None
    assert walk.tracks.clicks is not None
    before = heads[3]
    coordinates, labels = walk.tracks.clicks(before[:, 0].detach())
    points = {
        "point_coords": torch.cat([points["point_coords"], coordinates], dim=1),
        "point_labels": torch.cat([points["point_labels"], labels], dim=1),
    }
    corrected = walk.network._forward_sam_heads(
        backbone_features=mixed,
        point_inputs=points,
        mask_inputs=before,
        high_res_features=fine,
        multimask_output=walk.network._use_multimask(True, points),
    )
    return points, corrected


def _answer(step: int, heads: tuple[Any, ...], gate: _Gate) -> Answer:
    candidates, _, ious, *_ = heads
    assert gate.score is not None
    return Answer(step, candidates.float(), ious.float(), gate.score[:, 0])
