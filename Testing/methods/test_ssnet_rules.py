"""The rules that stop a track, one by one: what each takes away, when it ends the track, and what it records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings, tracking_settings
from BrainSegSAMLib.methods.ssnet.rules import SliceContext, Watch, reach_of

HERE = SliceContext(7, 1.0, (slice(0, 48), slice(0, 56)))

def disc(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:48, :56]
    inside: NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside


def judged(
    mask: NDArray[np.bool_],
    *,
    score: float = 5.0,
    context: SliceContext = HERE,
    before: NDArray[np.bool_] | None = None,
    **settings: Any,
) -> tuple[int, bool, list[tuple[str, bool]]]:
    """Pixels kept, whether the track ended, and (rule, ended there) of those that fired."""
    watch = Watch(1, 1, disc(20, 20, 5) if before is None else before, TrackingSettings(**settings))
    kept, ended = watch.judge(np.where(mask, 3.0, -3.0).astype(np.float32), score, context)
    return int(np.count_nonzero(kept)), ended, [(firing.rule, firing.stopped) for firing in watch.firings]


def test_no_rule_fires_on_a_quiet_slice() -> None:
    mask = disc(21, 20, 5)
    assert judged(mask) == (int(mask.sum()), False, [])


def test_the_object_score_empties_a_slice() -> None:
    assert judged(disc(20, 20, 5), score=0.0) == (0, False, [("object score", False)])
    assert judged(disc(20, 20, 5), score=0.0, object_score=None)[2] == []


def test_so_many_empty_slices_end_a_track() -> None:
    assert judged(disc(20, 20, 5), score=-1.0, empty_slices=1) == (
        0, True, [("object score", False), ("empty", True)]
    )
    watch = Watch(1, 1, disc(20, 20, 5), TrackingSettings(empty_slices=2))
    nothing = np.full((48, 56), -3.0, dtype=np.float32)
    again = np.where(disc(20, 20, 5), 3.0, -3.0).astype(np.float32)
    assert [watch.judge(logits, 5.0, HERE)[1] for logits in (nothing, again, nothing, nothing)] == [
        False, False, False, True
    ]
    endless = Watch(1, 1, disc(20, 20, 5), TrackingSettings(empty_slices=None))
    assert not any(endless.judge(nothing, 5.0, HERE)[1] for _ in range(9))


def test_an_area_jump_ends_a_track() -> None:
    assert judged(disc(20, 20, 14)) == (0, True, [("area", True)])
    assert judged(disc(20, 20, 14), area_factor=None)[1] is False
    few = disc(20, 20, 1)
    assert judged(disc(20, 20, 3), before=few)[1] is False, "an object of a few pixels may grow"
    assert judged(disc(20, 20, 3), before=few, area_growth_mm2=5.0)[1] is True


def test_too_little_overlap_ends_a_track() -> None:
    assert judged(disc(20, 29, 5)) == (0, True, [("overlap", True)])
    assert judged(disc(20, 29, 5), minimum_overlap=None)[1] is False
    assert judged(disc(20, 24, 0))[1] is False, "the tip of an object lies within the slice before"


def test_detached_pieces_are_dropped() -> None:
    attached = disc(20, 21, 5)
    assert judged(attached | disc(40, 40, 3)) == (int(attached.sum()), False, [("detached", False)])
    assert judged(disc(40, 40, 3)) == (0, False, [("detached", False)])
    assert judged(attached | disc(40, 40, 3), drop_detached=False)[2] == []


def test_what_the_prior_finds_improbable_ends_a_track() -> None:
    for probability, ends in ((0.04, True), (0.06, False)):
        context = replace(HERE, probability=np.full((48, 56), probability, dtype=np.float32))
        assert judged(disc(20, 20, 5), context=context)[1] is ends
        assert judged(disc(20, 20, 5), context=context, minimum_probability=None)[1] is False


def test_a_slice_on_which_no_pixel_looks_like_the_object_is_an_empty_one() -> None:
    """Whichever rules are off: the slice after is measured against the last mask that was kept."""
    unlike = replace(HERE, likeness=np.zeros((48, 56), dtype=np.float32))
    alike = replace(HERE, likeness=np.ones((48, 56), dtype=np.float32))
    mask = disc(20, 20, 5)
    off = {"drop_detached": False, "minimum_likeness": None, "pixel_likeness": 0.6}
    assert judged(mask, context=unlike, empty_slices=1, **off) == (0, True, [("unlike", False), ("empty", True)])
    logits = np.where(mask, 3.0, -3.0).astype(np.float32)
    for more in ({}, {"area_factor": None, "object_score": None}):
        watch = Watch(1, 1, mask, TrackingSettings(**off, **more))  # type: ignore[arg-type]
        assert [watch.judge(logits, 5.0, context)[1] for context in (unlike, alike, unlike, unlike)] == [
            False, False, False, True
        ]


def test_pixels_beyond_the_reach_are_dropped() -> None:
    context = replace(HERE, inside=(slice(0, 48), slice(0, 21)))
    kept, ended, fired = judged(disc(20, 20, 5), context=context)
    assert kept == int(disc(20, 20, 5)[:, :21].sum())
    assert (ended, fired) == (False, [("reach", False)])


def test_without_stop_rules_everything_is_kept() -> None:
    mask = disc(20, 40, 14) | disc(5, 5, 2)
    assert judged(mask, score=-3.0, stop_rules=False) == (int(mask.sum()), False, [])


def test_a_firing_says_where_and_by_which_value() -> None:
    watch = Watch(3, -1, disc(20, 20, 5), TrackingSettings())
    watch.judge(np.where(disc(20, 29, 5), 3.0, -3.0).astype(np.float32), 5.0, HERE)
    overlap = np.sum(disc(20, 29, 5) & disc(20, 20, 5)) / np.sum(disc(20, 29, 5))
    assert watch.firings[0].as_dict() == {
        "rule": "overlap", "object_id": 3, "slice_index": 7, "direction": -1, "value": round(float(overlap), 4),
        "limit": 0.1, "stopped": True,
    }


def test_a_prior_gives_a_margin_in_every_direction() -> None:
    grid = Geometry.axis_aligned((40, 50, 60), (2.0, 1.0, 3.0))
    reach = reach_of(((10, 15), (2, 20), (30, 40)), grid, "axial", TrackingSettings(margin_mm=7.0), from_prior=True)
    assert reach.box == ((7, 18), (0, 27), (27, 43))
    assert not reach.thick
    without = reach_of(((10, 15), (2, 20), (30, 40)), grid, "axial", TrackingSettings(margin_mm=None), from_prior=True)
    assert without.box == ((0, 40), (0, 50), (0, 60))
    thick = Geometry.axis_aligned((40, 50, 60), (6.0, 1.0, 1.0))
    for limit, reached in ((4.0, (8, 17)), (None, (0, 40))):
        settings = TrackingSettings(margin_mm=300.0, thick_slice_mm=limit)
        reach = reach_of(((10, 15), (2, 20), (30, 40)), thick, "axial", settings, from_prior=True)
        assert (reach.box[0], reach.thick) == (reached, limit is not None)
    short = reach_of(((10, 15), (2, 20), (30, 40)), thick, "axial", TrackingSettings(), from_prior=True)
    assert (short.box[0], short.beyond_mm, short.thick) == ((9, 16), 6.0, True), "whatever limits it, it is said"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"direction": "sideways"}, "both, forward, backward"),
        ({"range_mm": -1.0}, "range_mm"),
        ({"minimum_overlap": 2.0}, "from 0 to 1"),
        ({"empty_slices": 0}, "empty_slices"),
        ({"area_factor": "much"}, "area_factor"),
        ({"object_score": "low"}, "use a number\\."),
        ({"stop_rules": "False"}, "true or false"),
        ({"drop_detached": 1}, "true or false"),
        ({"batch_size": None}, "batch_size"),
        ({"thick_slice_reach": 2.5}, "whole number of 0 or more"),
        ({"range_mm": float("inf")}, "range_mm"),
        ({"margin_mm": float("nan")}, "margin_mm"),
        ({"nonsense": 1}, "no setting nonsense"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        tracking_settings(values)
