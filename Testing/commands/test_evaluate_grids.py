"""The command `evaluate` where reference and predictions lie on different grids: nothing of either may get lost."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.dicom_seg import write_dicom_seg
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.report import charts
from BrainSegSAMLib.segmentation_files import write_label_map, write_seg_nrrd
from Testing.evaluation_cases import GRID, LABELS, SCHEME, lesion, record_of, run, write

dicom_files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicom_files.py")))
METRICS = ("--metrics", "dice", "specificity", "lesion_false_positives", "volume_difference")
FALSE_VOXELS = 2 * 4 * 5


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_svg", lambda *_: "<svg></svg>")


def with_false_lesion() -> Segmentation:
    """The lesion, and another one on the last two slices."""
    found = lesion()
    found.label_map[10:12, 18:22, 15:20] = 1  # out of the dilated lesion's reach
    return found


def cropped(segmentation: Segmentation) -> Segmentation:
    """Cut to the slices 3 to 8, which hold all of the lesion."""
    return Segmentation(GRID.window((0, 0, 3), (20, 22, 6)), SCHEME, segmentation.label_map[3:9].copy())


def found_of(output: Path, name: str, case: int = 0) -> dict[str, Any]:
    method: dict[str, Any] = record_of(output)["cases"][case]["methods"][name]
    return method


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether all numbers of two methods are equal, but for the rounding of headers."""
    first, second = (
        {(name, key): value for name, region in method["regions"].items()
         for key, value in {**region["metrics"], "ml": region["volume_ml"]}.items()}
        for method in (one, other)
    )  # fmt: skip
    return first == pytest.approx(second, rel=1e-6)


def write_dicom(segmentation: Segmentation, folder: Path, series: Path) -> Path:
    dicom_files.write_mr_series(series, np.ones(GRID.shape_zyx, np.uint16), GRID)
    write_dicom_seg(segmentation, series, folder / "p1.seg.dcm", algorithm="expert", version="1")
    return folder


@pytest.mark.parametrize("kind", [".seg.nrrd", ".seg.dcm"])
def test_what_lies_beyond_a_cropped_reference_is_false(tmp_path: Path, kind: str) -> None:
    """Slicer crops to what is labelled, and a DICOM SEG leaves empty planes out: the rest is empty."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    write(whole, p1=lesion())
    if kind == ".seg.dcm":
        write_dicom(lesion(), part, tmp_path / "series")
    else:
        write_seg_nrrd(cropped(lesion()), part / "p1.seg.nrrd")
    found = write(tmp_path / "found", p1=with_false_lesion())
    values = []
    for name, references, more in (("1", whole, ()), ("2", part, ()), ("3", part, ("--resample",))):
        assert run(references, tmp_path / name, found, more=(*LABELS, *METRICS, *more)) == 3, "it is one patient"
        values.append(found_of(tmp_path / name, "found"))
    assert values[0]["regions"]["whole"]["metrics"]["lesion_false_positives"] == 1
    assert same(values[0], values[1])
    assert same(values[0], values[2])
    assert values[0]["notes"] == []
    (note,) = values[1]["notes"]
    assert f"{FALSE_VOXELS * 2.4 / 1000:.2f} mL" in note, "how much of it lies outside is said"


def test_a_cropped_prediction_is_compared_on_the_whole_grid(tmp_path: Path) -> None:
    references = write(tmp_path / "references", p1=with_false_lesion())
    write_seg_nrrd(cropped(lesion()), tmp_path / "found" / "p1.seg.nrrd")
    whole = write(tmp_path / "whole", p1=lesion())
    assert run(references, tmp_path / "out", tmp_path / "found", whole, more=(*LABELS, *METRICS)) == 3
    assert same(found_of(tmp_path / "out", "found"), found_of(tmp_path / "out", "whole"))


def test_crops_that_do_not_meet_are_a_miss_and_a_false_lesion(tmp_path: Path) -> None:
    write_seg_nrrd(cropped(lesion()), tmp_path / "references" / "p1.seg.nrrd")
    elsewhere = with_false_lesion()
    part = Segmentation(GRID.window((0, 0, 10), (20, 22, 2)), SCHEME, elsewhere.label_map[10:12].copy())
    write_seg_nrrd(part, tmp_path / "found" / "p1.seg.nrrd")
    assert run(tmp_path / "references", tmp_path / "out", tmp_path / "found", more=METRICS) == 3
    values = found_of(tmp_path / "out", "found")["regions"]["whole"]
    assert values["metrics"]["dice"] == 0.0
    assert values["metrics"]["lesion_false_positives"] == 1
    assert values["volume_ml"] == pytest.approx(FALSE_VOXELS * 2.4 / 1000)


def test_the_same_voxels_in_another_order_need_no_resampling(tmp_path: Path) -> None:
    references, found = write(tmp_path / "references", p1=lesion()), tmp_path / "found"
    flipped, order = GRID.reoriented("RAS")
    labels = np.ascontiguousarray(order.apply(with_false_lesion().label_map))
    write_label_map(Segmentation(flipped, SCHEME, labels), found / "p1.nii.gz")
    plain = write(tmp_path / "plain", p1=with_false_lesion())
    assert run(references, tmp_path / "out", found, plain, more=(*LABELS, *METRICS)) == 3
    assert same(found_of(tmp_path / "out", "found"), found_of(tmp_path / "out", "plain"))


def test_resampling_loses_nothing_beyond_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a grid of half the spacing, so nothing lies on one lattice; the numbers are those of the coarse masks."""
    write_seg_nrrd(cropped(lesion()), tmp_path / "references" / "p1.seg.nrrd")
    fine = Geometry.from_ijk_to_lps(
        GRID.ijk_to_lps @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]),
        (40, 44, 24),
    )
    labels = with_false_lesion().label_map.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    found = write(tmp_path / "found", p1=Segmentation(fine, SCHEME, labels))
    assert run(tmp_path / "references", tmp_path / "out", found, more=(*LABELS, *METRICS)) == 1
    assert "another grid than the reference of case 'p1'" in capsys.readouterr().err
    assert run(tmp_path / "references", tmp_path / "out", found, more=(*LABELS, *METRICS, "--resample")) == 3
    method = found_of(tmp_path / "out", "found")
    assert method["regions"]["whole"]["metrics"]["lesion_false_positives"] == 1
    assert method["regions"]["whole"]["volume_ml"] == pytest.approx((384 + FALSE_VOXELS) * 2.4 / 1000)
    assert "Resampled" in method["notes"][0]


def test_another_place_is_another_examination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole voxels away, so on the same lattice."""
    far = Geometry(GRID.size_ijk, GRID.spacing_ijk_mm, (500.0, 4.0, 8.0), np.eye(3))
    references = write(tmp_path / "references", p1=lesion(), p2=lesion())
    found = write(tmp_path / "found", p1=lesion(grid=far), p2=lesion())
    write_seg_nrrd(lesion(grid=far), tmp_path / "segments" / "p1.seg.nrrd")
    for more in ((), ("--resample",)):
        assert run(references, tmp_path / "out", found, tmp_path / "segments", more=(*LABELS, *more)) == 1
        assert "lies elsewhere than the reference of case 'p1'" in capsys.readouterr().err
        assert [found_of(tmp_path / "out", "found", case)["status"] for case in (0, 1)] == ["failed", "evaluated"]
        assert found_of(tmp_path / "out", "segments")["status"] == "failed"
