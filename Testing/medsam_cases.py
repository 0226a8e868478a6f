"""Small generated cases to train SAM on, a lesion with a core in each, and a network and settings as small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from BrainSegSAMLib.backends.checkpoints import save_checkpoint
from BrainSegSAMLib.backends.sam_architecture import SamArchitecture
from BrainSegSAMLib.backends.sam_network import build
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.itk import image_of, simpleitk
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.yolo_medsam.sam_config import SamTrainingConfig
from BrainSegSAMLib.models.store import Model

SHAPE = (14, 48, 48)
ARCHITECTURE = {
    "image_size": 64,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "global_att_blocks": [1],
    "window_size": 4,
    "width": 32,
    "decoder_heads": 4,
    "decoder_mlp_dim": 64,
    "pictures": "window",
    "box_as_mask": True,
}
SETTINGS: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "trained": "all",
    "views": 0,
    "folds": 2,
    "iterations": 2,
    "slices_per_iteration": 2,
    "boxes_per_slice": 2,
    "minimum_object_mm3": 20,
    "minimum_pixels": 4,
    "learning_rate": 2e-3,
    "patience": 0,
    "precision": "fp32",
    "half_precision_weights": True,
}
CONFIG = SamTrainingConfig.from_dict(SETTINGS)
SCHEME = LabelScheme.from_list([{"name": "whole", "labels": [1, 2]}, {"name": "core", "labels": [2]}])


def anatomy(number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A noisy volume with an ellipsoid, and a brighter, smaller one inside it."""
    rng = np.random.default_rng(number)
    axes = np.indices(SHAPE, dtype=np.float32)
    centre = np.array([7, 24, 24]) + rng.uniform(-1, 1, 3) * [1, 6, 6]
    radii = np.array([5, rng.uniform(9, 14), rng.uniform(9, 14)])
    inner = centre + rng.uniform(-0.3, 0.3, 3) * radii
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for value, middle, size in ((1, centre, radii), (2, inner, radii * 0.5)):
        distance = sum(((axes[a] - middle[a]) / size[a]) ** 2 for a in range(3))
        labels[distance <= 1] = value
    grey = 200 + 15 * rng.standard_normal(SHAPE) + np.array([0, 100, 180])[labels]
    return grey.astype(np.float32), labels


def write_cases(root: Path, names: str) -> Path:
    grid = Geometry.axis_aligned(SHAPE, (2.0, 2.0, 2.0))
    for number, name in enumerate(names):
        volume, labels = anatomy(number)
        (root / name).mkdir(parents=True)
        for kind, array in (("flair", volume), ("seg", labels)):
            simpleitk().WriteImage(image_of(array, grid), str(root / name / f"{name}_{kind}.nii.gz"))
    return root


def template(folder: Path) -> Model:
    return Model(
        folder=folder, name="tiny-sam", title="Tiny SAM", method="sam", modalities=("flair",), scheme=SCHEME,
        licence="CC0-1.0",
    )  # fmt: skip


def untrained(folder: Path) -> Path:
    """A file of weights that nobody has trained."""
    torch.manual_seed(0)
    save_checkpoint(build(SamArchitecture.from_dict(ARCHITECTURE)).state_dict(), folder / "sam.pt")
    return folder / "sam.pt"


def decoder_config(start: Path, **changes: Any) -> SamTrainingConfig:
    return replace(CONFIG, **{"trained": "decoder", "views": 2, "start_from": str(start), **changes})
