"""Trains one network of a tracker: iterations, checkpoints, early stop.

What happens in an iteration depends on the settings, the network's name and the iteration's number alone, so a training
that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends.checkpoints import load_checkpoint, save_checkpoint
from ...backends.sam2 import Sam2Tracker
from ...backends.sam2_architecture import Sam2Architecture
from ...backends.sam2_network import build
from ...backends.sam2_training import Answer, Tracks, follow, open_memory, set_dropout
from ...backends.weights import read_weights, set_weights
from ...errors import BrainSegSAMError
from ...progress import Progress
from .augmentation import augmented, on_grid
from .clips import Clip, TrainingVolume, corrective_click, draw_clip, jittered_box
from .tracker_config import TrackerTrainingConfig
from .tracker_validation import mean_dice, score_volumes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .loss import ClipLoss

Weights = dict[str, "Tensor"]

_MASK_STRIDE = 4  # of the masks that the network gives, in its own pixels
_UNDECAYED = ("pos_e", "tpos", "token", "no_mem", "no_obj", "point_embed")  # embeddings, by parts of their names
_RECORD_EVERY = 10  # iterations, for TensorBoard and the log


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
class Fitted:
    """A trained network.

    Attributes:
        weights: parameter name → float32 tensor on the CPU.
        iterations: after how many they are.
    """

    weights: Weights
    iterations: int


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
    """Train one network, or go on where an earlier call ended.

    Args:
        job: what to train it with.
        config: settings.
        architecture: of the network.
        progress: advanced by one each iteration; may cancel, which keeps the state reached.

    Raises:
        InputError: where there is nothing to draw.
        BrainSegSAMError: where the loss is no number any more.
        Cancelled: when the progress was cancelled.
    """
    fitting = _Fitting(job, config, architecture)
    fitting.resume()
    progress.advance(fitting.iteration)
    with contextlib.closing(_batches(job, config, architecture.image_size, fitting.iteration)) as batches:
        try:
            while fitting.iteration < job.iterations and not fitting.stopped:
                fitting.step(next(batches))
                if fitting.iteration == 1 or fitting.iteration % _RECORD_EVERY == 0:
                    fitting.record(progress)
                if job.validation and fitting.iteration % config.validate_every == 0:
                    fitting.look(progress)
                if fitting.iteration % config.checkpoint_every == 0 or progress.cancelled:
                    fitting.save()
                progress.advance()
        finally:
            fitting.close()
    progress.advance(job.iterations - fitting.iteration)
    return fitting.result()


class _Fitting:
    """A network under training."""

    def __init__(self, job: Fit, config: TrackerTrainingConfig, architecture: Sam2Architecture) -> None:
        import torch

        self.job, self.config, self.architecture = job, config, architecture
        self.checkpoint = job.folder / "checkpoint.pt"
        torch.manual_seed(_seed_of(config, job.name, 0))
        network = build(architecture)
        if job.start is None:
            open_memory(network)
        else:
            set_weights(network, read_weights(job.start), job.start, architecture)
        self.network = network.to(job.device).train()
        set_dropout(network, config.dropout)
        if config.encoder_learning_rate_factor == 0:
            network.get_submodule("image_encoder").requires_grad_(False)
        self.optimiser = torch.optim.AdamW(_groups(network, config), lr=config.learning_rate, betas=(0.9, 0.999))
        self.average: Weights = {}
        self.best: Weights = {}
        self.best_score, self.best_iteration, self.looks_without = -1.0, 0, 0
        self.iteration = 0
        self.last: ClipLoss | None = None
        self.scalars: Any = None

    @property
    def stopped(self) -> bool:
        """Whether validation has not become better for too long."""
        return bool(self.job.validation) and 0 < self.config.patience <= self.looks_without

    # ---- one iteration --------------------------------------------------------------------------------------------

    def step(self, batch: _Batch) -> None:
        """Learn from one batch."""
        import torch

        config, device = self.config, self.job.device
        rng = np.random.default_rng([_seed_of(config, self.job.name, self.iteration), 1])
        torch.manual_seed(_seed_of(config, self.job.name, self.iteration))
        factor = _learning_rate_factor(self.iteration, self.job.iterations, config)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * group["factor"] * factor
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
        self.optimiser.zero_grad(set_to_none=True)
        kind = torch.device(device).type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.job.precision == "bf16"):
            answers = follow(self.network, batch.images.to(device), tracks)
        self.last = _loss(answers, tracks.targets, config)
        self._require_finite(self.last.total)
        self.last.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clipping)
        self._require_finite(norm)
        self.optimiser.step()
        self.iteration += 1
        self._take_average()

    def _require_finite(self, value: Tensor) -> None:
        if not math.isfinite(float(value.detach())):
            raise BrainSegSAMError(
                f"The loss of '{self.job.name}' is no number any more after {self.iteration} iterations; lower "
                "learning_rate or gradient_clipping, or use precision fp32, and start anew in another work folder."
            )

    def _take_average(self) -> None:
        # The first weights are far from useful, so the memory is short at first.
        decay = min(self.config.weight_average_decay, (1 + self.iteration) / (10 + self.iteration))
        if self.config.weight_average_decay == 0:
            return
        for name, value in self.network.state_dict().items():
            if name in self.average and value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name] = value.detach().clone()

    # ---- records, validation, checkpoints -------------------------------------------------------------------------

    def record(self, progress: Progress) -> None:
        """Write the last loss to TensorBoard, where that is installed, and to the log."""
        assert self.last is not None
        values = self.last.scalars()
        if self.scalars is None:
            self.scalars = _scalar_writer(self.job.folder / "tensorboard", self.iteration)
        if self.scalars:
            for name, value in values.items():
                self.scalars.add_scalar(f"loss/{name}", value, self.iteration)
            self.scalars.add_scalar("learning_rate", self.optimiser.param_groups[-1]["lr"], self.iteration)
        parts = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        progress.log(f"{self.job.name}: iteration {self.iteration} of {self.job.iterations}, {parts}")

    def look(self, progress: Progress) -> None:
        """Score the validation volumes with the weights that would be kept now."""
        network = build(self.architecture)
        network.load_state_dict(self._current())
        tracker = Sam2Tracker(network.to(self.job.device), self.architecture)
        scores = score_volumes(tracker, self.job.validation, self.job.regions, fold=0, progress=progress)
        found = mean_dice(scores)
        if self.scalars:
            self.scalars.add_scalar("dice/validation", found, self.iteration)
        self.looks_without += 1
        if found > self.best_score:
            self.best_score, self.best_iteration, self.looks_without = found, self.iteration, 0
            self.best = {name: value.detach().clone() for name, value in self._current().items()}
        progress.log(f"{self.job.name}: validation Dice {found:.3f}, best {self.best_score:.3f}")

    def _current(self) -> Weights:
        return self.average or self.network.state_dict()

    def result(self) -> Fitted:
        """The weights to keep: the best that were validated, or the last."""
        weights = self.best or self._current()
        kept = {name: value.detach().float().cpu().clone() for name, value in weights.items()}
        return Fitted(kept, self.best_iteration if self.best else self.iteration)

    def save(self) -> None:
        """Keep the state from which `resume` goes on."""
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "best": self.best,
            "numbers": [self.iteration, self.best_score, self.best_iteration, self.looks_without],
        }
        save_checkpoint(state, self.checkpoint)

    def resume(self) -> None:
        """Go on from the state that was kept, where there is one."""
        if not self.checkpoint.exists():
            return
        state = load_checkpoint(self.checkpoint)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = {name: value.to(self.job.device) for name, value in state["average"].items()}
        self.best = state["best"]
        self.iteration, self.best_score, self.best_iteration, self.looks_without = state["numbers"]

    def close(self) -> None:
        """End TensorBoard's record."""
        if self.scalars:
            self.scalars.close()


def _scalar_writer(folder: Path, iteration: int) -> Any:
    """TensorBoard's writer; False where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder), purge_step=iteration)


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


def _learning_rate_factor(iteration: int, iterations: int, config: TrackerTrainingConfig) -> float:
    warm_up = min(1.0, (iteration + 1) / config.warm_up_iterations) if config.warm_up_iterations else 1.0
    low = config.last_learning_rate_factor
    return warm_up * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * iteration / iterations)))


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


def _seed_of(config: TrackerTrainingConfig, name: str, iteration: int) -> int:
    return zlib.crc32(f"{config.seed} {name} {iteration}".encode())


def _batches(job: Fit, config: TrackerTrainingConfig, image_size: int, first: int) -> Generator[_Batch, None, None]:
    """Batches from an iteration on; the next one is made while the network learns from this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="clips") as pool:
        following = pool.submit(_make_batch, job, config, image_size, first)
        for iteration in range(first + 1, job.iterations + 1):
            batch = following.result()
            following = pool.submit(_make_batch, job, config, image_size, iteration)
            yield batch


def _make_batch(job: Fit, config: TrackerTrainingConfig, image_size: int, iteration: int) -> _Batch:
    import torch

    rng = np.random.default_rng(_seed_of(config, job.name, iteration))
    images, orders, targets, boxes = [], [], [], []
    for number in range(config.clips_per_iteration):
        clip = draw_clip(job.volumes, job.weights, config, rng)
        frames, masks = augmented(clip, config, image_size, rng)
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
