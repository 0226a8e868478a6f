"""Prediction against nnU-Net's own predictor as the oracle, and what surrounds it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.backends.nnunet import TrainedNNUNet, _crop_to_nonzero, _resample
from BrainSegSAMLib.errors import Cancelled, InputError, ModelError
from BrainSegSAMLib.progress import Progress, ProgressUpdate

SPACING = (1.2, 0.9, 1.0)


def image(shape_zyx: tuple[int, int, int] = (21, 26, 23)) -> NDArray[np.float32]:
    """Two channels of smooth noise in an off-centre box with a hole, 0 elsewhere: float32 (2, z, y, x)."""
    noise = np.random.default_rng(3).normal(size=(2, *shape_zyx))
    stack = 300 + 900 * np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in noise])
    inside = np.zeros(shape_zyx, dtype=bool)
    inside[2:-3, 4:-1, 1:-2] = True
    inside[8:11, 9:12, 9:12] = False
    return np.where(inside, stack, 0).astype(np.float32)


def nnunet_says(folder: Path, stack: NDArray[np.float32], *, mirroring: bool, probabilities: bool = False) -> Any:
    """The oracle: nnU-Net's own predictor on its own loading of the same folder."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=None)
    return predictor.predict_single_npy_array(stack, {"spacing": list(SPACING)}, None, None, probabilities)


@pytest.mark.parametrize(
    ("settings", "mirroring"),
    [
        pytest.param({"spacing": (1.5, 1.5, 1.5)}, True, id="coarser"),
        pytest.param({"spacing": (0.8, 0.8, 0.8), "folds": 1}, False, id="finer"),
        pytest.param({"spacing": SPACING, "regions": False}, False, id="same spacing, labels"),
        pytest.param({"spacing": (4.0, 1.0, 1.0), "folds": 1}, False, id="thick slices, resampled apart"),
        pytest.param({"spacing": (1.1, 1.1, 1.3), "transpose": (2, 0, 1)}, False, id="transposed axes"),
        pytest.param({"spacing": (1.0, 1.0), "dimensions": 2, "regions": False}, True, id="2-D"),
        pytest.param({"spacing": (1.5, 1.5, 1.5), "patch": (32, 32, 32), "folds": 1}, False, id="smaller than a patch"),
    ],
)
def test_the_label_map_is_nnunets(
    make_nnunet: Callable[..., Path], tmp_path: Path, settings: dict[str, Any], mirroring: bool
) -> None:
    folder = make_nnunet(tmp_path / "model", **settings)
    stack = image()
    ours, _ = TrainedNNUNet(folder, mirroring=mirroring).predict(stack, SPACING, Progress())
    theirs = nnunet_says(folder, stack, mirroring=mirroring)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 1, "the random network must give a label map that can differ"


@pytest.mark.parametrize("regions", [True, False])
def test_probabilities_are_nnunets(make_nnunet: Callable[..., Path], tmp_path: Path, regions: bool) -> None:
    folder = make_nnunet(tmp_path / "model", spacing=(1.5, 1.5, 1.5), regions=regions, folds=1)
    ours = TrainedNNUNet(folder, mirroring=False).predict(image(), SPACING, Progress(), probabilities=True)
    theirs = nnunet_says(folder, image(), mirroring=False, probabilities=True)
    np.testing.assert_array_equal(ours[0], theirs[0])
    # Both round resampled logits to half precision, where a tie may go either way: at most one unit of the last place.
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)
    assert np.abs(ours[1] - theirs[1]).mean() < 1e-6


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(9, 14, 11), (31, 7, 20), (13, 17, 12)])
def test_resampling_is_skimages(order: int, shape: tuple[int, int, int]) -> None:
    from functools import partial

    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    data = np.random.default_rng(1).normal(size=(2, 13, 17, 12)).astype(np.float32)
    function = partial(resample_data_or_seg_to_shape, is_seg=False, order=order, order_z=0, force_separate_z=None)
    expected = function(data, shape, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(_resample(data, shape, (1.0,) * 3, (1.0,) * 3, function), expected, atol=1e-6)


def test_the_crop_fills_holes_as_scipy_does() -> None:
    stack = image()
    crop, outside, bounds = _crop_to_nonzero(stack)
    box = tuple(slice(low, high) for low, high in bounds)
    filled = ndimage.binary_fill_holes(np.any(stack != 0, axis=0))
    np.testing.assert_array_equal(outside[0] == 0, filled[box])
    assert not filled[tuple(slice(0, s.start) for s in box)].any()
    np.testing.assert_array_equal(crop, stack[(slice(None), *box)])


def test_progress_counts_every_forward_pass(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    updates: list[ProgressUpdate] = []
    network = TrainedNNUNet(make_nnunet(tmp_path / "model", folds=2), mirroring=True)
    network.predict(image((16, 16, 16)), (1.0, 1.0, 1.0), Progress(updates.append))
    segmenting = [update for update in updates if update.stage == "Segmenting"]
    assert (segmenting[-1].done, segmenting[-1].total) == (16, 16), "two folds, eight mirror images, one tile"
    fractions = [update.fraction for update in updates]
    assert fractions == sorted(fractions)


def test_a_cancel_is_honoured_within_a_forward_pass(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    network = TrainedNNUNet(make_nnunet(tmp_path / "model", folds=1), mirroring=True)
    progress = Progress(lambda update: progress.cancel() if update.stage == "Segmenting" else None)
    threads = threading.active_count()
    with pytest.raises(Cancelled):
        network.predict(image(), SPACING, progress)
    assert threading.active_count() == threads, "nothing goes on in the background"
    ours, _ = network.predict(image(), SPACING, Progress())
    assert ours.any(), "the network can be used again"


def test_an_empty_image_is_refused(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    network = TrainedNNUNet(make_nnunet(tmp_path / "model", folds=1))
    with pytest.raises(InputError, match="zero"):
        network.predict(np.zeros((2, 8, 8, 8), np.float32), SPACING, Progress())


def test_weights_of_another_network_are_refused(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    import json

    folder = make_nnunet(tmp_path / "model", folds=1)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 16]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ModelError, match="do not fit"):
        TrainedNNUNet(folder)


def test_a_checkpoint_of_another_kind_is_refused(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    folder = make_nnunet(tmp_path / "model", folds=1)
    torch.save({"model": {}}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="not one of nnU-Net v2"):
        TrainedNNUNet(folder)


def test_a_folder_without_checkpoints_is_refused(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fold_"):
        TrainedNNUNet(make_nnunet(tmp_path / "model", folds=0))
    with pytest.raises(ModelError, match=r"dataset\.json is missing"):
        TrainedNNUNet(tmp_path)


def test_an_unknown_trainer_is_named(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    folder = make_nnunet(tmp_path / "model", folds=1)
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "trainer_name": "nnUNetTrainerOfSomebody"}, path)
    with pytest.raises(ModelError, match="nnUNetTrainerOfSomebody"):
        TrainedNNUNet(folder)


@pytest.mark.parametrize("step", [0.0, 1.5])
def test_a_tile_step_that_leaves_gaps_is_refused(
    make_nnunet: Callable[..., Path], tmp_path: Path, step: float
) -> None:
    with pytest.raises(InputError, match="tile step"):
        TrainedNNUNet(make_nnunet(tmp_path / "model", folds=1), tile_step_size=step)
