"""SSNet as a user meets it: composed of two models, applied to cases, set beside its paper; random small networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from BrainSegSAMLib import cli
from BrainSegSAMLib.case_files import write_case as write_result
from BrainSegSAMLib.files import sha256_of
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.ssnet.config import SSNetSettings
from BrainSegSAMLib.metrics import ISLES_STROKE
from BrainSegSAMLib.models.store import load_model, write_model
from BrainSegSAMLib.reproduce.consistency import contradiction
from BrainSegSAMLib.reproduce.ssnet import TABLE_I, Score, mean_scores, table
from BrainSegSAMLib.resources import resource_path

GRID = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), np.eye(3))
STAGES = ["nnunet", "flair", "t1ce", "ensemble", "agreement"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("installed")


@pytest.fixture(scope="module")
def composed(models: Path, random_model: Path, random_tracker: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINSEGSAM_MODELS", str(models))
        # Random networks see lesions everywhere; only the large ones are of use here.
        assert cli.main(
            ["models", "compose", "--prior", str(random_model), "--tracker", str(random_tracker), "--name", "both",
             "--set", "minimum_lesion_mm3=60", "--set", "area_factor=null", "--set", "region=core"]
        ) == 0
    return models / "both"


def predict(model: Path, source: Path, output: Path, *more: str) -> int:
    return cli.main(
        ["predict", "--model", str(model), "--input", str(source), "--output", str(output), "--no-mirroring",
         "--device", "cpu", *more]
    )


def voxels(path: Path) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array


def test_a_composed_model_is_one_folder_with_both_whole(
    composed: Path, random_model: Path, random_tracker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(composed)
    assert model.method == "ssnet"
    assert model.modalities == ("flair", "t1ce")
    assert model.scheme.names == ("core",)
    assert model.settings["minimum_lesion_mm3"] == 60
    for part, source in (("prior", random_model), ("tracker", random_tracker)):
        assert load_model(composed / part).sha256 == load_model(source).sha256
        assert f"{part}/model.json" in {file.path for file in model.weights}
    assert model.training["composed_of"]["tracker"]["name"] == "random-tracker"
    assert cli.main(["models", "info", str(composed)]) == 0
    assert "Needs        flair, t1ce" in capsys.readouterr().out
    (composed / "tracker" / "model.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prior", "PRIOR", "--tracker", "PRIOR", "--name", "x"], "a tracker is of"),
        (["--prior", "TRACKER", "--tracker", "TRACKER", "--name", "x"], "must be a model that segments"),
        (["--prior", "PRIOR", "--tracker", "TRACKER", "--name", "both"], "already"),
        (["--prior", "PRIOR", "--tracker", "TRACKER", "--name", "A B"], "cannot be called"),
        (["--prior", "PRIOR", "--tracker", "TRACKER", "--name", "x", "--set", "speed=9"], "no setting speed"),
        (["--prior", "PRIOR", "--tracker", "TRACKER", "--name", "x", "--set", "region=liver"], "no region 'liver'"),
        (["--prior", "PRIOR", "--tracker", "TRACKER", "--name", "x", "--set", 'inputs=[["pd"]]'], "names pd"),
        (["--prior", "nothing", "--tracker", "TRACKER", "--name", "x"], "no model 'nothing'"),
    ],
)
def test_what_cannot_be_composed_is_refused_and_leaves_nothing(
    composed: Path, random_model: Path, random_tracker: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str,
) -> None:
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(composed.parent))
    named = {"PRIOR": str(random_model), "TRACKER": str(random_tracker)}
    assert cli.main(["models", "compose", *(named.get(word, word) for word in arguments)]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in composed.parent.iterdir()] == ["both"]


def test_every_stage_lies_beside_the_answer(
    composed: Path, tmp_path: Path, write_case: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_case(tmp_path / "case", GRID), tmp_path / "out"
    assert predict(composed, source, output) == 0
    names = {path.name for path in output.iterdir()}
    assert names == {
        "case.nii.gz", "case.seg.nrrd", "case.json", "run.json", "measurements.csv",
        *(f"case_{stage}.nii.gz" for stage in STAGES),
    }
    record = json.loads((output / "case.json").read_text())
    assert set(record["outputs"]) == {"label_map", "segmentation", *STAGES}
    for stage in STAGES:
        assert record["outputs"][stage]["sha256"] == sha256_of(output / f"case_{stage}.nii.gz")
    assert list(record["stages"]) == sorted(STAGES)
    prediction = record["prediction"]
    assert any(row["tracked"] for row in prediction["lesions"])
    assert prediction["settings"]["mirroring"] is False, "the prior's own setting"
    assert prediction["settings"]["ensemble"] == "majority"
    np.testing.assert_array_equal(voxels(output / "case.nii.gz"), voxels(output / "case_nnunet.nii.gz"))
    votes = [voxels(output / f"case_{stage}.nii.gz") > 0 for stage in ("flair", "t1ce")]
    np.testing.assert_array_equal(voxels(output / "case_ensemble.nii.gz") > 0, votes[0] & votes[1])
    assert voxels(output / "case_agreement.nii.gz").max() <= 3

    capsys.readouterr()
    assert predict(composed, source, output, "--resume") == 0
    assert "case: skipped" in capsys.readouterr().out
    (output / "case_t1ce.nii.gz").unlink()
    assert predict(composed, source, output, "--resume", "--set", "ensemble=union", "--set", "answer=ensemble") == 0
    assert "case: done" in capsys.readouterr().out
    union = voxels(output / "case_flair.nii.gz") | voxels(output / "case_t1ce.nii.gz")
    np.testing.assert_array_equal(voxels(output / "case_ensemble.nii.gz"), union)
    np.testing.assert_array_equal(voxels(output / "case.nii.gz"), union)
    assert predict(composed, source, output, "--resume", "--set", "ensemble=union", "--set", "answer=ensemble") == 0
    assert "case: skipped" in capsys.readouterr().out
    (output / "case_t1ce.nii.gz").unlink()
    assert predict(composed, source, output, "--resume", "--set", "ensemble=union", "--set", "answer=ensemble") == 0
    assert "case: done" in capsys.readouterr().out, "a stage was missing"


def test_what_a_user_should_know_of_a_result_is_said(
    composed: Path, tmp_path: Path, write_case: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, nothing_stays = write_case(tmp_path / "case", GRID), 'minimum_volume_mm3={"whole": 1e9, "core": 1e9}'
    assert predict(composed, source, tmp_path / "none", "--set", nothing_stays) == 0
    assert "case: No lesion was found, so there was nothing to track." in capsys.readouterr().err
    assert not voxels(tmp_path / "none" / "case_ensemble.nii.gz").any()
    assert predict(composed, source, tmp_path / "some", "--set", "flag_agreement=1", "--progress", "json") == 0
    shown = capsys.readouterr()
    assert "case: Stages disagree on lesion" in shown.err
    (case,) = json.loads(shown.out.splitlines()[-1])["cases"]
    assert any("disagree" in note for note in case["notes"])


def test_stages_of_an_earlier_run_do_not_stay_beside_a_new_answer(tmp_path: Path) -> None:
    def write(*stages: str) -> None:
        scheme = LabelScheme.plain({"Lesion": 1})
        each = Segmentation(GRID, scheme, np.zeros(GRID.shape_zyx, dtype=np.uint8))
        write_result(replace(each, stages=dict.fromkeys(stages, each)), tmp_path, "case", record={})

    def there() -> set[str]:
        return {path.name.removesuffix(".nii.gz") for path in tmp_path.glob("case_*")}

    write("flair", "t1ce", "ensemble")
    (tmp_path / "case_notes.nii.gz").write_text("mine")
    write("flair", "ensemble")
    assert there() == {"case_flair", "case_ensemble", "case_notes"}
    (tmp_path / "case_flair.nii.gz").write_text("mine, too")
    write()
    assert there() == {"case_flair", "case_notes"}, "only what the record calls its own"


def test_a_stage_does_not_overwrite_another_case(
    composed: Path, tmp_path: Path, write_case: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "cases"
    write_case(source / "p1", GRID)
    write_case(source / "p1_ensemble", GRID, seed=3)
    assert predict(composed, source, tmp_path / "out") == 1
    assert "would be written over the case 'p1_ensemble'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "p1.json").exists()
    assert (tmp_path / "out" / "p1_ensemble.json").exists()


def test_settings_that_nobody_knows_are_refused(
    composed: Path, tmp_path: Path, write_case: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_case(tmp_path / "case", GRID)
    assert predict(composed, source, tmp_path / "out", "--set", "speed=9") == 2
    assert "speed" in capsys.readouterr().err
    assert predict(composed, source, tmp_path / "out", "--set", "ensemble") == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_a_tracker_alone_predicts_nothing(
    random_tracker: Path, tmp_path: Path, write_case: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_case(tmp_path / "case", GRID, modalities=("any",))
    assert predict(random_tracker, source, tmp_path / "out") == 2
    assert "brainsegsam track" in capsys.readouterr().err


def test_a_changed_part_of_a_composed_model_is_noticed(composed: Path, tmp_path: Path) -> None:
    from BrainSegSAMLib.errors import ModelError

    shutil.copytree(composed, tmp_path / "both")
    weights = tmp_path / "both" / "tracker" / "tracker.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="has been changed"):
        load_predictor(tmp_path / "both")


# ---- reproduce ------------------------------------------------------------------------------------------------------


def test_the_papers_table_stands_beside_what_is_measured(
    composed: Path, tmp_path: Path, write_case: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "cases"
    for seed, name in enumerate(("a", "b")):
        truth = np.zeros(GRID.shape_zyx, dtype=np.float32)
        truth[4:8, 6:14, 5:12] = 1
        write_case(source / name, GRID, seed=seed)
        write_case(source / name, GRID, modalities=("seg",), arrays={"seg": truth})
    output = tmp_path / "numbers.json"
    arguments = ["reproduce", "ssnet", "--model", str(composed), "--input", str(source), "--output", str(output),
                 "--device", "cpu", "--set", "mirroring=false"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    for name in ("nnU-Net v2", "adc", "b0", "b1000", "flair", "t1ce", "ensemble"):
        assert name in shown
    assert "0.569      0.702" in shown
    assert ISLES_STROKE.said in shown, "the paper's lesions are strokes"
    numbers = json.loads(output.read_text())
    assert numbers["lesions"] == {"dilation_voxels": 0, "ignored_mm3": 0.0}
    assert len(numbers["cases"]) == 2 * 4
    rows = {row["stage"]: row for row in numbers["table"]}
    assert rows["adc"]["measured"] is None
    assert rows["flair"]["paper"] is None
    dice = [row["dice"] for row in numbers["cases"] if row["stage"] == "nnunet"]
    assert rows["nnU-Net v2"]["measured"][1] == pytest.approx(np.mean(dice), abs=1e-5)
    assert cli.main([*arguments[:-2], "--labels", "7"]) == 0, "no voxel has the value, so everything is over-segmented"
    for place, says in ((tmp_path, "is a folder"), (output / "more.json", "is a file, not a folder")):
        capsys.readouterr()
        assert cli.main([*arguments, "--output", str(place)]) == 2
        shown = capsys.readouterr().err
        assert says in shown
        assert "Segmenting" not in shown, "it is said before the work"
    (source / "b" / "b_seg.nii.gz").unlink()
    assert cli.main(arguments) == 2
    assert "'b' has no reference" in capsys.readouterr().err


def test_cases_that_a_part_has_learned_from_are_named(
    random_model: Path, random_tracker: Path, tmp_path: Path, write_case: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """They say nothing about other patients; it is printed and kept, for each part by itself."""
    known = load_model(random_tracker)
    learned = shutil.copytree(random_tracker, tmp_path / "learned")
    write_model(replace(known, folder=learned, training={"cases": ["b", "z"]}), files=["tracker.pt"])
    monkeypatch.setenv("BRAINSEGSAM_MODELS", str(tmp_path / "installed"))
    compose = ["models", "compose", "--prior", str(random_model), "--tracker", str(learned), "--name", "knows-b"]
    assert cli.main([*compose, "--set", "minimum_lesion_mm3=60", "--set", "region=core"]) == 0
    source = tmp_path / "cases"
    for name in ("a", "b"):
        truth = np.zeros(GRID.shape_zyx, dtype=np.float32)
        truth[4:8, 6:14, 5:12] = 1
        write_case(source / name, GRID)
        write_case(source / name, GRID, modalities=("seg",), arrays={"seg": truth})
    output = tmp_path / "numbers.json"
    arguments = ["reproduce", "ssnet", "--model", "knows-b", "--input", str(source), "--output", str(output),
                 "--device", "cpu", "--set", "mirroring=false"]
    assert cli.main(arguments) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "has learned from" in line]
    assert said == [
        "random-tracker (tracker) has learned from b: there its numbers say nothing about other patients."
    ]
    numbers = json.loads(output.read_text())
    assert numbers["learned_from"] == {"random (prior)": [], "random-tracker (tracker)": ["b"]}


def test_reproduce_needs_a_model_of_the_method(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = cli.main(
        ["reproduce", "ssnet", "--model", str(random_model), "--input", str(tmp_path), "--output",
         str(tmp_path / "numbers.json")]
    )
    assert done == 2
    assert "models compose" in capsys.readouterr().err


def test_means_keep_the_inequality_and_a_breach_is_noticed() -> None:
    pairs = [{"iou": iou, "dice": 2 * iou / (1 + iou)} for iou in (0.1, 0.5, 0.9, 1.0)]
    scores = [Score(str(number), "x", pair) for number, pair in enumerate(pairs)]
    iou, dice = mean_scores(scores)["x"]
    assert dice < 2 * iou / (1 + iou)
    with pytest.raises(AssertionError, match="impossible"):
        mean_scores([Score("a", "x", {"iou": 0.569, "dice": 0.771})])


def test_the_papers_rows_keep_the_inequality_too() -> None:
    assert all(dice <= 2 * iou / (1 + iou) for iou, dice in TABLE_I.values())


def test_the_default_answer_is_what_the_papers_table_finds_best() -> None:
    """nnU-Net alone: in the settings, in the bundled recipe, and said in both READMEs."""
    assert max(TABLE_I, key=lambda row: TABLE_I[row][1]) == "nnU-Net v2"
    assert SSNetSettings().answer == "prior"
    recipe = json.loads(resource_path("Models", "recipes", "glioma-ssnet.json").read_text())
    assert recipe["model"].get("settings", {}).get("answer", "prior") == "prior"
    library = Path(cli.__file__).parent
    said = " ".join((library.parent / "README.md").read_text(encoding="utf-8").split())
    assert "The answer is nnU-Net's own mask unless you ask for the ensemble" in said
    said = " ".join((library / "methods" / "ssnet" / "README.md").read_text(encoding="utf-8").split())
    assert "The prior's, unless you ask for the ensemble" in said


def test_published_numbers_that_cannot_be_are_named() -> None:
    assert contradiction("SSNet, ensemble", *TABLE_I["ensemble"]) == ""
    # Pidishetti et al. 2025, the row of SAM2-UNet.
    assert "at most 0.725" in contradiction("SAM2-UNet", 0.569, 0.771)


def test_votes_meet_the_papers_rows_by_modality() -> None:
    means = {"nnunet": (0.5, 0.6), "dwi": (0.4, 0.5), "adc": (0.3, 0.4), "ensemble": (0.2, 0.3)}
    lines = {line.name: line.measured for line in table(means, "nnunet")}
    assert list(lines) == ["nnU-Net v2", "adc", "b0", "b1000", "ensemble"]
    assert lines["b1000"] == (0.4, 0.5)
    assert lines["b0"] is None
