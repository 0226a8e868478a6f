"""Settings of detectors: how slices are shown to one, and how one is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from ...backends.devices import PRECISIONS
from ...backends.yolo_architecture import STRIDE, YoloArchitecture, named
from ...boxes import LinkSettings
from ...errors import InputError
from ...intensity import LOWER_PERCENTILE, UPPER_PERCENTILE
from ...prompts import PLANES
from ...settings import check_choices, check_folds, check_ranges, read_settings, require

SPLITS: Final = ("folds", "patient", "slice")
OPTIMISERS: Final = ("SGD", "AdamW", "MuSGD")


@dataclass(frozen=True)
class DetectionSettings:
    """How a detector looks at a volume; stored in its model folder.

    Attributes:
        plane: whose slices it sees.
        image_size: to which the longer side of a slice is resized, in pixels.
        head_only: whether slices are cropped to the head first.
        confidence: of a box, at least.
        overlap: IoU above which only the surer one of two boxes of a kind stays.
        link: when boxes of neighbouring slices are of one lesion.

    Raises:
        InputError: for a value that cannot be used.
    """

    plane: str = "axial"
    image_size: int = 640
    head_only: bool = False
    confidence: float = 0.25
    overlap: float = 0.45
    link: LinkSettings = field(default_factory=LinkSettings)

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise InputError(f"The setting plane is '{self.plane}'; use one of: {', '.join(PLANES)}.")
        fits = self.image_size >= 2 * STRIDE and self.image_size % STRIDE == 0
        require(fits, "image_size", self.image_size, f"a multiple of {STRIDE}, {2 * STRIDE} or more")
        require(0 <= self.confidence < 1, "confidence", self.confidence, "0 to below 1")
        require(0 < self.overlap <= 1, "overlap", self.overlap, "above 0 and at most 1")

    def as_dict(self) -> dict[str, Any]:
        """For `model.json`; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectionSettings:
        """Read settings, e.g. of a model folder; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        link = read_settings(LinkSettings, values.get("link", {}), purpose="linking boxes")
        return read_settings(cls, {**values, "link": link}, purpose="detection")


@dataclass(frozen=True)
class DetectorTrainingConfig:
    """Settings of one training of a detector: by default the paper's, but random weights and whole patients left out.

    Attributes:
        architecture: a name of `backends.yolo_architecture.OFFICIAL`, or the numbers of another network of its
            families: "family", "depth", "width", "max_channels".
        start_from: one of Ultralytics' own `.pt` files, of the same size, to begin with; "" for random weights.
        plane: whose slices are learned.
        image_size: side in pixels of the square that slices are resized to.
        head_only: whether slices are cropped to the head first.
        lower_percentile: of the window, see `intensity.window`.
        upper_percentile: likewise.
        minimum_object_mm3: smaller connected pieces of a region have no boxes.
        minimum_pixels: a piece that shows with fewer pixels on a slice has no box there, and a slice without any box
            that shows one is left out of training and scores.
        background_share: of the slices that show the head but nothing of any region, how many are learned from.
        split: "folds": cross-validation, patients left out in turn. "patient": one network, patients dealt 6:2:2 to
            training, validation and test. "slice": the same with slices, as in the paper, which lets it know the
            patients of the test; only to see by how much that flatters.
        folds: of the cross-validation.
        train_folds: those to train; all where empty.
        held_out: case ids left out in each fold; dealt out by patient where empty.
        final: whether a network of all cases is trained after the folds, and is the model; else the first fold's is.
        synthetic_seeds: for each, one synthetic case (`phantom.make_phantom`) is among the training cases of every
            network.
        epochs: through the training slices.
        batch_size: slices of one step.
        nominal_batch: gradients of several steps are put together until they are of so many slices.
        optimiser: one of `OPTIMISERS`.
        learning_rate: initial.
        last_learning_rate_factor: of it, at the end.
        cosine: whether it falls along half a cosine instead of a line.
        momentum: of SGD; the first beta of AdamW.
        weight_decay: of the weights; not of biases and norms.
        warm_up_epochs: over which the learning rate rises at first.
        mosaic: share of the pictures that are put together from four.
        mosaic_free_epochs: at the end, without that.
        mix_up: share of the pictures that are laid over another.
        rotation_degrees: largest rotation.
        translation: largest shift, as a share of the slice.
        scale: slices are magnified by 1 ± this at most.
        flip_columns: share of the pictures that are mirrored left to right.
        flip_rows: share that are mirrored top to bottom.
        brightness: gain of all channels together is changed by at most this share. Hue and saturation are never
            changed: channels are modalities.
        intensity_change: how far gain and gamma of each channel by itself are changed at most.
        box_weight: of the loss of the boxes' place.
        class_weight: of the loss of "this is a lesion".
        distance_weight: of the loss of the distribution of their sides' distances.
        precision: "fp32", "bf16", or "auto": bf16 where the processor has it.
        validation_share: share of a fold's training patients that are set aside to choose the best epoch.
        patience: epochs without a better score of these patients after which training stops; 0: nobody is set aside,
            and the last weights are kept. With the splits "patient" and "slice" there is a part for validation whatever
            the patience, and the best weights are kept.
        workers: processes that load pictures; on a CPU there are none.
        half_precision_weights: store the weights as 16-bit numbers. What is scored are the rounded weights.
        seed: of everything that is drawn.

    Raises:
        InputError: for a value that cannot be used.

    Source: Zhou & Yu, YOLOv5 and MedSAM for BraTS 2023; the defaults of the YOLOv5 repository
        (`data/hyps/hyp.scratch-low.yaml`), whose loss weights of an anchor-based network are replaced by those of
        Ultralytics 8.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "plane": tuple(PLANES), "split": SPLITS, "optimiser": OPTIMISERS, "precision": PRECISIONS,
    }  # fmt: skip
    MATTER: ClassVar[tuple[str, ...]] = ("start_from", "image_size", "folds", "epochs", "learning_rate")

    architecture: Mapping[str, Any] | str = "yolov5s"
    start_from: str = ""
    plane: str = "axial"
    image_size: int = 640
    head_only: bool = False
    lower_percentile: float = LOWER_PERCENTILE
    upper_percentile: float = UPPER_PERCENTILE
    minimum_object_mm3: float = 0.0
    minimum_pixels: int = 1
    background_share: float = 1.0
    split: str = "folds"
    folds: int = 5
    train_folds: tuple[int, ...] = ()
    held_out: tuple[tuple[str, ...], ...] = ()
    final: bool = True
    synthetic_seeds: tuple[int, ...] = ()
    epochs: int = 100
    batch_size: int = 16
    nominal_batch: int = 64
    optimiser: str = "SGD"
    learning_rate: float = 0.01
    last_learning_rate_factor: float = 0.01
    cosine: bool = False
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warm_up_epochs: float = 3.0
    mosaic: float = 1.0
    mosaic_free_epochs: int = 0
    mix_up: float = 0.0
    rotation_degrees: float = 0.0
    translation: float = 0.1
    scale: float = 0.5
    flip_columns: float = 0.5
    flip_rows: float = 0.0
    brightness: float = 0.4
    intensity_change: float = 0.1
    box_weight: float = 7.5
    class_weight: float = 0.5
    distance_weight: float = 1.5
    precision: str = "auto"
    validation_share: float = 0.2
    patience: int = 0
    workers: int = 4
    half_precision_weights: bool = True
    seed: int = 20261121

    def __post_init__(self) -> None:
        check_choices(self, self.CHOICES)
        check_ranges(self, _RANGES)
        require(0 < self.learning_rate <= 1, "learning_rate", self.learning_rate, "above 0 and at most 1")
        require(self.patience == 0 or self.validation_share > 0, "validation_share", self.validation_share,
                "above 0 where patience is, because stopping early needs patients to look at")  # fmt: skip
        lower, upper = self.lower_percentile, self.upper_percentile
        require(0 <= lower < upper <= 100, "lower_percentile", lower, f"from 0 to below upper_percentile ({upper})")
        check_folds(self.folds, self.train_folds, self.held_out)
        self.detection()

    @property
    def chosen_folds(self) -> tuple[int, ...]:
        """The folds that are trained."""
        return self.train_folds or tuple(range(self.folds))

    def detection(self, chosen: Mapping[str, Any] | None = None) -> DetectionSettings:
        """How the detector shall look at volumes: as in training.

        Args:
            chosen: further settings, e.g. "detection" of a recipe's model.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        as_trained = {"plane": self.plane, "image_size": self.image_size, "head_only": self.head_only}
        return DetectionSettings.from_dict({**(chosen or {}), **as_trained})

    def network(self, classes: int) -> YoloArchitecture:
        """The network that the settings ask for.

        Raises:
            InputError: for a name that is not known.
            ModelError: for numbers that make no network.
        """
        if isinstance(self.architecture, str):
            return named(self.architecture, classes=classes)
        return YoloArchitecture.from_dict({**self.architecture, "classes": classes})

    def options(self) -> dict[str, Any]:
        """The settings that Ultralytics has names of its own for."""
        return {
            "nbs": self.nominal_batch,
            "optimizer": self.optimiser,
            "lr0": self.learning_rate,
            "lrf": self.last_learning_rate_factor,
            "cos_lr": self.cosine,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "warmup_epochs": self.warm_up_epochs,
            # Ultralytics lets biases begin fast, which suits SGD alone.
            "warmup_bias_lr": 0.1 if self.optimiser == "SGD" else 0.0,
            "mosaic": self.mosaic,
            "mixup": self.mix_up,
            "degrees": self.rotation_degrees,
            "translate": self.translation,
            "scale": self.scale,
            "fliplr": self.flip_columns,
            "flipud": self.flip_rows,
            "hsv_v": self.brightness,
            "box": self.box_weight,
            "cls": self.class_weight,
            "dfl": self.distance_weight,
        }

    def as_dict(self) -> dict[str, Any]:
        """For records and recipes; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorTrainingConfig:
        """Read settings, e.g. from a recipe; what is not named keeps its default.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return read_settings(cls, values, purpose="training a detector")


_RANGES: Final[dict[str, tuple[float, float | None]]] = {
    "minimum_object_mm3": (0, None), "minimum_pixels": (1, None), "background_share": (0, 1), "folds": (2, None),
    "epochs": (1, None), "batch_size": (1, None), "nominal_batch": (1, None), "last_learning_rate_factor": (0, 1),
    "momentum": (0, 0.999), "weight_decay": (0, None), "warm_up_epochs": (0, None), "mosaic": (0, 1),
    "mosaic_free_epochs": (0, None), "mix_up": (0, 1), "rotation_degrees": (0, 180), "translation": (0, 1),
    "scale": (0, 0.99), "flip_columns": (0, 1), "flip_rows": (0, 1), "brightness": (0, 1),
    "intensity_change": (0, 0.9), "box_weight": (0, None), "class_weight": (0, None), "distance_weight": (0, None),
    "validation_share": (0, 0.9), "patience": (0, None), "workers": (0, None),
}  # fmt: skip
"""Setting → smallest and largest value; None: without limit."""
