"""Boxes on slices: around lesions, compared, checked, and linked into lesions."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.boxes import LinkSettings, SliceBox, box_around, boxes_of, check_boxes, iou, link
from BrainSegSAMLib.components import label_components
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.prompts import Box

SQUARE: Box = (10.0, 10.0, 20.0, 20.0)


def shifted(by: float, box: Box = SQUARE) -> Box:
    return (box[0] + by, box[1], box[2] + by, box[3])


def column(slices: range | list[int], box: Box = SQUARE, *, kind: int = 0, confidence: float = 1.0) -> list[SliceBox]:
    return [SliceBox(index, box, kind, confidence) for index in slices]


def test_a_box_reaches_to_the_outer_edges_of_its_pixels() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[2, 3] = True
    assert box_around(mask) == (2.5, 1.5, 3.5, 2.5)
    mask[4, 7] = True
    assert box_around(mask) == (2.5, 1.5, 7.5, 4.5)
    with pytest.raises(InputError, match="empty mask"):
        box_around(np.zeros((6, 8), dtype=bool))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_each_component_has_one_box_on_each_slice_that_shows_it(plane: str) -> None:
    volume = np.zeros((8, 9, 10), dtype=bool)
    volume[1:4, 2, 2:5] = True  # a handle that joins two legs:
    volume[4:6, 2, 2] = volume[4:6, 2, 4] = True
    volume[1:3, 7, 8] = True
    components, count = label_components(volume)
    assert count == 2
    moved = np.moveaxis(components, 0, {"axial": 0, "coronal": 1, "sagittal": 2}[plane])
    boxes = boxes_of(np.ascontiguousarray(moved), plane, kind=3)
    assert [item.index for item in boxes] == [1, 1, 2, 2, 3, 4, 5]
    assert {item.kind for item in boxes} == {3}
    assert boxes[-1].box == (1.5, 1.5, 4.5, 2.5), "one box, though the slice cuts the handle into two legs"
    larger = boxes_of(np.ascontiguousarray(moved), plane, minimum_pixels=3)
    assert [item.index for item in larger] == [1, 2, 3]


def test_iou_of_boxes_is_that_of_the_masks_they_hold() -> None:
    rng = np.random.default_rng(3)
    masks = []
    for _ in range(12):
        rows, columns = np.sort(rng.choice(30, 2, replace=False)), np.sort(rng.choice(40, 2, replace=False))
        mask = np.zeros((30, 40), dtype=bool)
        mask[rows[0] : rows[1], columns[0] : columns[1]] = True
        masks.append(mask)
    boxes = [box_around(mask) for mask in masks]
    wanted = [[np.count_nonzero(a & b) / np.count_nonzero(a | b) for b in masks[:5]] for a in masks]
    np.testing.assert_allclose(iou(boxes, boxes[:5]), wanted, atol=1e-12)
    assert iou([], boxes).shape == (0, 12)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (SliceBox(9, SQUARE), "case_a: slice 9 does not exist; there are slices 0 to 4"),
        (SliceBox(-1, SQUARE), "does not exist"),
        (SliceBox(1, (20.0, 10.0, 10.0, 20.0)), "0 before 1"),
        (SliceBox(1, (10.0, 10.0, 10.0, 20.0)), "0 before 1"),
        (SliceBox(1, (10.0, 10.0, float("nan"), 20.0)), "0 before 1"),
        (SliceBox(1, (10.0, 10.0, float("inf"), 20.0)), "0 before 1"),
        (SliceBox(1, (10.0, 10.0, 30.0, 20.0)), r"leaves the slice of \(30, 30\)"),
        (SliceBox(1, (40.0, 40.0, 50.0, 50.0)), "leaves the slice"),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused(item: SliceBox, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_boxes([item], slices=5, shape=(30, 30), name="case_a")


def test_boxes_at_the_edge_pass() -> None:
    check_boxes([SliceBox(4, (-0.5, -0.5, 29.5, 29.5))], slices=5, shape=(30, 30), name="case_a")


# ---- linking ------------------------------------------------------------------------------------------------------


def test_a_lesion_that_wanders_is_one_track() -> None:
    boxes = [SliceBox(index, shifted(2.0 * index), 0, 0.5 + 0.1 * (index % 2)) for index in range(6)]
    (track,) = link(reversed(boxes))
    assert track.slices == (0, 5)
    assert track.boxes == tuple(boxes)
    assert track.box == (10.0, 10.0, 30.0, 20.0)
    assert track.confidence == pytest.approx(0.55)


def test_what_shows_on_one_slice_alone_is_dropped_unless_asked_for() -> None:
    boxes = [*column(range(3)), SliceBox(8, SQUARE), SliceBox(1, (50.0, 50.0, 60.0, 60.0))]
    assert [track.slices for track in link(boxes)] == [(0, 2)]
    assert len(link(boxes, LinkSettings(minimum_slices=1))) == 3
    assert link([]) == ()


def test_a_gap_of_one_slice_is_filled_in_between() -> None:
    boxes = [SliceBox(3, SQUARE, 1, 0.8), SliceBox(5, shifted(2.0), 1, 0.6)]
    (track,) = link(boxes)
    assert [item.index for item in track.boxes] == [3, 4, 5]
    assert track.boxes[1] == SliceBox(4, shifted(1.0), 1, 0.0)
    assert track.confidence == pytest.approx(0.7), "of what was found, not of what was filled in"
    assert link(boxes, LinkSettings(largest_gap=0)) == ()
    apart = [*column([0, 1]), *column([4, 5])]
    assert [track.slices for track in link(apart)] == [(0, 1), (4, 5)]
    assert [track.slices for track in link(apart, LinkSettings(largest_gap=2))] == [(0, 5)]


def test_kinds_are_never_linked_with_each_other() -> None:
    boxes = [*column(range(4), kind=0), *column(range(2, 6), kind=1)]
    assert sorted((track.kind, *track.slices) for track in link(boxes)) == [(0, 0, 3), (1, 2, 5)]


def test_a_jump_begins_a_new_lesion() -> None:
    boxes = [*column(range(3)), *column(range(3, 6), shifted(30.0))]
    assert sorted(track.slices for track in link(boxes)) == [(0, 2), (3, 5)]


def test_two_lesions_that_pass_close_to_each_other_keep_their_boxes() -> None:
    """Taking the best pair first would give the right box to the left track and leave the other two unpaired."""
    left, right = (0.0, 0.0, 10.0, 10.0), (4.0, 0.0, 14.0, 10.0)
    later_left, later_right = (2.5, 0.0, 12.5, 10.0), (8.0, 0.0, 18.0, 10.0)
    boxes = [SliceBox(0, left), SliceBox(0, right), SliceBox(1, later_left), SliceBox(1, later_right)]
    found = {track.boxes[0].box: track.boxes[1].box for track in link(boxes, LinkSettings(minimum_iou=0.1))}
    assert found == {left: later_left, right: later_right}


def test_tracks_come_by_confidence() -> None:
    boxes = [*column(range(3), confidence=0.3), *column(range(3), shifted(40.0), confidence=0.9)]
    assert [track.confidence for track in link(boxes)] == pytest.approx([0.9, 0.3])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"minimum_iou": 0.0}, "minimum_iou is 0.0; it must be above 0"),
        ({"minimum_iou": float("nan")}, "minimum_iou"),
        ({"largest_gap": -1}, "largest_gap is -1"),
        ({"minimum_slices": 0}, "minimum_slices is 0"),
    ],
)
def test_settings_that_cannot_be_used(values: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        LinkSettings(**values)  # type: ignore[arg-type]
