"""Small segmentations with known errors, and the command `evaluate` run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from BrainSegSAMLib import cli
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.segmentation_files import write_label_map

GRID = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), np.eye(3))
SCHEME = LabelScheme((Region("whole", (1, 2), (240, 228, 66)), Region("core", (2,), (213, 94, 0))))
LABELS = ("--labels", "whole=1,2", "core=2")


def lesion(shift: int = 0, *, core: bool = True, grid: Geometry = GRID) -> Segmentation:
    """A box of 6×8×8 voxels with a core of 2×4×4, moved along x."""
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    labels[3:9, 6:14, 5 + shift : 13 + shift] = 1
    if core:
        labels[5:7, 8:12, 7 + shift : 11 + shift] = 2
    return Segmentation(grid, SCHEME, labels)


def write(folder: Path, **cases: Segmentation) -> Path:
    for case_id, segmentation in cases.items():
        write_label_map(segmentation, folder / f"{case_id}.nii.gz")
    return folder


def run(references: Path, output: Path, *predictions: Path, more: tuple[str, ...] = LABELS) -> int:
    fast = () if "--metrics" in more else ("--metrics", "dice", "hd95")
    return cli.main(
        ["evaluate", "--predictions", *map(str, predictions), "--reference", str(references), "--output", str(output),
         *([] if "--workers" in more else ["--workers", "1"]), *fast, *more]
    )


def record_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return content
