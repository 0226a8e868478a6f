"""The detector and segmenter that ship, on a synthetic case that they have not seen."""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.boxes import SliceBox, box_around
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.yolo_medsam.composing import SEGMENTER_FOLDER
from BrainSegSAMLib.methods.yolo_medsam.segmenter import draw, load_segmenter
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.models.catalogue import find_model
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.training_volumes import synthetic_case

SEED = 900
NAME = "glioma-yolo-medsam-tiny"
BoolArray = NDArray[np.bool_]


@cache
def case() -> tuple[Image, BoolArray]:
    """The image, axes LPS, and its lesion."""
    made = synthetic_case(SEED)
    geometry, order = made.image.geometry.reoriented("LPS")
    channels = {name: order.apply(array) for name, array in made.image.channels.items()}
    return Image(geometry, channels, made.image.name), order.apply(made.labels) > 0


def drawn(box: tuple[float, float, float, float], index: int) -> BoolArray:
    """What the segmenter draws in a box on a slice."""
    segmenter = load_segmenter(load_model(find_model(NAME) / SEGMENTER_FOLDER), device="cpu", trust=False)
    image, _ = case()
    picture = segmenter.picture(image, segmenter.model.modalities)
    ((_, mask),) = draw(segmenter, picture, [SliceBox(index, box)], "axial")
    return mask


@pytest.mark.parametrize(("part", "megabytes"), [("detector", 6), (SEGMENTER_FOLDER, 10)])
def test_the_parts_are_small_enough_to_ship(part: str, megabytes: int) -> None:
    files = [path for path in (find_model(NAME) / part).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= megabytes * 1e6


def test_the_lesion_is_found_and_segmented() -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("Detectors need the extra [detection].")
    image, lesion = case()
    found = load_predictor(find_model(NAME), device="cpu").predict(image)
    assert dice(found.mask("Whole tumour"), lesion) > 0.7


def test_masks_obey_their_boxes() -> None:
    """The same lesion in the box around it and in that of its upper half: the mask is what is boxed."""
    _, lesion = case()
    index = int(lesion.sum(axis=(1, 2)).argmax())
    column0, row0, column1, row1 = box_around(lesion[index])
    middle = (row0 + row1) / 2
    half = np.where(np.indices(lesion[index].shape)[0] < middle, lesion[index], False)
    assert dice(drawn((column0, row0, column1, row1), index), lesion[index]) > 0.8
    upper = drawn((column0, row0, column1, middle), index)
    assert dice(upper, half) > 0.8
    assert dice(upper, half) > dice(upper, lesion[index])
