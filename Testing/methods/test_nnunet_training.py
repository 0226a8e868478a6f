"""Training with nnU-Net, from labelled cases to a model folder, on two tiny synthetic heads."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.backends.checkpoints import load_checkpoint
from BrainSegSAMLib.backends.nnunet_child import override_plans
from BrainSegSAMLib.backends.nnunet_training import ChildJob, WorkFolder, child_environment, run_children
from BrainSegSAMLib.cases import Case, find_cases, load_image
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, GeometryError, InputError, ModelError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.itk import image_of, simpleitk
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.nnunet.config import TrainingConfig
from BrainSegSAMLib.methods.nnunet.dataset import dataset_json, load_labelled, write_dataset
from BrainSegSAMLib.methods.nnunet.training import TrainingRun, split, train
from BrainSegSAMLib.methods.nnunet.validation import AFTER, CaseScore, as_tables
from BrainSegSAMLib.models.store import Model, load_model
from BrainSegSAMLib.phantom import CHANNELS, make_phantom
from BrainSegSAMLib.progress import Progress, ProgressUpdate

SPACING = (6.0, 6.0, 6.0)
SHAPE = (26, 40, 40)
SCHEME = LabelScheme(
    (
        Region("Whole tumour", (1, 2, 3), (240, 228, 66)),
        Region("Tumour core", (1, 3), (213, 94, 0)),
        Region("Enhancing tumour", (3,), (0, 114, 178)),
    )
)
CONFIG = TrainingConfig(
    patch_size=(16, 16, 16),
    prediction_patch_size=(24, 24, 24),
    batch_size=1,
    features_per_stage=(4, 8),
    folds=2,
    train_folds=(0,),
    epochs=1,
    iterations_per_epoch=2,
    validation_iterations_per_epoch=1,
    final_epochs=1,
    optimiser="adamw",
    weight_average_decay=0.5,
    bias_field=0.2,
    transplant_probability=0.5,
    lesion_contrast=0.3,
    precision="bf16",
    synthetic_seeds=(5,),
    half_precision_weights=True,
)


def write_case(folder: Path, seed: int) -> None:
    phantom = make_phantom(seed, shape_zyx=SHAPE, spacing_zyx_mm=SPACING)
    grid = Geometry.axis_aligned(SHAPE, SPACING)
    folder.mkdir(parents=True)
    labels = phantom.labels.copy()
    labels[labels == 3] = 4  # as BraTS 2021 writes it
    for name, array in (*((name, phantom.channels[name]) for name in CHANNELS), ("seg", labels)):
        simpleitk().WriteImage(image_of(array, grid), str(folder / f"{folder.name}_{name}.nii.gz"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    root = tmp_path_factory.mktemp("cases")
    for seed in (1, 2):
        write_case(root / f"head_{seed}", seed)
    return find_cases(root, modalities=CHANNELS)


def template(folder: Path) -> Model:
    return Model(
        folder=folder,
        name="tiny",
        title="Tiny",
        method="nnunet",
        modalities=CHANNELS,
        scheme=SCHEME,
        licence="CC-BY-4.0",
        settings={"mirroring": False, "minimum_volume_mm3": {"Whole tumour": 1000.0}},
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    model: Model
    work: Path
    home: Path
    updates: list[ProgressUpdate]


@pytest.fixture(scope="module")
def trained(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One fold of two, two iterations, then one epoch with all cases: the whole way, in child processes."""
    root = tmp_path_factory.mktemp("training")
    home = root / "home"
    home.mkdir()
    updates: list[ProgressUpdate] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "USERPROFILE"):
            patch.setenv(name, str(home))
        patch.delenv("nnUNet_raw", raising=False)
        before = _nnunet_variables()
        model = train(
            cases,
            CONFIG,
            template(root / "tiny"),
            run=TrainingRun(root / "work"),
            label_values={4: 3},
            progress=Progress(updates.append),
        )
        assert _nnunet_variables() == before
        assert os.environ["HOME"] == str(home)
    return Trained(model, root / "work", home, updates)


def _nnunet_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower().startswith(("nnunet", "brainsegsam"))}


# ---- the whole way ------------------------------------------------------------------------------------------------


def test_trained_model_predicts_on_the_images_grid(trained: Trained, cases: list[Case]) -> None:
    image, _ = load_image(cases[0], CHANNELS)
    segmentation = load_predictor(trained.model.folder).predict(image)
    assert segmentation.geometry.is_same_grid(image.geometry)
    assert segmentation.scheme.names == SCHEME.names


def test_home_stays_untouched(trained: Trained) -> None:  # the fixture checks the environment
    assert list(trained.home.iterdir()) == []


def test_model_folder_describes_its_training(trained: Trained) -> None:
    model = load_model(trained.model.folder)
    assert model.training["seed"] == CONFIG.seed
    assert model.training["cases"] == ["head_1", "head_2"]
    assert model.training["synthetic_cases"] == ["synthetic_5"]
    assert TrainingConfig.from_dict(model.training["settings"]) == CONFIG
    assert model.orientation == "LPS"
    table = model.results[AFTER]
    assert table["columns"] == ["case", "fold", *SCHEME.names]
    assert [row[0] for row in table["rows"]] == [*split_ids(trained), "mean"]


def split_ids(trained: Trained) -> list[str]:
    cases = [Case(name, {}) for name in trained.model.training["cases"]]
    return split(cases, CONFIG)[0]


def test_the_tile_of_prediction_may_be_another_one(trained: Trained) -> None:
    plans = json.loads((trained.model.folder / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [24, 24, 24]


def test_weights_are_plain_data_and_stored_once(trained: Trained) -> None:
    path = trained.model.folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = load_checkpoint(path)  # the restricted unpickler
    weights = checkpoint["network_weights"]
    distinct = {value.data_ptr(): value.numel() * value.element_size() for value in weights.values()}
    assert all(str(value.dtype) == "torch.float16" for value in weights.values())
    assert len(distinct) < len(weights)
    assert path.stat().st_size < sum(distinct.values()) + 400 * len(weights)


def test_continued_network_is_kept_and_its_forerunner_was_scored(trained: Trained) -> None:
    scored = load_checkpoint(trained.work / "cross_validation" / "fold_0" / "checkpoint_final.pth")
    kept = load_checkpoint(trained.model.folder / "fold_0" / "checkpoint_final.pth")
    assert any((scored["network_weights"][k] != v).any() for k, v in kept["network_weights"].items())


@pytest.mark.filterwarnings("ignore")
def test_stock_nnunet_gives_the_same_segmentation(trained: Trained, cases: list[Case]) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    image, _ = load_image(cases[1], CHANNELS)
    ours = load_predictor(trained.model.folder, overrides={"minimum_volume_mm3": {}}).predict(image)
    stock = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"))
    stock.initialize_from_trained_model_folder(str(trained.model.folder), (0,))
    theirs = stock.predict_single_npy_array(image.stack(CHANNELS), {"spacing": list(SPACING)}, None, None, False)
    np.testing.assert_array_equal(ours.label_map, theirs)


def test_progress_counts_iterations_and_tells_of_epochs(trained: Trained) -> None:
    fractions = [update.fraction for update in trained.updates]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    told = [update.message for update in trained.updates if "epoch 1 of 1" in update.message]
    assert [message.split(":")[0] for message in told] == ["fold 0", "fold 0, all cases"]


def test_curves_are_written_for_tensorboard(trained: Trained) -> None:
    assert len(list(trained.work.rglob("events.out.tfevents*"))) == 2


def test_a_model_is_not_overwritten(trained: Trained, cases: list[Case]) -> None:
    with pytest.raises(ModelError, match="already"):
        train(cases, CONFIG, template(trained.model.folder), run=TrainingRun(trained.work))


def test_a_finished_training_is_resumed_without_any_work(trained: Trained, cases: list[Case], tmp_path: Path) -> None:
    def logs() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (trained.work / "logs").iterdir()}

    before = logs()
    again = train(
        cases, CONFIG, template(tmp_path / "tiny"), run=TrainingRun(trained.work), label_values={4: 3}
    )
    assert again.sha256 == trained.model.sha256
    assert again.results == trained.model.results
    assert logs() == before, "no child was started"


def test_other_settings_of_prediction_are_scored_anew(trained: Trained, cases: list[Case], tmp_path: Path) -> None:
    nothing_stays = {"mirroring": False, "minimum_volume_mm3": dict.fromkeys(SCHEME.names, 1e9)}
    other = dataclasses.replace(template(tmp_path / "tiny"), settings=nothing_stays)
    again = train(cases, CONFIG, other, run=TrainingRun(trained.work), label_values={4: 3})
    (row, mean) = again.results[AFTER]["rows"]
    assert row[2:] == mean[2:] == [0.0, 0.0, 0.0]


def test_a_work_folder_of_another_training_is_refused(trained: Trained, cases: list[Case], tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, learning_rate=0.5)
    with pytest.raises(InputError, match="holds another training"):
        train(cases, other, template(tmp_path / "tiny"), run=TrainingRun(trained.work), label_values={4: 3})


@pytest.mark.slow
def test_a_cancelled_training_stops_soon_and_goes_on(cases: list[Case], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=15, iterations_per_epoch=5, final_epochs=0, synthetic_seeds=())
    cancelled_at = 0.0

    def listen(update: ProgressUpdate) -> None:
        nonlocal cancelled_at
        if "epoch 2 of 15" in update.message and not cancelled_at:
            cancelled_at = time.monotonic()
            threading.Thread(target=progress.cancel).start()

    progress = Progress(listen)
    run = TrainingRun(tmp_path / "work")
    with pytest.raises(Cancelled):
        train(cases, config, template(tmp_path / "tiny"), run=run, label_values={4: 3}, progress=progress)
    assert time.monotonic() - cancelled_at < 20
    assert len(list(run.work.rglob("checkpoint_latest.pth"))) == 1
    assert not (tmp_path / "tiny").exists()
    updates: list[ProgressUpdate] = []
    train(cases, config, template(tmp_path / "tiny"), run=run, label_values={4: 3}, progress=Progress(updates.append))
    epochs = [update.message.split()[3] for update in updates if "epoch" in update.message]
    assert epochs == [str(number) for number in range(int(epochs[0]), config.epochs + 1)]
    assert int(epochs[0]) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "configuration": "2d",
            "patch_size": (16, 16),
            "prediction_patch_size": None,
            "features_per_stage": (4, 8),
        },
        {"planner": "nnUNetPlannerResEncM", "features_per_stage": None, "target_spacing_mm": (12.0, 12.0, 12.0)},
    ],
    ids=["2d", "residual encoders"],
)
def test_other_networks(changes: dict[str, Any], cases: list[Case], tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, **changes, final_epochs=0, train_folds=(), optimiser="sgd", weight_average_decay=0.0, precision="auto"
    )
    run = TrainingRun(tmp_path / "work", at_once=2, cores=2)
    model = train(cases, config, template(tmp_path / "tiny"), run=run, label_values={4: 3})
    assert len(model.weights) == 4
    assert [row[0] for row in model.results[AFTER]["rows"]] == ["head_1", "head_2", "mean"]


# ---- the trainer's own parts --------------------------------------------------------------------------------------


# ---- child processes ----------------------------------------------------------------------------------------------


def test_a_failing_child_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    with pytest.raises(BrainSegSAMError, match=r"failed in 'odd': KeyError: 'nothing'. See .*odd\.log"):
        run_children([ChildJob("odd", {"task": "nothing"})], work, progress=Progress(), on_message=lambda _m: None)


def test_a_child_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    progress = Progress()
    threading.Timer(0.3, progress.cancel).start()
    missing = str(tmp_path / "none")
    task = {"task": "train", "configuration": "2d", "fold": 0, "device": "cpu", "threads": 1, "preprocessed": missing}
    started = time.monotonic()
    with pytest.raises((Cancelled, BrainSegSAMError)):
        run_children([ChildJob("slow", task)], WorkFolder(tmp_path), progress=progress, on_message=lambda _m: None)
    assert time.monotonic() - started < 20


def test_child_environment_replaces_the_callers_nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere/else")
    monkeypatch.setenv("nnUNet_keep_files_open", "t")
    environment = child_environment(WorkFolder(tmp_path), workers=0, stop_file=tmp_path / "stop")
    assert environment["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")
    assert "nnUNet_keep_files_open" not in environment
    assert os.environ["nnUNet_raw"] == "/somewhere/else"  # noqa: SIM112 - nnU-Net's own name


def test_plans_are_changed_only_where_asked() -> None:
    planned = {"patch_size": [8, 8], "batch_size": 4, "batch_dice": True, "architecture": {"arch_kwargs": {"a": 1}}}
    nothing = dict.fromkeys(
        ("patch_size", "batch_size", "features_per_stage", "convolutions_per_stage", "convolutions_per_stage_decoder")
    )
    assert override_plans(planned, nothing) == planned
    changed = override_plans(planned, {**nothing, "batch_size": 1, "features_per_stage": [4, 8, 16]})
    assert (changed["batch_size"], changed["batch_dice"]) == (1, False)
    assert changed["architecture"]["arch_kwargs"]["strides"] == [[1, 1], [2, 2], [2, 2]]
    assert changed["architecture"]["arch_kwargs"]["n_conv_per_stage_decoder"] == [2, 2]
    assert planned["architecture"] == {"arch_kwargs": {"a": 1}}


# ---- data set, splits, settings -----------------------------------------------------------------------------------


def test_regions_are_listed_from_the_outside_in() -> None:
    reversed_scheme = LabelScheme(tuple(reversed(SCHEME.regions)))
    described = dataset_json(CHANNELS, reversed_scheme, 2)
    assert list(described["labels"]) == ["background", "Whole tumour", "Tumour core", "Enhancing tumour"]
    assert described["regions_class_order"] == [2, 1, 3]


def test_plain_labels_need_no_regions() -> None:
    described = dataset_json(["t1"], LabelScheme.plain({"left": 1, "right": 2}), 2)
    assert described["labels"] == {"background": 0, "left": 1, "right": 2}
    assert "regions_class_order" not in described


def test_labels_with_a_gap_and_regions_without_own_label_are_refused() -> None:
    with pytest.raises(InputError, match="without a gap"):
        dataset_json(["t1"], LabelScheme.plain({"left": 1, "right": 3}), 2)
    covered = LabelScheme(
        (Region("all", (1, 2), (1, 1, 1)), Region("one", (1,), (2, 2, 2)), Region("two", (2,), (3, 3, 3)))
    )
    with pytest.raises(InputError, match="'all' has no label of its own"):
        dataset_json(["t1"], covered, 2)


def test_references_are_checked(cases: list[Case], tmp_path: Path) -> None:
    labelled = load_labelled(cases[0], CHANNELS, SCHEME, {4: 3})
    assert set(np.unique(labelled.labels)) <= {0, 1, 2, 3}
    with pytest.raises(InputError, match="holds the label 4"):
        load_labelled(cases[0], CHANNELS, SCHEME, {})
    with pytest.raises(InputError, match="no reference segmentation"):
        load_labelled(dataclasses.replace(cases[0], reference=None), CHANNELS, SCHEME, {})
    shifted = Segmentation(
        Geometry.axis_aligned(SHAPE, SPACING, (5.0, 0.0, 0.0)), SCHEME, np.zeros(SHAPE, dtype=np.uint8)
    )
    path = tmp_path / "shifted_seg.nii.gz"
    simpleitk().WriteImage(image_of(shifted.label_map, shifted.geometry), str(path))
    with pytest.raises(GeometryError, match="another grid"):
        load_labelled(dataclasses.replace(cases[0], reference=path), CHANNELS, SCHEME, {})


def test_training_images_lie_in_one_orientation(cases: list[Case], tmp_path: Path) -> None:
    image, _ = load_image(cases[0], CHANNELS)
    labels = load_labelled(cases[0], CHANNELS, SCHEME, {4: 3}).labels
    turned, order = image.geometry.reoriented("RSA")
    folder = tmp_path / "turned"
    folder.mkdir()
    for name, array in (*image.channels.items(), ("seg", labels)):
        simpleitk().WriteImage(image_of(order.apply(array), turned), str(folder / f"turned_{name}.nii.gz"))
    work = WorkFolder(tmp_path / "work")
    write_dataset(
        find_cases(folder, modalities=CHANNELS),
        work,
        modalities=CHANNELS,
        scheme=SCHEME,
        label_values={},
        synthetic_seeds=(),
        progress=Progress(),
    )
    for name, expected in (("imagesTr/turned_0001", image.channels["t1"]), ("labelsTr/turned", labels)):
        written = simpleitk().ReadImage(str(work.raw / f"{name}.nii.gz"))
        np.testing.assert_array_equal(simpleitk().GetArrayFromImage(written), expected)


def test_synthetic_cases_must_fit_the_model(cases: list[Case], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Synthetic cases have the modalities"):
        write_dataset(
            [],
            WorkFolder(tmp_path),
            modalities=("dwi",),
            scheme=SCHEME,
            label_values={},
            synthetic_seeds=(1,),
            progress=Progress(),
        )


def test_split_leaves_every_case_out_once_and_keeps_patients_together() -> None:
    patients = [Case(f"scan_{i}", {}, patient=f"patient_{i // 2}") for i in range(10)]
    folds = split(patients, TrainingConfig(folds=3))
    assert sorted(case_id for fold in folds for case_id in fold) == sorted(case.case_id for case in patients)
    for fold in folds:
        numbers = {int(case_id.removeprefix("scan_")) // 2 for case_id in fold}
        assert len(fold) == 2 * len(numbers)
    assert folds == split(list(reversed(patients)), TrainingConfig(folds=3))


def test_split_follows_the_settings_or_says_why_not() -> None:
    four = [Case(name, {}) for name in "abcd"]
    chosen = TrainingConfig(folds=2, held_out=(("a", "b"), ("d",)))
    assert split(four, chosen) == [["a", "b"], ["d"]]
    with pytest.raises(InputError, match="names e;"):
        split(four, dataclasses.replace(chosen, held_out=(("a",), ("e",))))
    with pytest.raises(InputError, match="a case twice"):
        split(four, dataclasses.replace(chosen, held_out=(("a",), ("a",))))
    with pytest.raises(InputError, match="5 folds need as many patients"):
        split(four, TrainingConfig())
    one_patient = [*four[:2], *(dataclasses.replace(case, patient="p") for case in four[2:])]
    with pytest.raises(InputError, match="parts the cases of patient 'p': it leaves d out, but c would be learned"):
        split(one_patient, chosen)
    together = dataclasses.replace(chosen, held_out=(("a",), ("c", "d")))
    assert split(one_patient, together) == [["a"], ["c", "d"]]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"configuration": "4d"}, "use one of: 2d, 3d_fullres"),
        ({"epochs": 0}, "must be 1 or more"),
        ({"epochs": "many"}, "wrong kind"),
        ({"folds": 1}, "must be 2 or more"),
        ({"train_folds": [5]}, "counted from 0 to 4"),
        ({"held_out": [["a"]]}, "given for 1 folds"),
        ({"features_per_stage": [4, 8], "convolutions_per_stage": [2]}, "2 fit the 2"),
        ({"convolutions_per_stage": [2]}, "0 fit the 0"),
        ({"features_per_stage": [4], "planner": "nnUNetPlannerResEncM"}, "plain U-Net"),
        ({"patch_size": [16, 16]}, "must be 3 numbers"),
        ({"configuration": "2d", "target_spacing_mm": [1, 1, 1]}, "only for 3d_fullres"),
        ({"weight_average_decay": 1}, "0 to below 1"),
        ({"epoch": 3}, "no setting epoch"),
    ],
)
def test_settings_that_cannot_be_used(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TrainingConfig.from_dict(values)


def test_settings_survive_json() -> None:
    assert TrainingConfig.from_dict(CONFIG.as_dict()) == CONFIG


# ---- scores -------------------------------------------------------------------------------------------------------


def test_tables_end_with_the_mean() -> None:
    scores = [CaseScore("b", 1, {"x": 0.5}, {"x": 0.6, "w": 1.0}), CaseScore("a", 0, {"x": 0.7}, {"w": 0.0, "x": 0.8})]
    scores = [dataclasses.replace(score, before=score.after) for score in scores]
    table = as_tables(scores, ("x", "w"))[AFTER]
    assert table["columns"] == ["case", "fold", "x", "w"]
    assert table["rows"] == [["a", 0, 0.8, 0.0], ["b", 1, 0.6, 1.0], ["mean", None, 0.7, 0.5]]
