"""One network of a tracker as a task to fit: its batches of clips, its losses, its validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import fitting
from ...augmentation import augmented, on_grid
from ...backends.sam2 import Sam2Tracker
from ...backends.sam2_architecture import Sam2Architecture
from ...backends.sam2_forward import prepare
from ...backends.sam2_network import build
from ...backends.sam2_training import Answer, Tracks, follow, open_memory, set_dropout
from ...backends.weights import read_weights, set_weights
from ...fitting import Fitted, Task, Weights, seed_of
from ...progress import Progress
from ...scores import mean_dice
from ...training_volumes import TrainingVolume
from .clips import Clip, corrective_click, draw_clip, jittered_box
from .tracker_config import TrackerTrainingConfig
from .tracker_validation import score_volumes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .loss import ClipLoss

_MASK_STRIDE = 4  # of the masks that the network gives, in its own pixels
_UNDECAYED = ("pos_e", "tpos", "token", "no_mem", "no_obj", "point_embed")  # embeddings, by parts of their names


@dataclass(frozen=True, eq=False)
class Fit:
    """What one network is trained with.

    Attributes:
        name: of the network, e.g. "fold_0"; decides, with the seed, what is drawn.
        volumes: to learn from.
        weights: how often each is drawn.
        regions: number → name of the regions that are scored.
        iterations: how many.
        folder: its checkpoint and TensorBoard's record go there.
        validation: volumes that decide when to stop; none where it is not stopped early.
        start: weights file to begin with, or None.
        device: torch device name.
        precision: "fp32" or "bf16".
    """

    name: str
    volumes: Sequence[TrainingVolume]
    weights: Sequence[float]
    regions: dict[int, str]
    iterations: int
    folder: Path
    validation: Sequence[TrainingVolume] = ()
    start: Path | None = None
    device: str = "cpu"
    precision: str = "fp32"


@dataclass(frozen=True, eq=False)
class _Batch:
    """One iteration's clips on the network's grid.

    Attributes:
        images: float32 (image, 3, S, S).
        order: int64 (track, step).
        targets: bool (track, step, S, S).
        boxes: float32 (track, 2, 2), or None where masks are the prompts.
    """

    images: Tensor
    order: Tensor
    targets: Tensor
    boxes: Tensor | None


def fit(job: Fit, config: TrackerTrainingConfig, architecture: Sam2Architecture, *, progress: Progress) -> Fitted:
    """Train one network, or go on where an earlier call ended; raises as `fitting.fit`.

    Args:
        job: what to train it with.
        config: settings.
        architecture: of the network.
        progress: advanced by one each iteration; may cancel, which keeps the state reached.
    """
    task = task_of(job, config, architecture)
    return fitting.fit(task, config.schedule(job.iterations), folder=job.folder, progress=progress)


def task_of(job: Fit, config: TrackerTrainingConfig, architecture: Sam2Architecture) -> Task[_Batch]:
    """The network of a job with its first weights, and how it learns; arguments as for `fit`."""
    import torch

    torch.manual_seed(seed_of(config.seed, job.name, 0))
    network = build(architecture)
    if job.start is None:
        open_memory(network)
    else:
        set_weights(network, read_weights(job.start), job.start, architecture)
    network = network.to(job.device).train()
    set_dropout(network, config.dropout)
    if config.encoder_learning_rate_factor == 0:
        network.get_submodule("image_encoder").requires_grad_(False)

    def validate(weights: Weights, progress: Progress) -> float:
        judged = build(architecture)
        judged.load_state_dict(weights)
        tracker = Sam2Tracker(judged.to(job.device), architecture)
        return mean_dice(score_volumes(tracker, job.validation, job.regions, fold=0, progress=progress))

    return Task(
        name=job.name,
        module=network,
        groups=_groups(network, config),
        make_batch=lambda iteration: _make_batch(job, config, architecture.image_size, iteration),
        losses=lambda batch, iteration: _losses(network, batch, job, config, iteration),
        validate=validate if job.validation else None,
    )


def _losses(
    network: torch.nn.Module, batch: _Batch, job: Fit, config: TrackerTrainingConfig, iteration: int
) -> Mapping[str, Tensor]:
    import torch

    device = job.device
    rng = np.random.default_rng([seed_of(config.seed, job.name, iteration), 1])
    rounds = 0
    if batch.boxes is not None and rng.random() < config.correction_probability:
        rounds = int(rng.integers(1, config.corrective_clicks + 1)) if config.corrective_clicks else 0
    first = batch.targets[:, 0]
    tracks = Tracks(
        batch.order.to(device),
        batch.targets.to(device),
        None if batch.boxes is None else batch.boxes.to(device),
        lambda logits: _clicks(logits, first, rng),
        rounds,
    )
    kind = torch.device(device).type
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=job.precision == "bf16"):
        answers = follow(network, batch.images.to(device), tracks)
    return _loss(answers, tracks.targets, config).parts()


def _groups(network: torch.nn.Module, config: TrackerTrainingConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay; the encoder's first."""
    found: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(part in name for part in _UNDECAYED)
            found.setdefault((name.startswith("image_encoder."), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "factor": config.encoder_learning_rate_factor if encoder else 1.0,
        }
        for (encoder, decays), parameters in sorted(found.items(), key=lambda item: item[0], reverse=True)
    ]


def _loss(answers: Sequence[Answer], targets: Tensor, config: TrackerTrainingConfig) -> ClipLoss:
    """The loss over all answers, on the grid that `loss_stride` gives."""
    import torch
    from torch.nn.functional import avg_pool2d, interpolate

    from .loss import LossWeights, clip_loss

    size = targets.shape[-1] // config.loss_stride
    # A box has one candidate, a slice that is tracked has several; repeating one changes nothing.
    most = max(answer.ious.shape[1] for answer in answers)
    logits = torch.cat([answer.logits.expand(-1, most, -1, -1) for answer in answers])
    logits = interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    wanted = torch.cat([targets[:, answer.step] for answer in answers]).float()
    pooled = avg_pool2d(wanted[:, None], config.loss_stride)[:, 0]
    # An object that shows at all shows here, too, as on the network's grid.
    highest = pooled.flatten(1).amax(1)[:, None, None]
    shrunk = (pooled >= (highest / 2).clamp(min=1e-6, max=0.5)).float()
    return clip_loss(
        logits,
        torch.cat([answer.ious.expand(-1, most) for answer in answers]),
        torch.cat([answer.object_scores for answer in answers]),
        shrunk,
        LossWeights(
            config.focal_weight,
            config.dice_weight,
            config.iou_weight,
            config.object_score_weight,
            config.focal_alpha,
            config.focal_gamma,
        ),
    )


# ---- batches ------------------------------------------------------------------------------------------------------


def _make_batch(job: Fit, config: TrackerTrainingConfig, image_size: int, iteration: int) -> _Batch:
    import torch

    rng = np.random.default_rng(seed_of(config.seed, job.name, iteration))
    images, orders, targets, boxes = [], [], [], []
    for number in range(config.clips_per_iteration):
        clip = draw_clip(job.volumes, job.weights, config, rng)
        frames, masks = augmented(clip.shown, clip.masks, config.changes, lambda f: prepare(f, image_size), rng)
        images.append(frames)
        shown = Clip(clip.case_id, clip.frames, masks.numpy(), both=clip.both)
        for which, order in shown.orders():
            orders.append(torch.tensor(order) + number * config.clip_length)
            targets.append(masks[which][list(order)])
    if rng.random() < config.box_probability:
        for target in targets:
            box = jittered_box(target[0].numpy(), config.box_jitter, rng)
            boxes.append(torch.tensor(box).reshape(2, 2))
    return _Batch(
        torch.cat(images), torch.stack(orders), torch.stack(targets), torch.stack(boxes) if boxes else None
    )


def _clicks(logits: Tensor, first: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One corrective click for each track, in the network's pixels."""
    import torch

    answers = (logits > 0).cpu().numpy()
    wanted = on_grid(first.numpy(), first.shape[-1] // _MASK_STRIDE).numpy()
    clicks = [corrective_click(answer, mask, rng) for answer, mask in zip(answers, wanted, strict=True)]
    points = torch.tensor([[point] for point, _ in clicks], dtype=torch.float32) * _MASK_STRIDE
    labels = torch.tensor([[label] for _, label in clicks], dtype=torch.int32)
    return points.to(logits.device), labels.to(logits.device)
