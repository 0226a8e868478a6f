"""Cases that travel to workers with their segmentations."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from BrainSegSAMLib.evaluation_inputs import EvaluationSettings
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.pairs import READY, Candidate, FoundSegmentation, Pair
from BrainSegSAMLib.parcels import ParcelEvaluator, Parcels
from BrainSegSAMLib.progress import Progress

SETTINGS = EvaluationSettings(LabelScheme.plain({"lesion": 1}), ("lesion",), ("dice",), pictures=False)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A reference and two predictions, of which "header" and the reference have their voxels in other files."""
    found = {}
    for index, (name, suffix) in enumerate([("reference", ".mhd"), ("header", ".nhdr"), ("whole", ".nii.gz")]):
        labels = np.zeros((6, 7, 8), np.uint8)
        labels[1:4, 1:4, 1 : 4 + index] = 1
        found[name] = tmp_path / "there" / name / f"p1{suffix}"
        found[name].parent.mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(found[name]))
    candidates = {
        name: Candidate(READY, FoundSegmentation("p1", found[name], "p1")) for name in ("header", "whole")
    }
    return Pair("p1", "p1", found["reference"], candidates)


def evaluated_elsewhere(pair: Pair) -> dict[str, dict[str, object]]:
    """What comes out where the files of this machine are not: status, problem and Dice by method."""
    parcel = pickle.loads(pickle.dumps(Parcels([pair])[0]))
    assert pair.reference is not None
    shutil.rmtree(pair.reference.parents[1])
    evaluator = ParcelEvaluator(SETTINGS)
    methods: dict[str, dict[str, object]] = evaluator.compute(evaluator.load(parcel), Progress())["methods"]
    return methods


def test_headers_take_their_voxels_along(pair: Pair) -> None:
    methods = evaluated_elsewhere(pair)
    assert {name: method["problem"] for name, method in methods.items()} == {"header": "", "whole": ""}
    assert methods["header"]["regions"]["lesion"]["metrics"]["dice"] == pytest.approx(2 * 27 / (27 + 36))


def test_what_cannot_be_read_is_a_problem_of_that_method(pair: Pair) -> None:
    """The batch, and the case's other methods, go on."""
    header = pair.candidates["header"].found
    assert header is not None
    header.path.with_suffix(".raw").unlink()
    methods = evaluated_elsewhere(pair)
    assert methods["header"]["status"] == "failed"
    assert "p1.raw cannot be read: No such file" in str(methods["header"]["problem"])
    assert methods["whole"]["status"] == "evaluated"


def test_a_reference_that_cannot_be_read_is_a_problem_of_all(pair: Pair) -> None:
    assert pair.reference is not None
    text = pair.reference.read_text()
    pair.reference.write_text(text.replace("p1.raw", "../elsewhere.raw"))
    methods = evaluated_elsewhere(pair)
    assert {method["status"] for method in methods.values()} == {"failed"}
    assert all("outside its own folder" in str(method["problem"]) for method in methods.values())
