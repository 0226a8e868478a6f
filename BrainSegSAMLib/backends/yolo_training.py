"""Trains a YOLO network with Ultralytics' own trainer, told to leave out what does not suit MR images and this program.

Hue and saturation are never changed, because channels are modalities and no colours. What happens in an epoch depends
on the settings, the network's name and the epoch's number alone, so a training that was interrupted goes on as if it
had not been (where data are loaded in this process, as on a CPU). Checkpoints are plain tensors. Nothing is looked up,
plotted or printed.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import BrainSegSAMError
from ..progress import Measured, Progress
from .checkpoints import load_checkpoint, save_checkpoint
from .yolo_architecture import YoloArchitecture
from .yolo_network import begin_with, build, read_published
from .yolo_package import ultralytics

if TYPE_CHECKING:
    from torch import Tensor

    _Trainer = Any
else:
    _Trainer = object

Weights = dict[str, "Tensor"]

_STATE: Final = "checkpoint.pt"
_NO_COLOURS: Final = {"hsv_h": 0.0, "hsv_s": 0.0, "bgr": 0.0}


@dataclass(frozen=True)
class YoloTraining:
    """What one network is trained with.

    Attributes:
        name: of the network, e.g. "fold_0"; decides, with the seed, what is drawn.
        data: the `.yaml` file of a data set.
        folder: checkpoint and Ultralytics' own record (`results.csv`) go there.
        epochs: how many at most.
        image_size: side in pixels of the square that pictures are resized to; a multiple of 32.
        batch_size: pictures of one step.
        validated: whether the part "val" of the data is scored after each epoch and decides which weights are kept.
        patience: epochs without a better score after which training stops; 0 never stops early.
        start: one of Ultralytics' own files to begin with, or None.
        intensity_change: how far gain and gamma of each channel of a picture are changed at most.
        mosaic_free_epochs: at the end, in which pictures are no longer put together from four.
        workers: processes that load pictures; on a CPU this process does it alone.
        device: torch device name; not used with several GPUs.
        gpus: how many GPUs train it together; each then is a process of its own, see `yolo_gpus`.
        precision: "fp32" or "bf16".
        seed: of initialisation, order and augmentation.
        options: further settings by Ultralytics' names: learning rates, augmentation, weights of the loss.
    """

    name: str
    data: Path
    folder: Path
    epochs: int
    image_size: int
    batch_size: int
    validated: bool = False
    patience: int = 0
    start: Path | None = None
    intensity_change: float = 0.0
    mosaic_free_epochs: int = 0
    workers: int = 0
    device: str = "cpu"
    gpus: int = 1
    precision: str = "fp32"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class YoloTrained:
    """A trained network.

    Attributes:
        weights: parameter name → tensor on the CPU: the moving average over the training, or its best state.
        epochs: after how many they are.
    """

    weights: Weights
    epochs: int


def train(job: YoloTraining, architecture: YoloArchitecture, *, progress: Progress) -> YoloTrained:
    """Train one network, or go on where an earlier call ended.

    Args:
        job: what to train it with.
        architecture: of the network.
        progress: advanced by one each epoch; may cancel at any batch, which keeps the last whole epoch.

    Raises:
        ModelError: where the file to start from does not fit.
        BrainSegSAMError: where training fails.
        DependencyError: where ultralytics is not installed.
        Cancelled: when the progress was cancelled.
    """
    ultralytics()
    with _process_kept():
        try:
            trainer = _trainer(job, architecture, progress)
            done: YoloTrained = trainer.resumed() or trainer.run()
        except (RuntimeError, AssertionError, FloatingPointError) as error:
            raise BrainSegSAMError(
                f"Training '{job.name}' failed: {str(error).splitlines()[0]}. Lower the learning rate or the batch "
                "size, and start anew in another work folder."
            ) from error
    progress.advance(job.epochs - trainer.advanced)
    return done


def finished(job: YoloTraining) -> YoloTrained | None:
    """What an earlier call has trained to its end; None where there is none."""
    path = job.folder / _STATE
    state: dict[str, Any] = load_checkpoint(path) if path.exists() else {}
    if not state.get("stopped"):
        return None
    return YoloTrained(state["best"] or state["average"], state["best_epoch"] or state["epoch"] + 1)


class _OurWay(_Trainer):  # type: ignore[misc]
    """What Ultralytics' `DetectionTrainer` does otherwise here: network, seeds, checkpoints, validation, progress."""

    job: YoloTraining
    architecture: YoloArchitecture
    progress: Progress
    advanced: int
    best_weights: Weights
    best_epoch: int

    @property
    def state_file(self) -> Path:
        """The checkpoint."""
        return self.job.folder / _STATE

    def resumed(self) -> YoloTrained | None:
        """What an earlier call has trained to its end; where it has trained a part, that is reported."""
        if self.state_file.exists():
            self.advanced = load_checkpoint(self.state_file)["epoch"] + 1
            self.progress.advance(self.advanced)
        return finished(self.job)

    def run(self) -> YoloTrained:
        """Train to the end."""
        self.train()
        return YoloTrained(self.best_weights or _copied(self.ema.ema), self.best_epoch or self.epoch + 1)

    # ---- what Ultralytics calls -----------------------------------------------------------------------------------

    def get_model(self, *_: Any, **__: Any) -> Any:
        """The network, new or from a file."""
        _seed(self.job, 0)
        network = build(self.architecture)
        if self.job.start is not None:
            begin_with(network, read_published(self.job.start), self.job.start)
        return network

    def build_dataset(self, *arguments: Any, **named: Any) -> Any:
        """The pictures of a part; the bar that Ultralytics draws whatever it is told goes nowhere."""
        with contextlib.redirect_stdout(io.StringIO()):
            return super().build_dataset(*arguments, **named)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Pictures from 0 to 1 on the device, with each channel's gain and gamma changed."""
        import torch

        batch = super().preprocess_batch(batch)
        pictures = batch["img"]
        share = self.job.intensity_change
        drawn = 1 + share * (2 * torch.rand((2, *pictures.shape[:2], 1, 1)) - 1)
        gain, gamma = drawn.to(pictures.device)
        batch["img"] = (pictures**gamma * gain).clamp(0, 1)
        return batch

    def validate(self) -> tuple[dict[str, float], float | None]:
        """Score the part "val", where it is wanted, and keep the best weights."""
        if not self.job.validated:
            return {}, None
        metrics, fitness = super().validate()
        # Ultralytics has taken a better fitness for its best by now.
        if not self.best_weights or fitness == self.best_fitness:
            self.best_weights, self.best_epoch = _copied(self.ema.ema), self.epoch + 1
        return metrics, fitness

    def save_model(self) -> bool:
        """Keep the state from which `resume_training` goes on."""
        state = {
            "epoch": self.epoch,
            "network": _unwrapped(self.model).state_dict(),
            "average": self.ema.ema.state_dict(),
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_fitness": None if self.best_fitness is None else float(self.best_fitness),
            "stopper": {
                "best_fitness": float(self.stopper.best_fitness),
                "best_epoch": int(self.stopper.best_epoch),
            },
            "stopped": bool(self.stop),
            "best": self.best_weights,
            "best_epoch": self.best_epoch,
        }
        save_checkpoint(state, self.state_file)
        return True

    def resume_training(self, _: Any) -> None:
        """Go on from the state that was kept, where there is one."""
        if not self.state_file.exists():
            return
        state = load_checkpoint(self.state_file)
        _unwrapped(self.model).load_state_dict(state["network"])
        average = build(self.architecture)
        average.load_state_dict(state["average"])
        self.best_weights, self.best_epoch = state["best"], state["best_epoch"]
        self.resume = True
        super().resume_training({**state, "ema": average})

    def final_eval(self) -> None:
        """Nothing: the weights that are kept are scored on whole volumes."""

    # ---- what it calls back ---------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Make what is drawn depend on the epoch's number alone."""
        if self.epoch >= self.job.epochs - self.job.mosaic_free_epochs:
            self._close_dataloader_mosaic()
        _seed(self.job, self.epoch + 1)
        self.train_loader.generator.manual_seed(_number(self.job, self.epoch + 1))
        if self.train_loader.num_workers == 0:
            self.train_loader.reset()

    def end_batch(self) -> None:
        """Look whether to go on."""
        self.progress.check()
        if not math.isfinite(float(self.loss.detach())):
            raise BrainSegSAMError(
                f"The loss of '{self.job.name}' is no number any more in epoch {self.epoch + 1}; lower the learning "
                "rate, and start anew in another work folder."
            )

    def end_epoch(self) -> None:
        """Report; of several GPUs' processes the first alone."""
        if _rank() > 0:
            return
        losses = ", ".join(f"{name} {float(value):.3f}" for name, value in self.tloss.items())
        score = f", mAP50 {self.metrics['metrics/mAP50(B)']:.3f}" if self.job.validated else ""
        self.advanced += 1
        name, epochs = self.job.name, self.job.epochs
        values = {"loss": sum(float(value) for value in self.tloss.values())}
        if self.job.validated:
            values["validation mAP50"] = float(self.metrics["metrics/mAP50(B)"])
        self.progress.advance(
            message=f"{name}: epoch {self.epoch + 1} of {epochs}, {losses}{score}",
            measured=Measured(name, self.epoch + 1, epochs, values),
        )


def _trainer(job: YoloTraining, architecture: YoloArchitecture, progress: Progress) -> Any:
    """Ultralytics' trainer, ready to train."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    # Ultralytics is imported when it is first needed, so the two are joined here.
    joined = type("Trainer", (_OurWay, DetectionTrainer), {
        "job": job, "architecture": architecture, "progress": progress,
        "advanced": 0, "best_weights": {}, "best_epoch": 0,
    })  # fmt: skip
    trainer = joined(overrides=_overrides(job))
    trainer.add_callback("on_train_epoch_start", _OurWay.begin_epoch)
    trainer.add_callback("on_train_batch_end", _OurWay.end_batch)
    trainer.add_callback("on_fit_epoch_end", _OurWay.end_epoch)
    return trainer


def _overrides(job: YoloTraining) -> dict[str, Any]:
    """Ultralytics' own settings."""
    return {
        **job.options,
        **_NO_COLOURS,
        "task": "detect",
        "mode": "train",
        "model": "own.yaml",  # never read: the network is built by us
        "data": str(job.data),
        "project": str(job.folder.absolute().parent),
        "name": job.folder.name,
        "exist_ok": True,
        "epochs": job.epochs,
        "imgsz": job.image_size,
        "batch": job.batch_size,
        "patience": job.patience,
        "close_mosaic": 0,  # done by us, the same whether training was interrupted or not
        "device": job.device if job.gpus == 1 else ",".join(map(str, range(job.gpus))),
        "workers": job.workers,
        "cache": "ram",  # only so does the choice of pictures for a mosaic not depend on those before
        "amp": "bf16" if job.precision == "bf16" else False,
        "seed": job.seed,
        "deterministic": True,
        "val": job.validated,
        "plots": False,
        "pretrained": False,
        "verbose": False,
    }


def _number(job: YoloTraining, epoch: int) -> int:
    """Differs between the processes of several GPUs, so that each draws changes of its own."""
    rank = _rank()
    return zlib.crc32(f"{job.seed} {job.name} {epoch}{f' {rank}' if rank > 0 else ''}".encode())


def _rank() -> int:
    """Of this process among those of several GPUs; -1 where there is only one."""
    return int(os.environ.get("RANK", "-1"))


def _unwrapped(network: Any) -> Any:
    """The network without the wrapper that several GPUs need."""
    return getattr(network, "module", network)


def _seed(job: YoloTraining, epoch: int) -> None:
    """Ultralytics draws from the global generators."""
    import torch

    number = _number(job, epoch)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def _copied(network: Any) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


@contextlib.contextmanager
def _process_kept() -> Iterator[None]:
    """Give the global generators, and the threads that Ultralytics takes on a CPU, back as they were."""
    import torch

    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)  # noqa: NPY002
            torch.set_num_threads(threads)
