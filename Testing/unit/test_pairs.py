"""Label maps found in the layouts that people have, and paired by case id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.label_sources import own_scheme, parse_label_values, read_scheme
from BrainSegSAMLib.pairs import DUPLICATE, EXTRA, MISSING, READY, find_segmentations, pair_cases


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def ids(source: Path) -> dict[str, str]:
    return {found.case_id: found.path.name for found in find_segmentations(source)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a1.nii.gz", "a2.seg.nrrd", "a3.seg.dcm", "dataset.json"],
         {"a1": "a1.nii.gz", "a2": "a2.seg.nrrd", "a3": "a3.seg.dcm"}),
        (["p1_seg.nii.gz", "p2_seg.nii.gz"], {"p1": "p1_seg.nii.gz", "p2": "p2_seg.nii.gz"}),
        (["p1_flair.nii.gz", "p1_seg.nii.gz", "p2_flair.nii.gz", "p2_seg.nii.gz", "p2_brainmask.nii.gz"],
         {"p1": "p1_seg.nii.gz", "p2": "p2_seg.nii.gz"}),
        (["p1/p1_flair.nii.gz", "p1/p1_seg.nii.gz", "p2/labels.nii.gz", "p2/t1.nii.gz"],
         {"p1": "p1_seg.nii.gz", "p2": "labels.nii.gz"}),
        (["p1/result.nii.gz", "p2/result.nii.gz"], {"p1": "result.nii.gz", "p2": "result.nii.gz"}),
        (["seg.nii.gz"], {"cases": "seg.nii.gz"}),
    ],
)
def test_layouts(tmp_path: Path, names: list[str], expected: dict[str, str]) -> None:
    assert ids(touch(tmp_path / "cases", *names)) == expected


def test_images_that_lie_beside_are_known(tmp_path: Path) -> None:
    (found,) = find_segmentations(touch(tmp_path, "p1/p1_flair.nii.gz", "p1/p1_seg.nii.gz"))
    assert {name: path.name for name, path in found.images.items()} == {"flair": "p1_flair.nii.gz"}


def test_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "x.nii.gz", "y.nii.gz", "x_t1.nii.gz")
    (tmp_path / "table.csv").write_text("case_id,reference,patient,t1\nv1,x.nii.gz,ann,x_t1.nii.gz\nv2,y.nii.gz,ann,\n")
    first, second = find_segmentations(tmp_path / "table.csv")
    assert (first.case_id, first.path.name, first.patient, list(first.images)) == ("v1", "x.nii.gz", "ann", ["t1"])
    assert (second.path.name, second.patient, second.images) == ("y.nii.gz", "ann", {})
    (tmp_path / "table.csv").write_text("case_id,reference\n../v1,x.nii.gz\n")
    with pytest.raises(InputError, match="cannot name a file"):
        find_segmentations(tmp_path / "table.csv")


def test_a_run_is_known_by_its_records(tmp_path: Path) -> None:
    """A stage of a method is no prediction, and a case without a record was not finished."""
    touch(tmp_path, "a.nii.gz", "a.seg.nrrd", "a_nnunet.nii.gz", "b.nii.gz", "image.nii.gz")
    record = {
        "case_id": "a",
        "inputs": {"flair": {"path": str(tmp_path / "image.nii.gz")}, "t1": {"path": str(tmp_path / "gone.nii.gz")}},
        "outputs": {"label_map": {"file": "a.nii.gz"}, "segmentation": {"file": "a.seg.nrrd"}},
    }
    (tmp_path / "a.json").write_text(json.dumps(record))
    (found,) = find_segmentations(tmp_path)
    assert (found.case_id, found.path.name, list(found.images)) == ("a", "a.nii.gz", ["flair"])
    assert found.segments == tmp_path / "a.seg.nrrd"


def test_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no"):
        find_segmentations(touch(tmp_path / "cases", "p1/p1_flair.nii.gz"))
    with pytest.raises(InputError, match="does not exist"):
        find_segmentations(tmp_path / "nowhere")


def test_pairs(tmp_path: Path) -> None:
    references = find_segmentations(touch(tmp_path / "r", "a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz", "d.nrrd"))
    first = find_segmentations(touch(tmp_path / "1", "a.nii.gz", "c.nii.gz", "c.nrrd", "e.nii.gz", "d.nii.gz"))
    second = find_segmentations(touch(tmp_path / "2", "a.nii.gz", "b.nii.gz"))
    pairs = {pair.case_id: pair for pair in pair_cases(references, {"one": first, "two": second})}
    assert {name: [c.status for c in pair.candidates.values()] for name, pair in pairs.items()} == {
        "a": [READY, READY], "b": [MISSING, READY], "c": [DUPLICATE, MISSING], "d": [DUPLICATE, DUPLICATE],
        "e": [EXTRA, MISSING],
    }
    assert "c.nii.gz" in pairs["c"].candidates["one"].problem
    assert "2 references" in pairs["d"].candidates["one"].problem
    assert pairs["d"].reference is None
    with pytest.raises(InputError, match="'one' has e"):
        pair_cases(references, {"one": [found for found in first if found.case_id == "e"]})


def test_what_labels_mean(tmp_path: Path) -> None:
    assert [(r.name, r.labels) for r in read_scheme(["Whole tumour=1,2", "core=2"]).regions] == [
        ("Whole tumour", (1, 2)), ("core", (2,)),
    ]
    assert read_scheme(["glioma-nnunet-tiny"]).names == ("Whole tumour", "Tumour core", "Enhancing tumour")
    (tmp_path / "own.json").write_text(json.dumps({"whole": [1, 2], "core": 2}))
    assert read_scheme([str(tmp_path / "own.json")]).names == ("whole", "core")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 1, "ignore": 2}}))
    assert read_scheme([str(tmp_path / "dataset.json")]).names == ("lesion",)
    found = find_segmentations(touch(tmp_path / "labelsTr", "a.nii.gz"))
    scheme = own_scheme(tmp_path / "labelsTr", found)
    assert scheme is not None
    assert scheme.names == ("lesion",)
    assert parse_label_values(["4=3", "2=1"]) == {4: 3, 2: 1}


@pytest.mark.parametrize("words", [["whole=x"], ["whole", "core"], ["=1"], ["a=0"], ["a=1", "a=2"]])
def test_labels_that_mean_nothing(words: list[str]) -> None:
    with pytest.raises(InputError):
        read_scheme(words)
    with pytest.raises(InputError):
        parse_label_values(words)
