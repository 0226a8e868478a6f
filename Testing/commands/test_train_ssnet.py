"""Training a model of two: a recipe that names recipes or models; the tracker is really trained, on tiny cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sam2")

from BrainSegSAMLib import cli
from BrainSegSAMLib import train as command
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.recipes import SSNetRecipe, read_recipe
from BrainSegSAMLib.resources import resource_path

GRID = Geometry.axis_aligned((12, 32, 32), (2.0, 2.0, 2.0))
TRACKER = {
    "method": "sam2_tracker",
    "model": {
        "name": "tiny-tracker",
        "title": "Tiny tracker",
        "modalities": ["flair"],
        "regions": [{"name": "lesion", "labels": [1]}],
        "licence": "CC0-1.0",
    },
    "training": {
        "architecture": {
            "image_size": 64, "embed_dim": 8, "stages": [1, 1, 1, 1], "global_att_blocks": [],
            "window_spec": [4, 4, 4, 2], "d_model": 16, "mem_dim": 8, "memory_attention_layers": 1,
            "dim_feedforward": 16,
        },
        "folds": 2, "iterations": 2, "clip_length": 3, "clips_per_iteration": 1, "objects_per_clip": 1,
        "minimum_object_mm3": 20, "planes": {"axial": 1.0}, "patience": 0,
    },
}
NETWORK = {"method": "nnunet", "model": {**TRACKER["model"], "name": "tiny", "modalities": ["flair", "t1ce"]}}


@pytest.fixture
def source(tmp_path: Path, write_case: Callable[..., Path]) -> Path:
    for seed, name in enumerate(("a", "b")):
        truth = np.zeros(GRID.shape_zyx, dtype=np.float32)
        truth[3:9, 8 + seed : 18, 10:20] = 1
        write_case(tmp_path / "data" / name, GRID, modalities=("flair", "t1ce", "seg"), arrays={"seg": truth})
    return tmp_path / "data"


def write_recipes(folder: Path, **changes: Any) -> Path:
    """A recipe of two, with the recipes of a tracker and of an nnU-Net beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "tracker.json").write_text(json.dumps(TRACKER))
    (folder / "network.json").write_text(json.dumps(NETWORK))
    content = {"method": "ssnet", "model": {"name": "both"}, "prior": "network.json", "tracker": "tracker.json"}
    (folder / "both.json").write_text(json.dumps({**content, **changes}))
    return folder / "both.json"


def train(recipe: Path, source: Path, output: Path, *more: str) -> int:
    return cli.main(
        ["train", "--recipe", str(recipe), "--input", str(source), "--output", str(output), "--device", "cpu", *more]
    )


def test_a_recipe_of_two_trains_what_is_missing_and_composes(
    random_model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"answer": "ensemble", "region": "core"}
    recipe = write_recipes(
        tmp_path / "recipes", prior=str(random_model), model={"name": "both", "title": "Both", "settings": settings}
    )
    output = tmp_path / "Made here"
    assert train(recipe, source, output, "--set", "ensemble=union", "--set", "tracker.iterations=3") == 0
    model = load_model(output)
    assert (model.name, model.title, model.method) == ("both", "Both", "ssnet")
    assert model.modalities == ("flair", "t1ce")
    assert (model.settings["answer"], model.settings["ensemble"]) == ("ensemble", "union")
    assert load_model(output / "prior").sha256 == load_model(random_model).sha256
    tracker = load_model(output / "tracker")
    assert tracker.name == "tiny-tracker"
    assert tracker.training["settings"]["iterations"] == 3
    assert "lesion: Dice" in capsys.readouterr().out, "the tracker's own cross-validation"
    record = json.loads((tmp_path / "Made here.work" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["model_sha256"] == model.sha256
    assert record["cases"] == ["a", "b"]
    assert record["settings"]["tracker"]["iterations"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"data", "recipes", "Made here", "Made here.work"}
    assert {path.name for path in (tmp_path / "Made here.work").iterdir()} == {"tracker", "run.json"}
    assert train(recipe, source, output) == 2
    assert "a model in" in capsys.readouterr().err


def test_an_interrupted_training_leaves_no_model_and_goes_on(random_model: Path, source: Path, tmp_path: Path) -> None:
    recipe = write_recipes(tmp_path / "recipes", prior=str(random_model))
    output = tmp_path / "both"
    job = command.TrainJob(recipe, source, output, device="cpu")
    progress = Progress(lambda update: progress.cancel() if "fold 1" in update.message else None)
    with pytest.raises(Cancelled):
        command.run(job, progress=progress)
    work = output.with_name("both.work")
    assert not output.exists()
    assert {path.name for path in work.iterdir()} == {"tracker", "run.json"}
    assert json.loads((work / "run.json").read_text())["status"] == "cancelled"
    trained = work / "tracker" / "fold_0" / "weights.pt"
    before = trained.stat().st_mtime_ns
    fractions: list[float] = []
    command.run(job, progress=Progress(lambda update: fractions.append(update.fraction)))
    assert load_model(output).method == "ssnet"
    assert trained.stat().st_mtime_ns == before, "what was trained is kept"
    assert fractions == sorted(fractions)
    with pytest.raises(BrainSegSAMError, match="another training"):
        command.run(command.TrainJob(
            recipe, source, tmp_path / "other", work=work, device="cpu", overrides={"tracker.iterations": 5}
        ))


@pytest.mark.parametrize(
    ("changes", "overrides", "says"),
    [
        ({"prior": "tracker.json"}, {}, "must be a model that segments"),
        ({"tracker": "network.json"}, {}, "a tracker is of"),
        ({"prior": "both.json"}, {}, "cannot be composed itself"),
        ({"prior": "nothing.json"}, {}, "nothing.json cannot be read"),
        ({"prior": "no-such-model"}, {}, "no model 'no-such-model'"),
        ({"prior": "PRIOR"}, {"prior.epochs": 3}, "its training has no epochs"),
        ({"prior": "PRIOR", "tracker": "TRACKER"}, {}, "models compose"),
        ({}, {"speed": 3}, "no setting speed"),
        ({}, {"prior.speed": 3}, "no setting speed"),
        ({}, {"some.epochs": 3}, "no setting some.epochs"),
        ({"model": {"name": "both", "settings": {"region": "liver"}}}, {}, "no region 'liver'"),
        ({"model": {"name": "A B"}}, {}, "cannot be called 'A B'"),
        ({"model": {"name": "both", "licence": "MIT"}}, {}, "unknown is licence"),
        ({"model": {}}, {}, "lacks name"),
        ({"training": {}}, {}, "unknown is training"),
        ({"prior": 3}, {}, '"prior" must be a text'),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_training(
    random_model: Path, random_tracker: Path, source: Path, tmp_path: Path, changes: dict[str, Any],
    overrides: dict[str, Any], says: str,
) -> None:
    named = {"PRIOR": str(random_model), "TRACKER": str(random_tracker)}
    known = {key: named.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    recipe = write_recipes(tmp_path / "recipes", **known)
    job = command.TrainJob(recipe, source, tmp_path / "both", device="cpu", overrides=overrides)
    with pytest.raises(BrainSegSAMError, match=says):
        command.run(job)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "recipes"}


def test_a_model_beside_the_recipe_is_found(random_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(random_model, target_is_directory=True)
    assert command._existing("mine", tmp_path) == tmp_path / "mine"
    with pytest.raises(BrainSegSAMError, match="no model 'yours'"):
        command._existing("yours", tmp_path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_an_output_that_is_in_use_is_refused_before_any_training(source: Path, tmp_path: Path, what: str) -> None:
    recipe = write_recipes(tmp_path / "recipes")
    output = tmp_path / "output"
    if what == "folder":
        output.mkdir()
    (output / "precious" if what == "folder" else output).write_text("mine")
    for each in (recipe, recipe.with_name("tracker.json")):
        with pytest.raises(BrainSegSAMError, match="holds something else"):
            command.run(command.TrainJob(each, source, output, device="cpu"))


def test_a_place_that_cannot_be_written_is_refused_before_any_training(source: Path, tmp_path: Path) -> None:
    recipe = write_recipes(tmp_path / "recipes").with_name("tracker.json")
    (tmp_path / "file").write_text("in the way")
    job = command.TrainJob(recipe, source, tmp_path / "file" / "m", work=tmp_path / "work", device="cpu")
    with pytest.raises(BrainSegSAMError, match="is a file, not a folder"):
        command.run(job)
    assert not (tmp_path / "work").exists()


def test_the_model_does_not_take_the_place_of_its_work_folder(source: Path, tmp_path: Path) -> None:
    recipe = write_recipes(tmp_path / "recipes").with_name("tracker.json")
    for work in (tmp_path / "m", tmp_path / "m" / "work"):
        with pytest.raises(InputError, match="choose another"):
            command.run(command.TrainJob(recipe, source, tmp_path / "m", work=work, device="cpu"))


def test_the_bundled_recipe_names_bundled_recipes() -> None:
    recipe = read_recipe(resource_path("Models", "recipes", "glioma-ssnet.json"))
    assert isinstance(recipe, SSNetRecipe)
    parts = [recipe.recipe_of(part) for part in ("prior", "tracker")]
    assert [read_recipe(path).method for path in parts] == ["nnunet", "sam2_tracker"]
    held_out = [read_recipe(path).config({}).held_out for path in parts]
    assert held_out[0] == held_out[1], "so that the two can be cross-validated together"
