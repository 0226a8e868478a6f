"""Clips for training: where they lie, what they show, prompts, and how they are changed at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.augmentation import augmented, on_grid
from BrainSegSAMLib.backends.sam2_forward import prepare
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.ssnet.clips import Clip, corrective_click, draw_clip, draw_slices, jittered_box
from BrainSegSAMLib.methods.ssnet.tracker_config import TrackerTrainingConfig
from BrainSegSAMLib.prompts import PLANES
from BrainSegSAMLib.training_volumes import MADE_UP, TrainingVolume, made_up_mask, make_volume, objects_of

SHAPE = (20, 30, 40)
CONFIG = TrackerTrainingConfig(
    clip_length=5, largest_step=2, minimum_object_mm3=8, single_modality_probability=0, augmentation_probability=0
)
SCHEME = LabelScheme.plain({"lesion": 1, "other": 2})


def on_the_network(clip: Clip, config: TrackerTrainingConfig, size: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return augmented(clip.shown, clip.masks, config.changes, lambda frames: prepare(frames, size), rng)


def labels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    found = np.zeros(SHAPE, dtype=np.uint8)
    found[6:14, 8:16, 10:20] = 1
    found[2:5, 20:25, 30:36] = 2
    found[18, 28, 38] = 1  # too small to be an object
    return found


def volume(case_id: str = "a", *, geometry: Geometry | None = None) -> TrainingVolume:
    truth = labels()
    # Each voxel's red is its slice, green its row, blue its column: a frame tells where it is from.
    z, y, x = np.meshgrid(*[np.arange(1, n + 1, dtype=np.float32) for n in SHAPE], indexing="ij")
    image = Image(geometry or Geometry.axis_aligned(SHAPE), {"a": z, "b": y, "c": x}, case_id)
    config = replace(CONFIG, lower_percentile=0, upper_percentile=100)
    return make_volume(image, truth, ["a", "b", "c"], SCHEME, config.volumes)


def test_objects_are_the_large_pieces_and_truth_holds_all() -> None:
    made = volume()
    assert [(item.region, int(item.mask.sum())) for item in made.objects] == [(0, 640), (1, 90)]
    assert made.truth[0].sum() == 641
    np.testing.assert_array_equal(made.objects[1].inside(SHAPE), labels() == 2)
    assert objects_of(0, labels() == 1, Geometry.axis_aligned(SHAPE, (2.0, 1.0, 1.0)), minimum_mm3=1281) == []


def test_made_up_objects_follow_the_image_in_part() -> None:
    rng = np.random.default_rng(4)
    channel = rng.integers(90, 110, (40, 60, 60)).astype(np.uint8)
    channel[:, :30] += 60
    channel[:, :, :10] = 0
    first, second = made_up_mask(channel, rng), made_up_mask(channel, rng)
    assert first.any()
    assert not first[channel == 0].any()
    assert first[:, :30].sum() > 2 * first[:, 30:].sum(), "more of what is bright"
    assert (first & second).sum() < 0.5 * first.sum(), "chance decides, too"
    assert not made_up_mask(channel * 0, rng).any()


def test_without_regions_clips_show_made_up_objects_alone() -> None:
    rng = np.random.default_rng(0)
    shape = (24, 48, 48)
    image = Image(Geometry.axis_aligned(shape), {"a": rng.uniform(50, 99, shape).astype(np.float32)}, "a")
    truth = np.zeros(shape, dtype=np.uint8)
    truth[4:9, 10:20, 10:20] = 1
    config = replace(CONFIG, made_up_weight=1.0)
    made = make_volume(image, truth, ["a"], SCHEME, config.volumes)
    again = make_volume(image, truth, ["a"], SCHEME, config.volumes)
    kinds = [item.region for item in made.objects]
    assert kinds[0] == 0
    assert set(kinds[1:]) == {MADE_UP}
    assert [item.box for item in made.objects] == [item.box for item in again.objects]
    lesion = made.objects[0].inside(shape)
    for _ in range(10):
        clip = draw_clip([made], [1.0], config.without_regions(2), rng)
        assert not any(np.array_equal(mask[0], part) for mask in clip.masks for part in lesion if part.any())


def test_clips_show_the_head_alone() -> None:
    image = np.zeros((12, 50, 60), dtype=np.float32)
    image[2:10, 20:36, 10:22] = np.random.default_rng(0).uniform(1, 2, (8, 16, 12))
    truth = np.zeros(image.shape, dtype=np.uint8)
    truth[4:8, 24:30, 12:18] = 1
    pictured = Image(Geometry.axis_aligned(image.shape), {"a": image}, "a")
    made = make_volume(pictured, truth, ["a"], SCHEME, CONFIG.volumes)
    clip = draw_clip([made], [1.0], replace(CONFIG, planes={"axial": 1.0}), np.random.default_rng(1))
    assert clip.frames.shape == (5, 3, 24, 24)
    assert clip.masks.shape == (1, 5, 24, 24)
    assert clip.masks[0, 0].sum() == 36
    assert clip.frames[0, 0][clip.masks[0, 0]].min() > 0


def test_a_volume_stored_otherwise_is_turned_first() -> None:
    stored = Geometry((40, 30, 20), (1.0, 1.0, 1.0), (39.0, 29.0, 0.0), np.diag([-1.0, -1.0, 1.0]))
    turned = volume(geometry=stored)
    np.testing.assert_array_equal(turned.truth[0], (labels() == 1)[:, ::-1, ::-1])


@pytest.mark.parametrize("plane", list(PLANES))
@pytest.mark.parametrize("directions", ["forward", "backward", "random", "both"])
def test_slices_run_from_the_object_in_equal_steps(plane: str, directions: str) -> None:
    axis, item = PLANES[plane], volume().objects[0]
    config = replace(CONFIG, directions=directions)
    rng = np.random.default_rng(1)
    signs, steps = set(), set()
    for _ in range(60):
        indices = draw_slices(item, axis, SHAPE, config, rng)
        assert item.box[axis].start <= indices[0] < item.box[axis].stop
        assert item.slices(axis, indices, SHAPE)[0].any()
        moves = np.diff(indices)
        assert indices.min() >= 0
        assert indices.max() < SHAPE[axis]
        inside = moves[(indices[1:] > 0) & (indices[1:] < SHAPE[axis] - 1)]
        assert len(set(inside)) <= 1
        signs |= set(np.sign(inside).tolist())
        steps |= set(np.abs(inside).tolist())
    expected = {"forward": {1}, "backward": {-1}, "random": {1, -1}, "both": {1, -1}}[directions]
    assert signs == expected
    assert steps == {1, 2}


@pytest.mark.parametrize("directions", ["random", "both"])
def test_clips_end_beyond_either_end_of_the_object_when_asked_to(directions: str) -> None:
    item = volume().objects[0]
    config = replace(CONFIG, end_probability=1.0, directions=directions)
    ends = set()
    for seed in range(30):
        indices = draw_slices(item, 0, SHAPE, config, np.random.default_rng(seed))
        assert not item.slices(0, indices, SHAPE)[-1].any()
        ends.add(bool(indices[-1] > indices[0]))
    assert ends == {True, False}


def test_a_clip_shows_its_slices_and_objects() -> None:
    config = replace(CONFIG, planes={"axial": 1.0}, directions="forward", region_weights=(1.0, 0.0))
    clip = draw_clip([volume()], [1.0], config, np.random.default_rng(3))
    assert clip.frames.shape == (5, 3, 30, 40)
    assert clip.frames.dtype == np.uint8
    position = np.rint(clip.frames[:, 0, 0, 0] / 255 * 19).astype(int)
    np.testing.assert_array_equal(clip.masks[0], (labels() == 1)[position] & (position < 18)[:, None, None])
    assert clip.orders()[0] == (0, (0, 1, 2, 3, 4))


def test_objects_of_a_region_without_weight_are_never_in_a_clip() -> None:
    lesion = volume().objects[0]
    pair = replace(volume(), objects=(lesion, replace(lesion, region=1)))
    for weights, expected in (((1.0, 0.0), 1), ((1.0, 1.0), 2)):
        config = replace(CONFIG, objects_per_clip=2, region_weights=weights)
        assert len(draw_clip([pair], [1.0], config, np.random.default_rng(0)).masks) == expected


def test_both_ways_begin_where_the_object_shows() -> None:
    masks = np.zeros((2, 3, 4, 4), dtype=bool)
    masks[:, 0], masks[1, 2] = True, True
    clip = Clip("a", np.zeros((3, 3, 4, 4), dtype=np.uint8), masks, both=True)
    assert clip.orders() == [(0, (0, 1, 2)), (1, (0, 1, 2)), (1, (2, 1, 0))]
    assert len(replace(clip, both=False).orders()) == 2


def test_cases_are_drawn_by_weight_and_never_others() -> None:
    empty = replace(volume("empty"), objects=())
    rng = np.random.default_rng(0)
    drawn = [
        draw_clip([volume("a"), volume("b"), empty], [3.0, 1.0, 5.0], CONFIG, rng).case_id for _ in range(80)
    ]
    assert set(drawn) == {"a", "b"}
    assert 45 <= drawn.count("a") <= 75
    with pytest.raises(InputError, match="None of the training cases has an object"):
        draw_clip([empty], [1.0], CONFIG, rng)
    other_region = replace(CONFIG, region_weights=(0.0, 1.0))
    without = replace(volume(), objects=volume().objects[:1])
    with pytest.raises(InputError, match="None of the training cases has an object"):
        draw_clip([without], [1.0], other_region, rng)


def test_the_same_seed_gives_the_same_clip() -> None:
    first, second = (draw_clip([volume()], [1.0], CONFIG, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.masks, second.masks)


def test_boxes_move_within_their_bounds() -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[8:16, 10:30] = True
    assert jittered_box(mask, 0.0, np.random.default_rng(0)) == (10, 8, 30, 16)
    rng = np.random.default_rng(0)
    boxes = np.array([jittered_box(mask, 0.25, rng) for _ in range(200)])
    moved = np.abs(boxes - [10, 8, 30, 16])
    assert (moved <= [5, 2, 5, 2]).all()
    assert (moved.max(axis=0) > [4.5, 1.8, 4.5, 1.8]).all()
    whole = np.ones((6, 6), dtype=bool)
    assert all(0 <= side <= 6 for _ in range(20) for side in jittered_box(whole, 0.5, rng))


def test_clicks_lie_where_the_answer_is_wrong() -> None:
    wanted = np.zeros((8, 8), dtype=bool)
    wanted[2:5, 2:5] = True
    lacking, too_much = wanted.copy(), wanted.copy()
    lacking[3, 4] = False
    too_much[7, 1] = True
    rng = np.random.default_rng(0)
    assert corrective_click(lacking, wanted, rng) == ((4.5, 3.5), 1)
    assert corrective_click(too_much, wanted, rng) == ((1.5, 7.5), 0)
    (column, row), label = corrective_click(wanted, wanted, rng)
    assert label == 1
    assert wanted[int(row), int(column)]


def test_a_pixel_keeps_showing_on_a_coarse_grid() -> None:
    mask = np.zeros((2, 64, 64), dtype=bool)
    mask[0, 10, 10] = True
    found = on_grid(mask, 16)
    assert found.shape == (2, 16, 16)
    assert found[0].sum() >= 1
    assert not found[1].any()


@pytest.mark.parametrize("seed", range(4))
def test_changed_clips_keep_picture_and_mask_together(seed: int) -> None:
    """The object is the only bright thing, and stays the only bright thing."""
    mask = np.zeros((1, 3, 40, 40), dtype=bool)
    mask[:, :, 14:24, 12:30] = True
    frames = np.repeat(np.where(mask[0], 200, 20).astype(np.uint8)[:, None], 3, axis=1)
    config = replace(CONFIG, augmentation_probability=1.0, intensity_change=0.1, rotation_degrees=30)
    images, masks = on_the_network(Clip("a", frames, mask), config, 64, seed)
    assert images.shape == (3, 3, 64, 64)
    assert masks.shape == (1, 3, 64, 64)
    assert masks[0, 0].any()
    bright = images[:, 0] > (images[:, 0].max() + images[:, 0].min()) / 2
    both = (bright & masks[0]).sum() / (bright | masks[0]).sum()
    assert both > 0.9
    plain, _ = on_the_network(Clip("a", frames, mask), CONFIG, 64, seed)
    assert not plain.equal(images)


def test_one_modality_alone_fills_all_channels() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 3, 32, 32), dtype=np.uint8)
    clip = Clip("a", frames, np.ones((1, 2, 32, 32), dtype=bool), single=1)
    images, _ = on_the_network(clip, CONFIG, 32, 0)
    red, green = images[:, 0] * 0.229 + 0.485, images[:, 1] * 0.224 + 0.456
    np.testing.assert_allclose(red, green, atol=1e-5)
    np.testing.assert_allclose(green, frames[:, 1] / 255, atol=1e-5)
