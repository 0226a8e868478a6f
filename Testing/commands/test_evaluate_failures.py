"""The command `evaluate` where single files or settings are bad: they are named, and all else is measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from BrainSegSAMLib.report import charts
from BrainSegSAMLib.segmentation_files import write_label_map, write_seg_nrrd
from Testing.evaluation_cases import LABELS, lesion, record_of, run, write


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_svg", lambda *_: "<svg></svg>")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write(tmp_path / "references", p1=lesion(), p2=lesion(1), p3=lesion(2))


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    for index in range(3):
        write_seg_nrrd(lesion(index), tmp_path / "segments" / f"p{index + 1}.seg.nrrd")
    return tmp_path / "segments"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def statuses(output: Path, method: str = "segments") -> list[str]:
    return [case["methods"][method]["status"] for case in record_of(output)["cases"]]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_segmentation_costs_its_own_case_alone(
    references: Path, segments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Whichever it is: the first one is also asked what labels mean."""
    cut(segments / f"p{number}.seg.nrrd")
    assert run(references, tmp_path / "out", segments, more=()) == 1
    assert statuses(tmp_path / "out") == ["failed" if n == number else "evaluated" for n in (1, 2, 3)]
    assert f"p{number}.seg.nrrd cannot be read" in capsys.readouterr().err
    assert {row["mean"] for row in record_of(tmp_path / "out")["summary"] if row["metric"] == "dice"} == {1.0}


def test_where_no_file_can_be_read_nothing_says_what_labels_mean(
    references: Path, segments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in segments.iterdir():
        cut(path)
    assert run(references, tmp_path / "out", segments, more=()) == 2
    assert "can be read" in capsys.readouterr().err


RECORD = {"outputs": {"label_map": {"file": "p2.nii.gz"}, "segmentation": {"file": "p2.seg.nrrd"}}}


@pytest.mark.parametrize(
    "content", ['{"outp', '{"outputs": {"label_map": "p2.nii.gz", "segmentation": "p2.seg.nrrd"}}',
                '{"outputs": {"label_map": {"file": 2}, "segmentation": {"file": 3}}}'],
)  # fmt: skip
@pytest.mark.parametrize("others_have_records", [False, True])
def test_a_damaged_record_costs_its_own_case_alone(
    references: Path,
    segments: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    others_have_records: bool,
) -> None:
    if others_have_records:
        for number in (1, 3):
            write_label_map(lesion(number - 1), segments / f"p{number}.nii.gz")
            text = json.dumps({**RECORD, "inputs": {"flair": {"path": 7}}}).replace("p2", f"p{number}")
            (segments / f"p{number}.json").write_text(text)
    (segments / "p2.json").write_text(content)
    assert run(references, tmp_path / "out", segments, more=()) == 1
    assert statuses(tmp_path / "out") == ["evaluated", "failed", "evaluated"]
    assert "p2.json" in capsys.readouterr().err


def test_a_reference_with_a_damaged_record_is_named(
    references: Path, segments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (segments / "p3.json").write_text("{")
    assert run(segments, tmp_path / "out", references) == 1
    assert statuses(tmp_path / "out", "references") == ["evaluated", "evaluated", "failed"]
    assert "p3.json" in capsys.readouterr().err


def test_where_every_case_fails_each_is_named(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work was done, so it is not wrong use: exit code 1, as where some fail."""
    found = write(tmp_path / "found", p1=lesion(), p2=lesion(), p3=lesion())
    for path in found.iterdir():
        cut(path)
    assert run(references, tmp_path / "out", found, more=LABELS) == 1
    assert statuses(tmp_path / "out", "found") == ["failed"] * 3
    said = capsys.readouterr().err
    assert "3 of 3 cases are not evaluated by every method: p1, p2, p3." in said


def test_a_case_that_is_no_longer_there_leaves_no_file(references: Path, tmp_path: Path) -> None:
    found = write(tmp_path / "found", p1=lesion(), p2=lesion(), p3=lesion())
    output = tmp_path / "out"
    assert run(references, output, found) == 0
    (output / "cases" / "notes.json").write_text('{"mine": 1}')
    (output / "cases" / "half.json").write_text("{")
    for folder in (references, found):
        (folder / "p2.nii.gz").unlink()
    assert run(references, output, found, more=(*LABELS, "--resume")) == 0
    assert sorted(path.name for path in (output / "cases").iterdir()) == [
        "half.json", "notes.json", "p1.json", "p3.json",
    ]  # fmt: skip
    assert [case["case_id"] for case in record_of(output)["cases"]] == ["p1", "p3"]


@pytest.mark.parametrize(
    ("word", "said"),
    [("1=99999999999", "has no value 99999999999; it knows 1, 2"), ("1=3", "has no value 3; it knows 1, 2"),
     ("99999999999=1", "hold values up to 65535")],
)  # fmt: skip
def test_label_values_that_cannot_be_are_wrong_use(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    assert run(references, tmp_path / "out", references, more=(*LABELS, "--label-values", word)) == 2
    assert said in capsys.readouterr().err
    assert run(references, tmp_path / "out", references, more=(*LABELS, "--label-values", "2=0")) == 0


def test_names_in_the_table_are_no_formulas(tmp_path: Path) -> None:
    """Of cases, patients, methods, regions and problems; numbers stay numbers, below zero as well."""
    references = write(tmp_path / "references", **{"=1+1": lesion(), "p2": lesion(), "p3": lesion()})
    found = write(tmp_path / "@found", **{"=1+1": lesion(core=False), "p2": lesion()})
    labels = ("--labels", "whole=1,2", "+core=2", "--metrics", "volume_difference")
    assert run(references, tmp_path / "out", found, more=labels) == 1
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    first = rows[1]
    assert [first[key] for key in ("case_id", "patient", "method", "region")] == ["'=1+1", "'=1+1", "'@found", "'+core"]
    assert float(first["volume_difference"]) < 0
    assert rows[-1]["problem"].startswith("'@found' has no prediction"), "a quotation mark of its own"
