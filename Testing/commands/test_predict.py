"""The command `predict` from its command line to its files, with a small random nnU-Net."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from BrainSegSAMLib import cli
from BrainSegSAMLib.files import sha256_of
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.segmentation_files import read_segmentation

GRID = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), np.eye(3))


@pytest.fixture
def two_cases(tmp_path: Path, write_case: Callable[..., Path]) -> Path:
    for index, name in enumerate(("case-a", "case-b")):
        write_case(tmp_path / "cases" / name, GRID, seed=index)
    return tmp_path / "cases"


def run(model: Path, source: Path, output: Path, *more: str) -> int:
    return cli.main(
        ["predict", "--model", str(model), "--input", str(source), "--output", str(output), "--no-mirroring",
         "--device", "cpu", *more]
    )


def record_of(output: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / f"{name}.json").read_text())
    return content


def files_in(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir())


def test_a_case_gives_its_three_files_and_their_record(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(random_model, two_cases, output) == 0
    expected = [f"{name}{end}" for name in ("case-a", "case-b") for end in (".json", ".nii.gz", ".seg.nrrd")]
    assert files_in(output) == sorted([*expected, "measurements.csv", "run.json"])
    segments = read_segmentation(output / "case-a.seg.nrrd")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "case-a.nii.gz")))
    assert segments.scheme.names == ("whole", "core")
    np.testing.assert_array_equal(segments.mask("whole"), np.isin(labels, (1, 2)))
    np.testing.assert_array_equal(segments.mask("core"), labels == 2)
    assert segments.geometry.is_same_grid(GRID)
    record = record_of(output, "case-a")
    assert record["inputs"]["flair"]["sha256"] == sha256_of(two_cases / "case-a" / "case-a_flair.nii.gz")
    assert record["outputs"]["label_map"]["sha256"] == sha256_of(output / "case-a.nii.gz")
    whole = next(row for row in record["regions"] if row["region"] == "whole")
    assert whole["volume_ml"] == pytest.approx(np.count_nonzero(labels) * 2.4 / 1000)
    assert {"python", "nnunetv2", "torch", "brainsegsam"} <= set(record["versions"])
    assert {"read", "segment", "write"} <= set(record["seconds"])
    summary = json.loads((output / "run.json").read_text())
    assert summary["counts"] == {"done": 2, "skipped": 0, "failed": 0}
    shown = capsys.readouterr()
    assert "case-a: done" in shown.out
    assert "Segmenting" in shown.err


def test_a_failure_is_a_row_and_the_others_are_finished(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = two_cases / "case-a" / "case-a_flair.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    (two_cases / "case-c").mkdir()
    image = two_cases / "case-b" / "case-b_flair.nii.gz"
    (two_cases / "case-c" / "case-c_flair.nii.gz").write_bytes(image.read_bytes())
    output = tmp_path / "out"
    assert run(random_model, two_cases, output) == 1
    assert files_in(output) == ["case-b.json", "case-b.nii.gz", "case-b.seg.nrrd", "measurements.csv", "run.json"]
    said = capsys.readouterr().err
    assert "Case 'case-a' failed" in said
    assert "case-a_flair.nii.gz" in said
    assert "case-c" in said
    assert "t1ce" in said
    assert "2 of 3 cases failed: case-a, case-c." in said
    rows = {row["case_id"]: row for row in json.loads((output / "run.json").read_text())["cases"]}
    assert rows["case-b"]["status"] == "done"
    assert "case-a_flair.nii.gz" in rows["case-a"]["error"]


def test_resume_skips_finished_cases_and_redoes_doubtful_ones(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(random_model, two_cases, output) == 0
    label_map = output / "case-b.nii.gz"
    whole_file = label_map.read_bytes()
    label_map.write_bytes(whole_file[:50])  # as a copy that was cut short
    kept = (output / "case-a.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run(random_model, two_cases, output, "--resume") == 0
    shown = capsys.readouterr().out
    assert "case-a: skipped" in shown
    assert "case-b: done" in shown
    assert (output / "case-a.json").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(label_map))).shape, GRID.shape_zyx
    )
    (two_cases / "case-a" / "case-a_flair.nii.gz").write_bytes(
        (two_cases / "case-b" / "case-b_flair.nii.gz").read_bytes()
    )
    assert run(random_model, two_cases, output, "--resume") == 0
    assert "case-a: done" in capsys.readouterr().out, "its input has changed"
    assert run(random_model, two_cases, output, "--resume", "--folds", "0") == 0
    assert "skipped" not in capsys.readouterr().out, "the settings have changed"
    assert run(random_model, two_cases, output, "--resume", "--folds", "0") == 0
    assert "done" not in capsys.readouterr().out
    assert run(random_model, two_cases, output, "--resume") == 0
    assert "skipped" not in capsys.readouterr().out, "the settings have changed back"
    assert run(random_model, two_cases, output, "--resume", "--reference", "t1ce") == 0
    assert "skipped" not in capsys.readouterr().out, "the result lies on another grid"


def test_resume_looks_at_the_voxels_behind_a_header(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headers = [two_cases / name / f"{name}_flair.mhd" for name in ("case-a", "case-b")]
    for header in headers:
        packed = header.with_name(header.name.replace(".mhd", ".nii.gz"))
        sitk.WriteImage(sitk.ReadImage(str(packed)), str(header))
        packed.unlink()
    assert run(random_model, two_cases, tmp_path / "out") == 0
    voxels = headers[0].with_suffix(".raw")
    (2 * np.fromfile(voxels, np.float32)).tofile(voxels)
    capsys.readouterr()
    assert run(random_model, two_cases, tmp_path / "out", "--resume") == 0
    said = capsys.readouterr().out
    assert "case-a: done" in said
    assert "case-b: skipped" in said


def test_dry_run_says_what_would_run_and_writes_nothing(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(random_model, two_cases, output, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "case-a: would be segmented from" in shown
    assert "case-b_t1ce.nii.gz" in shown
    assert not output.exists()
    (two_cases / "case-a" / "case-a_t1ce.nii.gz").unlink()
    assert run(random_model, two_cases, output, "--dry-run") == 1
    assert "cannot be used" in capsys.readouterr().out


def test_modalities_on_other_grids_are_resampled_and_it_is_said(
    random_model: Path, tmp_path: Path, write_case: Callable[..., Path]
) -> None:
    case = write_case(tmp_path / "case", GRID, modalities=("flair",))
    finer = Geometry((24, 22, 24), (1.0, 1.0, 1.0), GRID.origin_lps_mm, np.eye(3))
    write_case(case, finer, modalities=("t1ce",))
    output = tmp_path / "out"
    assert run(random_model, case, output) == 0
    actions = record_of(output, "case")["geometry_actions"]
    assert len(actions) == 1
    assert "t1ce" in actions[0]
    assert read_segmentation(output / "case.seg.nrrd").geometry.is_same_grid(GRID)
    assert run(random_model, case, output, "--reference", "t1ce") == 0
    assert read_segmentation(output / "case.seg.nrrd").geometry.is_same_grid(finer)
    assert run(random_model, case, output, "--reference", "t2") == 2


def test_progress_for_programs_is_one_json_object_a_line(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(random_model, two_cases, tmp_path / "out", "--progress", "json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["type"] for line in lines} == {"progress", "result"}
    fractions = [line["fraction"] for line in lines if line["type"] == "progress"]
    assert fractions == sorted(fractions)
    cases = lines[-1]["cases"]
    assert [case["status"] for case in cases] == ["done", "done"]
    assert all(Path(path).is_file() for case in cases for path in case["outputs"].values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict"], "required"),
        (["predict", "--model", "nothing-of-that-name", "--input", ".", "--output", "out"], "nothing-of-that-name"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_wrong_use_is_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unavailable_device_is_refused(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(random_model, two_cases, tmp_path / "out", "--device", "tpu") == 2
    assert "'tpu' is not available here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_said_before_any_work(
    random_model: Path, two_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("I am a file")
    assert run(random_model, two_cases, blocked / "out") == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert "Segmenting" not in said


def test_a_full_disk_leaves_no_half_file(
    random_model: Path, two_cases: Path, tiny_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filler = tiny_disk / "filler"
    filler.write_bytes(b"x" * 52 * 1024)
    status = run(random_model, two_cases, tiny_disk / "out")
    said = capsys.readouterr().err
    assert status in (1, 2), "the cases, or the run's own record, did not fit"
    assert "full" in said or "space" in said
    left = [path for path in (tiny_disk / "out").iterdir() if path.name != "run.json"]
    for path in left:
        assert not path.name.startswith("."), "no partial file stays"
        if path.name.endswith(".nii.gz"):
            sitk.ReadImage(str(path))
        if path.name.endswith(".json"):
            json.loads(path.read_text())


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_kill_leaves_nothing_half_written(
    random_model: Path, tmp_path: Path, write_case: Callable[..., Path], number: int, code: int
) -> None:
    source, output = tmp_path / "cases", tmp_path / "out"
    for name in ("case-a", "case-b"):  # large enough for many tiles, so that the signal comes in the middle
        write_case(source / name, Geometry((90, 90, 90), (1.5, 1.5, 1.5), (0.0, 0.0, 0.0), np.eye(3)))
    command = [sys.executable, "-m", "BrainSegSAMLib", "predict", "--model", str(random_model)]
    command += ["--input", str(source), "--output", str(output), "--progress", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if 'Segmenting"' in line:
                break
        asked = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        waited = time.monotonic() - asked
        assert process.returncode == code, said
    if number == signal.SIGKILL:
        assert {path.name for path in output.iterdir()} <= {"case-a.json", "case-a.nii.gz", "case-a.seg.nrrd"}
    else:
        assert waited < 30, "a loaded machine needs more than the second or two of an idle one"
        assert "cancelled" in said
        assert files_in(output) == ["measurements.csv", "run.json"]
        assert json.loads((output / "run.json").read_text())["status"] == "cancelled"
    assert run(random_model, source, output, "--resume", "--tile-step", "1", "--folds", "0") == 0
    assert {path.suffix for path in output.iterdir()} == {".csv", ".json", ".gz", ".nrrd"}
