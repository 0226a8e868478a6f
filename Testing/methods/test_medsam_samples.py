"""Slices, objects and boxes for training, and baselines that need no network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from BrainSegSAMLib.backends.sam_architecture import SamArchitecture
from BrainSegSAMLib.backends.sam_grid import prepare
from BrainSegSAMLib.boxes import box_around
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.yolo_medsam.baselines import BASELINES, ellipse, filled, otsu
from BrainSegSAMLib.methods.yolo_medsam.loss import mask_loss
from BrainSegSAMLib.methods.yolo_medsam.sam_config import SamTrainingConfig
from BrainSegSAMLib.methods.yolo_medsam.sam_validation import by_pixels, score_volumes
from BrainSegSAMLib.methods.yolo_medsam.samples import (
    draw_pieces,
    draw_slices,
    jittered_boxes,
    on_square,
    training_slices,
)
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.training_volumes import BRAIN, TrainingVolume, make_volume

SHAPE = (10, 30, 40)
CONFIG = SamTrainingConfig(trained="all", views=0, minimum_object_mm3=0, minimum_pixels=4)
SMALL = SamArchitecture.from_dict({"image_size": 64, "patch_size": 8, "width": 32, "pictures": "window"})
SCHEME = LabelScheme.plain({"lesion": 1, "other": 2})


def volume(config: SamTrainingConfig = CONFIG) -> TrainingVolume:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:6, 8:16, 10:20] = 1
    labels[4:8, 20:25, 30:36] = 2
    labels[9, 28, 38] = 1  # too few pixels to be learned
    grey = np.random.default_rng(0).uniform(50, 60, SHAPE) + 100 * (labels > 0)
    image = Image(Geometry.axis_aligned(SHAPE), {"a": grey.astype(np.float32)}, "v")
    return make_volume(image, labels, ["a"], SCHEME, config.volumes)


# ---- slices ---------------------------------------------------------------------------------------------------------


def test_slices_that_show_an_object_are_learned_from() -> None:
    slices = training_slices(volume(), CONFIG, weight=1.0)
    assert [item.index for item in slices] == [2, 3, 4, 5, 6, 7]
    assert [len(item.pieces) for item in slices] == [1, 1, 2, 2, 1, 1]
    np.testing.assert_array_equal(slices[2].masks([1])[0], volume().truth[1][4])
    assert slices[2].frame.shape == (3, 30, 40)
    coronal = replace(CONFIG, plane="coronal")
    slices = training_slices(volume(coronal), coronal, weight=1.0)
    assert [item.index for item in slices] == [*range(8, 16), *range(20, 25)]


def test_weights_of_regions_and_volumes_decide_what_is_drawn() -> None:
    config = replace(CONFIG, region_weights=(1.0, 3.0), boxes_per_slice=1)
    slices = training_slices(volume(), config, weight=0.5)
    assert [item.weight for item in slices] == [0.5, 0.5, 1.5, 1.5, 1.5, 1.5]
    rng = np.random.default_rng(0)
    drawn = draw_slices(slices, 700, rng)
    assert 60 <= sum(number < 2 for number in drawn) <= 140
    regions = [slices[2].pieces[draw_pieces(slices[2], config, rng)[0]].region for _ in range(400)]
    assert 260 <= sum(regions) <= 340
    none = training_slices(volume(), replace(CONFIG, region_weights=(0.0, 1.0)), weight=1.0)
    assert [item.index for item in none] == [4, 5, 6, 7]
    with pytest.raises(InputError, match="shows an object to learn"):
        draw_slices(training_slices(volume(), CONFIG, weight=0.0), 1, rng)


def test_boxes_are_dropped_but_never_all() -> None:
    slices = training_slices(volume(), CONFIG, weight=1.0)
    rng = np.random.default_rng(0)
    assert {len(draw_pieces(slices[2], CONFIG, rng)) for _ in range(20)} == {2}
    half = replace(CONFIG, dropped_boxes=0.5)
    assert {len(draw_pieces(slices[2], half, rng)) for _ in range(50)} == {1, 2}


def test_the_brain_is_an_object_when_asked_for() -> None:
    config = replace(CONFIG, brain_weight=1.0)
    (piece,) = [piece for piece in volume(config).objects if piece.region == BRAIN]
    assert piece.mask.mean() > 0.98
    assert len(training_slices(volume(config), config, weight=1.0)) == SHAPE[0]


@pytest.mark.parametrize("pictures", ["window", "medsam", "sam"])
def test_picture_and_objects_fit_each_other_on_the_square(pictures: str) -> None:
    architecture = replace(SMALL, pictures=pictures)
    item = training_slices(volume(), CONFIG, weight=1.0)[2]
    for rng in (None, np.random.default_rng(1)):
        config = replace(CONFIG, augmentation_probability=1.0, intensity_change=0.05)
        picture, masks = on_square(item, [0, 1], config, architecture, rng)
        assert picture.shape == (3, 64, 64)
        both = masks.any(0)
        around = picture[0][~both].median().clamp(min=0.0)  # SAM's padding is 0, brighter than the tissue here
        bright = picture[0] > (picture[0][both].mean() + around) / 2
        assert (bright & both).sum() / (bright | both).sum() > 0.75


def test_changes_of_a_slice_do_not_depend_on_its_objects() -> None:
    """Features of a changed slice are kept once for all objects, so one that is pushed out of sight moves nothing."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[:, 0:3, 0:3] = 1
    labels[:, 12:18, 18:24] = 2
    grey = np.random.default_rng(0).uniform(50, 60, SHAPE) + 100 * (labels > 0)
    image = Image(Geometry.axis_aligned(SHAPE), {"a": grey.astype(np.float32)}, "v")
    config = replace(CONFIG, augmentation_probability=1.0, largest_zoom=1.5, translation=0.1)
    item = training_slices(make_volume(image, labels, ["a"], SCHEME, config.volumes), config, weight=1.0)[5]
    unseen = 0
    for seed in range(12):
        drawn = [on_square(item, [n], config, SMALL, np.random.default_rng(seed)) for n in range(2)]
        assert drawn[0][0].equal(drawn[1][0])
        _, both = on_square(item, [0, 1], config, SMALL, np.random.default_rng(seed), masks_only=True)
        assert both.equal(torch.cat([drawn[0][1], drawn[1][1]]))
        unseen += int(not both[0].any())
    assert 0 < unseen < 12


@pytest.mark.parametrize("pictures", ["window", "medsam", "sam"])
def test_an_unchanged_picture_is_that_of_prediction(pictures: str) -> None:
    architecture = replace(SMALL, pictures=pictures)
    item = training_slices(volume(), CONFIG, weight=1.0)[2]
    picture, _ = on_square(item, [0], CONFIG, architecture, None)
    assert picture.equal(prepare(item.frame[None], architecture)[0])


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_boxes_move_within_their_bounds() -> None:
    masks = torch.zeros(2, 256, 256, dtype=torch.bool)
    masks[0, 60:120, 100:180] = True
    masks[1, 0:4, 0:4] = True
    config = replace(CONFIG, box_jitter=40.0, box_jitter_inward=20.0)  # 10 and 5 pixels of 256
    still = replace(CONFIG, box_jitter=0.0)
    assert jittered_boxes(masks, still, np.random.default_rng(0)).tolist() == [[100, 60, 180, 120], [0, 0, 4, 4]]
    rng = np.random.default_rng(0)
    drawn = torch.stack([jittered_boxes(masks, config, rng) for _ in range(200)]).numpy()
    outwards = (drawn[:, 0] - [100, 60, 180, 120]) * [-1, -1, 1, 1]
    assert outwards.min() >= -5
    assert outwards.max() <= 10
    assert outwards.min() < -4
    assert outwards.max() > 9
    small = drawn[:, 1]
    assert small.min() >= 0
    assert (small[:, 2:] - small[:, :2]).min() >= 2, "a quarter of the box on each side at most"


# ---- loss -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_dice_with_squares_and_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 6)).astype(np.float32)
    target = (rng.random((3, 5, 6)) > 0.5).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    shared, total = (p * target).sum((1, 2)), (p**2 + target**2).sum((1, 2))
    dice = 1 - (2 * shared + 1e-5) / (total + 1e-5)
    entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    parts = mask_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert float(parts["dice"]) == pytest.approx(np.mean(dice), rel=1e-5)
    assert float(parts["bce"]) == pytest.approx(entropy, rel=1e-5)
    assert float(parts["total"]) == pytest.approx(np.mean(dice) + entropy, rel=1e-5)


# ---- baselines ------------------------------------------------------------------------------------------------------


def test_baselines_fill_the_box_or_part_of_it() -> None:
    picture = np.full((20, 30), 10, dtype=np.uint8)
    picture[5:11, 8:20] = 90
    picture[0, 0] = 255
    mask = picture == 90
    box = box_around(mask)
    np.testing.assert_array_equal(filled(box, picture), mask)
    wider = (box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2)
    np.testing.assert_array_equal(otsu(wider, picture), mask)
    np.testing.assert_array_equal(otsu(box, picture), mask)  # one grey value
    round_ = ellipse(box, picture)
    assert not (round_ & ~mask).any()
    assert round_.sum() / mask.sum() == pytest.approx(np.pi / 4, abs=0.05)


def test_baselines_are_scored_as_networks_are() -> None:
    made = volume()
    scores = {
        name: score_volumes(
            by_pixels(rule, 0, "axial"), [made], {1: "other"}, plane="axial", fold=0, progress=Progress()
        )
        for name, rule in BASELINES.items()
    }
    assert scores["filled box"][0].dice == {"other": 1.0}
    assert scores["Otsu"][0].dice["other"] is not None
    ellipse_dice = scores["ellipse"][0].dice["other"]
    assert ellipse_dice is not None
    assert 0.8 < ellipse_dice < 0.95
