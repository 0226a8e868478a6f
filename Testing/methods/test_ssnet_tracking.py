"""Objects followed through volumes, by a tracker that has no network but the same doors: what the driver must get right
whatever follows the objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.backends.sam2_session import Seed
from BrainSegSAMLib.crops import head_crop
from BrainSegSAMLib.errors import Cancelled, GeometryError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.methods.ssnet.config import TrackingSettings
from BrainSegSAMLib.methods.ssnet.encoded import EncodedSlices
from BrainSegSAMLib.methods.ssnet.rules import prompt_extent, reach_of
from BrainSegSAMLib.methods.ssnet.tracking import ABSENT, Target, Tracked, track
from BrainSegSAMLib.methods.ssnet.zoom import crop_for
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.prompts import Prompt, check_prompt
from Testing.similarity_tracker import Features, Session, SimilarityTracker
from Testing.synthetic_lesions import (
    OBJECT,
    SHAPE,
    Volume,
    dice,
    disc,
    moving_branching_ending,
    on,
    pictured,
    slices_of,
)


def run(
    picture: Volume,
    prompts: list[Prompt],
    *,
    geometry: Geometry | None = None,
    tracker: SimilarityTracker | None = None,
    progress: Progress | None = None,
    probability: NDArray[np.float32] | None = None,
    encoded: EncodedSlices | None = None,
    **settings: Any,
) -> Tracked:
    grid = geometry or Geometry.axis_aligned(picture.shape[1:])  # type: ignore[arg-type]
    chosen = TrackingSettings(**{"zoom_pixels": None, **settings})
    targets = []
    for prompt in prompts:
        check_prompt(prompt, grid)
        extent = prompt_extent(prompt, grid)
        targets.append(Target(prompt, reach_of(extent, grid, prompt.plane, chosen, from_prior=False)))
    return track(
        tracker or SimilarityTracker(), picture, grid, targets, image_size=64, settings=chosen,
        probability=probability, encoded=encoded, progress=progress,
    )


@pytest.mark.parametrize("key", [8, 15, 22])
def test_a_moving_branching_ending_object_is_followed_and_stopped(key: int) -> None:
    truth = moving_branching_ending()
    found = run(pictured(truth), [on(truth, key)]).owner == 1
    assert min(slices_of(found)) >= 5
    assert max(slices_of(found)) <= 31, "at most one slice beyond the object's end"
    if key <= 18:
        assert dice(found, truth) > 0.9
        assert all(dice(found[z], truth[z]) > 0.8 for z in range(6, 31))
    np.testing.assert_array_equal(found[key], truth[key])


def test_an_object_that_runs_into_a_larger_one_of_its_brightness_is_stopped() -> None:
    truth = moving_branching_ending()
    truth[31:] = False
    picture = pictured(truth)
    picture[:, 31:, 4:44, 4:52] = OBJECT
    tracked = run(picture, [on(truth, 22)], direction="forward")
    assert max(slices_of(tracked.owner == 1)) == 30
    assert [(f.rule, f.slice_index, f.stopped) for f in tracked.firings if f.stopped] == [("area", 31, True)]
    loose = run(picture, [on(truth, 22)], direction="forward", stop_rules=False)
    assert max(slices_of(loose.owner == 1)) == 39, "without rules it runs on: the rules are what stops it"


def test_a_flipped_volume_gives_the_flipped_result() -> None:
    truth = moving_branching_ending()
    picture = pictured(truth)
    straight = run(picture, [on(truth, 15)])
    flipped = run(picture[:, ::-1], [on(truth[::-1], 39 - 15)])
    np.testing.assert_array_equal(flipped.owner[::-1], straight.owner)
    np.testing.assert_array_equal(flipped.logits[::-1], straight.logits)


def test_directions_do_not_know_of_each_other() -> None:
    truth = moving_branching_ending()
    picture = pictured(truth)
    both = run(picture, [on(truth, 15)]).owner
    forward = run(picture, [on(truth, 15)], direction="forward").owner
    backward = run(picture, [on(truth, 15)], direction="backward").owner
    assert slices_of(forward > 0)[0] == 15
    assert slices_of(backward > 0)[-1] == 15
    np.testing.assert_array_equal(both, np.maximum(forward, backward))


@pytest.mark.parametrize("index", [0, 20, 39])
def test_an_object_of_one_slice_returns_itself(index: int) -> None:
    truth = np.zeros(SHAPE, dtype=bool)
    truth[index] = disc(20, 30, 5)
    np.testing.assert_array_equal(run(pictured(truth), [on(truth, index)]).owner == 1, truth)


@pytest.mark.parametrize("edge", [0, 39])
def test_an_object_at_the_end_of_the_volume(edge: int) -> None:
    truth = np.zeros(SHAPE, dtype=bool)
    inside = slice(0, 6) if edge == 0 else slice(34, 40)
    truth[inside] = disc(20, 30, 5)
    tracked = run(pictured(truth), [on(truth, edge)])
    assert dice(tracked.owner == 1, truth) > 0.99
    assert all(firing.rule != "reach" for firing in tracked.firings), "the volume's end is no rule"


def test_objects_that_share_slices_and_touch_do_not_merge() -> None:
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[8:20] = 1 * disc(20, 20, 6)
    truth[12:26][:, disc(20, 32, 6)] = 2  # they touch at column 26
    truth[10:22][:, disc(36, 40, 4)] = 3
    picture = pictured(truth == 1, level=200)
    for value, level in ((2, 150), (3, 200)):
        picture[:, truth == value] = level
    tracked = run(picture, [on(truth, 14, number=n) for n in (1, 2, 3)])
    for number in (1, 2, 3):
        assert dice(tracked.owner == number, truth == number) > 0.95
        np.testing.assert_array_equal(tracked.owner[14] == number, truth[14] == number)


def test_the_higher_logit_wins_what_two_objects_claim() -> None:
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[10] = 1 * disc(20, 22, 4) + 2 * (disc(20, 31, 4) & ~disc(20, 22, 4))
    picture = pictured(truth == 9)
    picture[:, 10, truth[10] == 1] = 200
    picture[:, 10, truth[10] == 2] = 220
    picture[:, 11, 18:23, 18:36] = 206  # nearer to the first, in reach of both
    tracked = run(picture, [on(truth, 10, number=n) for n in (1, 2)], direction="forward")
    assert set(np.unique(tracked.owner[11])) == {0, 1}


def test_the_prompt_rules_on_its_slice() -> None:
    """Another object's track may not take away what the user drew, nor the same object's from another prompt."""
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[5:15] = disc(20, 22, 6)
    drawn = np.zeros_like(truth)
    drawn[10] = 2 * disc(20, 22, 3)
    drawn[5] = 1 * (truth[5] > 0)
    tracked = run(pictured(truth), [on(drawn, 5, number=1), on(drawn, 10, number=2)])
    np.testing.assert_array_equal(tracked.owner[10] == 2, drawn[10] == 2)
    again = run(pictured(truth), [on(drawn, 5), replace(on(drawn, 10, number=2), object_id=1)])
    np.testing.assert_array_equal(again.owner[10] == 1, drawn[10] == 2)


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_every_plane_is_tracked_alike(plane: str) -> None:
    truth = moving_branching_ending()
    picture = pictured(truth)
    axes = {"coronal": (1, 0, 2), "sagittal": (1, 2, 0)}[plane]  # the slices' axis moves, the others keep their order
    expected = run(picture, [on(truth, 15)])
    turned = run(
        picture.transpose(0, *[axis + 1 for axis in axes]), [replace(on(truth, 15), plane=plane)]
    )
    np.testing.assert_array_equal(turned.owner, expected.owner.transpose(axes))


def test_prompts_on_several_planes_at_once() -> None:
    truth = np.zeros(SHAPE, dtype=bool)
    truth[10:20, 15:30, 12:25] = True
    prompts = [on(truth, 15), Prompt(2, "sagittal", 18, mask=truth[:, :, 18])]
    tracked = run(pictured(truth), prompts)
    np.testing.assert_array_equal(tracked.owner > 0, truth)
    np.testing.assert_array_equal(tracked.owner[:, :, 18] == 2, truth[:, :, 18])


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(1, "axial", 15, box=(20.0, 20.0, 37.0, 36.0)),
        Prompt(1, "axial", 15, points=((28.0, 28.0), (2.0, 2.0)), point_labels=(1, 0)),
    ],
)
def test_boxes_and_points_are_followed_too(prompt: Prompt) -> None:
    truth = moving_branching_ending()
    found = run(pictured(truth), [prompt]).owner == 1
    assert dice(found, truth) > 0.9


def test_prompts_reach_the_network_half_a_pixel_further() -> None:
    """A prompt's whole numbers are the centres of pixels, the network's are their edges; a crop moves its origin."""
    seeds: list[Seed] = []

    class Recording(SimilarityTracker):
        def begin(self, features: Features, given: Sequence[Seed]) -> Session:
            seeds.extend(given)
            return super().begin(features, given)

    picture = pictured(moving_branching_ending())
    box = Prompt(1, "axial", 15, box=(20.0, 21.0, 37.0, 36.0))
    points = Prompt(1, "axial", 15, points=((28.0, 29.0), (2.0, 3.0)), point_labels=(1, 0))
    run(picture, [box], tracker=Recording(), direction="forward")
    run(picture, [points], tracker=Recording(), direction="forward")
    run(picture, [box], tracker=Recording(), direction="forward", zoom_pixels=32, zoom_minimum_mm=36.0)
    assert seeds[0].box == (20.5, 21.5, 37.5, 36.5)
    assert seeds[1].points == ((28.5, 29.5), (2.5, 3.5))
    assert seeds[2].box == (10.5, 11.5, 27.5, 26.5)


def test_a_range_in_mm_ends_both_ways_and_is_recorded() -> None:
    truth = np.zeros(SHAPE, dtype=bool)
    truth[2:38] = disc(20, 30, 5)
    grid = Geometry.axis_aligned(SHAPE, (1.5, 1.0, 1.0))
    tracked = run(pictured(truth), [on(truth, 20)], geometry=grid, range_mm=9.0)
    assert slices_of(tracked.owner > 0) == list(range(14, 27))
    assert [(f.rule, f.slice_index, f.direction, f.value, f.limit) for f in tracked.firings] == [
        ("reach", 14, -1, 10.5, 9.0), ("reach", 26, 1, 10.5, 9.0)
    ], "in mm: where the next slice lies, and where the limit"


def test_thick_slices_shorten_the_reach_and_it_is_said() -> None:
    truth = np.zeros(SHAPE, dtype=bool)
    truth[2:38] = disc(20, 30, 5)
    grid = Geometry.axis_aligned(SHAPE, (5.0, 1.0, 1.0))
    tracked = run(pictured(truth), [on(truth, 20)], geometry=grid)
    assert slices_of(tracked.owner > 0) == [18, 19, 20, 21, 22]
    assert "5 mm apart" in tracked.notes[0]
    assert "10 mm (2 slices)" in tracked.notes[0]
    thin = Geometry.axis_aligned(SHAPE, (4.0, 1.0, 1.0))
    assert run(pictured(truth), [on(truth, 20)], geometry=thin).notes == ()


def test_what_no_rule_needs_is_never_looked_at() -> None:
    truth = moving_branching_ending()
    tracker = SimilarityTracker()
    run(pictured(truth), [on(truth, 15)], tracker=tracker)
    assert len(tracker.opened) == 1
    assert tracker.opened[0].closed
    assert min(tracker.opened[0].seen) >= 4
    assert max(tracker.opened[0].seen) <= 32


def test_objects_share_the_slices_of_a_plane() -> None:
    truth = moving_branching_ending()
    tracker = SimilarityTracker()
    run(pictured(truth), [on(truth, 15), replace(on(truth, 10), object_id=2)], tracker=tracker)
    assert len(tracker.opened) == 1


def test_a_later_correction_encodes_nothing_anew() -> None:
    truth = moving_branching_ending()
    picture, tracker = pictured(truth), SimilarityTracker()
    expected = run(picture, [on(truth, 20)])
    with EncodedSlices(tracker, picture, TrackingSettings()) as encoded:
        run(picture, [on(truth, 15)], tracker=tracker, encoded=encoded)
        cancelled = Progress()
        cancelled.cancel()
        with pytest.raises(Cancelled):
            run(picture, [on(truth, 15)], tracker=tracker, encoded=encoded, progress=cancelled)
        corrected = run(picture, [on(truth, 20)], tracker=tracker, encoded=encoded)
        assert len(tracker.opened) == 1
        assert not tracker.opened[0].closed
    assert tracker.opened[0].closed
    np.testing.assert_array_equal(corrected.owner, expected.owner)


def test_a_small_object_is_tracked_in_a_crop() -> None:
    truth = np.zeros((20, 240, 200), dtype=bool)
    truth[5:15, 100:103, 2:5] = True
    tracker = SimilarityTracker()
    tracked = run(pictured(truth), [on(truth, 9)], tracker=tracker, zoom_pixels=32)
    np.testing.assert_array_equal(tracked.owner == 1, truth)
    assert tracked.zoomed == (1,)
    assert tracker.opened[0].frames.shape == (20, 3, 32, 32), "no smaller than zoom_minimum_mm, moved off the edge"
    with_box = run(pictured(truth), [Prompt(1, "axial", 9, box=(1.0, 99.0, 5.0, 103.0))], zoom_pixels=32)
    np.testing.assert_array_equal(with_box.owner == 1, truth)


def test_an_object_that_outgrows_its_crop_is_named() -> None:
    truth = np.zeros((20, 120, 120), dtype=bool)
    for z in range(4, 16):
        truth[z] = disc(60, 60, 3 + 2 * (z - 4), truth.shape[1:])
    tracked = run(pictured(truth), [on(truth, 4)], zoom_pixels=16, zoom_minimum_mm=32.0)
    assert max(np.ptp(np.nonzero(tracked.owner)[axis]) for axis in (1, 2)) == 31, "cut off at the crop's edge"
    assert [note.split(" was so small")[0] for note in tracked.notes] == ["Object 1"]
    assert run(pictured(truth), [on(truth, 4)], zoom_pixels=None).notes == ()


def test_a_prompt_that_finds_nothing_is_named() -> None:
    class Blind(SimilarityTracker):
        def begin(self, features: Features, seeds: Sequence[Seed]) -> Session:
            session = super().begin(features, seeds)
            session._prompted = lambda track, picture: np.full(picture.shape, -5.0, np.float32)  # type: ignore[method-assign]
            return session

    truth = moving_branching_ending()
    tracked = run(pictured(truth), [Prompt(1, "axial", 15, box=(20.0, 20.0, 37.0, 36.0))], tracker=Blind())
    assert not tracked.owner.any()
    assert [note.split(" found nothing")[0] for note in tracked.notes] == ["The prompt of object 1 on axial slice 15"]


WHOLE = (slice(0, 240), slice(0, 200))


def test_the_network_sees_the_head_and_not_the_black_around_it() -> None:
    picture = np.zeros((3, 10, 60, 80), dtype=np.uint8)
    picture[1, 2:5, 20:40, 30:44] = 7
    assert head_crop(picture, "axial") == (slice(16, 44), slice(23, 51)), "square, with a margin"
    assert head_crop(picture, "coronal") == (slice(0, 10), slice(26, 48)), "as high as the volume allows"
    assert head_crop(picture * 0, "axial") == (slice(0, 60), slice(0, 80)), "nothing to see: all of it"
    beyond = Prompt(1, "axial", 3, box=(60.0, 22.0, 70.0, 30.0))
    rows, columns = head_crop(picture, "axial", [beyond])
    assert columns == slice(26, 74)
    assert rows == slice(6, 54)
    outside = Prompt(1, "axial", 3, points=((2.0, 50.0),), point_labels=(1,))
    rows, columns = head_crop(picture, "axial", [outside])
    assert rows.stop >= 51
    assert columns.start == 0


def test_the_crop_gives_the_object_the_size_that_was_asked_for() -> None:
    mask = disc(120, 100, 5, (240, 200))
    settings = TrackingSettings(zoom_pixels=32, zoom_minimum_mm=1.0)
    prompt = Prompt(1, "axial", 0, mask=mask)
    crop = crop_for(prompt, (240, 200), (1.0, 1.0), head=WHOLE, image_size=256, settings=settings)
    assert crop is not None
    assert 11 * 256 / (crop[0].stop - crop[0].start) == pytest.approx(32, rel=0.02)
    assert mask[crop].sum() == mask.sum()
    anisotropic = crop_for(prompt, (240, 200), (1.0, 2.0), head=WHOLE, image_size=256, settings=settings)
    assert anisotropic is not None
    rows, columns = (part.stop - part.start for part in anisotropic)
    assert rows == pytest.approx(2 * columns, abs=1), "square in millimetres"
    assert crop_for(prompt, (240, 200), (1.0, 1.0), head=WHOLE, image_size=1024, settings=settings) is None
    greedy = crop_for(
        prompt, (240, 200), (1.0, 1.0), head=WHOLE, image_size=256, settings=replace(settings, zoom_pixels=900)
    )
    assert greedy is not None
    assert greedy[0].stop - greedy[0].start == 22, "at least twice the object, so that it fits and may grow"
    points = Prompt(1, "axial", 0, points=((1.0, 1.0),), point_labels=(1,))
    assert crop_for(points, (240, 200), (1.0, 1.0), head=WHOLE, image_size=256, settings=settings) is None


def test_cancelling_frees_the_features() -> None:
    truth = moving_branching_ending()
    tracker = SimilarityTracker()
    progress = Progress(lambda update: progress.cancel() if update.done == 3 else None)
    with pytest.raises(Cancelled):
        run(pictured(truth), [on(truth, 15)], tracker=tracker, progress=progress)
    assert tracker.opened[0].closed
    assert len(tracker.opened[0].seen) < 12


def test_progress_reaches_its_end() -> None:
    truth = moving_branching_ending()
    fractions: list[float] = []
    run(pictured(truth), [on(truth, 15)], progress=Progress(lambda update: fractions.append(update.fraction)))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_prompts_are_checked_first() -> None:
    truth = moving_branching_ending()
    grid = Geometry.axis_aligned(SHAPE)
    target = Target(on(truth, 15), reach_of(prompt_extent(on(truth, 15), grid), grid, "axial", TrackingSettings(),
                                            from_prior=False))
    ras = Geometry(SHAPE[::-1], (1, 1, 1), (0, 0, 0), np.diag([-1.0, -1.0, 1.0]))
    with pytest.raises(GeometryError, match="RAS"):
        track(SimilarityTracker(), pictured(truth), ras, [target], image_size=64, settings=TrackingSettings())


def test_absent_is_below_any_logit() -> None:
    truth = moving_branching_ending()
    tracked = run(pictured(truth), [on(truth, 15)])
    assert np.all(tracked.logits[34:] == ABSENT)
    assert np.all((tracked.logits > 0) == (tracked.owner > 0))
