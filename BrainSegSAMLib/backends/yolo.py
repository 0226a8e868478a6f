"""Detectors: YOLO networks in memory that find boxes on slices.

Everything of the package ultralytics is used in `backends/yolo*.py` alone. The package is optional: its licence is
AGPL-3.0 (see `yolo_package.LICENCE`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..boxes import SliceBox
from ..progress import Progress
from .devices import resolve_precision
from .weights import read_weights, set_weights
from .yolo_architecture import STRIDE, YoloArchitecture
from .yolo_network import build

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GREY: Final = 114 / 255  # beside a slice that is not square, as Ultralytics pads
_MOST: Final = 300  # boxes of a slice
_PATIENCE_S: Final = 3600.0  # Ultralytics gives up on overlapping boxes when a machine is slow; results must not differ


@dataclass(frozen=True, eq=False)
class YoloDetector:
    """A network that finds boxes.

    Attributes:
        network: Ultralytics' `DetectionModel` in eval mode, on its device.
        architecture: what it is made of.
        precision: "fp32" or "bf16", in which it computes.
        several_kinds: whether a box is of every kind of which the network is sure enough, as where kinds lie within
            each other; else it is of the surest alone.
    """

    network: torch.nn.Module
    architecture: YoloArchitecture
    precision: str = "fp32"
    several_kinds: bool = False

    def detect(
        self,
        frames: NDArray[np.uint8],
        *,
        image_size: int,
        confidence: float,
        overlap: float,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> list[SliceBox]:
        """Find the boxes of some slices.

        Args:
            frames: uint8 (slice, 3, rows, columns).
            image_size: to which their longer side is resized, in pixels; a multiple of `yolo_architecture.STRIDE`.
            confidence: of a box, at least.
            overlap: IoU above which only the surer one of two boxes of a kind stays.
            batch_size: slices that go through the network together.
            progress: advanced by one for each slice; may cancel.

        Returns:
            Boxes in the pixels of the slices, by slice and then by confidence; `index` counts the frames, `kind` the
            classes.
        """
        import torch

        found: list[SliceBox] = []
        device = next(self.network.parameters()).device
        for first in range(0, len(frames), batch_size):
            batch = np.ascontiguousarray(frames[first : first + batch_size])
            fit = _Fit.of(batch.shape[2:], image_size)
            with torch.inference_mode(), self._computing(device.type):
                answer = self.network(fit.apply(torch.from_numpy(batch).to(device)))
            for number, rows in enumerate(self._strongest(answer, confidence, overlap)):
                found += fit.boxes(rows, first + number)
            if progress is not None:
                progress.advance(len(batch))
        return found

    @contextmanager
    def _computing(self, device: str) -> Iterator[None]:
        """In the network's precision, but its last layer always in single: bfloat16 cannot tell pixel 600 from 602."""
        import torch

        def whole(_: object, inputs: tuple[list[Tensor]]) -> tuple[list[Tensor]]:
            torch.set_autocast_enabled(device, False)
            return ([features.float() for features in inputs[0]],)

        layers: Any = self.network.model
        hook = layers[-1].register_forward_pre_hook(whole)
        try:
            with torch.autocast(device, torch.bfloat16, self.precision == "bf16"):
                yield
        finally:
            hook.remove()

    def _strongest(self, answer: object, confidence: float, overlap: float) -> list[Tensor]:
        """The boxes that stay, of each slice: (box, 6) with corners, confidence and class."""
        from ultralytics.utils.nms import non_max_suppression

        rows: list[Tensor] = non_max_suppression(
            answer,
            confidence,
            overlap,
            multi_label=self.several_kinds,
            max_det=_MOST,
            nc=self.architecture.classes,
            max_time_img=_PATIENCE_S,
        )
        return rows


def load(
    architecture: YoloArchitecture,
    path: Path,
    *,
    device: str,
    trust: bool = False,
    precision: str = "auto",
    several_kinds: bool = False,
) -> YoloDetector:
    """Load a detector's weights.

    Args:
        architecture: of the network.
        path: a state dictionary, in half precision or whole.
        device: torch device name.
        trust: allow weights that need arbitrary unpickling.
        precision: "auto", "fp32" or "bf16"; see `devices.resolve_precision`.
        several_kinds: see `YoloDetector`.

    Raises:
        ModelError: where the file cannot be read or does not fit the architecture.
        DependencyError: where ultralytics is not installed.
    """
    network = build(architecture)
    set_weights(network, read_weights(path, trust=trust), path, architecture)
    return YoloDetector(network.to(device).eval(), architecture, resolve_precision(precision, device), several_kinds)


@dataclass(frozen=True)
class _Fit:
    """How slices of one shape fit into what the network is shown: resized, then padded on both sides.

    Attributes:
        shape: (rows, columns) of a slice.
        resized: the same after resizing.
        padding: rows above and below, columns left and right.
    """

    shape: tuple[int, int]
    resized: tuple[int, int]
    padding: tuple[int, int, int, int]

    @classmethod
    def of(cls, shape: Sequence[int], image_size: int) -> _Fit:
        rows, columns = shape
        factor = image_size / max(rows, columns)
        resized = max(1, round(rows * factor)), max(1, round(columns * factor))
        lacking = [(image_size - side) % STRIDE for side in resized]
        above, left = (side // 2 for side in lacking)
        return cls((rows, columns), resized, (above, lacking[0] - above, left, lacking[1] - left))

    def apply(self, frames: Tensor) -> Tensor:
        """uint8 (slice, 3, rows, columns) → float32 from 0 to 1, resized and padded."""
        from torch.nn.functional import interpolate, pad

        scaled = frames.float() / 255
        if self.resized != self.shape:
            scaled = interpolate(scaled, size=self.resized, mode="bilinear", align_corners=False)
        above, below, left, right = self.padding
        return pad(scaled, (left, right, above, below), value=_GREY)

    def boxes(self, rows: Tensor, index: int) -> list[SliceBox]:
        """Rows of (x0, y0, x1, y1, confidence, class) on what the network was shown, as boxes of the slice."""
        offset = np.array([self.padding[2], self.padding[0]] * 2, dtype=np.float64)
        factor = np.array([self.resized[1] / self.shape[1], self.resized[0] / self.shape[0]] * 2)
        values = rows.double().cpu().numpy()
        sides = np.clip((values[:, :4] - offset) / factor, 0, [self.shape[1], self.shape[0]] * 2)
        found = []
        for (x0, y0, x1, y1), (score, kind) in zip(sides.tolist(), values[:, 4:6].tolist(), strict=True):
            if x0 < x1 and y0 < y1:
                # The network's first pixel reaches from 0 to 1; here its centre is 0.
                found.append(SliceBox(index, (x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5), int(kind), score))
        return found
