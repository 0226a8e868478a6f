"""Votes made into one mask, against their definitions and SimpleITK's own STAPLE; and lesions told apart."""

from __future__ import annotations

import time

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.methods.ssnet.config import ENSEMBLES
from BrainSegSAMLib.methods.ssnet.ensemble import agreement_map, combine, lesion_agreements
from BrainSegSAMLib.methods.ssnet.lesions import find_lesions, key_slice

VOTES = hnp.arrays(bool, st.tuples(st.integers(1, 5), st.just(3), st.just(4), st.just(5)))


@given(VOTES)
def test_majority_union_and_intersection_are_what_their_names_say(votes: np.ndarray) -> None:
    masks = list(votes)
    np.testing.assert_array_equal(combine(masks, "union"), votes.any(axis=0))
    np.testing.assert_array_equal(combine(masks, "intersection"), votes.all(axis=0))
    np.testing.assert_array_equal(combine(masks, "majority"), votes.mean(axis=0) > 0.5)
    np.testing.assert_array_equal(agreement_map(masks), votes.sum(axis=0))


@given(VOTES, st.randoms(use_true_random=False), st.sampled_from(ENSEMBLES))
def test_the_order_of_votes_does_not_matter_and_nothing_is_invented(votes: np.ndarray, random, rule: str) -> None:
    masks = list(votes)
    logits = [np.where(mask, 4.0, -3.0).astype(np.float32) for mask in masks]
    result = combine(masks, rule, logits=logits)
    if rule != "staple":  # which of several equally likely explanations it finds depends on rounding
        order = list(range(len(masks)))
        random.shuffle(order)
        again = combine([masks[i] for i in order], rule, logits=[logits[i] for i in order])
        np.testing.assert_array_equal(again, result)
    assert not (result & ~votes.any(axis=0)).any(), "no voxel that nobody voted for"
    assert not (~result & votes.all(axis=0)).any(), "every voxel that all voted for"


@pytest.mark.parametrize("rule", ENSEMBLES)
def test_one_vote_decides_alone(rule: str) -> None:
    mask = np.random.default_rng(0).random((4, 5, 6)) > 0.5
    logits = [np.where(mask, 2.0, -2.0).astype(np.float32)]
    np.testing.assert_array_equal(combine([mask], rule, logits=logits), mask)


def test_a_mean_of_logits_weighs_the_unsure_less() -> None:
    sure, unsure, absent = np.float32([[[8.0]]]), np.float32([[[-1.0]]]), np.float32([[[-1024.0]]])
    vote = [sure > 0, unsure > 0]
    assert combine(vote, "mean_logit", logits=[sure, unsure]).all()
    assert not combine([sure > 0, absent > 0], "mean_logit", logits=[sure, absent]).any()
    three = [sure * 2, absent, sure]
    assert combine([one > 0 for one in three], "mean_logit", logits=three).all(), "absence outweighs no two others"


def test_staple_is_simpleitks() -> None:
    random = np.random.default_rng(3)
    truth = np.zeros((12, 20, 20), dtype=bool)
    truth[3:9, 5:15, 5:15] = True
    masks = [np.where(random.random(truth.shape) < noise, ~truth, truth) for noise in (0.02, 0.05, 0.3)]
    filter_ = sitk.STAPLEImageFilter()
    filter_.SetForegroundValue(1.0)
    probability = sitk.GetArrayFromImage(
        filter_.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks])
    )
    wider = [np.pad(mask, ((20, 5), (9, 30), (0, 7))) for mask in masks]
    result = combine(wider, "staple")[20:-5, 9:-30, :-7]
    np.testing.assert_array_equal(result, probability >= 0.5)
    assert np.mean(result == truth) > np.mean(masks[2] == truth)
    assert len(filter_.GetSensitivity()) == 3


def test_staple_of_nothing_is_nothing() -> None:
    assert not combine([np.zeros((3, 4, 5), dtype=bool)] * 3, "staple").any()


def test_staple_of_equal_votes_is_each_of_them_however_large() -> None:
    everywhere = np.ones((3, 4, 5), dtype=bool)
    assert combine([everywhere] * 3, "staple").all()
    half = np.arange(60).reshape(3, 4, 5) < 30
    np.testing.assert_array_equal(combine([half] * 3, "staple"), half)


def test_staple_takes_its_time_in_the_votes_alone() -> None:
    mask = np.zeros((155, 240, 240), dtype=bool)
    mask[60:70, 100:110, 90:100] = True
    started = time.process_time()
    combine([mask, np.roll(mask, 2, 1), np.roll(mask, 3, 2)], "staple")
    assert time.process_time() - started < 5, "of the whole volume it takes a minute or two"


@pytest.mark.parametrize(("masks", "rule", "says"), [(1, "best", "majority"), (0, "union", "at least one")])
def test_what_cannot_be_combined_is_refused(masks: int, rule: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        combine([np.zeros((2, 2, 2), dtype=bool)] * masks, rule)


def test_agreement_of_lesions_is_the_mean_of_pairwise_dice() -> None:
    first, second, third = (np.zeros((2, 4, 6), dtype=np.int32) for _ in range(3))
    first[0, :2, :2] = 1  # 4 voxels
    second[0, :2, :4] = 1  # 8, of which 4 shared
    third[0, 0, :2] = 1  # 2, shared with both
    first[1], second[1], third[1] = 2, 2, 2
    agreements = lesion_agreements([first, second, third], 3)
    assert agreements[0] == pytest.approx(np.mean([8 / 12, 4 / 6, 4 / 10]))
    assert agreements[1] == 1.0
    assert agreements[2] == 1.0, "in none of them"


def test_a_lesion_that_another_one_took_is_no_agreement() -> None:
    first, second = np.ones((1, 2, 2), dtype=np.int32), np.full((1, 2, 2), 2, dtype=np.int32)
    np.testing.assert_array_equal(lesion_agreements([first, second], 2), [0.0, 0.0])


def test_lesions_touch_at_corners_and_know_their_place() -> None:
    mask = np.zeros((10, 12, 14), dtype=bool)
    mask[1, 2, 3] = mask[2, 3, 4] = True  # one oblique lesion of two voxels
    mask[4:8, 5:9, 6:10] = True
    mask[5, 4:10, 6:12] = True
    labels, lesions = find_lesions(mask, (2.0, 1.0, 1.0), plane="axial", minimum_volume_mm3=5.0)
    assert [(one.number, one.voxels, one.volume_mm3, one.tracked) for one in lesions] == [
        (1, 2, 4.0, False), (2, 84, 168.0, True)
    ]
    assert lesions[1].box == ((4, 8), (4, 10), (6, 12))
    assert lesions[1].key_index == 5
    np.testing.assert_array_equal(labels > 0, mask)
    assert find_lesions(np.zeros_like(mask), (1, 1, 1), plane="axial", minimum_volume_mm3=0)[1] == []


def test_a_lesion_of_exactly_the_smallest_volume_is_tracked() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, :3] = True
    assert find_lesions(mask, (0.1, 0.1, 0.1), plane="axial", minimum_volume_mm3=0.003)[1][0].tracked


@pytest.mark.parametrize(("plane", "expected"), [("axial", 3), ("coronal", 2), ("sagittal", 1)])
def test_of_equal_slices_the_middle_one_is_key(plane: str, expected: int) -> None:
    mask = np.zeros((7, 5, 3), dtype=bool)
    mask[1:6, 1:4, :] = True  # all slices of each plane alike
    assert key_slice(mask, plane) == expected


def test_of_two_middle_slices_the_more_conspicuous_one_is_key_however_the_volume_is_stored() -> None:
    mask = np.zeros((8, 9, 9), dtype=bool)
    mask[2:6, 2:6, 2:6] = True
    mask[2, 2:6, 5] = mask[5, 2:6, 5] = False  # 12, 16, 16 and 12 voxels
    content = np.random.default_rng(3).random(mask.shape).astype(np.float32)
    content[4, 4, 4] += 5
    content[3, 0, 0] += 99  # beside the lesion: of no account
    for volume, shown, expected in ((mask, content, 4), (mask[::-1], content[::-1], 3)):
        _, (lesion,) = find_lesions(volume, (1, 1, 1), plane="axial", minimum_volume_mm3=0, content=shown)
        assert lesion.key_index == expected
        assert key_slice(volume, "axial", content=shown) == expected
    assert key_slice(mask, "axial") == 3
    mask[5, 2:6, 2:5] = False  # now slice 3 is nearer to the middle, whatever the content
    assert key_slice(mask, "axial", content=content) == 3
