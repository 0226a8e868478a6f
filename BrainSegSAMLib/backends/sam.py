"""SAM for the slices of a volume, masks from boxes and points: the door to the `sam_*` modules.

The network is segment-anything's own, put together by `sam_network` from a `SamArchitecture`; `sam_grid` brings slices
to it and masks back, `sam_forward` computes. Each slice is encoded once (`slice_features`), when something on it is
first asked for, and what was found is shared by every box and point on it from then on.

Source: Kirillov et al., Segment Anything, arXiv:2304.02643; Ma et al., Segment anything in medical images, Nature
Communications 15:654, 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from ..progress import Progress
from ..prompts import check_box, check_points
from .devices import resolve_device, resolve_precision
from .sam_architecture import SamArchitecture
from .sam_forward import SamForward
from .sam_grid import to_slice, to_square
from .sam_network import build
from .slice_features import DEFAULT_BUDGET_BYTES, SliceFeatures
from .weights import read_weights, set_weights

if TYPE_CHECKING:
    import torch

_TOKENS = 2**15  # of image features, that prompts in one pass of the decoder attend to: 8 prompts at 1024 pixels


@dataclass(frozen=True, eq=False)
class Marks:
    """What marks the objects on one slice: each has a box, or points, or both; the same for all of them.

    Attributes:
        boxes: float64 (object, 4): column0, row0, column1, row1 in pixels, as in `prompts`.
        points: float64 (object, point, 2): column, row.
        labels: (object, point): 1 inside the object, 0 outside.

    Raises:
        InputError: no boxes and no points, or arrays that do not fit together.
    """

    boxes: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        given = [array for array in (self.boxes, self.points) if array is not None]
        if not given or len({len(array) for array in given}) != 1 or not len(given[0]):
            raise InputError("What marks objects must be a box for each of them, or points for each, or both.")
        if self.boxes is not None and self.boxes.shape[1:] != (4,):
            raise InputError(f"Boxes must be (object, 4), not {self.boxes.shape}.")
        if (self.points is None) != (self.labels is None):
            raise InputError("Points need labels, and labels points.")
        if self.points is not None and self.labels is not None and self.points.shape != (*self.labels.shape, 2):
            raise InputError(
                f"Points must be (object, point, 2) and labels (object, point), not {self.points.shape} and "
                f"{self.labels.shape}."
            )
        # SAM has other labels, for corners of boxes and for none, which would make other prompts of points.
        if self.labels is not None and not np.isin(self.labels, (0, 1)).all():
            raise InputError("The label of a point is 1 (inside the object) or 0 (outside).")

    @property
    def count(self) -> int:
        """Number of objects."""
        marked = self.points if self.boxes is None else self.boxes
        assert marked is not None
        return len(marked)


class SamSegmenter:
    """A SAM network with its weights, ready to find what is marked on slices."""

    def __init__(self, network: torch.nn.Module, architecture: SamArchitecture, *, precision: str = "fp32") -> None:
        """Wrap a network.

        Args:
            network: as `build` makes it, in eval mode, on the device that is to compute.
            architecture: of the network.
            precision: as `devices.resolve_precision`.

        Raises:
            InputError: an unknown precision.
        """
        device = next(network.parameters()).device
        self.architecture = architecture
        self.precision = resolve_precision(precision, str(device))
        self.forward = SamForward(network, architecture, precision=self.precision)

    def encode(
        self,
        frames: NDArray[np.uint8],
        *,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
        batch_size: int = 4,
        progress: Progress | None = None,
    ) -> SliceFeatures[SamForward]:
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
            self.forward, frames, memory_budget_bytes=memory_budget_bytes, batch_size=batch_size, progress=progress
        )

    def find(
        self, features: SliceFeatures[SamForward], marks: Mapping[int, Marks]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Find what is marked; slices without marks are not encoded.

        Args:
            features: of the slices, as `encode` gives them.
            marks: slice → what is marked on it.

        Returns:
            Slice by slice, in their order: its number, and float32 (object, rows, columns), above 0 in the object.

        Raises:
            InputError: at once, a slice that does not exist, or a box or point that leaves its slice.
            ModelError, OutputError, Cancelled: while slices are asked for, as `SliceFeatures.gather`.
        """
        for index, on_slice in marks.items():
            _check(index, on_slice, features)
        return self._find(features, marks)

    def _find(
        self, features: SliceFeatures[SamForward], marks: Mapping[int, Marks]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        indices = sorted(marks)
        for begin in range(0, len(indices), features.batch_size):
            batch = indices[begin : begin + features.batch_size]
            (encoded,) = features.gather(batch)
            for index, one in zip(batch, encoded, strict=True):
                yield index, self._decode(one, marks[index], features.slice_shape)

    def _decode(self, encoded: torch.Tensor, marks: Marks, slice_shape: tuple[int, int]) -> NDArray[np.float32]:
        """Logits of all objects of one slice; many of them in several passes."""
        import torch

        given: list[Any] = [
            None if places is None else to_square(places, slice_shape, self.architecture).to(encoded.device)
            for places in (marks.boxes, marks.points)
        ]
        given.append(None if marks.labels is None else torch.from_numpy(marks.labels).to(encoded.device))
        at_once = max(1, _TOKENS // self.architecture.feature_size**2)
        found = np.empty((marks.count, *slice_shape), np.float32)
        with torch.inference_mode():
            for begin in range(0, marks.count, at_once):
                part = [None if array is None else array[begin : begin + at_once] for array in given]
                size = min(at_once, marks.count - begin)
                logits = self.forward.decode(encoded.expand(size, *encoded.shape), *part)
                if not bool(torch.isfinite(logits).all()):
                    raise ModelError("The masks of this model are not finite: its weights are damaged.")
                found[begin : begin + size] = to_slice(logits, slice_shape, self.architecture).cpu().numpy()
        return found


def load(
    architecture: SamArchitecture, weights: Path, *, device: str = "cpu", trust: bool = False, precision: str = "fp32"
) -> SamSegmenter:
    """A segmenter with weights from a file.

    Args:
        architecture: of the network whose weights the file holds.
        weights: `.pt` or `.pth` (a state dictionary, or one under "model") or `.safetensors`; half precision becomes
            single.
        device: torch device name.
        trust: allow a file that needs arbitrary unpickling.
        precision: as `SamSegmenter`.

    Raises:
        ModelError: the file cannot be read, or its parameters are not those of the architecture.
        InputError: the device is not there, or the precision is not known.
        DependencyError: segment-anything is not installed.
    """
    network = build(architecture)
    set_weights(network, read_weights(weights, trust=trust), weights, architecture)
    return SamSegmenter(network.to(resolve_device(device)), architecture, precision=precision)


def _check(index: int, marks: Marks, features: SliceFeatures[SamForward]) -> None:
    if not 0 <= index < features.count:
        raise InputError(f"Something is marked on slice {index}, but there are slices 0 to {features.count - 1}.")
    for column0, row0, column1, row1 in marks.boxes if marks.boxes is not None else ():
        check_box((column0, row0, column1, row1), features.slice_shape, where=f"Slice {index}")
    if marks.points is not None:
        check_points(marks.points.reshape(-1, 2), features.slice_shape, where=f"Slice {index}")
