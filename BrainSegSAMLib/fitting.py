"""Trains one network: iterations, averaged weights, records, early stop, checkpoints; what it learns is the caller's.

What happens in an iteration depends on the settings, the task's name and the iteration's number alone, so a training
that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .backends.checkpoints import load_checkpoint, save_checkpoint
from .errors import BrainSegSAMError, Cancelled
from .progress import Measured, Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Weights = dict[str, "Tensor"]
Batch = TypeVar("Batch")

_RECORD_EVERY = 10  # iterations, for TensorBoard and the log


@dataclass(frozen=True, eq=False)
class Task(Generic[Batch]):
    """What is learned.

    Attributes:
        name: decides, with the seed, what is drawn; named in messages.
        module: whose weights are learned and kept, on its device and in the modes that it shall learn in.
        groups: its parameters that learn, as AdamW takes them: "params", "weight_decay", and "factor" of the learning
            rate.
        make_batch: iteration → what is learned from in it; called in another thread, ahead of time.
        losses: batch, iteration → scalars by name; "total" is what is minimised, the others are recorded.
        validate: weights → how good they are on cases that are not learned from, from 0 to 1; None: no early stop.
    """

    name: str
    module: torch.nn.Module
    groups: list[dict[str, Any]]
    make_batch: Callable[[int], Batch]
    losses: Callable[[Batch, int], Mapping[str, Tensor]]
    validate: Callable[[Weights, Progress], float] | None = None


@dataclass(frozen=True)
class Schedule:
    """How long and how fast it is learned.

    Attributes:
        iterations: how many at most.
        learning_rate: initial; falls along half a cosine.
        last_learning_rate_factor: of the initial learning rate, at the end.
        warm_up_iterations: over which the learning rate rises linearly at first.
        gradient_clipping: largest norm of the gradient.
        weight_average_decay: per iteration, of an exponential moving average of the weights, which is then what is
            validated and kept; 0 keeps the last weights.
        validate_every: iterations between two looks.
        patience: looks without a better one after which training stops; 0 never stops early.
        checkpoint_every: iterations between two states from which training can be resumed.
        seed: of all that is drawn.
    """

    iterations: int
    learning_rate: float
    last_learning_rate_factor: float
    warm_up_iterations: int
    gradient_clipping: float
    weight_average_decay: float
    validate_every: int
    patience: int
    checkpoint_every: int
    seed: int

    def factor(self, iteration: int) -> float:
        """Of the learning rate in an iteration."""
        warm_up = min(1.0, (iteration + 1) / self.warm_up_iterations) if self.warm_up_iterations else 1.0
        low = self.last_learning_rate_factor
        return warm_up * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations)))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network.

    Attributes:
        weights: parameter name → float32 tensor on the CPU.
        iterations: after how many they are.
    """

    weights: Weights
    iterations: int


def seed_of(seed: int, name: str, iteration: int) -> int:
    """What the random numbers of an iteration begin with."""
    return zlib.crc32(f"{seed} {name} {iteration}".encode())


def fit(task: Task[Batch], schedule: Schedule, *, folder: Path, progress: Progress) -> Fitted:
    """Train one network, or go on where an earlier call ended.

    Args:
        task: what is learned.
        schedule: how long and how fast.
        folder: its checkpoint and TensorBoard's record go there.
        progress: advanced by one each iteration; may cancel, which keeps the state reached.

    Raises:
        InputError: where there is nothing to draw.
        BrainSegSAMError: where the loss is no number any more.
        Cancelled: when the progress was cancelled.
    """
    fitting = _Fitting(task, schedule, folder)
    fitting.resume()
    progress.advance(fitting.iteration)
    with contextlib.closing(_batches(task, fitting.iteration, schedule.iterations)) as batches:
        try:
            fitting.look(progress)  # a state is kept before it is looked at, so that may be what is left to do
            while fitting.iteration < schedule.iterations and not fitting.stopped:
                fitting.step(next(batches))
                if fitting.iteration == 1 or fitting.iteration % _RECORD_EVERY == 0:
                    fitting.record(progress)
                if fitting.iteration % schedule.checkpoint_every == 0 or progress.cancelled:
                    fitting.save()
                fitting.look(progress)
                progress.advance()
        finally:
            fitting.close()
    progress.advance(schedule.iterations - fitting.iteration)
    return fitting.result()


class _Fitting(Generic[Batch]):
    """A network under training."""

    def __init__(self, task: Task[Batch], schedule: Schedule, folder: Path) -> None:
        import torch

        self.task, self.schedule, self.folder = task, schedule, folder
        self.checkpoint = folder / "checkpoint.pt"
        self.optimiser = torch.optim.AdamW(task.groups, lr=schedule.learning_rate, betas=(0.9, 0.999))
        self.average: Weights = {}
        self.best: Weights = {}
        self.best_score, self.best_iteration, self.looks_without = -1.0, 0, 0
        self.iteration = 0
        self.last: dict[str, float] = {}
        self._scalars: Any = None
        self._first = 1  # iteration that this process begins with

    @property
    def scalars(self) -> Any:
        """TensorBoard's writer; False where it is not installed."""
        if self._scalars is None:
            self._scalars = _scalar_writer(self.folder / "tensorboard", self._first)
        return self._scalars

    @property
    def stopped(self) -> bool:
        """Whether validation has not become better for too long."""
        return self.task.validate is not None and 0 < self.schedule.patience <= self.looks_without

    # ---- one iteration --------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        import torch

        torch.manual_seed(seed_of(self.schedule.seed, self.task.name, self.iteration))
        factor = self.schedule.factor(self.iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate * group["factor"] * factor
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.task.losses(batch, self.iteration)
        self.last = {name: float(value.detach()) for name, value in losses.items()}
        self._require_finite(self.last["total"])
        losses["total"].backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.task.module.parameters(), self.schedule.gradient_clipping)
        self._require_finite(float(norm))
        self.optimiser.step()
        self.iteration += 1
        self._take_average()

    def _require_finite(self, value: float) -> None:
        if not math.isfinite(value):
            raise BrainSegSAMError(
                f"The loss of '{self.task.name}' is no number any more after {self.iteration} iterations; lower "
                "learning_rate or gradient_clipping, or use precision fp32, and start anew in another work folder."
            )

    def _take_average(self) -> None:
        # The first weights are far from useful, so the memory is short at first.
        decay = min(self.schedule.weight_average_decay, (1 + self.iteration) / (10 + self.iteration))
        if self.schedule.weight_average_decay == 0:
            return
        for name, value in self.task.module.state_dict().items():
            if name in self.average and value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name] = value.detach().clone()

    # ---- records, validation, checkpoints -------------------------------------------------------------------------

    def record(self, progress: Progress) -> None:
        """Write the last losses to TensorBoard, where that is installed, and to the log."""
        if self.scalars:
            for name, value in self.last.items():
                self.scalars.add_scalar(f"loss/{name}", value, self.iteration)
            self.scalars.add_scalar("learning_rate", self.optimiser.param_groups[-1]["lr"], self.iteration)
        parts = ", ".join(f"{name} {value:.3f}" for name, value in self.last.items())
        progress.log(
            f"{self.task.name}: iteration {self.iteration} of {self.schedule.iterations}, {parts}",
            measured=self._measured({"loss": self.last["total"]}),
        )

    def look(self, progress: Progress) -> None:
        """Validate the weights that would be kept now, where that is due; keeps the state where it is cancelled."""
        if self.task.validate is None or self.iteration == 0 or self.iteration % self.schedule.validate_every:
            return
        try:
            found = self.task.validate(self._current(), progress)
        except Cancelled:
            self.save()
            raise
        if self.scalars:
            self.scalars.add_scalar("dice/validation", found, self.iteration)
        self.looks_without += 1
        if found > self.best_score:
            self.best_score, self.best_iteration, self.looks_without = found, self.iteration, 0
            self.best = {name: value.detach().clone() for name, value in self._current().items()}
        progress.log(
            f"{self.task.name}: validation Dice {found:.3f}, best {self.best_score:.3f}",
            measured=self._measured({"validation Dice": found}),
        )

    def _measured(self, values: Mapping[str, float]) -> Measured:
        return Measured(self.task.name, self.iteration, self.schedule.iterations, values)

    def _current(self) -> Weights:
        return self.average or self.task.module.state_dict()

    def result(self) -> Fitted:
        """The weights to keep: the best that were validated, or the last."""
        weights = self.best or self._current()
        kept = {name: value.detach().float().cpu().clone() for name, value in weights.items()}
        return Fitted(kept, self.best_iteration if self.best else self.iteration)

    def save(self) -> None:
        """Keep the state from which `resume` goes on."""
        state = {
            "network": self.task.module.state_dict(),
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
        device = next(self.task.module.parameters()).device
        self.task.module.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.best = state["best"]
        self.iteration, self.best_score, self.best_iteration, self.looks_without = state["numbers"]
        self._first = self.iteration + 1

    def close(self) -> None:
        """End TensorBoard's record."""
        if self._scalars:
            self._scalars.close()


def _scalar_writer(folder: Path, first: int) -> Any:
    """TensorBoard's writer; what an interrupted call wrote from the first iteration on is passed over."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder), purge_step=first)


def _batches(task: Task[Batch], first: int, last: int) -> Generator[Batch, None, None]:
    """Batches from an iteration on; the next one is made while the network learns from this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        following = pool.submit(task.make_batch, first)
        for iteration in range(first + 1, last + 1):
            batch = following.result()
            following = pool.submit(task.make_batch, iteration)
            yield batch
