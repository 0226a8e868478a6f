"""Commands on workers: this machine's, a Dask cluster's; with cases and results behind URLs; killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from BrainSegSAMLib import cli, console
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.segmentation_files import write_label_map
from Testing.dask_cluster import dask_cluster
from Testing.ftp_server import serving

GRID = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), np.eye(3))
ROOT = Path(__file__).resolve().parents[2]
CASES = ("case-a", "case-b", "case-c", "case-d")


@pytest.fixture
def cases(tmp_path: Path, write_case: Callable[..., Path]) -> Path:
    for index, name in enumerate(CASES):
        write_case(tmp_path / "cases" / name, GRID, seed=index)
    return tmp_path / "cases"


def arguments(model: Path, source: object, output: object, *more: str) -> list[str]:
    return ["predict", "--model", str(model), "--input", str(source), "--output", str(output), "--no-mirroring",
            "--device", "cpu", *more]  # fmt: skip


def label_map(path: Path) -> object:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).tolist()


def summary(output: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((output / "run.json").read_text())
    return content


def test_two_workers_give_what_one_gives_and_a_corrupt_case_is_named(
    random_model: Path, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(console, "_PLAIN_INTERVAL_S", 0.0)  # the cases are so small that most reports would be left out
    broken = cases / "case-b" / "case-b_flair.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    assert cli.main(arguments(random_model, cases, tmp_path / "one", "--workers", "1")) == 1
    capsys.readouterr()
    assert cli.main(arguments(random_model, cases, tmp_path / "two", "--workers", "2")) == 1
    said = capsys.readouterr()
    assert "dashboard: http://127.0.0.1:" in said.err
    assert "Case 'case-b' failed" in said.err
    assert "case-b_flair.nii.gz" in said.err
    assert "1 of 4 cases failed: case-b." in said.err
    assert "of 4 cases, " in said.err, "throughput is shown"
    for case in ("case-a", "case-c", "case-d"):
        assert label_map(tmp_path / "two" / f"{case}.nii.gz") == label_map(tmp_path / "one" / f"{case}.nii.gz")
        assert f"{case}: done" in said.out
    assert summary(tmp_path / "two")["counts"] == {"done": 3, "skipped": 0, "failed": 1}
    assert (tmp_path / "two" / "measurements.csv").read_text() == (tmp_path / "one" / "measurements.csv").read_text()


@pytest.mark.skipif(os.name == "nt", reason="POSIX process groups")
def test_a_cluster_that_runs_already_with_cases_and_results_behind_a_url(
    random_model: Path, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    with serving(tmp_path) as url, dask_cluster(tmp_path, workers=2) as cluster:
        remote = arguments(random_model, f"{url}/cases", f"{url}/results", "--scheduler", cluster.address)
        assert cli.main(remote) == 0
        said = capsys.readouterr()
        assert f"cluster at {cluster.address}" in said.err
        assert "secret" not in said.err + said.out
        expected = {f"{case}{end}" for case in CASES for end in (".json", ".nii.gz", ".seg.nrrd")}
        assert {path.name for path in results.iterdir()} == {*expected, "run.json", "measurements.csv"}
        written = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
        flair = json.loads((results / "case-a.json").read_text())["inputs"]["flair"]["path"]
        assert flair == f"{url.replace('ann:secret@', '')}/cases/case-a/case-a_flair.nii.gz"
        # One result is cut short, and the images of another case are exchanged.
        (results / "case-b.nii.gz").write_bytes((results / "case-b.nii.gz").read_bytes()[:50])
        image = cases / "case-a" / "case-a_flair.nii.gz"
        (cases / "case-c" / "case-c_flair.nii.gz").write_bytes(image.read_bytes())
        assert cli.main([*remote, "--resume"]) == 0
        again = {path.name for path in results.iterdir() if path.stat().st_mtime_ns != written[path.name]}
        assert {name.partition(".")[0] for name in again} == {"case-b", "case-c", "run", "measurements"}
    assert cli.main(arguments(random_model, cases, tmp_path / "local", "--workers", "1")) == 0
    for case in CASES:
        assert label_map(results / f"{case}.nii.gz") == label_map(tmp_path / "local" / f"{case}.nii.gz")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX process groups")
def test_a_cluster_evaluates_what_lies_behind_urls_and_what_it_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of URLs its workers see no file of this machine: cases and results travel."""
    scheme = LabelScheme.plain({"lesion": 1})
    for shift, case in enumerate(CASES):
        for folder, first in (("references", 2), ("found", 2 + shift)):
            labels = np.zeros(GRID.shape_zyx, np.uint8)
            labels[2:6, 3:9, first : first + 6] = 1
            write_label_map(Segmentation(GRID, scheme, labels), tmp_path / folder / f"{case}.nii.gz")
    broken = tmp_path / "found" / "case-b.nii.gz"
    broken.write_bytes(broken.read_bytes()[:60])
    labels_of = ["--labels", "lesion=1", "--metrics", "dice", "hd95"]
    (tmp_path / "dask").mkdir()
    with serving(tmp_path) as url, dask_cluster(tmp_path / "dask", workers=2) as cluster:
        remote = ["evaluate", "--predictions", f"{url}/found", "--reference", f"{url}/references", *labels_of]
        assert cli.main([*remote, "--output", f"{url}/report", "--scheduler", cluster.address]) == 1
        assert "case-b.nii.gz" in capsys.readouterr().err
        assert cli.main([*remote, "--output", f"{url}/report", "--scheduler", cluster.address, "--resume"]) == 1
        assert capsys.readouterr().out.count("(kept)") == 3
        # Workers have a current folder of their own.
        monkeypatch.chdir(tmp_path)
        shared = ["evaluate", "--predictions", "found", "--reference", "references", "--output", "shared"]
        assert cli.main([*shared, *labels_of, "--scheduler", cluster.address]) == 1
    local = ["evaluate", "--predictions", str(tmp_path / "found"), "--reference", str(tmp_path / "references")]
    assert cli.main([*local, *labels_of, "--output", str(tmp_path / "local"), "--workers", "1"]) == 1
    one, other, third = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("local", "report", "shared")
    )
    for found in (other, third):
        assert found["summary"] == one["summary"]
        assert [case["methods"]["found"]["regions"] for case in found["cases"]] == [
            case["methods"]["found"]["regions"] for case in one["cases"]
        ]
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "report" / "cases" / "case-a.json").read_text())["picture"]


def test_wrong_places_are_named(
    random_model: Path, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(random_model, cases, tmp_path / "out", "--scheduler", "tcp://127.0.0.1:1")) == 2
    assert "No Dask scheduler answers at 'tcp://127.0.0.1:1'" in capsys.readouterr().err
    assert summary(tmp_path / "out")["status"] != "finished"
    assert cli.main(arguments(random_model, "ftp://127.0.0.1:1/cases", tmp_path / "out")) == 2
    assert "ftp://127.0.0.1:1/cases cannot be read" in capsys.readouterr().err
    assert cli.main(arguments(random_model, cases, "ftp://127.0.0.1:1/results")) == 2
    assert "ftp://127.0.0.1:1/results cannot be written" in capsys.readouterr().err
    assert cli.main(arguments(random_model, cases, tmp_path / "out", "--workers", "0")) == 2
    assert "--workers is 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_from_the_keyboard_ends_in_order(
    random_model: Path, tmp_path: Path, write_case: Callable[..., Path]
) -> None:
    """It reaches the whole process group, the workers too."""
    for index in range(12):
        write_case(tmp_path / "cases" / f"case-{index:02d}", GRID, seed=index)
    output = tmp_path / "out"
    command = [sys.executable, "-m", "BrainSegSAMLib"]
    command += arguments(random_model, tmp_path / "cases", output, "--workers", "2")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True, start_new_session=True
    ) as process:
        while not list(output.glob("case-*.json")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "was cancelled" in said
    assert summary(output)["status"] == "cancelled"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_is_finished_by_the_next_and_no_case_is_done_twice(
    random_model: Path, tmp_path: Path, write_case: Callable[..., Path], workers: str
) -> None:
    names = [f"case-{number}" for number in range(8)]
    grid = Geometry((48, 48, 48), (1.5, 1.5, 1.5), (0.0, 0.0, 0.0), np.eye(3))
    for index, name in enumerate(names):
        write_case(tmp_path / "cases" / name, grid, seed=index)
    output = tmp_path / "out"
    whole = arguments(random_model, tmp_path / "cases", output, "--workers", workers, "--resume")
    command = [sys.executable, "-m", "BrainSegSAMLib", *whole]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        while len(list(output.glob("case-*.json"))) < 2:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.02)
        process.kill()
    time.sleep(2)  # workers whose driver is gone end by themselves
    first = {path: path.stat().st_mtime_ns for path in output.glob("case-*.json")}
    assert 2 <= len(first) < len(names)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert summary(output)["counts"] == {"done": len(names) - len(first), "skipped": len(first), "failed": 0}
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert {path.name for path in output.glob("case-*.json")} == {f"{name}.json" for name in names}
