"""What the tests of training trackers share: tiny generated cases, a tiny network, and a model to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.itk import image_of, simpleitk
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.ssnet.tracker_config import TrackerTrainingConfig
from BrainSegSAMLib.models.store import Model

SHAPE = (12, 32, 32)
ARCHITECTURE = {
    "image_size": 64,
    "embed_dim": 8,
    "stages": [1, 1, 1, 1],
    "global_att_blocks": [],
    "window_spec": [4, 4, 4, 2],
    "d_model": 16,
    "mem_dim": 8,
    "memory_attention_layers": 1,
    "dim_feedforward": 16,
}
SETTINGS: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "folds": 2,
    "iterations": 2,
    "clip_length": 3,
    "clips_per_iteration": 1,
    "objects_per_clip": 2,
    "minimum_object_mm3": 20,
    "planes": {"axial": 1.0},
    "learning_rate": 1e-3,
    "weight_average_decay": 0.5,
    "patience": 0,
    "loss_stride": 2,
    "half_precision_weights": True,
}
CONFIG = TrackerTrainingConfig.from_dict(SETTINGS)


def write_cases(root: Path, names: tuple[str, ...]) -> Path:
    grid = Geometry.axis_aligned(SHAPE, (2.0, 2.0, 2.0))
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[3:9, 8 + number : 18 + number, 10:20] = 1
        volume = (100 + 20 * rng.standard_normal(SHAPE) + 150 * labels).astype(np.float32)
        (root / name).mkdir(parents=True)
        for kind, array in (("flair", volume), ("seg", labels)):
            simpleitk().WriteImage(image_of(array, grid), str(root / name / f"{name}_{kind}.nii.gz"))
    return root


def template(folder: Path) -> Model:
    return Model(
        folder=folder,
        name="tiny-tracker",
        title="Tiny tracker",
        method="sam2_tracker",
        modalities=("flair",),
        scheme=LabelScheme.plain({"lesion": 1}),
        licence="CC0-1.0",
    )
