"""Stand-ins for the networks that find boxes and fill them, which know what is right: lesions are bright ellipsoids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.boxes import SliceBox, box_around
from BrainSegSAMLib.progress import Progress


def ellipsoid(centre: Sequence[float], half: Sequence[float], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    return np.asarray(sum(((axis - c) / h) ** 2 for axis, c, h in zip(axes, centre, half, strict=True)) <= 1)


class BrightBoxes:
    """Stands in for a YOLO network: one box around what is bright."""

    def detect(self, frames: NDArray[np.uint8], *, progress: Progress | None = None, **_: Any) -> list[SliceBox]:
        bright = frames[:, 0] > 200
        return [SliceBox(i, box_around(bright[i]), 0, 0.9) for i in np.flatnonzero(bright.any(axis=(1, 2))).tolist()]


class Ellipses:
    """Stands in for SAM: the ellipse that fills the box."""

    precision = "fp32"

    def __init__(self) -> None:
        self.asked: list[int] = []

    @contextmanager
    def encode(self, frames: NDArray[np.uint8], **_: Any) -> Iterator[NDArray[np.uint8]]:
        yield frames

    def find(self, frames: NDArray[np.uint8], marks: Mapping[int, Any]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        rows, columns = np.mgrid[: frames.shape[2], : frames.shape[3]]
        for index in sorted(marks):
            self.asked.append(index)
            found = []
            for column0, row0, column1, row1 in marks[index].boxes:
                along = (columns - (column0 + column1) / 2) / ((column1 - column0) / 2)
                across = (rows - (row0 + row1) / 2) / ((row1 - row0) / 2)
                found.append(1 - along**2 - across**2)
            yield index, np.array(found, dtype=np.float32)
