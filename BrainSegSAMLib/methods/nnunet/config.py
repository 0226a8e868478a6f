"""All that decides a training of nnU-Net, in one frozen dataclass; the defaults are nnU-Net's own (v2.8.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from ...errors import InputError
from ...settings import check_choices, check_folds, read_settings, require

CONFIGURATIONS: Final = ("2d", "3d_fullres")
PLANNERS: Final = ("ExperimentPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL")
OPTIMISERS: Final = ("sgd", "adamw")
PRECISIONS: Final = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training.

    Attributes:
        configuration: "2d" or "3d_fullres".
        planner: nnU-Net's planner class; "ExperimentPlanner" plans a plain U-Net, the ResEnc ones residual encoders.
        target_spacing_mm: spacing (z, y, x) that images are resampled to ("3d_fullres" only); planned where None.
        patch_size: voxels (z, y, x), or (y, x) for "2d"; planned where None.
        prediction_patch_size: tile of the sliding window at prediction, as `patch_size`, where it shall be another one:
            a network has no fixed input size, and a tile that holds a whole brain is far faster than overlapping ones.
        batch_size: patches per iteration; planned where None.
        features_per_stage: feature maps of each resolution, for a plain U-Net with kernels of 3 and strides of 2;
            planned where None.
        convolutions_per_stage: convolutions of each resolution of the encoder; needs `features_per_stage`.
        convolutions_per_stage_decoder: convolutions of each resolution of the decoder; needs `features_per_stage`.
        folds: parts of the cross-validation; a case is left out once.
        train_folds: which of them are trained; all where empty.
        held_out: case ids left out in each fold, instead of nnU-Net's seeded random split.
        epochs: epochs per fold.
        iterations_per_epoch: iterations of each epoch.
        validation_iterations_per_epoch: patches of the left-out cases looked at after each epoch, for the curves only.
        final_epochs: where above 0, each network of the cross-validation is trained on for so many epochs with all
            cases, and that is the network that is kept; what was measured is the network before.
        final_learning_rate: initial learning rate of that continuation.
        optimiser: "sgd" (Nesterov, momentum 0.99) or "adamw" (betas 0.9 and 0.99).
        learning_rate: initial; falls as (1 - iteration / all)^0.9.
        weight_decay: of the optimiser.
        warm_up_iterations: over which the learning rate rises linearly at first.
        weight_average_decay: per iteration, of an exponential moving average of the weights, which is then what is
            kept; 0 keeps the last weights.
        oversample_foreground: share of patches that are centred on a labelled voxel.
        augmentation_strength: factor on the probabilities of nnU-Net's augmentations.
        bias_field: largest standard deviation of a smooth multiplicative change of brightness, added to half of the
            patches, which nnU-Net does not have; for z-scored MRI only; 0 for none.
        transplant_probability: share of training patches whose case gets the lesions of another training case besides
            its own (`lesion_mixing.transplant`).
        lesion_contrast: how far the contrast of lesions is changed (`lesion_mixing.change_contrast`), in half of the
            cases and in all transplanted lesions; 0 for not at all.
        precision: "auto" (half on CUDA, full elsewhere), "fp32", or "bf16" (fast on CPUs that have it).
        checkpoint_every_epochs: how often a state is saved from which the training can be resumed.
        synthetic_seeds: for each, one synthetic case (`phantom.make_phantom`) is added to the training cases of every
            fold, never to the left-out ones; for flair, t1, t1ce and t2 only.
        synthetic_weight: how often a synthetic case is drawn, relative to a real one.
        half_precision_weights: store the weights as 16-bit numbers; a prediction computes with 32.
        seed: of initialisation, sampling and augmentation; repeats exactly on one machine where the device and the
            number of threads are the same and data is loaded in the training process (always so on a CPU).

    Raises:
        InputError: for a value that cannot be used.

    Source: Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z; nnunetv2 2.8.1, `nnUNetTrainer.py`.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "configuration": CONFIGURATIONS, "planner": PLANNERS, "optimiser": OPTIMISERS, "precision": PRECISIONS,
    }  # fmt: skip
    MATTER: ClassVar[tuple[str, ...]] = ("configuration", "folds", "epochs", "iterations_per_epoch", "learning_rate")

    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    target_spacing_mm: tuple[float, ...] | None = None
    patch_size: tuple[int, ...] | None = None
    prediction_patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    features_per_stage: tuple[int, ...] | None = None
    convolutions_per_stage: tuple[int, ...] | None = None
    convolutions_per_stage_decoder: tuple[int, ...] | None = None
    folds: int = 5
    train_folds: tuple[int, ...] = ()
    held_out: tuple[tuple[str, ...], ...] = ()
    epochs: int = 1000
    iterations_per_epoch: int = 250
    validation_iterations_per_epoch: int = 50
    final_epochs: int = 0
    final_learning_rate: float = 1e-3
    optimiser: str = "sgd"
    learning_rate: float = 1e-2
    weight_decay: float = 3e-5
    warm_up_iterations: int = 0
    weight_average_decay: float = 0.0
    oversample_foreground: float = 0.33
    augmentation_strength: float = 1.0
    bias_field: float = 0.0
    transplant_probability: float = 0.0
    lesion_contrast: float = 0.0
    precision: str = "auto"
    checkpoint_every_epochs: int = 10
    synthetic_seeds: tuple[int, ...] = ()
    synthetic_weight: float = 1.0
    half_precision_weights: bool = False
    seed: int = 12345

    def __post_init__(self) -> None:
        check_choices(self, self.CHOICES)
        for name in ("epochs", "iterations_per_epoch", "validation_iterations_per_epoch", "checkpoint_every_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.folds >= 2, "folds", self.folds, "2 or more")
        require(self.final_epochs >= 0, "final_epochs", self.final_epochs, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 <= self.weight_average_decay < 1, "weight_average_decay", self.weight_average_decay, "0 to below 1")
        require(0 <= self.oversample_foreground <= 1, "oversample_foreground", self.oversample_foreground, "0 to 1")
        require(self.bias_field >= 0, "bias_field", self.bias_field, "0 or more")
        require(0 <= self.transplant_probability <= 1, "transplant_probability", self.transplant_probability, "0 to 1")
        require(0 <= self.lesion_contrast < 1, "lesion_contrast", self.lesion_contrast, "0 to below 1")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        check_folds(self.folds, self.train_folds, self.held_out)
        self._check_network()

    def _check_network(self) -> None:
        stages = len(self.features_per_stage or ())
        for name, count in (("convolutions_per_stage", stages), ("convolutions_per_stage_decoder", stages - 1)):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise InputError(
                    f"The setting {name} has {len(value)} numbers; {max(count, 0)} fit the {stages} features_per_stage."
                )
        if stages and self.planner != "ExperimentPlanner":
            raise InputError("The setting features_per_stage describes a plain U-Net; use planner ExperimentPlanner.")
        dimensions = 2 if self.configuration == "2d" else 3
        for size in (self.patch_size, self.prediction_patch_size):
            if size is not None and len(size) != dimensions:
                raise InputError(f"The patch size {size} must be {dimensions} numbers for {self.configuration}.")
        if self.target_spacing_mm is not None and (self.configuration == "2d" or len(self.target_spacing_mm) != 3):
            raise InputError("A target spacing is three numbers (z, y, x) in mm, and only for 3d_fullres.")

    @property
    def chosen_folds(self) -> tuple[int, ...]:
        """The folds that are trained."""
        return self.train_folds or tuple(range(self.folds))

    def as_dict(self) -> dict[str, Any]:
        """For records and recipes; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read settings, e.g. from a recipe; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return read_settings(cls, values, purpose="training")
