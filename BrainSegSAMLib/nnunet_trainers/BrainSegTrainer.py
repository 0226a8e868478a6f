"""The trainer that BrainSegSAM hands to nnU-Net through ``nnUNet_extTrainer``.

It adds to the stock trainer what a schedule for little data and small machines needs (own length, optimiser, reduced
precision on the CPU, averaged weights, stronger augmentation, a seed) and what a supervising process needs (progress
lines, an end within an iteration, a checkpoint to go on from). All settings come from one JSON file that the parent
writes beside the plans, so a training is described by its folder alone. The network is nnU-Net's own.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from BrainSegSAMLib.lesion_mixing import MixingCase, change_contrast, transplant

SETTINGS_FILE = "brainsegsam_training.json"
STOP_FILE_VARIABLE = "BRAINSEGSAM_STOP_FILE"
PROGRESS_MARK = "@brainsegsam "
CANCELLED_EXIT_CODE = 75  # EX_TEMPFAIL: can be continued


class BrainSegTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no annotations that mypy could read
    """nnU-Net's trainer with its schedule taken from ``brainsegsam_training.json`` in the preprocessed data set."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        settings_file = Path(self.preprocessed_dataset_folder_base) / SETTINGS_FILE
        self.settings: dict[str, Any] = json.loads(settings_file.read_text(encoding="utf-8"))
        # Folds beyond those of the cross-validation go on from them, with all cases (TrainingConfig.final_epochs).
        self._continues = fold - self.settings["folds"] if fold >= self.settings["folds"] else None
        if self._continues is not None:
            self.settings |= self.settings["final"]
        self.num_epochs = self.settings["epochs"]
        self.num_iterations_per_epoch = self.settings["iterations_per_epoch"]
        self.num_val_iterations_per_epoch = self.settings["validation_iterations_per_epoch"]
        self.initial_lr = self.settings["learning_rate"]
        self.weight_decay = self.settings["weight_decay"]
        self.oversample_foreground_percent = self.settings["oversample_foreground"]
        # With one patch per batch "the last 33 % of a batch" is all or nothing, so each patch draws for itself.
        self.probabilistic_oversampling = self.configuration_manager.batch_size == 1
        self.save_every = self.settings["checkpoint_every_epochs"]
        self.averaged: dict[str, torch.Tensor] = {}
        self.iteration = 0
        self._reported_at = 0.0
        self._scalars: Any = None
        self._parent = os.getppid()
        self._stop_file = os.environ.get(STOP_FILE_VARIABLE)

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """As nnU-Net's; a final fold starts from the weights of its fold of the cross-validation."""
        self._seed()
        super().initialize()
        if self._continues is None:
            return
        source = Path(self.output_folder_base) / f"fold_{self._continues}" / "checkpoint_final.pth"
        # Written by this class in this work folder; nnU-Net keeps objects beyond plain data in it.
        checkpoint = torch.load(source, map_location=self.device, weights_only=False)
        self._plain_network().load_state_dict(checkpoint["network_weights"])

    def _plain_network(self) -> torch.nn.Module:
        """The network without the wrapper that several GPUs need, so that its weights have the same names."""
        network: torch.nn.Module = self.network.module if self.is_ddp else self.network
        return network

    def _seed(self) -> None:
        # By epoch as well: a resumed training must not see the patches of its beginning again. By GPU as well: each
        # draws patches of its own.
        seed = self.settings["seed"] + 1000 * (self.fold + 1) + self.current_epoch + 1_000_000 * self.local_rank
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from numpy's global generator
        torch.manual_seed(seed)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """SGD as in nnU-Net, or AdamW; `_set_learning_rate` then sets the rate before every iteration."""
        optimiser, scheduler = super().configure_optimizers()
        if self.settings["optimiser"] == "adamw":
            optimiser = torch.optim.AdamW(
                self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay, betas=(0.9, 0.99)
            )
            scheduler.optimizer = optimiser
        return optimiser, scheduler

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders, after seeding and with the augmentation strength of the settings."""
        self._seed()
        train, validation = super().get_dataloaders()
        in_process = hasattr(train, "data_loader")
        loader = train.data_loader if in_process else train.generator
        _strengthen(loader.transforms, self.settings["augmentation_strength"])
        if self.settings["bias_field"] > 0:
            steps = loader.transforms.transforms
            first = next(index for index, step in enumerate(steps) if isinstance(step, RandomTransform))
            # After the spatial transforms, before the mask is applied anew.
            steps.insert(first, RandomTransform(BiasFieldTransform(self.settings["bias_field"]), 0.5))
        weights = np.array([self.settings["case_weights"].get(key, 1.0) for key in loader.indices])
        loader.sampling_probabilities = weights / weights.sum()
        if self.settings["transplant_probability"] > 0 or self.settings["lesion_contrast"] > 0:
            loader._data = MixedLesions(loader._data, loader.sampling_probabilities, self.settings)
        if not in_process:
            train._finish()  # nnU-Net has started its worker processes already; they start anew with what was set
        return train, validation

    def plot_network_architecture(self) -> None:
        """Nothing: the plot needs a package that is not part of this installation."""

    def on_train_start(self) -> None:
        """Starts nnU-Net's training and the record for TensorBoard, where that is installed."""
        super().on_train_start()
        self.logger.plot_progress_png = lambda _folder: None  # a second per epoch; TensorBoard shows the same curves
        if self.local_rank != 0:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._scalars = SummaryWriter(str(Path(self.output_folder) / "tensorboard"))

    # ---- one iteration ----------------------------------------------------------------------------------------------

    def _precision(self) -> torch.autocast:
        kind = self.device.type
        precision = self.settings["precision"]
        if precision == "bf16":
            return torch.autocast(kind, dtype=torch.bfloat16)
        return torch.autocast(kind, dtype=torch.float16, enabled=precision == "auto" and kind == "cuda")

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One iteration; ends the process before it when asked to."""
        self._check_stop()
        data = batch["data"].to(self.device, non_blocking=True)
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            output = self.network(data)
        loss = self.loss([scale.float() for scale in output], target)
        self._descend(loss)
        self.iteration += 1
        self._average()
        if time.monotonic() - self._reported_at > 1.0:
            self._reported_at = time.monotonic()
            self._report(iteration=self.iteration, of=self.num_epochs * self.num_iterations_per_epoch)
        return {"loss": loss.detach().cpu().numpy()}

    def _set_learning_rate(self) -> None:
        total = self.num_epochs * self.num_iterations_per_epoch
        warm_up = self.settings["warm_up_iterations"]
        rate = self.initial_lr * (1 - self.iteration / total) ** 0.9
        if self.iteration < warm_up:
            rate *= (self.iteration + 1) / warm_up
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _descend(self, loss: torch.Tensor) -> None:
        if self.grad_scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
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
        # The first weights are far from useful, so the memory is short at first.
        decay = min(decay, (1 + self.iteration) / (10 + self.iteration))
        # Parameters, not the state dict: nnU-Net's networks list every weight there up to three times. (Their norms
        # keep no running statistics, so there is nothing else to average.)
        for name, value in self._plain_network().named_parameters():
            if name in self.averaged:
                self.averaged[name].lerp_(value.detach(), 1 - decay)
            else:
                self.averaged[name] = value.detach().clone()

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's online validation, in the precision of the training."""
        self._check_stop()
        with self._precision():
            result: dict[str, Any] = super().validation_step(batch)
        return result

    # ---- epochs, reports --------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's; iterations are counted over all epochs."""
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

    def _report(self, **message: object) -> None:
        if self.local_rank != 0:
            return
        sys.stdout.write(PROGRESS_MARK + json.dumps({"fold": self.fold, **message}) + "\n")
        sys.stdout.flush()

    # ---- states -----------------------------------------------------------------------------------------------------

    def _check_stop(self) -> None:
        """Where the parent asks for it or is gone, save the last finished epoch's state and leave.

        What an unfinished epoch changed in the weights stays; its iterations are counted again on resuming.
        """
        if self._stop_file is None:
            return
        asked = os.getppid() != self._parent or Path(self._stop_file).exists()
        if self.is_ddp:  # all leave in the same iteration, or none: one that waits for another would wait forever
            flag = torch.tensor(float(asked), device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            asked = bool(flag)
        if not asked:
            return
        self.current_epoch -= 1  # nnU-Net writes the epoch to go on with as this one plus 1
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self._report(cancelled=True)
        os._exit(CANCELLED_EXIT_CODE)  # the loaders' worker processes would keep a normal exit waiting

    def save_checkpoint(self, filename: str) -> None:
        """Writes nnU-Net's checkpoint whole or not at all, with the moving average under ``averaged_weights``."""
        temporary = Path(f"{filename}.part")
        super().save_checkpoint(str(temporary))
        if not temporary.is_file():
            return
        if self.averaged:
            checkpoint = torch.load(temporary, map_location="cpu", weights_only=False)
            torch.save({**checkpoint, "averaged_weights": self.averaged}, temporary)
        temporary.replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Restores a checkpoint of this class, the moving average included."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = torch.load(filename_or_checkpoint, map_location=self.device, weights_only=False)
        self.averaged = checkpoint.get("averaged_weights", {})

    def on_train_end(self) -> None:
        """Where weights are averaged, the average is what is kept."""
        if self.averaged:
            self._plain_network().load_state_dict(self.averaged, strict=False)
        super().on_train_end()
        if self._scalars is not None:
            self._scalars.close()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: the parent scores the left-out cases with the predictor that users will run."""


class MixedLesions:
    """nnU-Net's training data set, but lesions change their contrast, and some come from another training case."""

    MOST_LOCATIONS = 10000
    """Voxels of a region that a patch may be centred on; as many as nnU-Net keeps."""

    def __init__(self, data: Any, probabilities: Any, settings: dict[str, Any]) -> None:
        self._data = data
        self._probabilities = probabilities
        self._transplant = settings["transplant_probability"]
        self._contrast = settings["lesion_contrast"]
        self.identifiers = data.identifiers

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """As nnU-Net's: image (c, z, y, x), labels (1, z, y, x), None, and properties with the regions' voxels."""
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002 - seeded by the trainer, per epoch
        case, before, properties = self._load(identifier)
        mixed = change_contrast(case, rng, contrast=self._contrast) if rng.random() < 0.5 else case
        if rng.random() < self._transplant:
            donor, _, _ = self._load(str(rng.choice(self.identifiers, p=self._probabilities)))
            mixed = transplant(mixed, donor, rng, contrast=self._contrast)
        if mixed.labels is not case.labels:
            locations = {key: self._locations(mixed, key, rng) for key in properties["class_locations"]}
            properties = {**properties, "class_locations": locations}
        return mixed.channels, mixed.labels[None], before, properties

    def _load(self, identifier: str) -> tuple[MixingCase, Any, dict[str, Any]]:
        data, labels, before, properties = self._data.load_case(identifier)
        return MixingCase(np.asarray(data[:], dtype=np.float32), np.asarray(labels[:])[0]), before, properties

    def _locations(self, case: MixingCase, key: Any, rng: np.random.Generator) -> Any:
        wanted = key if isinstance(key, tuple | list) else (key,)
        voxels = np.argwhere(np.isin(case.labels, wanted))
        if len(voxels) > self.MOST_LOCATIONS:
            voxels = voxels[rng.choice(len(voxels), self.MOST_LOCATIONS, replace=False)]
        return np.insert(voxels, 0, 0, axis=1)


def _strengthen(transforms: Any, factor: float) -> None:
    """Apply each augmentation more (or less) often; the ranges stay nnU-Net's."""
    for transform in transforms.transforms:
        if isinstance(transform, SpatialTransform):
            transform.p_rotation = min(1.0, transform.p_rotation * factor)
            transform.p_scaling = min(1.0, transform.p_scaling * factor)
        elif isinstance(transform, RandomTransform):
            transform.apply_probability = min(1.0, transform.apply_probability * factor)


class BiasFieldTransform(ImageOnlyTransform):  # type: ignore[misc]  # batchgeneratorsv2 has no annotations
    """A smooth change of brightness over the head, as from receiver coils, on z-scored channels.

    An intensity I = mean + std * z that is scaled by 1 + f becomes z + f * (z + mean / std). The field is trilinear
    between 3 random values along each axis, half of it common to all channels; mean and standard deviation stay.
    """

    MEAN_OVER_STD = 4.0
    """Within the brain; 3.4 to 5.3 in the modalities of BraTS 2021."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """The field of one patch, float32 of the image's shape."""
        image = data_dict["image"]
        grid = torch.randn((1, image.shape[0], *[3] * (image.ndim - 1)))
        grid = (grid + torch.randn((1, 1, *grid.shape[2:]))) * 0.5**0.5
        mode = "trilinear" if image.ndim == 4 else "bilinear"
        field = torch.nn.functional.interpolate(grid, size=image.shape[1:], mode=mode, align_corners=True)[0]
        return {"field": field * (self.largest * torch.rand(1).item())}

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        changed: torch.Tensor = img + params["field"] * (img + self.MEAN_OVER_STD)
        for channel, before in zip(changed, img, strict=True):
            inside = before != 0
            if int(inside.sum()) < 2:
                continue
            old, new = before[inside], channel[inside]
            channel[inside] = (new - new.mean()) / new.std().clamp_min(1e-3) * old.std() + old.mean()
            channel[~inside] = 0
        return changed
