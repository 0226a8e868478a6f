"""A tracker: a model folder of the method "sam2_tracker" in memory, and which modalities it is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...backends.sam2_architecture import Sam2Architecture
from ...backends.sam2_network import build
from ...backends.sam2_session import Seed, Step
from ...errors import InputError
from ...image import Image
from ...intensity import picture_of
from ...models.published import Published, read_network
from ...models.store import Model
from ...progress import Progress

METHOD: Final = "sam2_tracker"
"""What `model.json` names as method of a tracker."""

TRACKERS: Final = Published(
    method=METHOD,
    noun="tracker",
    names=("SAM 2", "SAM 2.1", "MedSAM2"),
    architecture=Sam2Architecture,
    build=build,
    weights_file="tracker.pt",
    twins={"sam2.1_tiny": "medsam2"},
)
"""Model folders of trackers, and the published checkpoints that become one."""


class Session(Protocol):
    """Tracks that advance slice by slice; `backends.sam2_session.Session`."""

    def step(self) -> list[Step]:
        """One slice further on every track that has not ended; [] when all have. The first step is the prompts'."""
        ...

    def stop(self, track: int) -> None:
        """End a track."""
        ...


class Network(Protocol):
    """What follows objects; `backends.sam2.Sam2Tracker`."""

    def encode(
        self,
        frames: NDArray[np.uint8],
        *,
        memory_budget_bytes: int,
        batch_size: int,
        progress: Progress | None = None,
    ) -> AbstractContextManager[Any]:
        """Image features of uint8 (slice, 3, rows, columns), computed when they are first needed."""
        ...

    def begin(self, features: Any, seeds: Sequence[Seed]) -> Session:
        """Start a track for each seed, with a memory of its own."""
        ...


@dataclass(frozen=True, eq=False)
class Tracker:
    """A tracker in memory.

    Attributes:
        model: its folder's description.
        network: what follows objects.
        image_size: side in pixels of the square that the network resizes each slice to.
        lower: percentile of the brain that becomes black.
        upper: percentile of the brain that becomes white.
        precision: "fp32" or "bf16", in which the network computes.
    """

    model: Model
    network: Network
    image_size: int
    lower: float
    upper: float
    precision: str = "fp32"

    def picture(self, image: Image, modalities: Sequence[str]) -> NDArray[np.uint8]:
        """One to three modalities of an image as the network sees them, see `intensity.picture_of`."""
        return picture_of(image, modalities, lower=self.lower, upper=self.upper)


def load_tracker(model: Model, *, device: str, trust: bool, precision: str = "fp32") -> Tracker:
    """Load a model folder of the method "sam2_tracker".

    Args:
        model: as read from the folder.
        device: torch device name.
        trust: allow weights that need arbitrary unpickling.
        precision: "auto", "fp32" or "bf16"; see `backends.devices.resolve_precision`.

    Raises:
        ModelError: where the model is no tracker, or its weights do not fit its architecture.
        DependencyError: where sam2 is not installed.
    """
    from ...backends.sam2 import load

    found = read_network(model, TRACKERS)
    network = load(found.architecture, found.weights, device=device, trust=trust, precision=precision)
    return Tracker(model, network, found.architecture.image_size, found.lower, found.upper, network.precision)


def tracker_inputs(
    tracker: Model, prior: Model, asked: tuple[tuple[str, ...], ...] = ()
) -> tuple[tuple[str, ...], ...]:
    """What the tracker sees, once for each vote of the ensemble.

    A tracker that was trained on several modalities at once sees them together and has one vote. One that was trained
    on one, or on photographs, is shown each of the prior's modalities by itself, three times side by side, as the paper
    does with adc, b0 and b1000.

    Args:
        tracker: the tracker's model.
        prior: the prior's model.
        asked: groups of modalities from the settings, which then count instead.

    Raises:
        InputError: where a group names a modality that neither model knows.
    """
    known = known_modalities(tracker, prior)
    for group in asked:
        unknown = [name for name in group if name not in known]
        if unknown:
            raise InputError(f"The setting inputs names {', '.join(unknown)}; there are: {', '.join(known)}.")
    if asked:
        return asked
    if len(tracker.modalities) > 1:
        return (tracker.modalities,)
    return tuple((name,) for name in prior.modalities)


def known_modalities(tracker: Model, prior: Model) -> tuple[str, ...]:
    """The prior's modalities, then those of a tracker that was trained on several and that the prior does not use."""
    further = [name for name in tracker.modalities if name not in prior.modalities]
    return (*prior.modalities, *(further if len(tracker.modalities) > 1 else ()))


def vote_name(modalities: Sequence[str]) -> str:
    """Name of a vote: its modalities, joined. An imported model may call them anything; files are called so, too."""
    return re.sub(r"[^\w.+-]+", "_", "-".join(modalities))
