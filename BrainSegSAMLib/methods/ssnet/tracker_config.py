"""All that decides a training of a tracker, in one frozen dataclass; the defaults fine-tune as MedSAM2 does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Final

from ...augmentation import Changes
from ...backends.devices import PRECISIONS
from ...errors import InputError
from ...fitting import Schedule
from ...settings import check_choices, check_folds, check_ranges, read_settings, require
from ...training_volumes import VolumeSettings

DIRECTIONS: Final = ("forward", "backward", "random", "both")

# Setting → smallest and largest value that makes sense; None: no limit on that side.
_RANGES: Final[dict[str, tuple[float, float | None]]] = {
    "folds": (2, None),
    "iterations": (1, None),
    "synthetic_iterations": (0, None),
    "synthetic_encoder_factor": (0, None),
    "clip_length": (2, None),
    "clips_per_iteration": (1, None),
    "objects_per_clip": (1, None),
    "minimum_object_mm3": (0, None),
    "made_up_weight": (0, None),
    "largest_step": (1, None),
    "end_probability": (0, 1),
    "box_probability": (0, 1),
    "box_jitter": (0, 0.49),
    "corrective_clicks": (0, None),
    "correction_probability": (0, 1),
    "augmentation_probability": (0, 1),
    "rotation_degrees": (0, 180),
    "largest_zoom": (1, None),
    "translation": (0, 1),
    "intensity_change": (0, 1),
    "single_modality_probability": (0, 1),
    "dropout": (0, 0.9),
    "encoder_learning_rate_factor": (0, None),
    "weight_decay": (0, None),
    "warm_up_iterations": (0, None),
    "last_learning_rate_factor": (0, 1),
    "focal_weight": (0, None),
    "dice_weight": (0, None),
    "iou_weight": (0, None),
    "object_score_weight": (0, None),
    "focal_alpha": (0, 1),
    "focal_gamma": (0, None),
    "loss_stride": (1, 16),
    "validation_share": (0, 0.9),
    "validate_every": (1, None),
    "patience": (0, None),
    "checkpoint_every": (1, None),
    "seed": (0, None),
}
_ABOVE_ZERO: Final = ("learning_rate", "gradient_clipping")


@dataclass(frozen=True)
class TrackerTrainingConfig:
    """Settings of one training of a tracker.

    Attributes:
        architecture: the network, as `backends.sam2.Sam2Architecture` reads it; or the name of an official one, e.g.
            "sam2.1_tiny".
        start_from: what to begin with: a weights file; the name or folder of a tracker; or the work folder of a
            training of the same architecture and folds, of which each fold takes the network that has not seen its
            left-out cases. "" begins with random weights.
        lower_percentile: of the brain's intensities; what is at or below it becomes 0 (`intensity.window`).
        upper_percentile: as `lower_percentile`; what is at or above it becomes 255.
        folds: parts of the cross-validation; a case is left out once.
        train_folds: which of them are trained; all where empty.
        held_out: case ids left out in each fold, instead of patients dealt out at random.
        final: train a network with all cases after the cross-validation; it is what is kept. Where False, the network
            of the first fold that was trained is kept.
        iterations: of each network.
        synthetic_iterations: of a network trained on synthetic cases alone, with which every fold and the final one
            then begin; 0 for none.
        synthetic_encoder_factor: `encoder_learning_rate_factor` of that network. Where all begins with random weights,
            an encoder that learns slowly keeps its features from drowning the memory before that is of use.
        synthetic_seeds: for each, one synthetic case (`phantom.make_phantom`) is among the training cases of every
            fold; for modalities of `phantom.CHANNELS` only.
        synthetic_weight: how often a synthetic case is drawn, relative to a real one.
        clip_length: slices of a clip, the prompted one included.
        clips_per_iteration: clips of one iteration; they are encoded together.
        objects_per_clip: objects of a clip that are tracked, where it shows so many.
        directions: "forward", "backward", "random" (one of the two for each clip), or "both" (each object is tracked
            from the first and from the last slice of the clip, which needs no second encoding).
        planes: plane → how often a clip is taken from it, relative to the others.
        region_weights: how often an object of each region is drawn, in the order of the model's regions; all alike
            where empty.
        minimum_object_mm3: smaller components are no objects of their own.
        made_up_weight: how often an object is drawn that image and chance make up (`training_volumes.made_up_mask`),
            relative to those of regions; 0 for never. A network that begins with random weights needs them to learn
            that its prompt matters. The training on synthetic cases alone then has no other objects.
        largest_step: a clip takes every n-th slice, n from 1 to this, drawn anew.
        end_probability: share of clips that are placed so that the object ends in them.
        box_probability: share of clips prompted with a box; the others get the mask.
        box_jitter: how far each side of a box is moved at most, as a share of the box's size.
        corrective_clicks: points at most that correct the first answer to a box.
        correction_probability: share of clips prompted with a box that are corrected by clicks.
        augmentation_probability: of each of the changes below, for each clip.
        rotation_degrees: largest rotation within the slice.
        largest_zoom: largest factor by which a clip is magnified, or its inverse.
        translation: largest shift, as a share of the slice.
        intensity_change: how far gain and gamma of each channel are changed at most, and noise is added.
        single_modality_probability: share of clips that show one modality in all channels.
        dropout: in memory attention.
        learning_rate: initial; falls along half a cosine.
        encoder_learning_rate_factor: of the image encoder, relative to the rest; 0 freezes it.
        last_learning_rate_factor: of the initial learning rate, at the end.
        weight_decay: of AdamW; not on biases, norms and embeddings of position.
        warm_up_iterations: over which the learning rate rises linearly at first.
        gradient_clipping: largest norm of the gradient.
        weight_average_decay: per iteration, of an exponential moving average of the weights, which is then what is
            validated and kept; 0 keeps the last weights.
        focal_weight: of the focal loss in the sum.
        dice_weight: of the Dice loss.
        iou_weight: of the error (L1) of the IoU that the network predicts of itself.
        object_score_weight: of the cross-entropy of "the object is in this slice".
        focal_alpha: weight of object pixels against others in the focal loss.
        focal_gamma: how strongly the focal loss plays down what is right already.
        loss_stride: masks are compared at the image size divided by this.
        precision: "fp32", "bf16", or "auto": bf16 where the processor has it.
        validation_share: share of the training patients that are set aside to decide when to stop.
        validate_every: iterations between two looks at them.
        patience: looks without a better Dice after which training stops; 0 never stops early.
        checkpoint_every: iterations between two states from which training can be resumed.
        half_precision_weights: store the weights as 16-bit numbers; tracking computes with 32. What is scored are the
            rounded weights.
        seed: of initialisation, sampling and augmentation.

    Raises:
        InputError: for a value that cannot be used.

    Source: Ravi et al. 2024, SAM 2, https://arxiv.org/abs/2408.00714, appendix D; Ma et al. 2025, MedSAM2,
        https://arxiv.org/abs/2504.03600 (8-slice clips, AdamW 5e-5, encoder 3e-5, gradient clipping 0.1).
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"precision": PRECISIONS, "directions": DIRECTIONS}
    MATTER: ClassVar[tuple[str, ...]] = ("start_from", "folds", "iterations", "learning_rate")

    architecture: Mapping[str, Any] | str = "sam2.1_tiny"
    start_from: str = ""
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5
    folds: int = 5
    train_folds: tuple[int, ...] = ()
    held_out: tuple[tuple[str, ...], ...] = ()
    final: bool = True
    iterations: int = 10_000
    synthetic_iterations: int = 0
    synthetic_encoder_factor: float = 1.0
    synthetic_seeds: tuple[int, ...] = ()
    synthetic_weight: float = 0.5
    clip_length: int = 8
    clips_per_iteration: int = 2
    objects_per_clip: int = 3
    directions: str = "random"
    planes: Mapping[str, float] = field(default_factory=lambda: {"axial": 1.0, "coronal": 1.0, "sagittal": 1.0})
    region_weights: tuple[float, ...] = ()
    minimum_object_mm3: float = 100.0
    made_up_weight: float = 0.0
    largest_step: int = 2
    end_probability: float = 0.3
    box_probability: float = 0.5
    box_jitter: float = 0.1
    corrective_clicks: int = 3
    correction_probability: float = 0.5
    augmentation_probability: float = 0.5
    rotation_degrees: float = 15.0
    largest_zoom: float = 1.25
    translation: float = 0.05
    intensity_change: float = 0.2
    single_modality_probability: float = 0.2
    dropout: float = 0.1
    learning_rate: float = 5e-5
    encoder_learning_rate_factor: float = 0.6
    last_learning_rate_factor: float = 0.1
    weight_decay: float = 0.1
    warm_up_iterations: int = 100
    gradient_clipping: float = 0.1
    weight_average_decay: float = 0.0
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    object_score_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    loss_stride: int = 1
    precision: str = "auto"
    validation_share: float = 0.1
    validate_every: int = 500
    patience: int = 5
    checkpoint_every: int = 200
    half_precision_weights: bool = False
    seed: int = 20261121

    def __post_init__(self) -> None:
        check_choices(self, self.CHOICES)
        check_ranges(self, _RANGES)
        for name in _ABOVE_ZERO:
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(0 <= self.weight_average_decay < 1, "weight_average_decay", self.weight_average_decay, "0 to below 1")
        require(self.patience == 0 or self.validation_share > 0, "validation_share", self.validation_share,
                 "above 0 where patience is, because stopping early needs patients to look at")  # fmt: skip
        self._check_percentiles()
        self._check_weights()
        check_folds(self.folds, self.train_folds, self.held_out)

    def _check_percentiles(self) -> None:
        lower, upper = self.lower_percentile, self.upper_percentile
        require(0 <= lower < upper <= 100, "lower_percentile", lower, f"from 0 to below upper_percentile ({upper})")

    def _check_weights(self) -> None:
        unknown = sorted(set(self.planes) - {"axial", "coronal", "sagittal"})
        if unknown or not any(weight > 0 for weight in self.planes.values()):
            raise InputError(
                f"The setting planes is {dict(self.planes)}; give axial, coronal or sagittal a weight above 0."
            )
        if any(weight < 0 for weight in (*self.planes.values(), *self.region_weights, self.synthetic_weight)):
            raise InputError("A weight in planes, region_weights or synthetic_weight is negative; use 0 or more.")
        if self.region_weights and not any((*self.region_weights, self.made_up_weight)):
            raise InputError("All region_weights are 0, so there is nothing to track; give one region a weight.")
        if self.synthetic_iterations and not self.synthetic_seeds:
            raise InputError("The setting synthetic_iterations needs synthetic_seeds, but there is none.")

    @property
    def chosen_folds(self) -> tuple[int, ...]:
        """The folds that are trained."""
        return self.train_folds or tuple(range(self.folds))

    @property
    def volumes(self) -> VolumeSettings:
        """How cases become training volumes."""
        return VolumeSettings(
            tuple(plane for plane, weight in self.planes.items() if weight > 0),
            self.lower_percentile,
            self.upper_percentile,
            self.minimum_object_mm3,
            self.seed if self.made_up_weight > 0 else None,
        )

    @property
    def changes(self) -> Changes:
        """How clips are changed at random."""
        return Changes(
            self.augmentation_probability,
            self.rotation_degrees,
            self.largest_zoom,
            self.translation,
            self.intensity_change,
        )

    def schedule(self, iterations: int) -> Schedule:
        """How long and how fast one network learns."""
        return Schedule(
            iterations,
            self.learning_rate,
            self.last_learning_rate_factor,
            self.warm_up_iterations,
            self.gradient_clipping,
            self.weight_average_decay,
            self.validate_every,
            self.patience,
            self.checkpoint_every,
            self.seed,
        )

    def without_regions(self, count: int) -> TrackerTrainingConfig:
        """The same for learning made-up objects alone, of a model with so many regions."""
        return replace(self, region_weights=(0.0,) * count)

    def as_dict(self) -> dict[str, Any]:
        """For records and recipes; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrackerTrainingConfig:
        """Read settings, e.g. from a recipe; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return read_settings(cls, values, purpose="training a tracker")
