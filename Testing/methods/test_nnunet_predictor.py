"""The predictor on images in any voxel order: the same result in physical space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.errors import InputError, ModelError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image, Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods import METHODS, load_predictor
from BrainSegSAMLib.methods.contract import Predictor, ProbabilityPredictor
from BrainSegSAMLib.methods.nnunet.clean_up import clean_up
from BrainSegSAMLib.methods.nnunet.importing import import_nnunet
from BrainSegSAMLib.models.store import load_model, write_model

PLAIN = Geometry((18, 24, 10), (1.4, 1.0, 3.0), (-12.0, -20.0, 5.0), np.eye(3))


def channels(shape_zyx: tuple[int, int, int]) -> dict[str, NDArray[np.float32]]:
    """Two modalities of noise, positive everywhere."""
    noise = np.random.default_rng(11).uniform(1, 1000, size=(2, *shape_zyx)).astype(np.float32)
    return {"flair": noise[0], "t1ce": noise[1]}


def turned(degrees: float) -> NDArray[np.float64]:
    """4x4 rotation about an oblique axis, then a translation, in LPS."""
    axis = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = [30.0, -12.0, 7.5]
    return matrix


@pytest.fixture(scope="module")
def predictor(random_model: Path) -> Predictor:
    return load_predictor(random_model)


@pytest.fixture(scope="module")
def plain_result(predictor: Predictor) -> Segmentation:
    return predictor.predict(Image(PLAIN, channels(PLAIN.shape_zyx)))


def test_a_predictor_keeps_its_contract(predictor: Predictor, plain_result: Segmentation) -> None:
    assert isinstance(predictor, Predictor)
    assert plain_result.geometry is PLAIN
    assert plain_result.scheme == predictor.model.scheme
    assert plain_result.label_map.any()
    assert plain_result.record["model_sha256"] == predictor.model.sha256
    again = predictor.predict(Image(PLAIN, channels(PLAIN.shape_zyx)))
    np.testing.assert_array_equal(again.label_map, plain_result.label_map)


@pytest.mark.parametrize("stored", ["RAS", "ILA", "SPR", "PIR", "LPS"])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_any_voxel_order_and_obliqueness_gives_the_same_place(
    predictor: Predictor, plain_result: Segmentation, stored: str, degrees: float
) -> None:
    grid, order = PLAIN.reoriented(stored)
    moved = grid.moved_lps(turned(degrees))
    arrays = {name: np.ascontiguousarray(order.apply(array)) for name, array in channels(PLAIN.shape_zyx).items()}
    result = predictor.predict(Image(moved, arrays))
    assert result.geometry is moved
    np.testing.assert_array_equal(order.undo(result.label_map), plain_result.label_map)
    for region in result.scheme.names:
        expected = turned(degrees)[:3] @ np.append(centroid_lps(plain_result, region), 1)
        np.testing.assert_allclose(centroid_lps(result, region), expected, atol=1e-6)


def centroid_lps(segmentation: Segmentation, region: str) -> NDArray[np.float64]:
    """Mean physical position of a region's voxels, found voxel by voxel."""
    indices_ijk = np.argwhere(segmentation.mask(region))[:, ::-1]
    mean: NDArray[np.float64] = segmentation.geometry.to_lps(indices_ijk).mean(axis=0)
    return mean


def test_a_model_without_orientation_takes_voxels_as_stored(random_model: Path, plain_result: Segmentation) -> None:
    model = load_model(random_model)
    assert model.orientation == "LPS"
    from BrainSegSAMLib.methods.nnunet.predictor import load

    free = load(replace(model, preprocessing={"orientation": None}), device="cpu", trust=False, overrides={})
    grid, order = PLAIN.reoriented("ILA")
    arrays = {name: np.ascontiguousarray(order.apply(array)) for name, array in channels(PLAIN.shape_zyx).items()}
    result = free.predict(Image(grid, arrays))
    assert np.any(order.undo(result.label_map) != plain_result.label_map)
    assert result.record["geometry_actions"] == []


def test_a_missing_modality_is_named(predictor: Predictor) -> None:
    only = {"flair": channels(PLAIN.shape_zyx)["flair"]}
    with pytest.raises(InputError, match=r"lacks t1ce.*found are flair"):
        predictor.predict(Image(PLAIN, only, "Case7"))


def test_settings_can_be_overridden_but_not_invented(random_model: Path) -> None:
    fast = load_predictor(random_model, overrides={"mirroring": False, "folds": ["1"]})
    record = fast.predict(Image(PLAIN, channels(PLAIN.shape_zyx))).record
    assert record["settings"]["mirroring"] is False
    assert record["settings"]["folds"] == ("1",)
    with pytest.raises(ModelError, match="mirorring"):
        load_predictor(random_model, overrides={"mirorring": False})


def test_an_unknown_method_is_named(random_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "future"
    shutil.copytree(random_model, folder)
    write_model(replace(load_model(folder), method="of_tomorrow"))
    with pytest.raises(ModelError, match=rf"of_tomorrow.*{next(iter(METHODS))}"):
        load_predictor(folder)


NESTED = LabelScheme.from_list(
    [{"name": "whole", "labels": [1, 2, 3]}, {"name": "core", "labels": [1, 3]}, {"name": "rim", "labels": [3]}]
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"minimum_volume_mm3": {"rim": 3.0}}, [2, 2, 0, 2, 1, 3, 3, 3, 3, 0, 1]),
        ({"minimum_volume_mm3": {"whole": 2.0}}, [2, 2, 0, 2, 1, 3, 3, 3, 3, 0, 0]),
        ({"minimum_volume_mm3": {}, "keep_largest": ["whole"]}, [0, 0, 0, 2, 1, 3, 3, 3, 3, 0, 0]),
        ({"minimum_volume_mm3": {"core": 2.0}, "keep_largest": ["rim"]}, [2, 2, 0, 2, 1, 3, 3, 3, 3, 0, 2]),
    ],
)
def test_clean_up_keeps_regions_nested(settings: dict[str, Any], expected: list[int]) -> None:
    line = np.array([2, 2, 0, 2, 1, 3, 3, 3, 3, 0, 3], np.uint8).reshape(1, 1, -1)
    cleaned, removed = clean_up(line, NESTED, (1.0, 1.0, 1.0), **settings)
    assert cleaned.ravel().tolist() == expected
    assert sum(removed.values()) == np.count_nonzero(cleaned != line)


def test_probabilities_are_those_behind_the_labels(predictor: Predictor, plain_result: Segmentation) -> None:
    assert isinstance(predictor, ProbabilityPredictor)
    segmentation, probabilities = predictor.predict_with_probabilities(Image(PLAIN, channels(PLAIN.shape_zyx)))
    np.testing.assert_array_equal(segmentation.label_map, plain_result.label_map)
    assert probabilities.shape == (2, *PLAIN.shape_zyx)
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    # Of nested regions nnU-Net writes the later over the earlier, so "core" is exactly where its head says so.
    np.testing.assert_array_equal(segmentation.mask("core"), probabilities[1] > 0.5)
    np.testing.assert_array_equal(segmentation.mask("whole"), (probabilities > 0.5).any(axis=0))


def test_probabilities_of_plain_labels_and_other_axes(make_nnunet: Callable[..., Path], tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "source", regions=False)
    model = import_nnunet(source, tmp_path / "plain-labels", orientation="LPS")
    predictor = load_predictor(model.folder)
    assert isinstance(predictor, ProbabilityPredictor)
    plain = Image(PLAIN, channels(PLAIN.shape_zyx))
    segmentation, probabilities = predictor.predict_with_probabilities(plain)
    assert probabilities.shape == (2, *PLAIN.shape_zyx)
    stacked = np.concatenate([1 - probabilities.sum(axis=0, keepdims=True), probabilities])
    np.testing.assert_array_equal(stacked.argmax(axis=0), segmentation.label_map)
    grid, order = PLAIN.reoriented("SRA")
    turned = Image(grid, {name: order.apply(array) for name, array in plain.channels.items()})
    np.testing.assert_allclose(predictor.predict_with_probabilities(turned)[1], order.apply(probabilities), atol=1e-6)
