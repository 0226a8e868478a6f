"""The command `evaluate` from its command line to its files, on small segmentations with known errors."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from BrainSegSAMLib import cli, evaluate
from BrainSegSAMLib.case_evaluation import CaseEvaluator
from BrainSegSAMLib.evaluate import EvaluateJob
from BrainSegSAMLib.evaluation_tables import check_record
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.itk import image_of
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.metrics import LesionRules
from BrainSegSAMLib.pairs import Pair
from BrainSegSAMLib.remote import Remote
from BrainSegSAMLib.report import charts
from BrainSegSAMLib.segmentation_files import write_label_map, write_seg_nrrd
from Testing.dask_cluster import dask_cluster
from Testing.evaluation_cases import GRID, LABELS, SCHEME, lesion, record_of, run, write
from Testing.ftp_server import serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take most of the time; `test_report` draws them."""
    monkeypatch.setattr(charts, "_svg", lambda *_: "<svg></svg>")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write(tmp_path / "references", p1=lesion(), p2=lesion(1), p3=lesion(2))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good", p1=lesion(), p2=lesion(2), p3=lesion(2, core=False))


def test_numbers_table_record_and_report(
    references: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    worse = write(tmp_path / "worse", p1=lesion(3), p2=lesion(4), p3=lesion(5))
    assert run(references, output, good, worse) == 0
    assert sorted(p.name for p in output.iterdir()) == ["cases", "metrics.csv", "metrics.json", "report.html"]
    record = record_of(output)
    check_record(record)
    first = record["cases"][1]["methods"]["good"]["regions"]
    assert first["whole"]["metrics"]["dice"] == pytest.approx(7 / 8)
    assert first["core"]["metrics"]["dice"] == pytest.approx(3 / 4)
    assert first["whole"]["volume_ml"] == pytest.approx(6 * 8 * 8 * 2.4 / 1000)
    assert record["cases"][2]["methods"]["good"]["regions"]["core"]["metrics"] == {"dice": 0.0, "hd95": None}
    rows = list(csv.DictReader((output / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2 * 2
    assert [row["dice"] for row in rows if row["method"] == "good" and row["region"] == "whole"] == ["1", "0.875", "1"]
    summary = {(row["method"], row["region"], row["metric"]): row for row in record["summary"]}
    assert summary["good", "whole", "dice"]["mean"] == pytest.approx((1 + 7 / 8 + 1) / 3)
    assert summary["good", "whole", "dice"]["worst"] == ["p2"]
    assert summary["good", "core", "hd95"]["undefined"] == 1
    assert {(row["first"], row["second"]) for row in record["comparisons"]} == {("good", "worse")}
    assert next(row for row in record["comparisons"] if row["metric"] == "dice")["better_first"] == 3
    assert any("3 patients" in text for text in record["warnings"])
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "<!--" not in page.replace("<!DOCTYPE", "")
    assert page.count('<script type="application/json" id="picture-') == 3
    assert "good · whole" in capsys.readouterr().out


def test_what_is_missing_extra_double_or_broken_is_named(
    references: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(references, p4=lesion(), p5=lesion(), p6=lesion())
    write(good, p5=lesion(), p7=lesion())
    write_label_map(lesion(), good / "p5.nrrd")
    shutil.copy(good / "p1.nii.gz", good / "p6.nii.gz")
    (good / "p6.nii.gz").write_bytes((good / "p6.nii.gz").read_bytes()[:90])
    output = tmp_path / "out"
    assert run(references, output, good) == 1
    record = record_of(output)
    assert {row["case_id"]: row["status"] for row in record["problems"]} == {
        "p4": "missing", "p5": "duplicate", "p6": "failed", "p7": "extra",
    }
    assert next(row for row in record["summary"] if row["metric"] == "dice")["count"] == 3
    rows = {row["case_id"]: row for row in csv.DictReader((output / "metrics.csv").read_text().splitlines())}
    assert rows["p4"]["status"] == "missing"
    assert rows["p4"]["dice"] == ""
    said = capsys.readouterr().err
    for case_id in ("p4", "p5.nrrd", "p6.nii.gz", "p7"):
        assert case_id in said
    assert "4 of 7 cases are not evaluated by every method: p4, p5, p6, p7." in said
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "has no prediction for case &#x27;p4&#x27;" in page


def test_labels_must_be_known(
    references: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(references, output, good, more=()) == 2
    assert "--labels" in capsys.readouterr().err
    brats = lesion(1).label_map * np.uint8(2)  # 0, 2, 4: other values than the predictions'
    write_label_map(Segmentation(GRID, LabelScheme.plain({"a": 2, "b": 4}), brats), references / "p2.nii.gz")
    assert run(references, output, good) == 1
    assert "--label-values 4=2" in capsys.readouterr().err
    assert run(references, output, good, more=(*LABELS, "--label-values", "2=1", "4=2")) == 0
    values = record_of(output)["cases"][1]["methods"]["good"]["regions"]
    assert values["core"]["metrics"]["dice"] == pytest.approx(3 / 4)
    assert values["whole"]["metrics"]["dice"] == pytest.approx(7 / 8)


def test_segments_are_compared_by_name(references: Path, tmp_path: Path) -> None:
    """Slicer's segmentations bring names and not label values; nothing need be said of them."""
    swapped = LabelScheme((Region("core", (1,), (0, 0, 255)), Region("whole", (1, 2), (255, 0, 0))))
    segments = tmp_path / "segments"
    for index in range(3):
        labels = lesion(index).label_map
        labels = np.where(labels > 0, 3 - labels, 0).astype(np.uint8)
        write_seg_nrrd(Segmentation(GRID, swapped, labels), segments / f"p{index + 1}.seg.nrrd")
    output = tmp_path / "out"
    references_by_name = tmp_path / "by-name"
    for index in range(3):
        write_seg_nrrd(lesion(index), references_by_name / f"p{index + 1}.seg.nrrd")
    assert run(references_by_name, output, segments, more=()) == 0
    assert {row["mean"] for row in record_of(output)["summary"] if row["metric"] == "dice"} == {1.0}


def test_an_empty_reference_one_patient_and_uneven_sets_are_said(
    references: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Segmentation(GRID, SCHEME, np.zeros(GRID.shape_zyx, dtype=np.uint8))
    write(references, p2=empty)
    few = write(tmp_path / "few", p1=lesion())
    output = tmp_path / "out"
    assert run(references, output, good, few) == 1
    record = record_of(output)
    assert record["comparisons"] == []
    assert any("'good' and 'few' are not compared" in text for text in record["warnings"])
    assert any("reference of p2 is empty" in text for text in record["doubts"])
    one = write(tmp_path / "one", p1=lesion())
    capsys.readouterr()
    assert run(one, output, few) == 3
    assert "one patient" in capsys.readouterr().err
    assert all(row["ci_low"] is None for row in record_of(output)["summary"])


def test_sessions_of_one_patient_are_no_further_evidence(tmp_path: Path) -> None:
    names = [f"sub-{patient}_ses-{session}" for patient in range(2) for session in range(3)]
    references = write(tmp_path / "references", **{name: lesion() for name in names})
    good, worse = (write(tmp_path / str(by), **{name: lesion(by) for name in names}) for by in (1, 3))
    assert run(references, tmp_path / "out", good, worse) == 0
    record = record_of(tmp_path / "out")
    row = next(row for row in record["comparisons"] if (row["metric"], row["region"]) == ("dice", "whole"))
    assert (row["count"], row["better_first"], row["p_value"]) == (2, 2, 0.5)
    assert next(row["count"] for row in record["summary"]) == len(names)
    assert "2 patients" in record["warnings"][0]


def test_a_file_against_a_file(references: Path, good: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(references / "p1.nii.gz", output, good / "p2.nii.gz") == 3, "it is one patient"
    assert [case["case_id"] for case in record_of(output)["cases"]] == ["p1"]


def test_nothing_in_common_is_wrong_use(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = write(tmp_path / "others", x1=lesion())
    assert run(others, tmp_path / "out", good) == 2
    said = capsys.readouterr().err
    assert "x1" in said
    assert "p1, p2, p3" in said
    assert not (tmp_path / "out").exists()
    assert run(others, tmp_path / "out", good, more=(*LABELS, "--metrics", "dicee")) == 2
    assert run(others, tmp_path / "out", good, good) == 2
    assert run(others, tmp_path / "out", tmp_path / "nowhere") == 2


def test_nan_is_refused(references: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import SimpleITK as sitk

    array: NDArray[np.float32] = lesion().label_map.astype(np.float32)
    array[0, 0, 0] = np.nan
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(sitk.ReadImage(str(references / "p1.nii.gz")))
    sitk.WriteImage(image, str(good / "p1.nii.gz"))
    assert run(references, tmp_path / "out", good) == 1
    assert "NaN" in capsys.readouterr().err


def test_resume_keeps_what_is_true_and_redoes_the_rest(
    references: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    assert run(references, output, good) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (output / "cases").iterdir()}
    write(good, p2=lesion(1))
    capsys.readouterr()
    assert run(references, output, good, more=(*LABELS, "--resume")) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (output / "cases").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"p2.json"}
    assert capsys.readouterr().out.count("(kept)") == 2
    assert record_of(output)["cases"][1]["methods"]["good"]["regions"]["core"]["metrics"]["dice"] == 1.0
    assert run(references, output, good, more=(*LABELS, "--resume", "--resample")) == 0
    assert "(kept)" not in capsys.readouterr().out, "the settings have changed"

    def fail(*_: object) -> str:
        raise RuntimeError("a disk that went away")

    monkeypatch.setattr(CaseEvaluator, "save", fail)
    assert run(references, output, good) == 1
    assert {row["status"] for row in record_of(output)["problems"]} == {"failed"}


def test_the_rules_of_lesions_can_be_set_and_are_said(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two small lesions (38 mm³), two voxels apart and both missed: by the rule of gliomas none of them counts."""
    spots = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    for start in (2, 6):
        spots[4:6, 4:6, start : start + 2] = 1
    write(references, p1=Segmentation(GRID, SCHEME, spots))
    nothing = Segmentation(GRID, SCHEME, np.zeros_like(spots))
    found = write(tmp_path / "found", p1=nothing, p2=lesion(), p3=lesion())
    output, measured = tmp_path / "out", (*LABELS, "--metrics", "lesion_false_negatives")
    said = []
    for dilation, ignored, missed in (("3", "50", 0), ("3", "10", 1), ("0", "0", 2)):
        rules = ("--lesion-dilation", dilation, "--lesion-ignored-mm3", ignored)
        assert run(references, output, found, more=(*measured, *rules, "--resume")) == 0
        assert "(kept)" not in capsys.readouterr().out, "another rule, another number"
        record = record_of(output)
        assert record["settings"]["lesions"] == {"dilation_voxels": int(dilation), "ignored_mm3": float(ignored)}
        values = record["cases"][0]["methods"]["found"]["regions"]["whole"]["metrics"]
        assert values["lesion_false_negatives"] == missed
        page = (output / "report.html").read_text(encoding="utf-8")
        said.append(LesionRules(int(dilation), float(ignored)).said)
        assert said[-1] in page
    assert "3 steps" in said[0]
    assert "50 mm³" in said[0]
    assert run(references, output, found, more=measured) == 0
    assert record_of(output)["settings"]["lesions"] == {"dilation_voxels": 3, "ignored_mm3": 50.0}
    for wrong in (("--lesion-dilation", "-1"), ("--lesion-ignored-mm3", "nan"), ("--lesion-ignored-mm3", "inf")):
        assert run(references, output, found, more=(*measured, *wrong)) == 2


def test_methods_regions_and_metrics_keep_the_order_asked_for(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that of the alphabet; and a kept case says the same as a new one."""
    zeta = write(tmp_path / "zeta", p1=lesion(1), p2=lesion(), p3=lesion())
    alpha = write(tmp_path / "alpha", p1=lesion(3), p2=lesion())
    said = []
    for more in ((), ("--resume",)):
        arguments = (*LABELS, "--metrics", "nsd", "cl_dice", *more)
        assert run(references, tmp_path / "out", zeta, alpha, more=arguments) == 1
        said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("p")])
    assert said[0][0].startswith("p1: zeta Surface Dice 0.")
    assert said[1][:2] == [f"{line} (kept)" for line in said[0][:2]]
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").read_text().splitlines()))
    assert [(row["case_id"], row["method"], row["region"]) for row in rows][:4] == [
        ("p1", "zeta", "whole"), ("p1", "zeta", "core"), ("p1", "alpha", "whole"), ("p1", "alpha", "core"),
    ]  # fmt: skip
def test_resume_looks_at_the_voxels_behind_a_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references, found = tmp_path / "references", tmp_path / "found"
    for case_id in ("p1", "p2"):
        write_header(references / f"{case_id}.mhd", lesion())
        write_header(found / f"{case_id}.nhdr", lesion(1))
    assert run(references, tmp_path / "out", found) == 0
    write_header(found / "p2.nhdr", lesion())
    capsys.readouterr()
    assert run(references, tmp_path / "out", found, more=(*LABELS, "--resume")) == 0
    assert capsys.readouterr().out.count("(kept)") == 1
    assert record_of(tmp_path / "out")["cases"][1]["methods"]["found"]["regions"]["core"]["metrics"]["dice"] == 1.0


def write_header(path: Path, segmentation: Segmentation) -> None:
    """A label map as a header and a file with its voxels."""
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image_of(segmentation.label_map, segmentation.geometry), str(path))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("workers", "behind_urls"), [("1", False), ("2", False), ("2", True), ("of a cluster", False)]
)
def test_a_killed_evaluation_is_finished_by_the_next_and_no_case_is_measured_twice(
    tmp_path: Path, workers: str, behind_urls: bool
) -> None:
    grid = Geometry((110, 100, 90), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    cases = {f"p{number:02d}": lesion(number, grid=grid) for number in range(16)}
    write(tmp_path / "references", **cases)
    write(tmp_path / "found", **cases)
    output = tmp_path / "out"
    output.mkdir()
    for old in ("metrics.csv", "metrics.json", "report.html"):
        (output / old).write_text("of an earlier run")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(serving(tmp_path)) if behind_urls else str(tmp_path)
        command = [sys.executable, "-m", "BrainSegSAMLib", "evaluate", "--predictions", f"{place}/found", "--reference",
                   f"{place}/references", "--output", f"{place}/out", *LABELS, "--no-pictures", "--resume"]
        if workers == "of a cluster":
            command += ["--scheduler", stack.enter_context(dask_cluster(tmp_path, workers=2)).address]
        else:
            command += ["--workers", workers]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            while len(list(output.glob("cases/p*.json"))) < 2:
                assert process.poll() is None, process.communicate()[1].decode()
                time.sleep(0.01)
            process.kill()
        time.sleep(2)  # workers whose driver is gone end by themselves; those of a cluster end the cases that they have
        first = {path: path.stat().st_mtime_ns for path in output.glob("cases/p*.json")}
        assert 2 <= len(first) < len(cases)
        assert [path.name for path in output.iterdir()] == ["cases"], "nothing is summed up that is not whole"
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    kept = done.stdout.count("(kept)")
    assert kept == len(first) or (workers == "of a cluster" and kept > len(first))
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(record_of(output)["cases"]) == len(cases)


@pytest.mark.skipif(os.name == "nt", reason="The small disk is mounted as Linux does.")
def test_a_full_disk_is_said(references: Path, good: Path, tiny_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(references, tiny_disk / "out", good) == 2
    said = capsys.readouterr().err
    assert "disk is full" in said
    assert not (tiny_disk / "out" / "report.html").exists()


def test_sources_and_output_may_be_urls(references: Path, good: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for folder, name in ((references, "references"), (good, "good")):
        memory.put(str(folder), f"/evaluate/{name}", recursive=True)
    place = "memory://evaluate"
    arguments = ["--predictions", f"{place}/good", "--reference", f"{place}/references", "--output", f"{place}/out"]
    for more in ([], ["--resume"]):
        assert cli.main(["evaluate", *arguments, *LABELS, "--metrics", "dice", "--workers", "1", *more]) == 0
    record = json.loads(memory.cat("/evaluate/out/metrics.json"))
    assert record["reference"] == f"{place}/references"
    assert [row["mean"] for row in record["summary"]] == [pytest.approx(23 / 24), pytest.approx(7 / 12)]
    assert memory.exists("/evaluate/out/report.html")
    assert memory.exists("/evaluate/out/cases/p3.json")
    memory.rm("/evaluate/references/p3.nii.gz")
    memory.rm("/evaluate/good/p3.nii.gz")
    assert cli.main(["evaluate", *arguments, *LABELS, "--metrics", "dice", "--workers", "1", "--resume"]) == 0
    assert not memory.exists("/evaluate/out/cases/p3.json")
    memory.rm("/evaluate", recursive=True)


def test_what_is_done_is_behind_a_url_at_once(references: Path, good: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for old in ("metrics.csv", "metrics.json", "report.html", "cases/p2.json", "cases/other.json"):
        memory.pipe(f"/at-once/{old}", b"of an earlier run")
    there: list[list[str]] = []

    def on_case(_pair: Pair, _text: str, _kept: bool) -> None:
        there.append(sorted(path.removeprefix("/at-once/") for path in memory.find("/at-once")))

    scheme = ("whole=1,2", "core=2")
    job = EvaluateJob({"good": good}, references, Remote("memory://at-once"), labels=scheme, metrics=("dice",))
    with evaluate.planned(job) as plan:
        evaluate.run(plan, on_case=on_case)
    assert there[0][:2] == ["cases/other.json", "cases/p1.json"]
    assert there[-1] == ["cases/other.json", "cases/p1.json", "cases/p2.json", "cases/p3.json"]
    assert "p2" in json.loads(memory.cat("/at-once/cases/p2.json"))["case_id"]
    assert {"metrics.csv", "metrics.json", "report.html"} <= {path.split("/")[-1] for path in memory.find("/at-once")}
    memory.rm("/at-once", recursive=True)


@pytest.mark.slow
def test_several_workers_give_the_same_numbers(references: Path, good: Path, tmp_path: Path) -> None:
    for name, workers in (("one", "1"), ("two", "2")):
        assert run(references, tmp_path / name, good, more=(*LABELS, "--workers", workers)) == 0
    one, two = (record_of(tmp_path / name) for name in ("one", "two"))
    assert one["cases"] == two["cases"]
    assert one["summary"] == two["summary"]


def test_results_of_predict_bring_their_own_labels(
    random_model: Path, tmp_path: Path, write_case: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, name in enumerate(("case-a", "case-b")):
        write_case(tmp_path / "cases" / name, GRID, seed=index)
        write_label_map(lesion(), tmp_path / "cases" / name / f"{name}_seg.nii.gz")
    predicted = tmp_path / "predicted"
    arguments = ["--model", str(random_model), "--input", str(tmp_path / "cases"), "--output", str(predicted)]
    assert cli.main(["predict", *arguments, "--no-mirroring", "--device", "cpu", "--workers", "1"]) == 0
    output = tmp_path / "out"
    assert run(tmp_path / "cases", output, predicted, more=()) == 0
    record = record_of(output)
    assert record["settings"]["regions"] == ["whole", "core"]
    assert [case["case_id"] for case in record["cases"]] == ["case-a", "case-b"]
    picture = json.loads((output / "cases" / "case-a.json").read_text())["picture"]
    assert picture["planes"][0]["grey"], "the image beside the reference is behind it"
