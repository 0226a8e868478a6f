"""Scores of boxes: by hand where they are plain, and against pycocotools and Ultralytics."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib.boxes import SliceBox, iou
from BrainSegSAMLib.metrics.detection import MOST_BOXES, THRESHOLDS, DetectionScore, score_boxes, share_found
from Testing.metric_cases import boxes

BOX = (10.0, 10.0, 20.0, 20.0)


def test_all_found_nothing_else() -> None:
    known = [SliceBox(index, BOX) for index in range(4)]
    found = [SliceBox(index, BOX, 0, 0.9) for index in range(4)]
    score = score_boxes([(found, known)])
    assert (score.precision, score.recall) == (1.0, 1.0)
    assert (score.map50, score.map50_95) == (1.0, 1.0)
    assert share_found([(found, known)]) == 1.0


def test_a_box_that_fits_by_half_counts_at_low_thresholds_only() -> None:
    score = score_boxes([([SliceBox(0, (10.0, 10.0, 20.0, 16.2), 0, 0.9)], [SliceBox(0, BOX)])])
    assert score.map50 == 1.0
    assert score.map50_95 == pytest.approx(sum(t <= 0.62 for t in THRESHOLDS) / 10)


def test_a_known_box_is_claimed_once_and_by_its_kind() -> None:
    known = [SliceBox(0, BOX, 1)]
    twice = [SliceBox(0, BOX, 1, 0.9), SliceBox(0, BOX, 1, 0.8)]
    assert score_boxes([(twice, known)]).map50 == 1.0
    other = [SliceBox(0, BOX, 0, 0.9), SliceBox(3, BOX, 1, 0.9)]
    assert score_boxes([(other, known)]).map50 == 0.0
    assert share_found([(other, known)]) == 0.0


def test_beyond_a_hundred_boxes_of_a_kind_on_a_slice_none_is_looked_at() -> None:
    nothing = [SliceBox(0, (0.0, 0.0, 1.0, 1.0), 0, 0.9)] * MOST_BOXES
    late = SliceBox(0, BOX, 0, 0.5)
    assert score_boxes([([*nothing, late], [SliceBox(0, BOX)])]).map50 == 0.0
    assert score_boxes([([*nothing[1:], late], [SliceBox(0, BOX)])]).map50 == pytest.approx(0.01)
    other_kind = [SliceBox(0, (0.0, 0.0, 1.0, 1.0), 1, 0.9)] * MOST_BOXES
    assert score_boxes([([*other_kind, late], [SliceBox(0, BOX)])]).map50 == 1.0


def test_nothing_known_or_nothing_found() -> None:
    assert score_boxes([([SliceBox(0, BOX)], [])]) == DetectionScore(0.0, 0.0, 0.0, 0.0, 0.0)
    assert score_boxes([([], [SliceBox(0, BOX)])]).map50 == 0.0
    for nothing in ([], [([], [])]):
        assert score_boxes(nothing) == DetectionScore(1.0, 1.0, 1.0, 1.0, 0.0), "as of two empty masks"
    assert share_found([([], [])]) == 1.0


def test_the_average_precision_of_pycocotools() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text(encoding="utf-8"))["boxes"]
    drawn = boxes()
    found = [SliceBox(index, box, kind, confidence) for index, kind, confidence, box in drawn if confidence]
    known = [SliceBox(index, box, kind) for index, kind, confidence, box in drawn if not confidence]
    score = score_boxes([(found, known)])
    assert (score.map50, score.map50_95) == pytest.approx((recorded["map50"], recorded["map50_95"]), abs=1e-9)


def drawn_case(rng: np.random.Generator) -> tuple[list[SliceBox], list[SliceBox]]:
    """Known boxes of two kinds, most of them found with an error, and others that are nothing."""
    known, found = [], []
    for index in range(12):
        for _ in range(int(rng.integers(0, 4))):
            corner, size = rng.uniform(0, 60, 2), rng.uniform(5, 30, 2)
            box = np.concatenate([corner, corner + size])
            kind = int(rng.integers(2))
            known.append(SliceBox(index, tuple(box.tolist()), kind))
            for _ in range(int(rng.integers(0, 3))):
                moved = box + rng.normal(0, 2, 4)
                found.append(SliceBox(index, tuple(moved.tolist()), kind, float(rng.uniform(0.2, 1))))
        for _ in range(int(rng.integers(0, 3))):
            corner, size = rng.uniform(0, 60, 2), rng.uniform(5, 30, 2)
            box = np.concatenate([corner, corner + size])
            found.append(SliceBox(index, tuple(box.tolist()), int(rng.integers(2)), float(rng.uniform(0, 0.8))))
    return found, known


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_precision_and_recall_as_ultralytics(seed: int) -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("The outside oracle is of the extra [detection].")
    import torch

    from BrainSegSAMLib.backends.yolo_package import ultralytics

    ultralytics()
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import ap_per_class

    rng = np.random.default_rng(seed)
    cases = [drawn_case(rng) for _ in range(3)]
    validator = BaseValidator.__new__(BaseValidator)
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    right, confidences, kinds, known_kinds = [], [], [], []
    for found, known in cases:
        for index in range(12):
            of = sorted((item for item in found if item.index == index), key=lambda item: -item.confidence)
            to = [item for item in known if item.index == index]
            shared = torch.from_numpy(iou([item.box for item in to], [item.box for item in of]))
            of_kinds, to_kinds = (torch.tensor([item.kind for item in items]) for items in (of, to))
            if of:
                none = torch.zeros((len(of), 10), dtype=torch.bool)
                right.append(validator.match_predictions(of_kinds, to_kinds, shared) if to else none)
            confidences += [item.confidence for item in of]
            kinds += [item.kind for item in of]
            known_kinds += [item.kind for item in to]
    _, _, p, r, _, ap, *_ = ap_per_class(
        torch.cat(right).numpy(), np.array(confidences), np.array(kinds), np.array(known_kinds)
    )
    score = score_boxes(cases)
    assert 0.3 < score.map50 < 0.95
    assert (score.precision, score.recall) == pytest.approx((p.mean(), r.mean()), abs=1e-6)
    # Ultralytics joins the points of recall by trapezia; see pycocotools' numbers for ours.
    assert (score.map50, score.map50_95) == pytest.approx((ap[:, 0].mean(), ap.mean()), abs=0.01)
