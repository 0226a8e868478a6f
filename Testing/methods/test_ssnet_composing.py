"""Models made of two models, and trackers that cannot be loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from BrainSegSAMLib.errors import InputError, ModelError, OutputError
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.methods.ssnet.composing import compose, tracked_region
from BrainSegSAMLib.methods.ssnet.tracker import load_tracker
from BrainSegSAMLib.models.store import load_model, write_model

NESTED = LabelScheme((Region("Whole", (1, 2), (1, 2, 3)), Region("Core", (2,), (4, 5, 6))))


def test_the_tracked_region_is_the_one_that_holds_all_or_the_one_that_is_named() -> None:
    assert tracked_region(NESTED, None) == Region("Whole", (1,), (1, 2, 3))
    assert tracked_region(NESTED, "Core") == Region("Core", (1,), (4, 5, 6))
    assert tracked_region(LabelScheme.plain({"a": 1, "b": 2}), None).name == "Lesion"
    with pytest.raises(InputError, match="no region 'Liver'"):
        tracked_region(NESTED, "Liver")


def test_a_tracker_that_sees_more_than_the_prior_asks_for_more(
    random_model: Path, random_tracker: Path, tmp_path: Path
) -> None:
    shutil.copytree(random_tracker, tmp_path / "trained")
    trained = replace(load_model(tmp_path / "trained"), modalities=("flair", "t1ce", "t2"))
    write_model(trained)
    together = compose(random_model, tmp_path / "trained", tmp_path / "together")
    assert together.modalities == ("flair", "t1ce", "t2")
    fewer = compose(random_model, tmp_path / "trained", tmp_path / "fewer", settings={"inputs": [["flair"]]})
    assert fewer.modalities == ("flair", "t1ce")


def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_left(
    random_model: Path, random_tracker: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        compose(random_model, random_tracker, tmp_path / "file" / "both")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_needs_prompts_itself_is_no_prior(random_segmenter: Path, random_tracker: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must be a model that segments"):
        compose(random_segmenter, random_tracker, tmp_path / "both")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "nnunet"}, "a tracker is of 'sam2_tracker'"),
        ({"weights": ()}, "one weights file, but lists 0"),
        ({"settings": {}}, "does not say its architecture"),
        ({"settings": {"architecture": {"image_size": 100}}}, "not a multiple of 32"),
        ({"settings": {"architecture": {}}}, "does not fit"),
    ],
)
def test_a_tracker_that_cannot_be_loaded_says_why(random_tracker: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_tracker(replace(load_model(random_tracker), **change), device="cpu", trust=False)
