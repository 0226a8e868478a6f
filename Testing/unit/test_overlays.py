"""Outlines and slices of the report's pictures, on masks whose answers can be seen."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.overlays import outline, overlay

SCHEME = LabelScheme((Region("lesion", (1,), (255, 0, 0)),))
LPS = Geometry.axis_aligned((12, 30, 20), (5.0, 2.0, 3.0), (-30.0, -40.0, 10.0))


def polygons(path: str) -> list[NDArray[np.float64]]:
    """The corners (x, y) of each closed line of a path, in pixels from the upper left corner."""
    found = []
    for x, y, moves in re.findall(r"M(-?\d+) (-?\d+)l([-\d ]*)z", path):
        steps = np.array([int(n) for n in re.findall(r"-?\d+", moves)]).reshape(-1, 2)
        found.append((np.cumsum(np.vstack([[int(x), int(y)], steps]), axis=0)) / 2)
    return found


def area(path: str) -> float:
    """By the even-odd rule, of lines that do not cross: holes run the other way round."""
    total = 0.0
    for corners in polygons(path):
        x, y = corners.T
        total += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return abs(total)


def test_outline_of_a_rectangle() -> None:
    mask = np.zeros((6, 9), dtype=bool)
    mask[1:4, 2:7] = True
    (corners,) = polygons(outline(mask))
    assert corners.min(axis=0).tolist() == [2, 1]
    assert corners.max(axis=0).tolist() == [7, 4]
    assert area(outline(mask)) == 15 - 4 / 8, "each corner of the contour is cut"


def test_outline_of_a_ring_pieces_and_nothing() -> None:
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    assert len(polygons(outline(ring))) == 2
    assert area(outline(ring)) == 25 - 4 / 8 - 1 / 2
    pieces = np.zeros((4, 9), dtype=bool)
    pieces[1, 1] = pieces[2, 6] = True
    assert len(polygons(outline(pieces))) == 2
    assert outline(np.zeros((3, 3), dtype=bool)) == ""


def block(low: tuple[int, int, int], high: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Ones between two voxels (z, y, x) of the LPS grid."""
    labels = np.zeros(LPS.shape_zyx, dtype=np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return labels


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAL", "IRP"])
def test_planes_go_where_most_differs_however_the_grid_is_stored(orientation: str) -> None:
    reference, prediction = block((2, 5, 4), (9, 15, 12)), block((2, 5, 4), (9, 15, 12))
    prediction[7, 6:14, 5:9] = 0  # a hole on one axial slice
    image = np.full(LPS.shape_zyx, 50, dtype=np.float32)
    image[:, :, :10] = 100  # brighter to the patient's right
    image[0] = 5
    grid, order = LPS.reoriented(orientation)
    turned = [np.ascontiguousarray(order.apply(array)) for array in (reference, prediction)]
    first, second = (Segmentation(grid, SCHEME, labels) for labels in turned)
    drawn = overlay(first, {"a": second}, regions=("lesion",), background=np.ascontiguousarray(order.apply(image)))
    axial, coronal, sagittal = drawn["planes"]
    assert axial["position"] == "axial · S 45.0 mm"
    assert [plane["size_mm"] for plane in (axial, coronal, sagittal)] == [[60, 60], [60, 60], [60, 60]]
    assert axial["grid"] == [20, 30]
    assert len(polygons(axial["predictions"]["a"]["lesion"])) == 2
    assert len(polygons(axial["reference"]["lesion"])) == 1
    (corners,) = polygons(axial["reference"]["lesion"])
    assert corners.min(axis=0).tolist() == [4, 5], "right is left, anterior is up"
    (corners,) = polygons(coronal["reference"]["lesion"])
    assert corners.min(axis=0).tolist() == [4, 3], "superior is up: 12 slices, the last of the lesion is the ninth"
    grey = np.asarray(Picture.open(io.BytesIO(base64.b64decode(axial["grey"]))).convert("L"))
    assert grey[:, : grey.shape[1] // 3].mean() > 200 > 150 > grey[:, -grey.shape[1] // 3 :].mean()
    assert grey.shape[0] == grey.shape[1], "pixels are square, voxels are not"


def test_equal_masks_are_shown_where_they_are_largest() -> None:
    labels = block((1, 5, 4), (4, 9, 8)) | block((6, 3, 2), (7, 20, 18))
    same = Segmentation(LPS, SCHEME, labels)
    drawn = overlay(same, {"a": same}, regions=("lesion",))
    assert drawn["planes"][0]["position"] == "axial · S 40.0 mm"
    assert drawn["planes"][0]["grey"] == ""
    empty = Segmentation(LPS, SCHEME, np.zeros_like(labels))
    assert overlay(empty, {"a": empty}, regions=("lesion",))["planes"][0]["reference"] == {"lesion": ""}


def test_another_grid_is_refused() -> None:
    labels = block((1, 5, 4), (4, 9, 8))
    moved = Geometry.axis_aligned(LPS.shape_zyx, LPS.spacing_zyx_mm, (0.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="position"):
        overlay(Segmentation(LPS, SCHEME, labels), {"a": Segmentation(moved, SCHEME, labels)}, regions=("lesion",))
