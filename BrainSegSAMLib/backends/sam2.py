"""SAM 2 as a tracker through the slices of a volume: the door to the `sam2_*` modules.

The network is sam2's own, put together by `sam2_network` from a `Sam2Architecture`. What sam2's video predictor does
around it (frames from JPEG files, one object after the other, one direction after the other in one state) is done anew
for volumes in `slice_features` (each slice encoded once, for all objects and directions) and `sam2_session` (all
objects and directions advanced together).

Source: Ravi et al., SAM 2, arXiv:2408.00714; facebookresearch/sam2 (Apache-2.0), `sam2/modeling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..progress import Progress
from .devices import resolve_device, resolve_precision
from .sam2_architecture import Sam2Architecture
from .sam2_forward import Sam2Forward
from .sam2_network import build
from .sam2_session import Seed, Session
from .slice_features import DEFAULT_BUDGET_BYTES, SliceFeatures
from .weights import read_weights, set_weights

if TYPE_CHECKING:
    import torch


class Sam2Tracker:
    """A SAM 2 network with its weights, ready to follow objects through slices."""

    def __init__(self, network: torch.nn.Module, architecture: Sam2Architecture, *, precision: str = "fp32") -> None:
        """Wrap a network.

        Args:
            network: as `build` makes it, in eval mode, on the device that is to compute.
            architecture: of the network.
            precision: as `devices.resolve_precision`.

        Raises:
            InputError: an unknown precision.
        """
        self.network = network
        self.architecture = architecture
        self.precision = resolve_precision(precision, str(self.device))

    @property
    def device(self) -> torch.device:
        """Where the network lies and computes."""
        device: torch.device = next(self.network.parameters()).device
        return device

    def encode(
        self,
        frames: NDArray[np.uint8],
        *,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
        batch_size: int = 4,
        progress: Progress | None = None,
    ) -> SliceFeatures[Sam2Forward]:
        """Image features of slices, computed when they are first asked for, once each.

        Args:
            frames: uint8 (slice, 3, rows, columns).
            memory_budget_bytes: how much memory the features may take; the rest goes to a temporary file.
            batch_size: slices that are encoded in one pass.
            progress: may cancel; looked at whenever features are asked for, and before every pass.

        Returns:
            The store; close it, or use it in a `with` block.

        Raises:
            InputError: frames of another kind.
        """
        return SliceFeatures(
            Sam2Forward(self.network, precision=self.precision),
            frames,
            memory_budget_bytes=memory_budget_bytes,
            batch_size=batch_size,
            progress=progress,
        )

    def begin(self, features: SliceFeatures[Sam2Forward], seeds: Sequence[Seed]) -> Session:
        """Start to follow objects; every seed becomes one track with a memory of its own.

        Args:
            features: of the slices, as `encode` gives them.
            seeds: one for each object and direction.

        Raises:
            InputError: no seed, or one that does not fit the slices.
        """
        return Session(features, seeds)


def load(
    architecture: Sam2Architecture, weights: Path, *, device: str = "cpu", trust: bool = False, precision: str = "fp32"
) -> Sam2Tracker:
    """A tracker with weights from a file.

    Args:
        architecture: of the network whose weights the file holds.
        weights: `.pt` (a state dictionary, or one under "model") or `.safetensors`; half precision becomes single.
        device: torch device name.
        trust: allow a file that needs arbitrary unpickling.
        precision: as `Sam2Tracker`.

    Raises:
        ModelError: the file cannot be read, or its parameters are not those of the architecture.
        InputError: the device is not there, or the precision is not known.
        DependencyError: sam2 is not installed.
    """
    network = build(architecture)
    set_weights(network, read_weights(weights, trust=trust), weights, architecture)
    return Sam2Tracker(network.to(resolve_device(device)), architecture, precision=precision)
