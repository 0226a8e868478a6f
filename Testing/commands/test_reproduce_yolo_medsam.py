"""The paper's tables beside ours: on ellipsoids, with stand-ins for both networks, so that the numbers are known."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib import cli
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.yolo_medsam.composing import compose
from BrainSegSAMLib.methods.yolo_medsam.detector import Detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectionSettings
from BrainSegSAMLib.methods.yolo_medsam.detector_training import TITLE as DETECTOR_TABLE
from BrainSegSAMLib.methods.yolo_medsam.sam_validation import SLICE_TITLE, TITLE
from BrainSegSAMLib.methods.yolo_medsam.segmenter import Segmenter
from BrainSegSAMLib.models.store import Model, load_model, write_model
from BrainSegSAMLib.reproduce import yolo_medsam
from Testing.box_stand_ins import BrightBoxes, Ellipses, ellipsoid

GRID = Geometry.axis_aligned((20, 40, 50), (3.0, 0.8, 1.2))


@pytest.fixture
def source(tmp_path: Path, write_case: Callable[..., Path]) -> Path:
    for number, name in enumerate(("a", "b")):
        truth = ellipsoid((10.0, 18.0, 22.0 + number), (5.5, 9.5, 12.5), GRID.shape_zyx)
        flair = np.where(truth, 200.0, 50.0).astype(np.float32)
        arrays = {"flair": flair, "seg": truth.astype(np.float32) * 4}
        write_case(tmp_path / "cases" / name, GRID, modalities=("flair", "seg"), arrays=arrays)
    return tmp_path / "cases"


@pytest.fixture
def composed(tmp_path: Path, random_segmenter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose two parts are replaced by stand-ins when they are loaded."""
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(b"stand-in")
    table = {"columns": ["case", "fold", "P", "R", "mAP50", "mAP50-95", "found"], "note": "Large ones only.",
             "rows": [["mean", None, 0.5, 0.4, 0.3, 0.2, 0.1]]}  # fmt: skip
    write_model(
        Model(folder, "boxer", "Boxer", "yolo_detector", ("flair",), LabelScheme.plain({"lesion": 1}), "MIT",
              results={DETECTOR_TABLE: table}, training={"cases": ["b", "c"], "settings": {"split": "slice"}}),
        files=["weights.pt"],
    )  # fmt: skip
    made = compose(folder, random_segmenter, tmp_path / "both")

    def detector(model: Model, **_: Any) -> Detector:
        return Detector(model, BrightBoxes(), DetectionSettings(), 0.5, 99.5)  # type: ignore[arg-type]

    def segmenter(model: Model, **_: Any) -> Segmenter:
        return Segmenter(model, Ellipses(), 0.5, 99.5)  # type: ignore[arg-type]

    monkeypatch.setattr(yolo_medsam, "load_detector", detector)
    monkeypatch.setattr(yolo_medsam, "load_segmenter", segmenter)
    return made.folder


def reproduce(model: Path, source: Path, output: Path, *more: str) -> int:
    return cli.main(
        ["reproduce", "yolo_medsam", "--model", str(model), "--input", str(source), "--output", str(output), "--device",
         "cpu", *more]
    )  # fmt: skip


def test_the_papers_tables_stand_beside_what_is_measured(
    composed: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "numbers.json"
    assert reproduce(composed, source, output, "--label-values", "4=1") == 0
    shown = capsys.readouterr().out
    left_out = r"left out in training: boxer, split by slices +0\.500    0\.400    0\.300"
    assert re.search(left_out, shown)
    assert "Left out in training, boxer, split by slices: Large ones only." in shown
    for expected in ("0.861", "0.889", "measured, 2 cases", "boxer has learned from b"):
        assert expected in shown
    numbers = json.loads(output.read_text())
    assert numbers["detection"]["map50"] == pytest.approx(0.995, abs=0.01), "COCO's 101 points end at the last box"
    assert numbers["detection"]["share_found"] == 1.0
    dice = {(row["case_id"], row["masks"], row["boxes"]): row["dice"] for row in numbers["dice"]}
    for case_id in ("a", "b"):
        for boxes in ("true boxes", "found boxes"):
            assert dice[case_id, "random-segmenter", boxes] == dice[case_id, "ellipse", boxes] > 0.93
            assert dice[case_id, "Otsu", boxes] > 0.99, "the lesion is all that is bright"
            assert dice[case_id, "filled box", boxes] == pytest.approx(0.89, abs=0.02)
    assert numbers["learned_from"] == {"boxer": ["b"], "random-segmenter": []}


def test_segmenters_are_compared_and_other_models_refused(
    composed: Path, source: Path, random_model: Path, random_segmenter: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(random_segmenter, tmp_path / "before")
    other = write_model(replace(load_model(tmp_path / "before"), name="before"))
    output = tmp_path / "numbers.json"
    assert reproduce(composed, source, output, "--label-values", "4=1", "--compare", str(other.folder)) == 0
    shown = capsys.readouterr().out
    assert "measured: lesion, before" in shown
    assert "left out in training: lesion" not in shown, "nothing was"
    trained = {"columns": ["case", "fold", "lesion", "core"], "note": "As it was.",
               "rows": [["a", 0, 0.7, None], ["mean", None, 0.7, None]]}  # fmt: skip
    tables = {SLICE_TITLE: trained, TITLE: {**trained, "rows": [["mean", None, 0.6, 0.5]]}}
    write_model(replace(other, results=tables))
    assert reproduce(composed, source, output, "--label-values", "4=1", "--compare", str(other.folder)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"left out in training: lesion, before, split by slices +0\.700 +–", shown)
    assert re.search(r"left out in training: lesion, before, split by patients +0\.600 +–", shown)
    assert re.search(r"left out in training: core, before, split by patients +0\.500 +–", shown)
    assert "Left out in training, before, split by slices: As it was." in shown
    assert json.loads(output.read_text())["own_dice"]["before, split by slices"] == trained
    shutil.copytree(random_segmenter, tmp_path / "alike")
    namesake = replace(load_model(tmp_path / "alike"), modalities=("flair",))
    write_model(namesake)
    for more, says in (
        (["--compare", str(random_model)], "is neither"),
        (["--compare", str(namesake.folder)], "Two of the models are called 'random-segmenter'"),
        (["--label-values", "4"], "pairs of numbers as 4=3"),
        (["--label-values", "7=1"], "holds the label 4"),
        (["--labels", "1"], "takes neither --labels"),
    ):
        assert reproduce(composed, source, output, *more) == 2
        assert says in capsys.readouterr().err
    assert reproduce(random_segmenter, source, output) == 2
    assert "has no detector" in capsys.readouterr().err
