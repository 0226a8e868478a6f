"""The trainer that BrainSegSAM hands to nnU-Net through ``nnUNet_extTrainer``.

It adds to the stock trainer what a schedule for small data and small machines needs (own length, optimiser, reduced
precision on the CPU, averaged weights, stronger augmentation, a seed) and what a supervising process needs (progress
lines, an end within an iteration, a checkpoint to go on from). All settings come from one JSON file that the parent
writes beside the plans, so a run is described by its folder alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SETTINGS_FILE = "brainsegsam_training.json"
PROGRESS_MARK = "@brainsegsam "
CANCELLED_EXIT_CODE = 75  # EX_TEMPFAIL: can be continued


class BrainSegTrainer(nnUNetTrainer):
    """nnU-Net's trainer with its schedule taken from ``brainsegsam_training.json`` in the preprocessed data set."""

    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = torch.device("cuda")
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        settings_file = Path(self.preprocessed_dataset_folder_base or ".") / SETTINGS_FILE
        self.settings: dict[str, Any] = json.loads(settings_file.read_text(encoding="utf-8"))
        self.num_epochs = self.settings["epochs"]
        self.num_iterations_per_epoch = self.settings["iterations_per_epoch"]
        self.num_val_iterations_per_epoch = self.settings["validation_iterations_per_epoch"]
        self.initial_lr = self.settings["learning_rate"]
        self.weight_decay = self.settings["weight_decay"]
        self.oversample_foreground_percent = self.settings["oversample_foreground"]
        # With one patch per batch "the last 33 % of a batch" is all or nothing, so each patch draws for itself.
        self.probabilistic_oversampling = self.settings["batch_size"] == 1
        self.save_every = self.settings["checkpoint_every_epochs"]
        self.averaged: dict[str, torch.Tensor] = {}
        self.iteration = 0
        self._scalars: Any = None
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._stop_requested = False

    def _stop(self, *_: object) -> None:
        self._stop_requested = True

    def _report(self, **message: object) -> None:
        sys.stdout.write(PROGRESS_MARK + json.dumps({"fold": self.fold, **message}) + "\n")
        sys.stdout.flush()

    # ------------------------------------------------------------------------------------------------ set-up
    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """SGD as in nnU-Net, or AdamW; the learning rate is set per iteration (linear warm-up, then polynomial)."""
        optimizer, scheduler = super().configure_optimizers()
        if self.settings["optimizer"] == "adamw":
            optimizer = torch.optim.AdamW(
                self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay, betas=(0.9, 0.99)
            )
            scheduler.optimizer = optimizer
        return optimizer, scheduler

    def _set_learning_rate(self) -> None:
        total = self.num_epochs * self.num_iterations_per_epoch
        warm_up = self.settings["warm_up_iterations"]
        rate = self.initial_lr * (1 - self.iteration / max(total, self.iteration + 1)) ** 0.9
        if self.iteration < warm_up:
            rate *= (self.iteration + 1) / warm_up
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @staticmethod
    def _strengthen(transforms: BasicTransform, factor: float) -> None:
        """Raises how often each augmentation is applied; the ranges stay nnU-Net's."""
        for transform in transforms.transforms:
            if isinstance(transform, SpatialTransform):
                transform.p_rotation = min(1.0, transform.p_rotation * factor)
                transform.p_scaling = min(1.0, transform.p_scaling * factor)
            elif isinstance(transform, RandomTransform):
                transform.apply_probability = min(1.0, transform.apply_probability * factor)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders, after seeding and with the augmentation strength of the settings."""
        seed = self.settings["seed"] + 1000 * (int(self.fold) + 1 if self.fold != "all" else 0) + self.current_epoch
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the loaders of nnU-Net draw from numpy's global generator
        torch.manual_seed(seed)
        train, validation = super().get_dataloaders()
        loader = getattr(train, "data_loader", None)
        if loader is not None:
            self._strengthen(loader.transforms, self.settings["augmentation_strength"])
        return train, validation

    def plot_network_architecture(self) -> None:
        """Nothing: the plot needs packages that are not part of this installation."""

    def on_train_start(self) -> None:
        """Starts nnU-Net's training and the record for TensorBoard, where that is installed."""
        super().on_train_start()
        self.logger.plot_progress_png = lambda folder: None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._scalars = SummaryWriter(str(Path(self.output_folder) / "tensorboard"))

    # ------------------------------------------------------------------------------------------------ one step
    def _precision(self) -> torch.autocast:
        kind = self.device.type
        if self.settings["precision"] == "fp32":
            return torch.autocast(kind, enabled=False)
        return torch.autocast(kind, dtype=torch.float16 if kind == "cuda" else torch.bfloat16)

    def train_step(self, batch: dict) -> dict:
        """One iteration; stops the process between two iterations when asked to."""
        if self._stop_requested:
            self._interrupt()
        data = batch["data"].to(self.device, non_blocking=True)
        target = [t.to(self.device) for t in batch["target"]] if isinstance(batch["target"], list) else batch["target"]
        self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            output = self.network(data)
        output = [o.float() for o in output] if isinstance(output, (list, tuple)) else output.float()
        loss = self.loss(output, target)
        self._descend(loss)
        self.iteration += 1
        self._average()
        if time() - getattr(self, "_last_report", 0.0) > 1.0:
            self._last_report = time()
            self._report(iteration=self.iteration, of=self.num_epochs * self.num_iterations_per_epoch)
        return {"loss": loss.detach().cpu().numpy()}

    def _descend(self, loss: torch.Tensor) -> None:
        if self.grad_scaler is None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.optimizer.step()
            return
        self.grad_scaler.scale(loss).backward()
        self.grad_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _average(self) -> None:
        decay = self.settings["weight_average_decay"]
        if decay <= 0:
            return
        # Early weights are far from useful: a short memory at first (Polyak averaging with warm-up).
        decay = min(decay, (1 + self.iteration) / (10 + self.iteration))
        for name, value in self.network.state_dict().items():
            if name not in self.averaged:
                self.averaged[name] = value.detach().clone()
            elif value.dtype.is_floating_point:
                self.averaged[name].lerp_(value.detach(), 1 - decay)
            else:
                self.averaged[name].copy_(value)

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's online validation, in the precision of the training."""
        if self._stop_requested:
            self._interrupt()
        with self._precision():
            return super().validation_step(batch)

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's, but resumes the count of iterations."""
        super().on_train_epoch_start()
        self.iteration = self.current_epoch * self.num_iterations_per_epoch

    def on_epoch_end(self) -> None:
        """nnU-Net's book-keeping, then the scalars for TensorBoard and a progress line for the parent."""
        super().on_epoch_end()
        values = {
            "loss/train": float(self.logger.get_value("train_losses", step=-1)),
            "loss/validation": float(self.logger.get_value("val_losses", step=-1)),
            "dice/validation": float(self.logger.get_value("mean_fg_dice", step=-1)),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }
        if self._scalars is not None:
            for name, value in values.items():
                self._scalars.add_scalar(name, value, self.current_epoch)
            self._scalars.flush()
        self._report(epoch=self.current_epoch, epochs=self.num_epochs, **values)

    # ------------------------------------------------------------------------------------------------ states
    def _interrupt(self) -> None:
        """Saves the last finished epoch's state and leaves; an unfinished epoch is trained again on resuming."""
        self.current_epoch -= 1
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self._report(cancelled=True)
        sys.stdout.flush()
        os._exit(CANCELLED_EXIT_CODE)  # the loader's worker processes would keep a normal exit waiting

    def save_checkpoint(self, filename: str) -> None:
        """Writes nnU-Net's checkpoint whole or not at all, with the averaged weights under ``averaged_weights``."""
        temporary = f"{filename}.part"
        super().save_checkpoint(temporary)
        if not Path(temporary).is_file():
            return
        if self.averaged:
            # nnU-Net's checkpoint holds numpy scalars; it was written by this process a moment ago.
            checkpoint = torch.load(temporary, map_location="cpu", weights_only=False)
            checkpoint["averaged_weights"] = self.averaged
            torch.save(checkpoint, temporary)
        Path(temporary).replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Restores a checkpoint of this class, averaged weights included."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = torch.load(filename_or_checkpoint, map_location=self.device, weights_only=False)
        self.averaged = checkpoint.get("averaged_weights", {})

    def on_train_end(self) -> None:
        """The averaged weights are what is validated and kept."""
        if self.averaged:
            self.network.load_state_dict(self.averaged)
        super().on_train_end()
        if self._scalars is not None:
            self._scalars.close()
