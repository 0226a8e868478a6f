"""Import of trained nnU-Nets, against nnU-Net itself: its exporter makes the zip, its predictor reads the result."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.errors import Cancelled, DownloadError, ModelError, OutputError
from BrainSegSAMLib.models.catalogue import Entry, RemoteFile, download_path, find_model, installed_models
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.progress import Progress

torch = pytest.importorskip("torch")
pytest.importorskip("nnunetv2")

from BrainSegSAMLib.backends.checkpoints import load_checkpoint  # noqa: E402
from BrainSegSAMLib.methods.nnunet.importing import Origin, import_nnunet, install_nnunet  # noqa: E402

REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3], "ignore": 4}
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"

CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "median_image_size_in_voxels": [16.0, 16.0, 16.0],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
    "use_mask_for_norm": [False, False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
    "batch_dice": True,
}


def plans(reader: str = "SimpleITKIO") -> dict[str, Any]:
    return {
        "dataset_name": "Dataset501_Glioma",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [16, 16, 16],
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": CONFIGURATION},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
    }


def dataset() -> dict[str, Any]:
    return {
        "channel_names": {"0": "T2-FLAIR", "1": "T1Gd"},
        "labels": REGIONS,
        "regions_class_order": [2, 1, 3],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


def network_weights(seed: int) -> dict[str, Any]:
    """Weights that fit the plans, from nnU-Net's own builder."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(seed)
    architecture = CONFIGURATION["architecture"]
    name, kwargs, needed = (architecture[k] for k in ("network_class_name", "arch_kwargs", "_kw_requires_import"))
    network = get_network_from_plans(name, kwargs, needed, 2, 3, allow_init=True, deep_supervision=True)
    weights: dict[str, Any] = network.state_dict()
    return weights


def checkpoint(fold: object = 0, **changes: Any) -> dict[str, Any]:
    """Every entry that nnU-Net's trainer saves."""
    weights = network_weights(fold if isinstance(fold, int) else 99)
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(50_000)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_start_timestamps": [1.0]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans(), "configuration": "3d_fullres", "fold": fold, "dataset_json": dataset(),
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }  # fmt: skip


def make_trained(folder: Path, folds: tuple[object, ...] = (0, 1), name: str = "checkpoint_final.pth") -> Path:
    """A trained-model folder as nnU-Net leaves it, extra files included."""
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans()))
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    (folder / "dataset_fingerprint.json").write_text("{}")
    for fold in folds:
        (folder / f"fold_{fold}" / "validation").mkdir(parents=True)
        (folder / f"fold_{fold}" / "validation" / "summary.json").write_text("{}")
        (folder / f"fold_{fold}" / "progress.png").touch()
        torch.save(checkpoint(fold), folder / f"fold_{fold}" / name)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnUNet_results / dataset / trained-model folder; never changed."""
    return make_trained(tmp_path_factory.mktemp("nnUNet_results") / "Dataset501_Glioma" / TRAINED)


def change_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or list(folder.iterdir()) == []


def predict_with_nnunet(folder: Path) -> np.ndarray[Any, Any]:
    """Probabilities of nnU-Net's own predictor from both folds."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0, 1))
    image = np.random.default_rng(1).normal(size=(2, 18, 16, 17)).astype(np.float32)
    result = predictor.predict_single_npy_array(image, {"spacing": [1.0, 1.0, 1.0]}, None, None, True)
    probabilities: np.ndarray[Any, Any] = result[1]
    return probabilities


def test_trained_folder_becomes_a_model(trained: Path, tmp_path: Path) -> None:
    origin = Origin("Glioma", "Segments glioma.", "CC-BY-4.0", ("A paper",))
    made = import_nnunet(trained, tmp_path / "models" / "glioma-test", origin=origin)
    loaded = load_model(tmp_path / "models" / "glioma-test")
    assert made.as_dict() == loaded.as_dict()
    assert made.folder == tmp_path / "models" / "glioma-test"
    assert (made.name, made.title, made.method, made.licence) == ("glioma-test", "Glioma", "nnunet", "CC-BY-4.0")
    assert made.modalities == ("flair", "t1ce")
    assert [(r.name, r.labels) for r in made.scheme.regions] == [
        ("whole tumour", (1, 2, 3)), ("tumour core", (1, 3)), ("enhancing tumour", (3,)),
    ]  # fmt: skip
    assert made.settings == {"folds": ["0", "1"], "mirroring": True, "tile_step_size": 0.5}
    assert made.orientation is None
    assert "SimpleITKIO" in made.preprocessing["note"]
    assert made.training["settings"]["configuration"] == "3d_fullres"
    assert "clinical" in made.intended_use
    files = sorted(path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file())
    assert files == [
        "dataset.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth", "model.json", "plans.json",
    ]  # fmt: skip
    # Byte for byte: nnU-Net pairs the order of the labels with regions_class_order.
    assert (made.folder / "dataset.json").read_bytes() == (trained / "dataset.json").read_bytes()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["glioma-test"]


def test_checkpoints_are_stripped_but_whole(trained: Path, tmp_path: Path) -> None:
    made = import_nnunet(trained, tmp_path / "glioma", folds=["1"])
    path = made.folder / "fold_1" / "checkpoint_final.pth"
    assert path.stat().st_size < 0.3 * (trained / "fold_1" / "checkpoint_final.pth").stat().st_size
    stripped = torch.load(path, weights_only=True)  # needs no allowance for NumPy any more
    assert stripped["init_args"] == {"configuration": "3d_fullres", "fold": 1}
    assert stripped["trainer_name"] == "nnUNetTrainer"
    assert stripped["inference_allowed_mirroring_axes"] == (0, 1, 2)
    original = load_checkpoint(trained / "fold_1" / "checkpoint_final.pth")["network_weights"]
    assert all(torch.equal(value, original[key]) for key, value in stripped["network_weights"].items())
    assert len(stripped["network_weights"]) == len(original)


@pytest.mark.filterwarnings("ignore")  # nnU-Net's own
def test_nnunet_predicts_the_same_from_both(trained: Path, tmp_path: Path) -> None:
    made = import_nnunet(trained, tmp_path / "glioma")
    expected = predict_with_nnunet(trained)
    assert expected.shape == (3, 18, 16, 17)
    assert np.ptp(expected) > 0.1
    np.testing.assert_array_equal(predict_with_nnunet(made.folder), expected)


@pytest.mark.filterwarnings("ignore")  # nnU-Net's own
def test_zip_that_nnunet_exports(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    monkeypatch.setenv("nnUNet_results", str(trained.parent.parent))
    archive = tmp_path / "exported.zip"
    export_pretrained_model("Dataset501_Glioma", str(archive), configurations=("3d_fullres",), folds=(0, 1))
    made = import_nnunet(archive, tmp_path / "models" / "glioma")
    direct = import_nnunet(trained, tmp_path / "models" / "direct")
    assert made.weights == direct.weights
    assert made.sha256 == direct.sha256
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"glioma", "direct"}


@pytest.mark.parametrize("levels_up", [1, 2])
def test_results_folder_with_one_model(trained: Path, tmp_path: Path, levels_up: int) -> None:
    made = import_nnunet(trained.parents[levels_up - 1], tmp_path / "glioma", folds=["0"])
    assert made.settings["folds"] == ["0"]


def test_several_models(tmp_path: Path) -> None:
    results = tmp_path / "Dataset501_Glioma"
    make_trained(results / TRAINED, (0,))
    make_trained(results / "nnUNetTrainer__nnUNetPlans__2d", (0,))
    with pytest.raises(ModelError, match=rf"several trained models: .*__2d', '{TRAINED}'\. Choose .*--configuration"):
        import_nnunet(results, tmp_path / "glioma")
    with pytest.raises(ModelError, match="no trained model '3d_lowres'; it holds"):
        import_nnunet(results, tmp_path / "glioma", configuration="3d_lowres")
    assert import_nnunet(results, tmp_path / "a", configuration="3d_fullres").name == "a"
    assert import_nnunet(results, tmp_path / "b", configuration=TRAINED).name == "b"


def test_fold_all_and_best_checkpoint(tmp_path: Path) -> None:
    make_trained(tmp_path / "trained", ("all",), "checkpoint_best.pth")
    with pytest.raises(ModelError, match=r"no fold_\*/checkpoint_final\.pth.*has checkpoint_best\.pth: .*--checkpoint"):
        import_nnunet(tmp_path / "trained", tmp_path / "glioma")
    made = import_nnunet(tmp_path / "trained", tmp_path / "glioma", checkpoint="checkpoint_best.pth")
    assert made.settings["folds"] == ["all"]
    assert made.training["settings"]["checkpoint"] == "checkpoint_best.pth"
    assert (made.folder / "fold_all" / "checkpoint_final.pth").is_file()


@pytest.mark.parametrize("folds", [["7"], ["0", "7"], []])
def test_absent_fold(trained: Path, tmp_path: Path, folds: list[str]) -> None:
    with pytest.raises(ModelError, match="it has: 0, 1"):
        import_nnunet(trained, tmp_path / "glioma", folds=folds)
    assert nothing_left(tmp_path)


def test_orientation(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    change_json(trained / "plans.json", lambda p: p.update(image_reader_writer="NibabelIOWithReorient"))
    assert import_nnunet(trained, tmp_path / "a").orientation == "RAS"
    assert import_nnunet(trained, tmp_path / "b", orientation="LPS").orientation == "LPS"
    assert import_nnunet(trained, tmp_path / "c", orientation=None).orientation is None
    with pytest.raises(ModelError, match=r"preprocessing\.orientation"):
        import_nnunet(trained, tmp_path / "d", orientation="XYZ")


def test_modalities(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    assert import_nnunet(trained, tmp_path / "a", modalities=["t2", "swi"]).modalities == ("t2", "swi")
    with pytest.raises(ModelError, match=r"2 channels \(T2-FLAIR, T1Gd\), but 1 modalities"):
        import_nnunet(trained, tmp_path / "b", modalities=["t2"])
    change_json(trained / "dataset.json", lambda d: d.update(channel_names={"1": "CBV map", "0": "Mask"}))
    assert import_nnunet(trained, tmp_path / "c").modalities == ("mask", "cbv map")
    change_json(trained / "dataset.json", lambda d: d.update(channel_names={"0": "zscore", "1": "zscore"}))
    with pytest.raises(ModelError, match=r"dataset\.json' names its channels zscore, zscore, .*--modalities"):
        import_nnunet(trained, tmp_path / "d")


def test_plain_labels(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    change_json(trained / "dataset.json", lambda d: d.update(labels={"background": 0, "edema": 2, "core": 1}))
    scheme = import_nnunet(trained, tmp_path / "a").scheme
    assert [(region.name, region.labels) for region in scheme.regions] == [("edema", (2,)), ("core", (1,))]
    assert not scheme.overlapping


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda d: d.update(labels={"0": "background", "1": "tumour"}), r"dataset\.json': the labels cannot be used"),
        (lambda d: d.update(labels={"background": 0}), "at least one region"),
        (lambda d: d.update(labels={"background": 0, "a": [0, 1]}), "each 1 or more"),
        (lambda d: d.update(labels=None), "has no labels"),
        (lambda d: d.pop("channel_names"), "has no channel_names"),
        (lambda d: d.update(channel_names={"a": "t1"}), "must be numbers"),
    ],
)
def test_dataset_json_of_another_kind(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    change_json(trained / "dataset.json", edit)
    with pytest.raises(ModelError, match=sentence):
        import_nnunet(trained, tmp_path / "models" / "a")
    assert nothing_left(tmp_path / "models")


@pytest.mark.parametrize(("content", "sentence"), [("{", "not valid JSON"), ("[]", "one JSON object")])
def test_plans_json_of_another_kind(tmp_path: Path, content: str, sentence: str) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    (trained / "plans.json").write_text(content)
    with pytest.raises(ModelError, match=rf"plans\.json' .*{sentence}"):
        import_nnunet(trained, tmp_path / "a")


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        ({"state_dict": {}, "epoch": 3}, r"not a checkpoint of nnU-Net v2, but of another method: it holds state_dict"),
        ({"network_weights": {"a": 1}, "init_args": {}, "trainer_name": "T"}, "its weights or settings are of another"),
        (checkpoint(init_args={"configuration": "2d"}), "does not describe the configuration '2d'"),
        (checkpoint(init_args={"configuration": "3d_cascade_fullres"}), "does not describe"),
    ],
)  # fmt: skip
def test_checkpoint_of_another_method(tmp_path: Path, saved: dict[str, Any], sentence: str) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    torch.save(saved, trained / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match=sentence):
        import_nnunet(trained, tmp_path / "models" / "a")
    assert nothing_left(tmp_path / "models")


def test_folds_of_different_configurations(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained")
    torch.save(checkpoint(init_args={"configuration": "2d"}), trained / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="different configurations: 2d, 3d_fullres"):
        import_nnunet(trained, tmp_path / "a")


def test_cascade(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    change_json(trained / "plans.json", lambda p: p["configurations"]["3d_fullres"].update(previous_stage="3d_lowres"))
    with pytest.raises(ModelError, match="second stage of a cascade"):
        import_nnunet(trained, tmp_path / "a")


def test_truncated_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained")
    path = trained / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"fold_1/checkpoint_final\.pth' is cut short"):
        import_nnunet(trained, tmp_path / "models" / "a")
    assert nothing_left(tmp_path / "models")


def test_checkpoint_that_must_be_trusted(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "trained", (0,))
    torch.save(checkpoint(logging=Path("odd")), trained / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="--trust"):
        import_nnunet(trained, tmp_path / "a")
    made = import_nnunet(trained, tmp_path / "a", trust=True)
    torch.load(made.folder / "fold_0" / "checkpoint_final.pth", weights_only=True)


def test_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty' holds no trained nnU-Net v2"):
        import_nnunet(tmp_path / "empty", tmp_path / "a")
    with pytest.raises(ModelError, match=r"absent' does not exist"):
        import_nnunet(tmp_path / "absent", tmp_path / "a")
    (tmp_path / "text.zip").write_text("<html>404</html>")
    with pytest.raises(ModelError, match=r"text\.zip' is not a zip file or is damaged"):
        import_nnunet(tmp_path / "text.zip", tmp_path / "a")


def test_destination(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="already; remove it first"):
        import_nnunet(trained, tmp_path / "there")
    with pytest.raises(ModelError, match="A model cannot be called 'Not a name'"):
        import_nnunet(trained, tmp_path / "Not a name")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/glioma cannot be written"):
        import_nnunet(trained, tmp_path / "file" / "glioma")


def test_cancel_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    progress = Progress(lambda update: progress.cancel() if update.done else None)
    with pytest.raises(Cancelled):
        import_nnunet(trained, tmp_path / "models" / "a", progress=progress)
    assert nothing_left(tmp_path / "models")


# ---- archives ------------------------------------------------------------------------------------------------------


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "evil",
    ["../outside.txt", "/outside.txt", "a/../../outside.txt", "C:/outside.txt", "..\\outside.txt", link("outside.txt")],
)
def test_archive_that_leaves_its_folder(
    trained: Path, tmp_path: Path, evil: str | zipfile.ZipInfo
) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in trained.rglob("*"):
            stream.write(path, path.relative_to(trained))
        stream.writestr(evil, "/etc/passwd")
    with pytest.raises(ModelError, match=r"evil\.zip' is refused: .*Nothing was unpacked"):
        import_nnunet(archive, tmp_path / "models" / "a")
    assert [path.name for path in tmp_path.iterdir() if path.name != "models"] == ["evil.zip"]
    assert nothing_left(tmp_path / "models")


def zip_of(trained: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for path in trained.rglob("*"):
            stream.write(path, prefix + path.relative_to(trained).as_posix())
    return archive


def test_archive_with_the_model_at_its_top(trained: Path, tmp_path: Path) -> None:
    made = import_nnunet(zip_of(trained, tmp_path / "top.zip"), tmp_path / "models" / "a")
    assert made.settings["folds"] == ["0", "1"]


def test_damaged_archive(trained: Path, tmp_path: Path) -> None:
    archive = zip_of(trained, tmp_path / "damaged.zip")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as stream:
        offset = stream.getinfo("fold_0/checkpoint_final.pth").header_offset
    content[offset + 2000 : offset + 2100] = b"x" * 100
    archive.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.zip' is damaged"):
        import_nnunet(archive, tmp_path / "models" / "a")
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"damaged\.zip' is not a zip file or is damaged"):
        import_nnunet(archive, tmp_path / "models" / "a")
    assert nothing_left(tmp_path / "models")


# ---- from the catalogue --------------------------------------------------------------------------------------------


def test_install_from_the_catalogue(trained: Path, tmp_path: Path) -> None:
    # A closed port: the file that was put there by hand must do.
    remote = RemoteFile("http://127.0.0.1:9/Dataset501.zip", "Dataset501.zip", None, None)
    entry = Entry("far", "Far", "nnunet", "download", None, remote, ("flair", "t1ce"), "CC0-1.0", ("P",), False, "")
    path = download_path(entry, models_dir=tmp_path / "models")
    path.parent.mkdir(parents=True)
    zip_of(trained, path, "Dataset501_Glioma/")
    made = install_nnunet(entry, models_dir=tmp_path / "models")
    assert (made.name, made.title, made.licence, made.citations) == ("far", "Far", "CC0-1.0", ("P",))
    assert find_model("far", catalogue=(entry,), models_dir=tmp_path / "models") == made.folder
    assert not path.exists()
    with pytest.raises(ModelError, match="is installed already"):
        install_nnunet(entry, models_dir=tmp_path / "models")


def test_install_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("BrainSegSAMLib.models.download._ATTEMPTS_TO_CONNECT", 1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    remote = RemoteFile("http://127.0.0.1:9/far.zip", "far.zip", None, None)
    entry = Entry("far", "Far", "nnunet", "download", None, remote, ("flair",), "CC0-1.0", (), False, "")
    with pytest.raises(DownloadError, match=r"put it at '.*\.downloads/far/far\.zip'"):
        install_nnunet(entry, models_dir=tmp_path)
    assert installed_models(catalogue=(entry,), models_dir=tmp_path) == {}
