"""The train command: recipes, options, and the record of a run."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from BrainSegSAMLib import train as command
from BrainSegSAMLib.batch import Workers
from BrainSegSAMLib.cases import Case
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError, ModelError
from BrainSegSAMLib.methods.nnunet.config import TrainingConfig
from BrainSegSAMLib.models.store import Model
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.resources import resource_path

MODEL = {
    "name": "tiny",
    "title": "Tiny",
    "modalities": ["t1"],
    "regions": [{"name": "lesion", "labels": [1]}],
    "licence": "CC0-1.0",
}


def write_recipe(folder: Path, **content: Any) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps({"model": MODEL, **content}))
    return path


def make_cases(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for kind in ("t1", "seg"):
            (folder / name / f"{name}_{kind}.nii.gz").write_bytes(b"never read here")
    return folder


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the training itself; holds what it was called with."""
    seen: dict[str, Any] = {}

    def train(cases: list[Case], config: TrainingConfig, template: Model, **rest: Any) -> Model:
        seen.update(cases=cases, config=config, template=template, **rest)
        if "error" in seen:
            raise seen["error"]
        table = {"columns": ["case", "fold", "lesion"], "rows": [["a", 0, 0.5], ["mean", None, 0.5]], "note": ""}
        return replace(template, results={"Scores": table})

    monkeypatch.setattr(command, "train", train)
    return seen


def test_options_recipe_and_cases_reach_the_training(tmp_path: Path, called: dict[str, Any]) -> None:
    recipe = write_recipe(tmp_path, training={"epochs": 7, "folds": 2}, label_values={"4": 1})
    source = make_cases(tmp_path / "data")
    chosen = options(
        "--recipe", str(recipe), "--input", str(source), "--output", str(tmp_path / "tiny"), "--at-once", "2",
        "--workers", "3", "--set", "epochs=3", "--set", "patch_size=[8,8,8]", "--set", "planner=nnUNetPlannerResEncM",
    )  # fmt: skip
    lines = list(command.run_from_options(chosen, Progress()))
    config = called["config"]
    assert (config.epochs, config.folds, config.patch_size) == (3, 2, (8, 8, 8))
    assert config.planner == "nnUNetPlannerResEncM"
    assert [case.case_id for case in called["cases"]] == ["a", "b"]
    assert called["label_values"] == {4: 1}
    assert called["run"].at_once == 2
    assert called["run"].workers == Workers(3)
    assert called["template"].scheme.names == ("lesion",)
    assert lines[1] == "  lesion: Dice 0.500"
    record = json.loads((tmp_path / "tiny.work" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["settings"]["epochs"] == 3
    assert record["cases"] == ["a", "b"]


def test_a_model_is_named_otherwise_than_its_recipe(tmp_path: Path, called: dict[str, Any]) -> None:
    recipe, source = write_recipe(tmp_path), make_cases(tmp_path / "data")
    words = ("--recipe", str(recipe), "--input", str(source), "--output", str(tmp_path / "out"))
    list(command.run_from_options(options(*words, "--name", "mine", "--title", "My own"), Progress()))
    assert (called["template"].name, called["template"].title) == ("mine", "My own")
    with pytest.raises(ModelError, match="cannot be called 'My own'"):
        list(command.run_from_options(options(*words, "--name", "My own"), Progress()))


@pytest.mark.parametrize(
    ("error", "status"), [(Cancelled(), "cancelled"), (BrainSegSAMError("It broke."), "failed: It broke.")]
)
def test_the_record_tells_how_a_run_ended(
    tmp_path: Path, called: dict[str, Any], error: BrainSegSAMError, status: str
) -> None:
    called["error"] = error
    job = command.TrainJob(write_recipe(tmp_path), make_cases(tmp_path / "data"), tmp_path / "tiny", device="cpu")
    with pytest.raises(type(error)):
        command.run(job)
    assert json.loads((tmp_path / "tiny.work" / "run.json").read_text())["status"] == status


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": None}, 'has no section "model"'),
        ({"model": {"name": "tiny"}}, "lacks licence, modalities, regions, title"),
        ({"epochs": 3}, "unknown is epochs"),
        ({"label_values": {"four": 3}}, "must map numbers to numbers"),
        ({"model": {**MODEL, "weights": []}}, "has weights, which cannot be set"),
        ({"model": {**MODEL, "modalities": "t1"}}, "'modalities' must be of type array"),
        ({"model": {**MODEL, "name": "A B"}}, "'name' is not valid"),
        ({"model": {**MODEL, "regions": [{"name": "lesion"}]}}, "lacks 'labels'"),
        ({"training": {"epoch": 3}}, "no setting epoch"),
        ({"training": [3]}, '"training" must map'),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path: Path, content: dict[str, Any], complaint: str) -> None:
    job = command.TrainJob(write_recipe(tmp_path, **content), make_cases(tmp_path / "data"), tmp_path / "tiny")
    with pytest.raises(BrainSegSAMError, match=complaint):
        command.run(job)
    assert not (tmp_path / "tiny.work").exists(), "before any training"


def test_cases_without_reference_and_odd_options_are_refused(tmp_path: Path, called: dict[str, Any]) -> None:
    source = make_cases(tmp_path / "data")
    (source / "b" / "b_seg.nii.gz").unlink()
    arguments = ["--recipe", str(write_recipe(tmp_path)), "--input", str(source), "--output", str(tmp_path / "tiny")]
    with pytest.raises(InputError, match="'b' has no reference"):
        list(command.run_from_options(options(*arguments), Progress()))
    (source / "b" / "b_t1.nii.gz").unlink()
    (source / "b" / "b_dwi.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="modality 't1' was not found"):
        list(command.run_from_options(options(*arguments), Progress()))
    with pytest.raises(InputError, match="--at-once is 0"):
        list(command.run_from_options(options(*arguments, "--at-once", "0"), Progress()))
    with pytest.raises(InputError, match="needs NAME=VALUE"):
        list(command.run_from_options(options(*arguments, "--set", "epochs"), Progress()))
    assert not called


def test_gpus_that_are_not_there_are_refused(tmp_path: Path, called: dict[str, Any]) -> None:
    source = make_cases(tmp_path / "data")
    arguments = ["--recipe", str(write_recipe(tmp_path)), "--input", str(source), "--output", str(tmp_path / "tiny")]
    for gpus, complaint in (("0", "--gpus is 0"), ("2", "with the device 'cpu' there are 0 GPUs to share")):
        with pytest.raises(InputError, match=complaint):
            list(command.run_from_options(options(*arguments, "--gpus", gpus), Progress()))
    assert not called


def test_the_bundled_recipe_can_be_read() -> None:
    recipe = command.Recipe.read(resource_path("Models", "recipes", "glioma-nnunet-tiny.json"))
    config = TrainingConfig.from_dict(recipe.training)
    left_out = sorted(case_id for fold in config.held_out for case_id in fold)
    assert left_out == [f"BraTS2021_{number:05d}" for number in range(1476, 1484)]
    template = recipe.template(Path("glioma-nnunet-tiny"))
    assert template.demonstration
    cleaned = {*template.settings["minimum_volume_mm3"], *template.settings["keep_largest"]}
    assert cleaned == set(template.scheme.names)
