"""Fixtures that several folders of tests use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.geometry import Geometry

# The same examples in every run, few enough for every push, and no time limit on a busy machine.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real MRI beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("The real MRI in ../shared/data is absent, so this test has nothing to work on.")
    return SHARED_DATA


@pytest.fixture(scope="session")
def oblique_grid() -> Geometry:
    """11×9×7 voxels, three different spacings, axes stored I, L, A and turned by 20 and 10 degrees."""
    turn_z, turn_x = np.radians(20), np.radians(10)
    rotation = np.array(
        [[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
    stored_ila = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    return Geometry((11, 9, 7), (0.8, 1.5, 3.0), (-31.5, 12.25, 40.0), rotation @ stored_ila)


@pytest.fixture(scope="session")
def oblique_array(oblique_grid: Geometry) -> NDArray[np.float32]:
    """Whole numbers, different in every voxel, so that any flip or permutation shows; float32 (z, y, x)."""
    count = int(np.prod(oblique_grid.shape_zyx))
    return np.random.default_rng(7).permutation(count).astype(np.float32).reshape(oblique_grid.shape_zyx)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("A size-limited file system can only be mounted by root on Linux.")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def make_nnunet() -> Callable[..., Path]:
    """Makes a small nnU-Net trained-model folder with random weights, as nnU-Net itself lays it out.

    Random weights give a label map full of detail, so any deviation in the path from image to label map shows.
    """

    def make(
        folder: Path,
        *,
        dimensions: int = 3,
        regions: bool = True,
        spacing: tuple[float, ...] | None = None,
        patch: tuple[int, ...] | None = None,
        folds: int = 2,
        transpose: tuple[int, int, int] = (0, 1, 2),
        seed: int = 0,
    ) -> Path:
        import torch
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        convolution = f"torch.nn.modules.conv.Conv{dimensions}d"
        settings = {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": convolution,
            "kernel_sizes": [[3] * dimensions] * 2,
            "strides": [[1] * dimensions, [2] * dimensions],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
        function = "resample_data_or_seg_to_shape"
        plain = {"is_seg": False, "order_z": 0, "force_separate_z": None}
        configuration = "2d" if dimensions == 2 else "3d_fullres"
        plans = {
            "dataset_name": "Dataset001_Random",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
            "original_median_shape_after_transp": [32, 32, 32],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(transpose),
            "transpose_backward": [transpose.index(axis) for axis in range(3)],
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
            "configurations": {
                configuration: {
                    "data_identifier": f"nnUNetPlans_{configuration}",
                    "preprocessor_name": "DefaultPreprocessor",
                    "batch_size": 2,
                    "patch_size": list(patch or (16,) * dimensions),
                    "median_image_size_in_voxels": [32.0] * dimensions,
                    "spacing": list(spacing or (1.0,) * dimensions),
                    "normalization_schemes": ["ZScoreNormalization"] * 2,
                    "use_mask_for_norm": [True, False],
                    "resampling_fn_data": function,
                    "resampling_fn_seg": function,
                    "resampling_fn_probabilities": function,
                    "resampling_fn_data_kwargs": {**plain, "order": 3},
                    "resampling_fn_seg_kwargs": {**plain, "is_seg": True, "order": 1},
                    "resampling_fn_probabilities_kwargs": {**plain, "order": 1},
                    "batch_dice": False,
                    "architecture": {
                        "network_class_name": name,
                        "arch_kwargs": settings,
                        "_kw_requires_import": imported,
                    },
                }
            },
        }
        labels: dict[str, object] = {"background": 0, "oedema": 1, "core": 2}
        dataset: dict[str, object] = {"channel_names": {"0": "flair", "1": "t1ce"}, "numTraining": 2}
        if regions:
            labels = {"background": 0, "whole": [1, 2], "core": [2]}
            dataset["regions_class_order"] = [1, 2]
        folder.mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps({**dataset, "labels": labels, "file_ending": ".nii.gz"}))
        for fold in range(folds):
            torch.manual_seed(seed + fold)
            network = get_network_from_plans(name, settings, imported, 2, 2 if regions else 3, deep_supervision=False)
            (folder / f"fold_{fold}").mkdir()
            torch.save(
                {
                    "network_weights": network.state_dict(),
                    "init_args": {"configuration": configuration, "fold": fold},
                    "trainer_name": "nnUNetTrainer",
                    "inference_allowed_mirroring_axes": tuple(range(dimensions)),
                    "current_epoch": 1,
                },
                folder / f"fold_{fold}" / "checkpoint_final.pth",
            )
        return folder

    return make


@pytest.fixture(scope="session")
def random_model(make_nnunet: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the method "nnunet" with random weights: flair and t1ce to two overlapping regions, LPS."""
    from BrainSegSAMLib.methods.nnunet.importing import import_nnunet

    root = tmp_path_factory.mktemp("models")
    source = make_nnunet(root / "source", spacing=(1.5, 1.5, 1.5))
    return import_nnunet(source, root / "random", orientation="LPS").folder


@pytest.fixture(scope="session")
def random_tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the method "sam2_tracker": a very small SAM 2 network with random weights."""
    import torch

    from BrainSegSAMLib.backends.sam2 import build
    from BrainSegSAMLib.backends.sam2_architecture import Sam2Architecture
    from BrainSegSAMLib.labels import LabelScheme
    from BrainSegSAMLib.models.store import Model, write_model

    architecture = Sam2Architecture(
        image_size=64, embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=(), window_spec=(4, 4, 4, 2),
        d_model=32, mem_dim=16, memory_attention_layers=1, dim_feedforward=64,
    )
    folder = tmp_path_factory.mktemp("trackers") / "random-tracker"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.save(build(architecture).state_dict(), folder / "tracker.pt")
    model = Model(
        folder, "random-tracker", "Random tracker", "sam2_tracker", ("any",), LabelScheme.plain({"Object": 1}), "MIT",
        settings={"architecture": architecture.as_dict(), "windowing": {"lower": 0.5, "upper": 99.5}},
    )
    return write_model(model, files=["tracker.pt"]).folder


@pytest.fixture(scope="session")
def random_segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the method "sam": a very small SAM network with random weights."""
    import torch

    from BrainSegSAMLib.backends.sam_architecture import SamArchitecture
    from BrainSegSAMLib.backends.sam_network import build
    from BrainSegSAMLib.labels import LabelScheme
    from BrainSegSAMLib.models.store import Model, write_model

    architecture = SamArchitecture(
        image_size=64, embed_dim=16, depth=2, num_heads=2, global_att_blocks=(1,), window_size=3, width=16,
        decoder_depth=1, decoder_heads=2, decoder_mlp_dim=32, pictures="window",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("segmenters") / "random-segmenter"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.save(build(architecture).state_dict(), folder / "sam.pt")
    model = Model(
        folder, "random-segmenter", "Random segmenter", "sam", ("any",), LabelScheme.plain({"Object": 1}), "MIT",
        settings={"architecture": architecture.as_dict(), "windowing": {"lower": 0.5, "upper": 99.5}},
    )
    return write_model(model, files=["sam.pt"]).folder


@pytest.fixture
def write_case() -> Callable[..., Path]:
    """Writes a case folder: one file a modality, smooth random contents in a ball, on a given grid."""

    def write(
        folder: Path,
        grid: Geometry,
        *,
        modalities: Sequence[str] = ("flair", "t1ce"),
        seed: int = 0,
        arrays: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Path:
        import SimpleITK as sitk

        folder.mkdir(parents=True, exist_ok=True)
        for index, modality in enumerate(modalities):
            array = (arrays or {}).get(modality)
            image = sitk.GetImageFromArray(random_ball(grid.shape_zyx, seed + index) if array is None else array)
            image.SetSpacing(grid.spacing_ijk_mm)
            image.SetOrigin(grid.origin_lps_mm)
            image.SetDirection(grid.direction_lps.ravel().tolist())
            sitk.WriteImage(image, str(folder / f"{folder.name}_{modality}.nii.gz"))
        return folder

    return write


def random_ball(shape_zyx: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    """Positive smooth noise inside the ellipsoid that fills the grid, exactly 0 outside."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape_zyx), 1.5)
    axes = np.meshgrid(*[np.linspace(-1.05, 1.05, n) for n in shape_zyx], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    return np.where(inside, 500 + 1000 * noise, 0).astype(np.float32)
