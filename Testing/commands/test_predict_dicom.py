"""The command `predict` on DICOM series: a DICOM SEG lies beside the other results, and the record knows it."""

from __future__ import annotations

import csv
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from BrainSegSAMLib import cli
from BrainSegSAMLib.files import sha256_of
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.segmentation_files import read_segmentation

dicom_files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicom_files.py")))


@pytest.fixture
def source(tmp_path: Path, oblique_grid: Geometry) -> Path:
    """One case: flair and t1ce on one oblique grid, as DICOM series."""
    grid = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), oblique_grid.direction_lps)
    for seed, name in enumerate(("flair", "t1ce")):
        voxels = np.random.default_rng(seed).integers(1, 900, grid.shape_zyx, dtype=np.uint16)
        dicom_files.write_mr_series(tmp_path / "cases" / "p1" / name, voxels, grid, description=name)
    return tmp_path / "cases"


def run(model: Path, source: Path, output: Path, *more: str) -> int:
    return cli.main(
        ["predict", "--model", str(model), "--input", str(source), "--output", str(output), "--no-mirroring",
         "--device", "cpu", "--folds", "0", *more]
    )  # fmt: skip


def record_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "p1.json").read_text())
    return content


def test_a_dicom_seg_of_the_grids_series_lies_beside_the_rest(
    random_model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(random_model, source, output) == 0
    file = output / "p1.seg.dcm"
    dataset = pydicom.dcmread(file)
    segments = read_segmentation(output / "p1.seg.nrrd")
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == list(segments.scheme.names)
    voxels = sum(int(np.count_nonzero(mask)) for _, mask in segments.masks())
    assert int(dataset.pixel_array.sum()) == voxels > 0
    flair, t1ce = (
        pydicom.dcmread(next((source / "p1" / name).iterdir())).SeriesInstanceUID for name in ("flair", "t1ce")
    )
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == flair
    assert dataset.SegmentSequence[0].SegmentAlgorithmName == "random"
    record = record_of(output)
    listed = record["outputs"]["dicom_seg"]
    assert (listed["file"], listed["sha256"]) == ("p1.seg.dcm", sha256_of(file))
    assert record["notes"] == []
    capsys.readouterr()
    assert run(random_model, source, output, "--resume") == 0
    assert "p1: skipped" in capsys.readouterr().out
    file.unlink()
    assert run(random_model, source, output, "--resume", "--reference", "flair") == 0
    assert "p1: done" in capsys.readouterr().out, "a part of its results was gone"
    assert run(random_model, source, output, "--reference", "t1ce") == 0
    assert pydicom.dcmread(file).ReferencedSeriesSequence[0].SeriesInstanceUID == t1ce


def test_a_series_that_cannot_be_referred_to_gives_a_note_and_the_other_results(
    random_model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(random_model, source, output) == 0
    for file in (source / "p1" / "flair").iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.FrameOfReferenceUID
        dataset.save_as(file)
    assert run(random_model, source, output) == 0
    assert not (output / "p1.seg.dcm").exists(), "the one of the earlier run would be taken for a part of this"
    assert "No DICOM SEG was written. A DICOM SEG cannot refer to" in capsys.readouterr().err
    record = record_of(output)
    assert set(record["outputs"]) == {"label_map", "segmentation"}
    assert len(record["notes"]) == 1


def test_measurements_of_all_cases_are_one_table(
    random_model: Path, tmp_path: Path, write_case: Callable[..., Path]
) -> None:
    grid = Geometry((20, 22, 12), (1.2, 1.0, 2.0), (-10.0, 4.0, 8.0), np.eye(3))
    for seed, name in enumerate(("b", "a", "broken")):
        write_case(tmp_path / "cases" / name, grid, seed=seed)
    (tmp_path / "cases" / "broken" / "broken_flair.nii.gz").write_bytes(b"no volume")
    output = tmp_path / "out"
    assert run(random_model, tmp_path / "cases", output) == 1
    assert not list(output.glob("*.dcm"))
    with (output / "measurements.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case_id"], row["region"]) for row in rows] == [
        ("a", "whole"), ("a", "core"), ("b", "whole"), ("b", "core")
    ]  # fmt: skip
    for row in rows:
        mask = read_segmentation(output / f"{row['case_id']}.seg.nrrd").mask(row["region"])
        assert int(row["voxels"]) == np.count_nonzero(mask)
        assert float(row["volume_ml"]) == pytest.approx(np.count_nonzero(mask) * 2.4 / 1000, abs=1e-6)
    written = (output / "measurements.csv").read_bytes()
    assert run(random_model, tmp_path / "cases", output, "--resume") == 1
    assert (output / "measurements.csv").read_bytes() == written, "finished cases are in the table of every run"
