"""Metrics of masks: by closed formulas, by properties that must hold, and on what outside packages say of the same."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.metrics import (
    ISLES_STROKE,
    METRICS,
    LesionRules,
    dice,
    highest_mean_dice,
    iou,
    measure,
    measure_case,
)
from BrainSegSAMLib.metrics.lesions import _dilated
from BrainSegSAMLib.metrics.surface import border
from Testing.metric_cases import ball, box, pairs

SPACING = (3.0, 0.5, 1.25)
SHARES = [key for key, metric in METRICS.items() if metric.highest == 1]
DISTANCES = ["hd", "hd95", "asd", "assd"]
RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text(encoding="utf-8"))


# ---- outside packages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pairs())
def test_the_numbers_of_outside_packages(name: str) -> None:
    """MONAI computes in float32, so its numbers hold to 1e-6 of their size; all others to 1e-9."""
    pair = pairs()[name]
    found = measure(
        pair.reference, pair.prediction, spacing_zyx_mm=pair.spacing_zyx_mm, tolerance_mm=pair.tolerance_mm
    )
    for call, value in RECORDED["masks"][name].items():
        close = {"rel": 1e-6, "abs": 1e-7} if "monai" in call else {"abs": 1e-9}
        assert found[call.partition(" = ")[0]] == pytest.approx(value, **close), call
    for key in ("lesion_dice", "lesion_false_positives", "lesion_false_negatives"):
        assert found[key] == pytest.approx(RECORDED["lesions"][name][key], abs=1e-9), key


# ---- closed formulas -------------------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    reference = box((4, 5, 10), (1, 1, 1), (3, 3, 5))  # 16 voxels
    prediction = box((4, 5, 10), (1, 1, 3), (3, 4, 7))  # 24 voxels, 8 of them shared
    found = measure(reference, prediction, spacing_zyx_mm=SPACING)
    expected = {
        "dice": 16 / 40, "iou": 8 / 32, "precision": 8 / 24, "recall": 8 / 16, "f1": 16 / 40,
        "specificity": (200 - 16 - 16) / (200 - 16), "volume_difference": 8 * 1.875 / 1000,
        "volume_similarity": 1 - 8 / 40,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_a_shifted_box_has_the_distances_of_its_faces() -> None:
    """One box moved by 2 voxels of 1.25 mm: its two faces across x are off by as much, all else touches."""
    reference, prediction = box((9, 20, 30), (2, 5, 5), (7, 15, 17)), box((9, 20, 30), (2, 5, 7), (7, 15, 19))
    found = measure(reference, prediction, spacing_zyx_mm=SPACING, tolerance_mm=2.5)
    assert found["hd"] == found["hd95"] == pytest.approx(2.5)
    assert found["nsd"] == 1.0
    # 5·10 voxels of a face, and the next ring (26 voxels), are outside the other's border; nearest along x or the
    # thin axis y, whichever is shorter.
    assert 0 < found["asd"] < 2.5 * (50 + 26) / np.count_nonzero(border(prediction)) + 1e-9
    assert found["asd"] == pytest.approx(found["assd"])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_shells_of_balls(spacing) -> None:
    """Concentric balls: every way is the difference of the radii, to a voxel's diagonal."""
    shape = tuple(int(44 / step) | 1 for step in spacing)
    centre = [(size - 1) / 2 for size in shape]
    small, large = (ball(shape, centre, radius, spacing) for radius in (12.0, 18.0))
    found = measure(small, large, spacing_zyx_mm=spacing, tolerance_mm=1.0)
    diagonal = math.dist(spacing, (0, 0, 0))
    for key in DISTANCES:
        assert found[key] == pytest.approx(6.0, abs=diagonal), key
    assert found["nsd"] == 0.0
    assert found["dice"] == pytest.approx(2 * 12**3 / (12**3 + 18**3), abs=0.02)
    assert measure(small, large, spacing_zyx_mm=spacing, tolerance_mm=6 + diagonal)["nsd"] == 1.0


def test_distances_are_those_of_a_distance_transform() -> None:
    pair = pairs()["waves"]
    of_reference, of_prediction = border(pair.reference), border(pair.prediction)
    cross = ndimage.generate_binary_structure(3, 1)
    assert (of_reference == (pair.reference & ~ndimage.binary_erosion(pair.reference, cross))).all()
    to_prediction = ndimage.distance_transform_edt(~of_prediction, sampling=pair.spacing_zyx_mm)[of_reference]
    to_reference = ndimage.distance_transform_edt(~of_reference, sampling=pair.spacing_zyx_mm)[of_prediction]
    found = measure(pair.reference, pair.prediction, spacing_zyx_mm=pair.spacing_zyx_mm, metrics=DISTANCES)
    assert found["hd"] == pytest.approx(max(to_prediction.max(), to_reference.max()))
    assert found["hd95"] == pytest.approx(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95)))
    assert found["asd"] == pytest.approx(to_reference.mean())
    assert found["assd"] == pytest.approx(np.concatenate([to_prediction, to_reference]).mean())


@pytest.mark.parametrize("step", [0.7, 0.9375, 1.1])
def test_a_distance_of_exactly_the_tolerance_is_within_it(step: float) -> None:
    """Whatever the rounding of n·step; a slab moved by one, two, three voxels at as many steps of tolerance."""
    reference = box((4, 4, 40), (0, 0, 11), (4, 4, 23))
    for voxels in (1, 2, 3):
        moved = np.roll(reference, voxels, axis=2)
        tolerance = voxels * step
        spacing = (50.0, 50.0, step)
        assert measure(reference, moved, spacing_zyx_mm=spacing, tolerance_mm=tolerance)["nsd"] == 1.0
        assert measure(reference, moved, spacing_zyx_mm=spacing, tolerance_mm=0.99 * tolerance)["nsd"] < 1.0


def test_the_surface_of_a_box_has_its_area() -> None:
    """Half of a long box's surface is beyond the tolerance where the other box is half as long."""
    long, short = box((8, 8, 200), (2, 2, 10), (6, 6, 190)), box((8, 8, 200), (2, 2, 10), (6, 6, 100))
    found = measure(long, short, spacing_zyx_mm=(1.0, 1.0, 1.0), tolerance_mm=1.0)
    assert found["nsd"] == pytest.approx(2 * 90 / (90 + 180), abs=0.02)


def test_centre_lines_of_tubes_and_components() -> None:
    whole = box((11, 11, 60), (3, 3, 5), (8, 8, 55))
    cut = whole.copy()
    cut[:, :, 20:40] = False
    found = measure(whole, cut, spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert found["betti0_error"] == 1
    # All of the pieces' lines are in the whole, and about 30/50 of the whole's are in the pieces.
    assert found["cl_dice"] == pytest.approx(2 * 0.6 / 1.6, abs=0.05)
    assert measure(whole, ball((11, 11, 60), (0, 0, 0), 1.5), spacing_zyx_mm=(1.0, 1.0, 1.0))["cl_dice"] == 0.0


def test_lesions_by_hand() -> None:
    shape = (20, 40, 40)
    first, satellite = box(shape, (2, 2, 2), (8, 8, 8)), box(shape, (2, 2, 10), (4, 4, 12))
    second, tiny = box(shape, (12, 30, 30), (18, 36, 36)), box(shape, (2, 36, 2), (4, 38, 4))
    reference = first | satellite | second | tiny
    found_first, invented = box(shape, (2, 2, 2), (8, 8, 5)), box(shape, (16, 2, 30), (18, 4, 32))
    found = measure(reference, found_first | invented, spacing_zyx_mm=(1.0, 1.0, 1.0))
    # The satellite, 2 voxels away, is one lesion with the first; the tiny one (8 mm³) does not count.
    assert found["lesion_dice"] == pytest.approx((2 * 108 / (108 + 216 + 8) + 0) / 3)
    assert (found["lesion_false_positives"], found["lesion_false_negatives"]) == (1, 1)
    assert found["lesion_f1"] == pytest.approx(2 / (2 + 1 + 1))
    alone = measure(reference, found_first | invented, spacing_zyx_mm=(1.0, 1.0, 1.0), lesions=ISLES_STROKE)
    assert (alone["lesion_false_negatives"], alone["lesion_f1"]) == (3, pytest.approx(2 / 6))
    assert measure(tiny, np.zeros_like(tiny), spacing_zyx_mm=(1.0, 1.0, 1.0))["lesion_dice"] == 1.0


def test_dilation_without_end_is_one_lesion() -> None:
    """It ends where nothing is left to grow into."""
    shape = (6, 30, 30)
    reference = box(shape, (1, 1, 1), (5, 6, 6)) | box(shape, (1, 24, 24), (5, 29, 29))
    rules = LesionRules(dilation_voxels=10**9, ignored_mm3=0)
    found = measure(reference, np.zeros_like(reference), spacing_zyx_mm=(1.0, 1.0, 1.0), lesions=rules)
    assert found["lesion_false_negatives"] == 1
    for wrong in ({"dilation_voxels": -1}, {"ignored_mm3": -1.0}, {"ignored_mm3": math.nan}, {"ignored_mm3": math.inf}):
        with pytest.raises(InputError, match="must be"):
            LesionRules(**wrong)


def test_steps_of_dilation() -> None:
    mask = np.random.default_rng(0).random((9, 8, 10)) < 0.02
    eighteen = ndimage.generate_binary_structure(3, 2)
    for steps in (1, 3):
        assert (_dilated(mask, steps) == ndimage.binary_dilation(mask, eighteen, iterations=steps)).all()


def test_no_mean_dice_is_above_that_of_equal_cases() -> None:
    values = np.random.default_rng(0).random((200, 8))
    assert ((2 * values / (1 + values)).mean(axis=1) <= highest_mean_dice(values.mean(axis=1))).all()
    assert highest_mean_dice(0.569) == pytest.approx(0.7253, abs=1e-4)


# ---- properties ------------------------------------------------------------------------------------------------------

shapes = st.tuples(*[st.integers(1, 9)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 1.25, 3.0])] * 3)


@st.composite
def masks(draw, count: int = 2):
    shape, seed = draw(shapes), draw(st.integers(0, 2**32 - 1))
    density = draw(st.sampled_from([0.05, 0.3, 0.7, 1.0]))
    random = np.random.default_rng(seed)
    return [random.random(shape) < density for _ in range(count)]


def without(found, *keys):
    return {key: value for key, value in found.items() if key not in keys}


def equal(first, second) -> bool:
    return first == pytest.approx(second, abs=1e-9)


@given(masks(), spacings)
def test_bounds_and_relations(pair, spacing) -> None:
    found = measure(*pair, spacing_zyx_mm=spacing)
    assert list(found) == list(METRICS)
    for key, value in found.items():
        metric = METRICS[key]
        assert value is None or metric.lowest <= value <= metric.highest, key
        assert value is not None or metric.undefined, key
    assert found["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]))
    assert found["f1"] == pytest.approx(found["dice"])
    assert (found["dice"], found["iou"]) == (dice(*pair), iou(*pair))
    if found["hd"] is not None:
        assert found["asd"] <= found["hd"] + 1e-9
        assert found["assd"] <= found["hd"] + 1e-9
        assert found["hd95"] <= found["hd"] + 1e-9


@given(masks(1), spacings)
def test_a_mask_agrees_with_itself(one, spacing) -> None:
    found = measure(one[0], one[0].copy(), spacing_zyx_mm=spacing)
    assert all(value == (1.0 if key in SHARES else 0.0) for key, value in without(found, "specificity").items()), found
    assert found["specificity"] in (1.0, None)


@given(masks(), spacings)
def test_symmetry(pair, spacing) -> None:
    one, other = (measure(*order, spacing_zyx_mm=spacing) for order in (pair, pair[::-1]))
    lopsided = [key for key in METRICS if key.startswith("lesion_")] + ["asd", "specificity"]
    swapped = {**other, "precision": other["recall"], "recall": other["precision"],
               "volume_difference": -other["volume_difference"]}  # fmt: skip
    assert equal(without(one, *lopsided), without(swapped, *lopsided))


@given(masks(), spacings, st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_permuted_and_flipped_axes(pair, spacing, order, flips) -> None:
    """Centre lines depend on the order of the axes (see `topology`); nothing else does."""
    turned = [
        np.ascontiguousarray(mask.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)])
        for mask in pair
    ]
    one = measure(*pair, spacing_zyx_mm=spacing)
    other = measure(*turned, spacing_zyx_mm=tuple(spacing[axis] for axis in order))
    assert equal(without(one, "cl_dice"), without(other, "cl_dice"))


@given(masks(), spacings, st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3))
def test_moved_within_a_larger_grid(pair, spacing, margins) -> None:
    padded = [np.pad(mask, margins) for mask in pair]
    one, other = (measure(*masks, spacing_zyx_mm=spacing) for masks in (pair, padded))
    assert equal(without(one, "specificity"), without(other, "specificity"))


@given(masks(), spacings, st.sampled_from([0.5, 2.0]))
def test_millimetres_scale(pair, spacing, factor) -> None:
    assume(all(mask.any() for mask in pair))
    larger = tuple(factor * step for step in spacing)
    one = measure(*pair, spacing_zyx_mm=spacing, metrics=[*DISTANCES, "nsd", "volume_difference"])
    other = measure(*pair, spacing_zyx_mm=larger, metrics=list(one), tolerance_mm=factor)
    assert equal({key: one[key] * factor for key in DISTANCES}, {key: other[key] for key in DISTANCES})
    assert other["volume_difference"] == pytest.approx(one["volume_difference"] * factor**3)
    assert other["nsd"] == pytest.approx(one["nsd"])


# ---- the policy for empty masks, and bad input -----------------------------------------------------------------------


def test_neither_has_a_voxel() -> None:
    nothing = np.zeros((3, 4, 5), dtype=bool)
    assert measure(nothing, nothing, spacing_zyx_mm=SPACING) == {
        key: 1.0 if key in SHARES else 0.0 for key in METRICS
    }


@pytest.mark.parametrize("empty_first", [True, False])
def test_exactly_one_has(empty_first: bool) -> None:
    nothing, something = np.zeros((9, 9, 9), dtype=bool), box((9, 9, 9), (2, 2, 2), (7, 7, 7))
    found = measure(*(nothing, something) if empty_first else (something, nothing), spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert all(found[key] is None for key in DISTANCES)
    assert all(METRICS[key].undefined for key in DISTANCES)
    shares = {key: found[key] for key in SHARES if key != "specificity"}
    assert shares == dict.fromkeys(shares, 0.0)
    assert found["specificity"] == (pytest.approx(1 - 125 / 729) if empty_first else 1.0)
    assert found["volume_difference"] == pytest.approx(0.125 if empty_first else -0.125)
    assert (found["lesion_false_positives"], found["lesion_false_negatives"]) == ((1, 0) if empty_first else (0, 1))
    assert found["betti0_error"] == 1


def test_no_background() -> None:
    full = np.ones((3, 3, 3), dtype=bool)
    found = measure(full, box((3, 3, 3), (0, 0, 0), (3, 3, 2)), spacing_zyx_mm=SPACING)
    assert found["specificity"] is None
    assert METRICS["specificity"].undefined


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reference": np.zeros((3, 3, 3), np.uint8)}, "uint8"),
        ({"prediction": np.full((3, 3, 3), np.nan)}, "float64"),
        ({"prediction": np.zeros((3, 3, 4), bool)}, "differ in shape"),
        ({"reference": np.zeros((3, 3), bool)}, "2 axes"),
        ({"spacing_zyx_mm": (1.0, 0.0, 1.0)}, "spacing"),
        ({"spacing_zyx_mm": (1.0, math.nan, 1.0)}, "spacing"),
        ({"spacing_zyx_mm": (1.0, 1.0)}, "spacing"),
        ({"tolerance_mm": -1.0}, "tolerance"),
        ({"metrics": ["dice", "beauty"]}, "no metric 'beauty'"),
    ],
)
def test_bad_input_is_refused(changes, complaint: str) -> None:
    good = {"reference": np.zeros((3, 3, 3), bool), "prediction": np.ones((3, 3, 3), bool), "spacing_zyx_mm": SPACING}
    with pytest.raises(InputError, match=complaint):
        measure(**{**good, **changes})


# ---- cases -----------------------------------------------------------------------------------------------------------

GRID = Geometry.axis_aligned((12, 30, 28), SPACING)
OVERLAPPING = LabelScheme((Region("whole", (1, 2, 3), (255, 0, 0)), Region("core", (1, 3), (0, 255, 0)),
                           Region("nothing", (7,), (0, 0, 255))))  # fmt: skip


def segmentation(seed: int, scheme: LabelScheme = OVERLAPPING, grid: Geometry = GRID) -> Segmentation:
    label_map = np.zeros(grid.shape_zyx, np.uint8)
    label_map[3:9, 5 + seed:20, 4:22] = 2
    label_map[4:8, 8:15, 9:20 - seed] = 3
    return Segmentation(grid, scheme, label_map, f"case{seed}")


def test_a_case_has_the_numbers_of_its_regions() -> None:
    reference, prediction = segmentation(0), segmentation(2)
    found = measure_case(reference, prediction, tolerance_mm=0.7)
    assert list(found) == ["whole", "core", "nothing"]
    for region, values in found.items():
        masks = (reference.mask(region), prediction.mask(region))
        assert values == measure(*masks, spacing_zyx_mm=SPACING, tolerance_mm=0.7)
    some = measure_case(reference, prediction, regions=["core"], metrics=["nsd", "dice"])
    assert {name: list(values) for name, values in some.items()} == {"core": ["dice", "nsd"]}


def test_other_label_values_of_the_same_regions() -> None:
    """The reference may number its labels otherwise: regions meet by name."""
    turned = LabelScheme(
        tuple(Region(one.name, tuple(8 - value for value in one.labels), one.colour_rgb) for one in OVERLAPPING.regions)
    )
    plain = segmentation(0)
    labels = np.where(plain.label_map > 0, 8 - plain.label_map, 0).astype(np.uint16)
    other = Segmentation(GRID, turned, labels, "renumbered")
    assert measure_case(other, segmentation(2)) == measure_case(plain, segmentation(2))


def test_cases_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"case1.*case0.*spacing"):
        measure_case(segmentation(1), segmentation(0, grid=Geometry.axis_aligned((12, 30, 28), (3.0, 0.5, 1.3))))
    with pytest.raises(InputError, match="case1 has no region 'nothing'"):
        measure_case(segmentation(1, LabelScheme(OVERLAPPING.regions[:2])), segmentation(0))
    with pytest.raises(InputError, match="no region 'edema'"):
        measure_case(segmentation(1), segmentation(0), regions=["edema"])
