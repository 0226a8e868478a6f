"""A real worker process whose networks know what is right: bright voxels. For the tests of the interactive effects."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from BrainSegSAMLib import worker
from BrainSegSAMLib.backends.sam2_session import Seed, Step
from BrainSegSAMLib.boxes import LinkSettings
from BrainSegSAMLib.interactive import marking, tracking
from BrainSegSAMLib.methods.ssnet.tracker import Tracker
from BrainSegSAMLib.methods.yolo_medsam.detector import Detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectionSettings
from BrainSegSAMLib.methods.yolo_medsam.segmenter import Segmenter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from Testing.box_stand_ins import BrightBoxes

SLICE_S = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
"""How long a slice takes to be encoded, or followed."""


class FindsBright:
    """In place of SAM: what is bright in the box, and left of all points outside."""

    precision = "fp32"

    def encode(self, frames: np.ndarray) -> dict[int, np.ndarray]:
        class Store(dict):
            def spill(self) -> None:
                """There is nothing to free."""

            close = dict.clear

            def __missing__(self, index: int) -> np.ndarray:
                time.sleep(SLICE_S)
                self[index] = frames[index, 0]
                return self[index]

        return Store()

    def find(self, store: Any, marks: Mapping[int, Any]) -> Iterator[tuple[int, np.ndarray]]:
        for index, one in marks.items():
            frame = store[index]
            _, columns = np.indices(frame.shape)
            rows = np.indices(frame.shape)[0]
            found = frame > 128
            if one.boxes is not None:
                left, top, right, bottom = one.boxes[0]
                found = found & (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
            for (column, _row), inside in zip(*(one.points[0], one.labels[0]) if one.points is not None else ((), ()),
                                              strict=True):
                if not inside:
                    found = found & (columns < column)
            yield index, np.where(found, 1, -1).astype(np.float32)[None]


class FollowsBright:
    """In place of SAM 2: on each slice what is bright within one pixel of what was there before."""

    precision = "fp32"

    def encode(self, frames: np.ndarray, **_: Any) -> Any:
        class Store(dict):
            bytes_at_most = bytes_in_memory = 0
            count = len(frames)

            def spill(self) -> None:
                """There is nothing to free."""

            def __missing__(self, index: int) -> np.ndarray:
                self[index] = frames[index, 0] > 128
                return self[index]

        return nullcontext(Store())

    def begin(self, features: Any, seeds: Sequence[Seed]) -> Any:
        from scipy import ndimage

        class Session:
            def __init__(self) -> None:
                self.offset, self.masks = 0, {number: seed.mask for number, seed in enumerate(seeds)}

            def stop(self, track: int) -> None:
                self.masks.pop(track, None)

            def step(self) -> list[Step]:
                time.sleep(SLICE_S)
                steps = []
                for number, before in list(self.masks.items()):
                    index = seeds[number].slice_index + self.offset * seeds[number].direction
                    if not 0 <= index < features.count:
                        del self.masks[number]
                        continue
                    near = ndimage.binary_dilation(before, iterations=2)
                    mask = features[index] & near if self.offset else before
                    self.masks[number] = mask
                    logits = np.where(mask, 5, -5).astype(np.float32)
                    steps.append(Step(number, index, logits, float(logits.max())))
                self.offset += 1
                return steps

        return Session()


def main() -> int:
    marking.load_segmenter = lambda model, **_: Segmenter(model, FindsBright(), 0.5, 99.5)
    marking.load_detector = lambda model, **_: Detector(
        model, BrightBoxes(), DetectionSettings(link=LinkSettings(0.01, minimum_slices=1)), 0.5, 99.5
    )
    tracking.load_tracker = lambda model, **_: Tracker(model, FollowsBright(), 64, 0.5, 99.5)
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
