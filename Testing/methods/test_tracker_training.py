"""Training of a tracker, from labelled cases to a model folder, on tiny generated cases."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sam2")

from BrainSegSAMLib import train as command
from BrainSegSAMLib import training_volumes
from BrainSegSAMLib.backends.checkpoints import load_checkpoint, save_checkpoint
from BrainSegSAMLib.backends.sam2_training import follow
from BrainSegSAMLib.cases import Case, find_cases
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError, ModelError
from BrainSegSAMLib.methods.ssnet import tracker_fitting, tracker_training
from BrainSegSAMLib.methods.ssnet.tracker import load_tracker
from BrainSegSAMLib.methods.ssnet.tracker_config import TrackerTrainingConfig
from BrainSegSAMLib.methods.ssnet.tracker_training import train_tracker
from BrainSegSAMLib.methods.ssnet.tracker_validation import TITLE, score_volumes
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from BrainSegSAMLib.resources import resource_path
from BrainSegSAMLib.scores import CaseScore, as_table, mean_dice
from Testing.tracker_cases import ARCHITECTURE, CONFIG, SETTINGS, template, write_cases


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), ("a", "b", "c", "d"))


@pytest.fixture(scope="module")
def cases(source: Path) -> list[Case]:
    return find_cases(source, modalities=["flair"])


def test_from_a_recipe_to_a_model_folder_that_tracks(source: Path, tmp_path: Path) -> None:
    recipe = {
        "method": "sam2_tracker",
        "model": {
            "name": "tiny-tracker",
            "title": "Tiny tracker",
            "modalities": ["flair"],
            "regions": [{"name": "lesion", "labels": [1]}],
            "licence": "CC0-1.0",
        },
        "training": {**SETTINGS, "box_probability": 0.5, "corrective_clicks": 2, "correction_probability": 1.0},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    job = command.TrainJob(path, source, tmp_path / "model", device="cpu", overrides={"iterations": 3})
    made = command.run(job)
    record = json.loads((tmp_path / "model.work" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["settings"]["iterations"] == 3
    model = load_model(tmp_path / "model")
    assert model.method == "sam2_tracker"
    assert model.sha256 == made.sha256
    assert model.preprocessing == {"orientation": "LPS"}
    assert model.settings["windowing"] == {"lower": 0.5, "upper": 99.5}
    assert model.settings["architecture"]["embed_dim"] == 8
    assert model.training["cases"] == ["a", "b", "c", "d"]
    table = model.results[TITLE]
    assert table["columns"] == ["case", "fold", "lesion"]
    assert [row[0] for row in table["rows"]] == ["a", "b", "c", "d", "mean"]
    assert all(0 <= row[2] <= 1 for row in table["rows"])
    tracker = load_tracker(model, device="cpu", trust=False)
    assert tracker.image_size == 64
    assert {path.name for path in (tmp_path / "model.work").glob("*/tensorboard")} == {"tensorboard"}


def test_the_cross_validation_never_learns_from_the_cases_it_scores(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def fit(job: tracker_fitting.Fit, *arguments: Any, **named: Any) -> tracker_fitting.Fitted:
        seen[job.name] = {volume.case_id for volume in (*job.volumes, *job.validation)}
        assert not {v.case_id for v in job.volumes} & {v.case_id for v in job.validation}
        return tracker_fitting.fit(job, *arguments, **named)

    monkeypatch.setattr(tracker_training, "fit", fit)
    paired = [replace(case, patient="one" if case.case_id in "ab" else case.case_id) for case in cases]
    config = replace(CONFIG, folds=3, iterations=1, patience=1, validation_share=0.4, validate_every=1)
    model = train_tracker(paired, config, template(tmp_path / "model"), work=tmp_path / "work")
    rows = {row[0]: row[1] for row in model.results[TITLE]["rows"][:-1]}
    assert rows["a"] == rows["b"]  # one patient, one fold
    for fold in range(3):
        left_out = {case_id for case_id, where in rows.items() if where == fold}
        assert seen[f"fold_{fold}"] == set("abcd") - left_out
    assert seen["final"] == set("abcd")


def test_a_training_that_was_cancelled_goes_on_as_if_it_had_not_been(cases: list[Case], tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=4, train_folds=(0,), final=False, box_probability=0.5)
    whole = train_tracker(cases, config, template(tmp_path / "whole"), work=tmp_path / "work_whole")

    iterations = 0

    def listen(update: ProgressUpdate) -> None:
        nonlocal iterations
        if update.stage == "Training" and update.done == 2:
            progress.cancel()

    progress = Progress(listen)
    with pytest.raises(Cancelled):
        train_tracker(cases, config, template(tmp_path / "cut"), work=tmp_path / "work_cut", progress=progress)
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / "work_cut" / "fold_0" / "checkpoint.pt").is_file()
    resumed = train_tracker(cases, config, template(tmp_path / "cut"), work=tmp_path / "work_cut")
    assert resumed.weights[0].sha256 == whole.weights[0].sha256
    assert resumed.results == whole.results
    assert resumed.training["cases"] == whole.training["cases"]
    assert len(resumed.training["cases"]) == 2


def test_scores_are_kept_only_for_the_way_they_were_made(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[str, ...]] = []

    def score(tracker: Any, volumes: Any, *arguments: Any, **named: Any) -> list[CaseScore]:
        scored.append(tuple(volume.case_id for volume in volumes))
        return score_volumes(tracker, volumes, *arguments, **named)

    monkeypatch.setattr(tracker_training, "score_volumes", score)
    config = replace(CONFIG, iterations=1, train_folds=(0,), final=False)
    for number, (half, expected) in enumerate([(True, 1), (True, 1), (False, 2)]):
        changed = replace(config, half_precision_weights=half)
        train_tracker(cases, changed, template(tmp_path / f"model{number}"), work=tmp_path / "work")
        assert len(scored) == expected
    defaults = tracker_training.TrackingSettings
    monkeypatch.setattr(tracker_training, "TrackingSettings", lambda: defaults(minimum_overlap=0.2))
    train_tracker(cases, changed, template(tmp_path / "model3"), work=tmp_path / "work")
    assert len(scored) == 3


def test_cancelling_stops_between_two_iterations(cases: list[Case], tmp_path: Path) -> None:
    progress = Progress()
    config = replace(CONFIG, iterations=100_000)
    timer = threading.Timer(3.0, progress.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        train_tracker(cases, config, template(tmp_path / "model"), work=tmp_path / "work", progress=progress)
    timer.cancel()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_training_stops_when_validation_gets_no_better(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.2, 0.6, 0.5, 0.4, 0.9, 0.9, 0.9])
    monkeypatch.setattr(tracker_fitting, "mean_dice", lambda scores: next(found))
    monkeypatch.setattr(tracker_fitting, "score_volumes", lambda *arguments, **named: [])
    config = replace(
        CONFIG, iterations=50, patience=2, validate_every=1, validation_share=0.5, train_folds=(0,), final=True
    )
    done: list[tracker_fitting.Fitted] = []
    original = tracker_fitting.fit

    def fit(*arguments: Any, **named: Any) -> tracker_fitting.Fitted:
        done.append(original(*arguments, **named))
        return done[-1]

    monkeypatch.setattr(tracker_training, "fit", fit)
    train_tracker(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
    assert [item.iterations for item in done] == [2, 2]  # best after two; the final one trains as long


def test_synthetic_cases_come_first_and_are_never_scored(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = training_volumes.make_phantom
    monkeypatch.setattr(
        training_volumes, "make_phantom",
        lambda seed: small(seed, shape_zyx=(26, 40, 40), spacing_zyx_mm=(6.0, 6.0, 6.0)),
    )  # fmt: skip
    config = replace(
        CONFIG, iterations=1, train_folds=(1,), final=False, synthetic_seeds=(3, 4), synthetic_iterations=1
    )
    model = train_tracker(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
    assert (tmp_path / "work" / "synthetic" / "weights.pt").is_file()
    assert model.training["synthetic_cases"] == ["synthetic_3", "synthetic_4"]
    assert len(model.results[TITLE]["rows"]) == 3


def test_fine_tuning_begins_with_the_weights_of_another_model(cases: list[Case], tmp_path: Path) -> None:
    quick = replace(CONFIG, iterations=1, train_folds=(0,), final=False, weight_average_decay=0.0)
    first = train_tracker(cases, quick, template(tmp_path / "first"), work=tmp_path / "work_1")
    still = replace(
        quick, start_from=str(first.folder), learning_rate=1e-30, weight_decay=0.0, encoder_learning_rate_factor=0.0
    )
    second = train_tracker(cases, still, template(tmp_path / "second"), work=tmp_path / "work_2")
    before, after = (load_checkpoint(model.path_of("tracker.pt")) for model in (first, second))
    assert all(before[name].equal(after[name]) for name in before | after)
    other = replace(still, architecture={**ARCHITECTURE, "d_model": 32})
    with pytest.raises(InputError, match="another architecture"):
        train_tracker(cases, other, template(tmp_path / "third"), work=tmp_path / "work_3")


def test_no_network_begins_with_weights_that_have_seen_its_left_out_cases(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, work = replace(CONFIG, iterations=1), tmp_path / "first.work"
    first = train_tracker(cases, quick, template(tmp_path / "first"), work=work)
    of_work = [work / name / "weights.pt" for name in ("final", "fold_1", "fold_0")]
    for start in (first.folder, first.folder / "tracker.pt", *of_work[:2]):
        with pytest.raises(InputError, match=r"has learned from .*, which fold 0 leaves out"):
            train_tracker(cases, replace(quick, start_from=str(start)), template(tmp_path / "no"), work=tmp_path / "w")
    unseen = replace(quick, start_from=str(of_work[2]), train_folds=(0,), final=False)
    train_tracker(cases, unseen, template(tmp_path / "one"), work=tmp_path / "one.work")
    other = replace(quick, start_from=str(work), seed=5)
    with pytest.raises(InputError, match="left out other cases"):
        train_tracker(cases, other, template(tmp_path / "no"), work=tmp_path / "w")
    begun: dict[str, Path | None] = {}

    def fit(job: tracker_fitting.Fit, *arguments: Any, **named: Any) -> tracker_fitting.Fitted:
        begun[job.name] = job.start
        return tracker_fitting.fit(job, *arguments, **named)

    monkeypatch.setattr(tracker_training, "fit", fit)
    tuned = replace(quick, start_from=str(work))
    (work / "final" / "weights.pt").rename(work / "aside.pt")
    with pytest.raises(InputError, match="no network 'final'"):
        train_tracker(cases, tuned, template(tmp_path / "no"), work=tmp_path / "w")
    assert not (tmp_path / "w").exists(), "said before anything is trained"
    (work / "aside.pt").rename(work / "final" / "weights.pt")
    train_tracker(cases, tuned, template(tmp_path / "second"), work=tmp_path / "second.work")
    assert begun == {name: work / name / "weights.pt" for name in ("fold_0", "fold_1", "final")}


def test_a_start_that_was_replaced_makes_the_work_folder_another_trainings(cases: list[Case], tmp_path: Path) -> None:
    quick = replace(CONFIG, iterations=1, train_folds=(0,), final=False)
    first = train_tracker(cases, quick, template(tmp_path / "first"), work=tmp_path / "first.work")
    start = tmp_path / "start.pt"
    weights = load_checkpoint(first.path_of("tracker.pt"))
    save_checkpoint(weights, start)
    tuned = replace(quick, start_from=str(start))
    train_tracker(cases, tuned, template(tmp_path / "second"), work=tmp_path / "work")
    save_checkpoint({name: value * 2 for name, value in weights.items()}, start)
    with pytest.raises(InputError, match="holds another training"):
        train_tracker(cases, tuned, template(tmp_path / "third"), work=tmp_path / "work")


def test_a_loss_that_is_no_number_ends_the_training(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_fitting, "follow", _no_numbers)
    with pytest.raises(BrainSegSAMError, match="'fold_0' is no number any more after 0 iterations"):
        train_tracker(cases, CONFIG, template(tmp_path / "model"), work=tmp_path / "work")
    assert not (tmp_path / "model").exists()


def _no_numbers(network: Any, images: Any, tracks: Any) -> list[Any]:
    answers = follow(network, images, tracks)
    return [replace(answer, logits=answer.logits * float("nan")) for answer in answers]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"iterations": 0}, "iterations is 0; it must be 1 or more"),
        ({"clip_length": 1}, "clip_length is 1; it must be 2 or more"),
        ({"box_probability": 1.5}, "box_probability is 1.5; it must be 0 to 1"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be above 0"),
        ({"weight_average_decay": 1}, "0 to below 1"),
        ({"directions": "sideways"}, "use one of: forward, backward, random, both"),
        ({"precision": "fp8"}, "use one of: auto, fp32, bf16"),
        ({"planes": {"oblique": 1}}, "give axial, coronal or sagittal a weight"),
        ({"planes": {"axial": 0}}, "give axial, coronal or sagittal a weight"),
        ({"region_weights": [0, 0]}, "nothing to track"),
        ({"region_weights": [1, -1]}, "is negative"),
        ({"lower_percentile": 60, "upper_percentile": 50}, "from 0 to below upper_percentile"),
        ({"train_folds": [7]}, "counted from 0 to 1"),
        ({"held_out": [["a"]]}, "Left-out cases are given for 1 folds"),
        ({"synthetic_iterations": 5}, "needs synthetic_seeds"),
        ({"patience": 2, "validation_share": 0}, "stopping early needs patients"),
        ({"iteration": 5}, "There is no setting iteration"),
        ({"clip_length": "many"}, "of the wrong kind"),
    ],
)
def test_settings_that_cannot_be_used(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TrackerTrainingConfig.from_dict({**SETTINGS, **change})


def test_settings_survive_json() -> None:
    again = TrackerTrainingConfig.from_dict(json.loads(json.dumps(CONFIG.as_dict())))
    assert again.as_dict() == CONFIG.as_dict()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"architecture": "sam9"}, "There is no architecture 'sam9'"),
        ({"region_weights": (1.0, 1.0)}, "2 numbers for 1 regions"),
        ({"folds": 9}, "9 folds need as many patients"),
        ({"patience": 1, "validation_share": 0.9}, "too few to set some aside"),
    ],
)
def test_trainings_that_cannot_be_begun(
    cases: list[Case], tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        train_tracker(cases, replace(CONFIG, **change), template(tmp_path / "model"), work=tmp_path / "work")
    assert not (tmp_path / "model").exists()


def test_modalities_work_folders_and_models_that_do_not_fit(cases: list[Case], tmp_path: Path) -> None:
    four = replace(template(tmp_path / "model"), modalities=("flair", "t1", "t1ce", "t2"))
    with pytest.raises(InputError, match="one to three modalities"):
        train_tracker(cases, CONFIG, four, work=tmp_path / "work")
    foreign = replace(template(tmp_path / "model"), modalities=("adc",))
    with pytest.raises(InputError, match="Synthetic cases have no adc"):
        train_tracker(cases, replace(CONFIG, synthetic_seeds=(1,)), foreign, work=tmp_path / "work")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "prepared.json").write_text("{}")
    with pytest.raises(InputError, match="holds another training"):
        train_tracker(cases, CONFIG, template(tmp_path / "model"), work=tmp_path / "work")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    with pytest.raises(ModelError, match="There is a model in"):
        train_tracker(cases, CONFIG, template(tmp_path / "model"), work=tmp_path / "work_2")


def test_recipes_name_a_method_that_can_be_trained(source: Path, tmp_path: Path) -> None:
    path = resource_path("Models", "recipes", "glioma-sam2-tiny.json")
    recipe = command.Recipe.read(path)
    assert recipe.method == "sam2_tracker"
    config = recipe.config({})
    assert isinstance(config, TrackerTrainingConfig)
    assert sorted(i for fold in config.held_out for i in fold) == [f"BraTS2021_{n:05d}" for n in range(1476, 1484)]
    job = command.TrainJob(path, source, tmp_path / "model", at_once=2)
    content = json.loads(path.read_text())
    content["model"]["modalities"] = ["flair"]
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="leave --at-once at 1"):
        command.run(replace(job, recipe=tmp_path / "recipe.json"))
    content["method"] = "magic"
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="the method 'magic' cannot be trained; use one of: nnunet, sam2_tracker"):
        command.Recipe.read(tmp_path / "recipe.json")


def test_tables_leave_out_what_no_case_has() -> None:
    scores = [CaseScore("b", 0, {"x": 0.5, "y": None}), CaseScore("a", 1, {"x": 1.0, "y": None})]
    table = as_table(scores, ["x", "y"], "note")
    assert table["rows"] == [["a", 1, 1.0, None], ["b", 0, 0.5, None], ["mean", None, 0.75, None]]
    assert mean_dice(scores) == 0.75
    assert mean_dice([]) == 0.0
