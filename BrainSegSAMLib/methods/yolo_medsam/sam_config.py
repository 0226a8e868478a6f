"""All that decides a training of SAM on boxes, in one frozen dataclass; the defaults fine-tune MedSAM's mask decoder.

The same training makes a small network from scratch (`trained="all"`, random weights) and fine-tunes the mask decoder
of any network (`trained="decoder"`); only then image features can be computed once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from ...augmentation import Changes
from ...backends.devices import PRECISIONS
from ...errors import InputError
from ...fitting import Schedule
from ...prompts import PLANES
from ...settings import check_choices, check_folds, check_ranges, read_settings, require
from ...training_volumes import VolumeSettings

DECODER: Final = "decoder"
ALL: Final = "all"
FOLDS: Final = "folds"
SLICE: Final = "slice"

# Setting → smallest and largest value that makes sense; None: no limit on that side.
_RANGES: Final[dict[str, tuple[float, float | None]]] = {
    "folds": (2, None),
    "iterations": (1, None),
    "slices_per_iteration": (1, None),
    "boxes_per_slice": (1, None),
    "minimum_object_mm3": (0, None),
    "minimum_pixels": (1, None),
    "made_up_weight": (0, None),
    "brain_weight": (0, None),
    "synthetic_weight": (0, None),
    "views": (0, None),
    "augmentation_probability": (0, 1),
    "rotation_degrees": (0, 180),
    "largest_zoom": (1, None),
    "translation": (0, 1),
    "intensity_change": (0, 1),
    "single_modality_probability": (0, 1),
    "box_jitter": (0, 200),
    "box_jitter_inward": (0, 200),
    "dropped_boxes": (0, 0.9),
    "weight_decay": (0, None),
    "warm_up_iterations": (0, None),
    "last_learning_rate_factor": (0, 1),
    "validation_share": (0, 0.9),
    "validate_every": (1, None),
    "patience": (0, None),
    "checkpoint_every": (1, None),
    "seed": (0, None),
}
_ABOVE_ZERO: Final = ("learning_rate", "gradient_clipping")


@dataclass(frozen=True)
class SamTrainingConfig:
    """Settings of one training of a SAM network.

    Attributes:
        architecture: the network, as `backends.sam_architecture.SamArchitecture` reads it; or the name of an official
            one, e.g. "medsam" or "vit_b".
        start_from: what to begin with: a weights file; the name or folder of a model of the method "sam"; or the work
            folder of a training of the same architecture and folds, of which each fold takes the network that has not
            seen its left-out cases. "" begins with random weights.
        trained: "decoder": the mask decoder learns; image and prompt encoder stay as they are. "all": everything does.
        plane: whose slices are used.
        head_only: leave out what is black around the head on all slices (`crops.head_crop`), so that the network sees
            the head larger; the model's users must do so, too.
        lower_percentile: of the brain's intensities; what is at or below it becomes 0 (`intensity.window`).
        upper_percentile: as `lower_percentile`; what is at or above it becomes 255.
        split: "folds": cross-validation, patients left out in turn. "slice": one network, slices dealt 6:2:2 to
            training, validation (at which nothing looks) and test, as in the paper, which lets it know the patients of
            the test; only to see by how much that flatters.
        folds: parts of the cross-validation; a case is left out once.
        train_folds: which of them are trained; all where empty.
        held_out: case ids left out in each fold, instead of patients dealt out at random.
        final: train a network with all cases after the cross-validation; it is what is kept. Where False, the network
            of the first fold that was trained is kept.
        iterations: of each network.
        slices_per_iteration: slices that are learned from together.
        boxes_per_slice: objects of a slice, at most, that are learned together; they share its image features.
        region_weights: how often an object of each region is drawn, in the order of the model's regions; all alike
            where empty.
        minimum_object_mm3: smaller components are no objects of their own.
        minimum_pixels: an object that shows with fewer pixels on a slice is not learned there.
        made_up_weight: how often an object is drawn that image and chance make up (`training_volumes.made_up_mask`),
            relative to those of regions; 0 for never. They teach a new network that its box matters.
        brain_weight: as `made_up_weight`, of the brain as a whole.
        synthetic_seeds: for each, one synthetic case (`phantom.make_phantom`) is among the training cases of every
            fold; for modalities of `phantom.CHANNELS` only.
        synthetic_weight: how often a slice of a synthetic case is drawn, relative to one of a real case.
        views: of each slice, whose image features are computed once and kept on disk: the slice as it is, and others of
            it changed at random as below. 0: nothing is kept; slices are changed and encoded anew in every iteration,
            as `trained="all"` needs it.
        feature_budget_gib: what the image features of all networks may take on disk together; None: what is free there.
        augmentation_probability: of each of the changes below, for each slice.
        rotation_degrees: largest rotation.
        largest_zoom: largest factor by which a slice is magnified, or its inverse.
        translation: largest shift, as a share of the slice.
        intensity_change: how far gain and gamma of each channel are changed at most, and noise is added.
        single_modality_probability: share of slices that show one modality in all channels.
        box_jitter: how far each side of a box is moved outwards at most, in pixels of a picture of 1024; at other sizes
            in proportion.
        box_jitter_inward: as `box_jitter`, inwards; never beyond a quarter of the box.
        dropped_boxes: share of the objects of a slice that are left out, drawn anew each time; one is always kept.
        learning_rate: initial; falls along half a cosine.
        last_learning_rate_factor: of the initial learning rate, at the end; 1 keeps it.
        weight_decay: of AdamW; not on biases, norms and embeddings.
        warm_up_iterations: over which the learning rate rises linearly at first.
        gradient_clipping: largest norm of the gradient.
        weight_average_decay: per iteration, of an exponential moving average of the weights, which is then what is
            validated and kept; 0 keeps the last weights.
        precision: "fp32", "bf16", or "auto": bf16 where the processor has it; of the image encoder.
        validation_share: share of the training patients that are set aside to decide when to stop.
        validate_every: iterations between two looks at them.
        patience: looks without a better Dice after which training stops; 0 never stops early.
        checkpoint_every: iterations between two states from which training can be resumed.
        half_precision_weights: store the weights as 16-bit numbers. What is scored are the rounded weights.
        seed: of initialisation, sampling and augmentation.

    Raises:
        InputError: for a value that cannot be used.

    Source: Zhou and Yu, YOLOv5 and MedSAM (decoder alone, AdamW 1e-4, Dice + BCE); Ma et al., Nature Communications
        15:654, 2024 (box jitter of 0 to 20 pixels at 1024, weight decay 0.01). Deviation: best by validation on whole
        volumes, not by the training loss.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "precision": PRECISIONS, "trained": (DECODER, ALL), "plane": tuple(PLANES), "split": (FOLDS, SLICE),
    }  # fmt: skip
    MATTER: ClassVar[tuple[str, ...]] = (
        "start_from", "trained", "folds", "iterations", "learning_rate",
    )  # fmt: skip

    architecture: Mapping[str, Any] | str = "medsam"
    start_from: str = ""
    trained: str = DECODER
    plane: str = "axial"
    head_only: bool = False
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5
    split: str = FOLDS
    folds: int = 5
    train_folds: tuple[int, ...] = ()
    held_out: tuple[tuple[str, ...], ...] = ()
    final: bool = True
    iterations: int = 10_000
    slices_per_iteration: int = 8
    boxes_per_slice: int = 2
    region_weights: tuple[float, ...] = ()
    minimum_object_mm3: float = 100.0
    minimum_pixels: int = 10
    made_up_weight: float = 0.0
    brain_weight: float = 0.0
    synthetic_seeds: tuple[int, ...] = ()
    synthetic_weight: float = 0.5
    views: int = 1
    feature_budget_gib: float | None = None
    augmentation_probability: float = 0.5
    rotation_degrees: float = 15.0
    largest_zoom: float = 1.25
    translation: float = 0.05
    intensity_change: float = 0.2
    single_modality_probability: float = 0.0
    box_jitter: float = 20.0
    box_jitter_inward: float = 0.0
    dropped_boxes: float = 0.0
    learning_rate: float = 1e-4
    last_learning_rate_factor: float = 1.0
    weight_decay: float = 0.01
    warm_up_iterations: int = 0
    gradient_clipping: float = 1.0
    weight_average_decay: float = 0.0
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
        require(self.patience == 0 or self.validate_every <= self.iterations, "validate_every", self.validate_every,
                f"at most iterations ({self.iterations}) where patience is above 0")  # fmt: skip
        lower, upper = self.lower_percentile, self.upper_percentile
        require(0 <= lower < upper <= 100, "lower_percentile", lower, f"from 0 to below upper_percentile ({upper})")
        require(self.trained == DECODER or self.views == 0, "views", self.views,
                "0 where all of the network is trained, because its image features change")  # fmt: skip
        require(self.trained == ALL or bool(self.start_from), "start_from", "empty",
                "given where the decoder alone is trained, because random image features teach it nothing")  # fmt: skip
        if self.feature_budget_gib is not None:
            require(self.feature_budget_gib > 0, "feature_budget_gib", self.feature_budget_gib, "above 0")
        require(self.split == FOLDS or self.patience == 0, "patience", self.patience,
                "0 where slices are split, because no patient is left out to look at")  # fmt: skip
        check_folds(self.folds, self.train_folds, self.held_out)
        if not all(weight >= 0 for weight in self.region_weights):
            raise InputError("A weight in region_weights is negative; use 0 or more.")
        if self.region_weights and not any((*self.region_weights, self.made_up_weight, self.brain_weight)):
            raise InputError("All region_weights are 0, so there is nothing to learn; give one region a weight.")

    @property
    def chosen_folds(self) -> tuple[int, ...]:
        """The folds that are trained; a split by slices has one."""
        return (self.train_folds or tuple(range(self.folds))) if self.split == FOLDS else (0,)

    @property
    def trains_final(self) -> bool:
        """Whether a network of all cases is trained."""
        return self.final and self.split == FOLDS

    @property
    def volumes(self) -> VolumeSettings:
        """How cases become training volumes."""
        return VolumeSettings(
            (self.plane,),
            self.lower_percentile,
            self.upper_percentile,
            self.minimum_object_mm3,
            self.seed if self.made_up_weight > 0 else None,
            brain=self.brain_weight > 0,
        )

    @property
    def changes(self) -> Changes:
        """How slices are changed at random."""
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

    def as_dict(self) -> dict[str, Any]:
        """For records and recipes; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamTrainingConfig:
        """Read settings, e.g. from a recipe; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return read_settings(cls, values, purpose="training SAM on boxes")
