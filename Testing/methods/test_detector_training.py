"""Training of a detector, from labelled cases to a model folder, on tiny generated cases."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Not by importing it: that is done offline, by the library.
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("Detectors need the extra [detection].", allow_module_level=True)

from BrainSegSAMLib import train as command
from BrainSegSAMLib.backends.weights import read_weights
from BrainSegSAMLib.backends.yolo_gpus import train_in_children
from BrainSegSAMLib.backends.yolo_network import build
from BrainSegSAMLib.backends.yolo_training import YoloTraining
from BrainSegSAMLib.boxes import SliceBox, box_around
from BrainSegSAMLib.cases import Case, find_cases
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError, ModelError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.itk import image_of, simpleitk
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.yolo_medsam import detector_training
from BrainSegSAMLib.methods.yolo_medsam.dataset import patients_apart, read_manifest
from BrainSegSAMLib.methods.yolo_medsam.detector import load_detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectorTrainingConfig
from BrainSegSAMLib.methods.yolo_medsam.detector_training import CASE_TITLE, TITLE, train_detector
from BrainSegSAMLib.methods.yolo_medsam.slices import known_boxes
from BrainSegSAMLib.models.store import Model, load_model, write_model
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from BrainSegSAMLib.training_volumes import TrainingVolume, load_volumes

SHAPE = (8, 32, 32)
SETTINGS: dict[str, Any] = {
    "architecture": {"family": "yolov8", "depth": 0.33, "width": 0.0625, "max_channels": 256},
    "image_size": 64,
    "folds": 2,
    "epochs": 2,
    "batch_size": 8,
    "nominal_batch": 8,
    "warm_up_epochs": 1.0,
    "mosaic_free_epochs": 1,
    "precision": "fp32",
}
CONFIG = DetectorTrainingConfig.from_dict(SETTINGS)
RECIPE: dict[str, Any] = {
    "method": "yolo",
    "model": {
        "name": "tiny-detector",
        "title": "Tiny detector",
        "modalities": ["flair"],
        "regions": [{"name": "lesion", "labels": [1]}],
        "licence": "CC0-1.0",
    },
}


def write_cases(root: Path, names: str, *, empty: str = "") -> Path:
    """Dark cases with one bright cuboid each, in another place; those named in `empty` have none."""
    grid = Geometry.axis_aligned(SHAPE, (2.0, 2.0, 2.0))
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        if name not in empty:
            labels[2:6, 8 + 2 * number : 18 + 2 * number, 10:20] = 1
        volume = (100 + 20 * rng.standard_normal(SHAPE) + 150 * labels).astype(np.float32)
        (root / name).mkdir(parents=True)
        for kind, array in (("flair", volume), ("seg", labels)):
            simpleitk().WriteImage(image_of(array, grid), str(root / name / f"{name}_{kind}.nii.gz"))
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), "abcd")


@pytest.fixture(scope="module")
def cases(source: Path) -> list[Case]:
    return find_cases(source, modalities=["flair"])


def template(folder: Path) -> Model:
    return Model(
        folder=folder,
        name="tiny-detector",
        title="Tiny detector",
        method="yolo_detector",
        modalities=("flair",),
        scheme=LabelScheme.plain({"lesion": 1}),
        licence="CC0-1.0",
        settings={"detection": {"confidence": 0.1, "link": {"minimum_slices": 1}}},
    )


def test_every_network_learns_from_the_synthetic_cases(cases: list[Case], tmp_path: Path) -> None:
    config = replace(CONFIG, synthetic_seeds=(5,), epochs=1, train_folds=(0,), final=False, minimum_pixels=50)
    model = train_detector(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
    learned = (tmp_path / "work" / "dataset" / "fold_0_train.txt").read_text()
    left_out = (tmp_path / "work" / "dataset" / "fold_0_test.txt").read_text()
    assert "synthetic_5_axial" in learned
    assert "synthetic_5" not in left_out
    assert any(item.case_id == "synthetic_5" and item.boxes for item in read_manifest(tmp_path / "work" / "dataset"))
    assert model.training["synthetic_cases"] == ["synthetic_5"]
    assert not set(model.training["cases"]) & {"synthetic_5"}
    assert [row[0] for row in model.results[TITLE]["rows"]] == ["fold 0", "mean"]
    strange = replace(template(tmp_path / "other"), modalities=("adc",))
    with pytest.raises(InputError, match="Synthetic cases have no adc"):
        train_detector(cases, config, strange, work=tmp_path / "more")


def test_from_a_recipe_to_a_model_folder_that_detects(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**RECIPE, "training": {**SETTINGS, "epochs": 1}}))
    lines: list[str] = []
    job = command.TrainJob(path, source, tmp_path / "model", device="cpu")
    made = command.run(job, progress=Progress(lambda update: lines.append(update.message)))
    assert any("AGPL-3.0" in line for line in lines)
    assert capfd.readouterr() == ("", ""), "nothing is printed below the command line"
    model = load_model(tmp_path / "model")
    assert (model.method, model.sha256) == ("yolo_detector", made.sha256)
    assert model.preprocessing == {"orientation": "LPS"}
    assert model.settings["architecture"]["classes"] == 1
    assert model.settings["detection"]["image_size"] == 64
    assert model.training["cases"] == ["a", "b", "c", "d"]
    by_case, by_fold = model.results[CASE_TITLE], model.results[TITLE]
    assert by_case["columns"] == ["case", "fold", "precision", "recall", "mAP50", "mAP50-95", "boxes found"]
    assert [row[0] for row in by_case["rows"]] == ["a", "b", "c", "d", "mean"]
    assert [row[0] for row in by_fold["rows"]] == ["fold 0", "fold 1", "mean"]
    detector = load_detector(model, device="cpu")
    assert isinstance(detector.find(np.zeros((3, 8, 32, 32), dtype=np.uint8)), tuple)
    with pytest.raises(ModelError, match="it finds boxes"):
        load_predictor(tmp_path / "model")


def test_the_cross_validation_never_learns_from_the_patients_it_scores(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: dict[str, dict[str, set[str]]] = {}
    original = detector_training.write_split

    def write_split(root: Path, name: str, split: Any, classes: Any) -> Path:
        assert name == "final" or patients_apart(split)
        splits[name] = {part: {item.patient for item in slices} for part, slices in split.items()}
        return original(root, name, split, classes)

    monkeypatch.setattr(detector_training, "write_split", write_split)
    paired = [replace(case, patient="one" if case.case_id in "ab" else case.case_id) for case in cases]
    config = replace(CONFIG, folds=3, epochs=1, patience=1, validation_share=0.4)
    model = train_detector(paired, config, template(tmp_path / "model"), work=tmp_path / "work")
    folds = {row[0]: row[1] for row in model.results[CASE_TITLE]["rows"][:-1]}
    assert folds["a"] == folds["b"], "one patient, one fold"
    for fold in range(3):
        parts = splits[f"fold_{fold}"]
        assert parts["train"] | parts["val"] | parts["test"] == {"one", "c", "d"}
        assert parts["val"]
    assert splits["final"] == {"train": {"one", "c", "d"}}


def test_a_training_that_was_cancelled_goes_on_as_if_it_had_not_been(cases: list[Case], tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=3, train_folds=(0,), final=False)
    whole = train_detector(cases, config, template(tmp_path / "whole"), work=tmp_path / "work_whole")

    def listen(update: ProgressUpdate) -> None:
        if "epoch 2 of 3" in update.message:
            progress.cancel()

    progress = Progress(listen)
    with pytest.raises(Cancelled):
        train_detector(cases, config, template(tmp_path / "cut"), work=tmp_path / "work_cut", progress=progress)
    assert not (tmp_path / "cut").exists()
    resumed = train_detector(cases, config, template(tmp_path / "cut"), work=tmp_path / "work_cut")
    assert resumed.weights[0].sha256 == whole.weights[0].sha256
    assert resumed.results == whole.results
    assert len(resumed.training["cases"]) == 2
    assert not list(tmp_path.rglob("settings.json")), "Ultralytics' settings lie elsewhere"
    again = train_detector(cases, config, template(tmp_path / "again"), work=tmp_path / "work_whole")
    assert again.weights[0].sha256 == whole.weights[0].sha256


@pytest.mark.slow
def test_a_process_of_its_own_trains_the_same(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on several GPUs, but one process, because PyTorch's launcher would look for GPUs."""
    config = replace(CONFIG, epochs=2, train_folds=(0,), final=False)
    here = train_detector(cases, config, template(tmp_path / "here"), work=tmp_path / "work_here")
    monkeypatch.setattr(detector_training, "train", train_in_children)
    updates: list[ProgressUpdate] = []
    there = train_detector(
        cases, config, template(tmp_path / "there"), work=tmp_path / "work_there", progress=Progress(updates.append)
    )
    assert there.weights[0].sha256 == here.weights[0].sha256
    assert any("epoch 2 of 2" in update.message for update in updates)
    with pytest.raises(BrainSegSAMError, match="Ultralytics failed in 'training'"):
        train_in_children(
            YoloTraining("odd", tmp_path / "nothing.yaml", tmp_path / "odd", 1, 64, 1), config.network(1),
            progress=Progress(),
        )  # fmt: skip


def test_scores_are_those_of_the_models_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a case without a lesion has none: a mean that counted it as 0 or 1 would say something about it."""

    def find(detector: Any, pictures: Any, settings: Any, **_: Any) -> list[SliceBox]:
        bright = pictures[0] > 150
        shown = np.flatnonzero(bright.sum(axis=(1, 2)) > 50).tolist()
        return [SliceBox(index, box_around(bright[index]), 0, 0.5) for index in shown]

    monkeypatch.setattr(detector_training, "find_boxes", find)
    cases = find_cases(write_cases(tmp_path / "cases", "xyz", empty="x"), modalities=["flair"])
    config = replace(CONFIG, epochs=1, train_folds=(0,), final=False, held_out=(("x", "y"), ("z",)))
    found = []
    for confidence in (0.4, 0.6):
        asked = replace(template(tmp_path / f"at_{confidence}"), settings={"detection": {"confidence": confidence}})
        model = train_detector(cases, config, asked, work=tmp_path / "work")
        assert model.settings["detection"]["confidence"] == confidence
        empty, shown, mean = model.results[CASE_TITLE]["rows"]
        assert empty == ["x", 0, None, None, None, None, None]
        assert shown[2:] == mean[2:]
        found.append(mean[-1])
    assert found == [1.0, 0.0]


def test_training_begins_with_the_weights_of_a_file(cases: list[Case], tmp_path: Path) -> None:
    import torch

    given = build(CONFIG.network(1))
    torch.save({"model": given.half(), "train_args": {}}, tmp_path / "given.pt")
    still = replace(
        CONFIG, start_from=str(tmp_path / "given.pt"), epochs=1, optimiser="AdamW", learning_rate=1e-30,
        train_folds=(0,), final=False,
    )  # fmt: skip
    model = train_detector(cases, still, template(tmp_path / "model"), work=tmp_path / "work")
    before, after = given.state_dict(), read_weights(model.path_of("detector.pt"))
    assert all(before[name].equal(after[name]) for name in after if name.endswith("conv.weight"))
    # A detector of ours can be no beginning, so none begins with weights that have learned from what it leaves out.
    ours = replace(still, start_from=str(model.path_of("detector.pt")))
    with pytest.raises(ModelError, match="holds no network as Ultralytics writes it"):
        train_detector(cases, ours, template(tmp_path / "ours"), work=tmp_path / "work_3")
    # Nor do two folds begin with different weights because the file was replaced in between.
    torch.save({"model": build(CONFIG.network(1)).half(), "train_args": {}}, tmp_path / "given.pt")
    other_fold = replace(still, train_folds=(1,))
    with pytest.raises(InputError, match="holds another training"):
        train_detector(cases, other_fold, template(tmp_path / "other"), work=tmp_path / "work")
    wider = replace(still, architecture={**SETTINGS["architecture"], "width": 0.125})
    with pytest.raises(ModelError, match="set 'architecture' to that of the file"):
        train_detector(cases, wider, template(tmp_path / "wider"), work=tmp_path / "work_2")


def test_a_loss_that_is_no_number_ends_the_training(cases: list[Case], tmp_path: Path) -> None:
    wild = replace(CONFIG, box_weight=1e39)
    with pytest.raises(BrainSegSAMError, match="'fold_0' is no number any more"):
        train_detector(cases, wild, template(tmp_path / "model"), work=tmp_path / "work")
    assert not (tmp_path / "model").exists()


def test_splits_as_in_the_paper(cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(CONFIG, epochs=1, split="patient")
    apart = train_detector(cases, config, template(tmp_path / "patient"), work=tmp_path / "work_1")
    assert not caplog.records
    mixed = train_detector(
        cases, replace(config, split="slice"), template(tmp_path / "slice"), work=tmp_path / "work_2"
    )
    assert "slices of one patient are in training and test alike" in caplog.text
    assert len(apart.results[CASE_TITLE]["rows"]) == 2  # of four patients one is tested
    assert len(mixed.results[CASE_TITLE]["rows"]) == 5
    assert len(apart.training["cases"]) == 3
    assert [path.name for path in (tmp_path / "work_1" / "dataset").glob("*.yaml")] == ["data.yaml"]
    assert {item.patient for item in read_manifest(tmp_path / "work_1" / "dataset")} == set("abcd")


def test_tracks_are_linked_over_slices_that_are_not_tested(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector that finds all boxes finds all of them, although the tested slices have no neighbours."""
    volumes: list[TrainingVolume] = []

    def load(*arguments: Any, **named: Any) -> dict[str, TrainingVolume]:
        found = load_volumes(*arguments, **named)
        volumes.extend(found.values())
        return found

    def find(_network: Any, pictures: Any, *_: Any, **__: Any) -> list[SliceBox]:
        return known_boxes(next(volume for volume in volumes if volume.pictures is pictures), "axial")

    monkeypatch.setattr(detector_training, "load_volumes", load)
    monkeypatch.setattr(detector_training, "find_boxes", find)
    linking = replace(template(tmp_path / "model"), settings={"detection": {"link": {"minimum_slices": 2}}})
    model = train_detector(cases, replace(CONFIG, epochs=1, split="slice"), linking, work=tmp_path / "work")
    table = model.results[TITLE]
    assert table["rows"][-1][table["columns"].index("boxes found")] == 1.0


def test_what_cannot_be_trained_is_said(cases: list[Case], tmp_path: Path) -> None:
    def begin(cases: list[Case], config: DetectorTrainingConfig, name: str) -> None:
        train_detector(cases, config, template(tmp_path / name), work=tmp_path / f"{name}.work")

    with pytest.raises(InputError, match="2 folds need as many patients"):
        begin(cases[:1], CONFIG, "one")
    with pytest.raises(InputError, match="needs 3 patients, but there is only 1"):
        begin(cases[:1], replace(CONFIG, split="patient"), "one")
    with pytest.raises(InputError, match="no such file"):
        begin(cases, replace(CONFIG, start_from=str(tmp_path / "yolov5su.pt")), "absent")
    empty = find_cases(write_cases(tmp_path / "empty", "xy", empty="xy"), modalities=["flair"])
    with pytest.raises(InputError, match="has a box"):
        begin(empty, CONFIG, "empty")
    labels = write_cases(tmp_path / "moved", "abcd") / "c" / "c_seg.nii.gz"
    shifted = simpleitk().ReadImage(str(labels))
    shifted.SetSpacing((2.0, 2.0, 3.0))
    simpleitk().WriteImage(shifted, str(labels))
    with pytest.raises(InputError, match=r"c_seg\.nii\.gz lies on another grid than the images of case 'c'"):
        begin(find_cases(tmp_path / "moved", modalities=["flair"]), CONFIG, "moved")
    assert not [path for path in tmp_path.iterdir() if (path / "model.json").exists()]


OFFLINE = """
import socket, sys
from pathlib import Path

asked = []

def refuse(*address, **named):
    asked.append(address[-1])
    raise OSError("offline")

socket.getaddrinfo = socket.gethostbyname = socket.socket.connect = socket.socket.connect_ex = refuse
from BrainSegSAMLib import cli

code = cli.main(sys.argv[1:])
print("asked:", asked, "code:", code)
"""


def test_nothing_is_looked_up_while_a_detector_is_trained(source: Path, tmp_path: Path) -> None:
    """In a process of its own, so that the import counts, too; and in a home where nothing is left."""
    path, home = tmp_path / "recipe.json", tmp_path / "home"
    path.write_text(json.dumps({**RECIPE, "training": {**SETTINGS, "epochs": 1, "train_folds": [0], "final": False}}))
    home.mkdir()
    places = {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home / "config", "MPLCONFIGDIR": tmp_path / "mpl"}
    environment = {**os.environ, **{name: str(place) for name, place in places.items()}}
    for name in ("YOLO_CONFIG_DIR", "YOLO_OFFLINE"):
        environment.pop(name, None)
    options = ["train", "--recipe", path, "--input", source, "--output", tmp_path / "model", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *map(str, options), "--workers", "1"], env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "asked: [] code: 0", done.stderr
    assert (tmp_path / "model" / "model.json").is_file()
    assert not [path for path in home.rglob("*") if "ltralytics" in path.name]


def test_a_folder_that_contradicts_its_weights_is_refused(tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "model"
    folder.mkdir()
    architecture = CONFIG.network(2)
    torch.save(build(architecture).state_dict(), folder / "detector.pt")
    two = replace(template(folder), settings={"architecture": architecture.as_dict()})
    model = write_model(two, files=["detector.pt"])
    with pytest.raises(ModelError, match=r"2 kinds of object apart, but its model.json names 1 regions \(lesion\)"):
        load_detector(model, device="cpu")
    one = {**architecture.as_dict(), "classes": 1}
    with pytest.raises(ModelError, match="does not fit the YOLO network"):
        load_detector(replace(model, settings={"architecture": one}), device="cpu")
    four = replace(model, modalities=("flair", "t1", "t1ce", "t2"), settings={"architecture": one})
    with pytest.raises(ModelError, match="names 4 modalities"):
        load_detector(four, device="cpu")
    with pytest.raises(ModelError, match="does not say its architecture"):
        load_detector(replace(model, settings={}), device="cpu")
    with pytest.raises(ModelError, match="a detector is of 'yolo_detector'"):
        load_detector(replace(model, method="sam"), device="cpu")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image_size": 100}, "image_size is 100; it must be a multiple of 32"),
        ({"plane": "oblique"}, "plane is 'oblique'"),
        ({"split": "random"}, "use one of: folds, patient, slice"),
        ({"optimiser": "LION"}, "use one of: SGD, AdamW, MuSGD"),
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"background_share": 1.5}, "background_share is 1.5; it must be 0 to 1"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be above 0"),
        ({"patience": 2, "validation_share": 0}, "stopping early needs patients"),
        ({"lower_percentile": 60, "upper_percentile": 50}, "from 0 to below upper_percentile"),
        ({"held_out": [["a"]]}, "Left-out cases are given for 1 folds"),
        ({"hue": 0.1}, "There is no setting hue"),
        ({"epochs": "many"}, "of the wrong kind"),
    ],
)
def test_settings_that_cannot_be_used(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        DetectorTrainingConfig.from_dict({**SETTINGS, **change})


@pytest.mark.parametrize("architecture", ["yolo99n", {"family": "yolo99"}, {"family": "yolo11", "width": 5.0}])
def test_networks_that_cannot_be_built(cases: list[Case], tmp_path: Path, architecture: Any) -> None:
    with pytest.raises(BrainSegSAMError, match=r"(?i)yolo"):
        train_detector(
            cases, replace(CONFIG, architecture=architecture), template(tmp_path / "model"), work=tmp_path / "work"
        )


def test_settings_survive_json() -> None:
    again = DetectorTrainingConfig.from_dict(json.loads(json.dumps(CONFIG.as_dict())))
    assert again.as_dict() == CONFIG.as_dict()
