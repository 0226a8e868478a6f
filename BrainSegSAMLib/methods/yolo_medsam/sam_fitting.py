"""One SAM network as a task to fit: what learns and what is frozen, its batches of slices and boxes, its validation."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ... import fitting
from ...backends.sam import SamSegmenter
from ...backends.sam_architecture import SamArchitecture
from ...backends.sam_forward import SamForward
from ...backends.sam_network import build
from ...backends.weights import hash_of_weights, read_weights, set_weights
from ...errors import InputError
from ...fitting import Fitted, Task, Weights, seed_of
from ...progress import Progress
from ...scores import mean_dice
from ...training_volumes import TrainingVolume
from .embeddings import Embeddings, cached_embeddings
from .sam_config import ALL, DECODER, SamTrainingConfig
from .sam_validation import Segment, by_network, score_volumes
from .samples import TrainingSlice, draw_pieces, draw_slices, jittered_boxes, on_square, training_slices

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DECODER_PREFIX: Final = "mask_decoder."
_UNDECAYED: Final = ("pos_embed", "rel_pos", "token", "point_embeddings", "_embed.weight")
"""Embeddings, by parts of their names."""


@dataclass(frozen=True, eq=False)
class SamFit:
    """What one network is trained with.

    Attributes:
        name: of the network, e.g. "fold_0"; decides, with the seed, what is drawn.
        volumes: to learn from.
        weights: how often each is drawn.
        regions: number → name of the regions that are scored.
        iterations: how many.
        folder: its checkpoint and TensorBoard's record go there.
        features: folder for image features that are kept.
        validation: volumes that decide when to stop; none where it is not stopped early.
        unseen: case id → slices of it that are not learned from.
        start: weights file to begin with, or None.
        device: torch device name.
        precision: "fp32" or "bf16".
    """

    name: str
    volumes: Sequence[TrainingVolume]
    weights: Sequence[float]
    regions: Mapping[int, str]
    iterations: int
    folder: Path
    features: Path
    validation: Sequence[TrainingVolume] = ()
    unseen: Mapping[str, Collection[int]] = field(default_factory=dict)
    start: Path | None = None
    device: str = "cpu"
    precision: str = "fp32"


@dataclass(frozen=True, eq=False)
class Batch:
    """What is learned from in one iteration.

    Attributes:
        pictures: float32 (slice, 3, S, S), or where they are known the image features (slice, width, side, side).
        owners: int64 (object,): the slice of each object.
        boxes: float32 (object, 4), in pixels of the square.
        targets: bool (object, S, S).
    """

    pictures: Tensor
    owners: Tensor
    boxes: Tensor
    targets: Tensor


def fit(job: SamFit, config: SamTrainingConfig, architecture: SamArchitecture, *, progress: Progress) -> Fitted:
    """Train one network, or go on where an earlier call ended.

    Args:
        job: what to train it with.
        config: settings.
        architecture: of the network.
        progress: advanced by one each iteration; may cancel, which keeps the state reached.

    Returns:
        The weights of the whole network. What was frozen is as it was.

    Raises:
        InputError: where no slice shows an object to learn, or the disk has no room for image features.
        BrainSegSAMError: as `fitting.fit` and `embeddings.cached_embeddings`.
    """
    learner = Learner(job, config, architecture)
    frozen = learner.frozen()
    before = hash_of_weights(frozen)
    features = learner.cache(progress) if config.views else None
    with ExitStack() as block:
        # An encoder that does not change sees the volumes that decide when to stop once.
        segment = block.enter_context(learner.segmenting(progress)) if config.trained == DECODER else None
        task = learner.task(features, segment)
        fitted = fitting.fit(task, config.schedule(job.iterations), folder=job.folder, progress=progress)
    assert hash_of_weights(learner.frozen()) == before, "frozen weights have changed"
    learned = {learner.prefix + name: value for name, value in fitted.weights.items()}
    return Fitted({**{name: value.cpu() for name, value in frozen.items()}, **learned}, fitted.iterations)


class Learner:
    """A network that learns, or whose mask decoder does."""

    def __init__(self, job: SamFit, config: SamTrainingConfig, architecture: SamArchitecture) -> None:
        """Build the network with its first weights, and find the slices to learn from.

        Raises:
            InputError: where no slice shows an object to learn.
            ModelError: where the first weights do not fit.
        """
        import torch

        self.job, self.config, self.architecture = job, config, architecture
        torch.manual_seed(seed_of(config.seed, job.name, 0))
        network = build(architecture)
        if job.start is not None:
            set_weights(network, read_weights(job.start), job.start, architecture)
        self.network = network.to(job.device).requires_grad_(False)
        self.prefix = DECODER_PREFIX if config.trained == DECODER else ""
        self.module: torch.nn.Module = network.get_submodule(self.prefix.rstrip("."))
        self.module.requires_grad_(True).train()
        self.forward = SamForward(network, architecture, precision=job.precision)
        self.segmenter = SamSegmenter(network, architecture, precision=job.precision)
        self.slices: list[TrainingSlice] = []
        for volume, weight in zip(job.volumes, job.weights, strict=True):
            unseen = job.unseen.get(volume.case_id, ())
            shown = training_slices(volume, config, weight=weight)
            self.slices += [item for item in shown if item.index not in unseen]
        if not self.slices:
            raise InputError("None of the training cases shows an object to learn; check regions and label values.")

    def frozen(self) -> Weights:
        """The weights that do not learn, by their names in the network."""
        state: Weights = self.network.state_dict()
        return {name: value for name, value in state.items() if not name.startswith(self.prefix)}

    def segmenting(self, progress: Progress) -> AbstractContextManager[Segment]:
        """A block in which the volumes that decide when to stop are segmented, each encoded once."""
        return by_network(
            self.segmenter,
            self.config.plane,
            head_only=self.config.head_only,
            volumes=max(1, len(self.job.validation)) if self.config.trained == DECODER else 1,
            progress=progress,
        )

    def task(self, features: Embeddings | None, segment: Segment | None) -> Task[Batch]:
        """What is learned.

        Args:
            features: of `slices` in all their views; None: they are encoded anew.
            segment: with this network, for validation; None: as `segmenting`, anew at each look.
        """
        return Task(
            name=self.job.name,
            module=self.module,
            groups=_groups(self.module, self.config),
            make_batch=lambda iteration: self.batch(iteration, features),
            losses=lambda batch, _iteration: self.losses(batch, encoded=features is not None),
            validate=(lambda weights, progress: self._validate(weights, segment, progress))
            if self.job.validation
            else None,
        )

    # ---- image features -------------------------------------------------------------------------------------------

    def cache(self, progress: Progress) -> Embeddings:
        """The image features of `slices`, `config.views` rows for each, on disk."""
        import torch

        def encode(rows: Sequence[int]) -> Tensor:
            images = [self._seen(row, [0])[0] for row in rows]
            with torch.inference_mode():
                return self.forward.encode_images(torch.stack(images).to(self.job.device))

        return cached_embeddings(
            self.job.features,
            [self._key(row) for row in range(len(self.slices) * self.config.views)],
            encode,
            shape=self.forward.level_shapes[0],
            weights=hash_of_weights(self.network.get_submodule("image_encoder").state_dict()),
            progress=progress,
        )

    def _seen(self, row: int, pieces: Sequence[int], *, masks_only: bool = False) -> tuple[Tensor, Tensor]:
        """One view of a slice, which is always the same."""
        number, view = divmod(row, self.config.views)
        item = self.slices[number]
        rng = None
        if view:
            case = zlib.crc32(item.volume.case_id.encode())
            rng = np.random.default_rng([self.config.seed, case, item.index, view])
        return on_square(item, pieces, self.config, self.architecture, rng, masks_only=masks_only)

    def _key(self, row: int) -> bytes:
        """What one view of a slice is made of, and how precisely it is encoded."""
        number, view = divmod(row, self.config.views)
        item = self.slices[number]
        described: list[Any] = [item.frame.shape, self.architecture.pictures, self.architecture.image_size]
        described.append(self.job.precision)
        if view:
            config = self.config
            described += [config.changes, config.single_modality_probability, config.seed]
            described += [item.volume.case_id, item.index, view]
        return hashlib.sha256(item.frame.tobytes() + repr(described).encode()).digest()

    # ---- one iteration --------------------------------------------------------------------------------------------

    def batch(self, iteration: int, features: Embeddings | None) -> Batch:
        """What is learned from in an iteration."""
        import torch

        rng = np.random.default_rng(seed_of(self.config.seed, self.job.name, iteration))
        pictures, rows, owners, targets = [], [], [], []
        for place, number in enumerate(draw_slices(self.slices, self.config.slices_per_iteration, rng)):
            item = self.slices[number]
            pieces = draw_pieces(item, self.config, rng)
            if features is None:
                picture, masks = on_square(item, pieces, self.config, self.architecture, rng)
                if not masks.any():  # moved out of sight
                    picture, masks = on_square(item, pieces, self.config, self.architecture, None)
                pictures.append(picture)
            else:
                row = number * self.config.views + int(rng.integers(self.config.views))
                masks = self._seen(row, pieces, masks_only=True)[1]
                if not masks.any():
                    row = number * self.config.views
                    masks = self._seen(row, pieces, masks_only=True)[1]
                rows.append(row)
            shown = masks[masks.flatten(1).any(1)]
            owners += [place] * len(shown)
            targets.append(shown)
        wanted = torch.cat(targets)
        return Batch(
            torch.stack(pictures) if features is None else features.gather(rows),
            torch.tensor(owners),
            jittered_boxes(wanted, self.config, rng),
            wanted,
        )

    def losses(self, batch: Batch, *, encoded: bool) -> Mapping[str, Tensor]:
        """The loss of a batch, and its parts.

        Args:
            batch: as `batch` makes it.
            encoded: whether its pictures are image features already.
        """
        import torch
        from torch.nn.functional import interpolate

        from .loss import mask_loss

        device, size = self.job.device, self.architecture.image_size
        pictures = batch.pictures.to(device)
        with torch.set_grad_enabled(self.config.trained == ALL):  # else the encoder takes less memory
            features = pictures if encoded else self.forward.encode_images(pictures)
        logits = self.forward.decode(features[batch.owners.to(device)], batch.boxes.to(device))
        logits = interpolate(logits[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        return mask_loss(logits, batch.targets.to(device).float())

    def _validate(self, weights: Weights, segment: Segment | None, progress: Progress) -> float:
        with _holding(self.module, weights), ExitStack() as block:
            segment = segment or block.enter_context(self.segmenting(progress))
            scores = score_volumes(
                segment, self.job.validation, self.job.regions, plane=self.config.plane, fold=0, progress=progress
            )
        return mean_dice(scores)


@contextmanager
def _holding(module: torch.nn.Module, weights: Weights) -> Iterator[None]:
    """A block in which a module has other weights."""
    own = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(weights)
    try:
        yield
    finally:
        module.load_state_dict(own)


def _groups(module: torch.nn.Module, config: SamTrainingConfig) -> list[dict[str, Any]]:
    """Parameters with and without weight decay."""
    found: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        found[parameter.ndim > 1 and not any(part in name for part in _UNDECAYED)].append(parameter)
    return [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "factor": 1.0}
        for decays, parameters in found.items()
    ]
