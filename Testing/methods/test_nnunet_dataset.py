"""nnU-Net's data set, written by several workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib.backends.nnunet_training import WorkFolder
from BrainSegSAMLib.batch import Workers
from BrainSegSAMLib.cases import find_cases
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.nnunet import training
from BrainSegSAMLib.methods.nnunet.config import TrainingConfig
from BrainSegSAMLib.methods.nnunet.dataset import CaseConverter, write_dataset
from BrainSegSAMLib.models.store import Model
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.segmentation_files import write_label_map

GRID = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), np.eye(3))
SCHEME = LabelScheme.plain({"lesion": 1})
MODALITIES = ("flair", "t1ce")


@pytest.mark.slow
def test_a_training_has_its_cases_converted_by_several_workers(
    write_case: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is changed in this process is not so in theirs."""
    for seed, name in enumerate(("a", "b")):
        labels = np.zeros(GRID.shape_zyx, np.uint8)
        labels[2:6, 3:9, 4 + seed : 10] = 1
        folder = write_case(tmp_path / "cases" / name, GRID, modalities=MODALITIES, seed=seed)
        write_label_map(Segmentation(GRID, SCHEME, labels), folder / f"{name}_seg.nii.gz")
    cases = find_cases(tmp_path / "cases", modalities=MODALITIES)
    here, there = WorkFolder(tmp_path / "here"), WorkFolder(tmp_path / "there")
    write_dataset(
        cases, here, modalities=MODALITIES, scheme=SCHEME, label_values={}, synthetic_seeds=(), progress=Progress(),
        workers=Workers(1),
    )  # fmt: skip

    def not_here(*_: object) -> None:
        raise AssertionError("this is the driver's process")

    def no_more(*_: object, **__: object) -> None:
        raise InputError("The data set is there.")

    monkeypatch.setattr(CaseConverter, "load", not_here)
    monkeypatch.setattr(training, "run_children", no_more)
    model = Model(tmp_path / "tiny", "tiny", "Tiny", "nnunet", MODALITIES, SCHEME, "CC0-1.0")
    run = training.TrainingRun(there.root, workers=Workers(2))
    with pytest.raises(InputError, match="The data set is there"):
        training.train(cases, TrainingConfig(folds=2), model, run=run)
    written = {path.relative_to(here.raw): path.read_bytes() for path in here.raw.rglob("*") if path.is_file()}
    assert len(written) == len(cases) * (len(MODALITIES) + 1) + 1
    assert {path: (there.raw / path).read_bytes() for path in written} == written
