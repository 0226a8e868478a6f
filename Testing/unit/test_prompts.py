"""Prompts are refused before anything is computed from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.prompts import Prompt, check_prompt, slice_shape, slice_spacing_mm, slices_first

GRID = Geometry.axis_aligned((4, 5, 6), (4.0, 2.0, 1.0))


def mask_of(*voxels: tuple[int, int], shape: tuple[int, int] = (5, 6)) -> np.ndarray[Any, Any]:
    mask = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(1, "axial", 0, mask=mask_of((2, 3))),
        Prompt(2, "axial", 3, box=(0.0, 1.0, 2.5, 4.0)),
        Prompt(3, "sagittal", 5, points=((4.0, 3.0), (0.0, 0.0)), point_labels=(1, 0)),
    ],
)
def test_a_prompt_that_fits_passes(prompt: Prompt) -> None:
    check_prompt(prompt, GRID)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (Prompt(1, "axial", 4, mask=mask_of((0, 0))), "slices 0 to 3"),
        (Prompt(1, "axial", -1, mask=mask_of((0, 0))), "out of range"),
        (Prompt(1, "axial", 1, mask=mask_of()), "empty mask"),
        (Prompt(1, "axial", 1, mask=np.ones((5, 6), dtype=bool)), "whole slice"),
        (Prompt(1, "coronal", 1, mask=mask_of((0, 0))), r"\(4, 6\)"),
        (Prompt(1, "axial", 1, mask=mask_of((0, 0)).astype(np.uint8)), "bool"),
        (Prompt(1, "axial", 1, box=(3.0, 1.0, 2.0, 4.0)), "0 before 1"),
        (Prompt(1, "axial", 1, box=(0.0, 1.0, 9.0, 4.0)), "leaves the slice"),
        (Prompt(1, "axial", 1, box=(0.0, 0.0, 5.0, 4.0)), "whole slice"),
        (Prompt(1, "axial", 1, box=(0.0, 0.0, float("nan"), 4.0)), "box"),
        (Prompt(1, "axial", 1, points=((5.6, 0.0),), point_labels=(1,)), "outside the slice"),
        (Prompt(1, "axial", 1, points=((float("nan"), 0.0),), point_labels=(1,)), "outside the slice"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(prompt: Prompt, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_prompt(prompt, GRID)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "exactly one"),
        ({"mask": mask_of((0, 0)), "box": (0.0, 0.0, 1.0, 1.0)}, "exactly one"),
        ({"points": ((1.0, 1.0),)}, "label for each point"),
        ({"points": ((1.0, 1.0),), "point_labels": (2,)}, "label for each point"),
        ({"points": ((1.0, 1.0),), "point_labels": (0,)}, "no point inside"),
        ({"mask": mask_of((0, 0)), "object_id": 0}, "numbered from 1"),
        ({"mask": mask_of((0, 0)), "plane": "oblique"}, "axial, coronal, sagittal"),
    ],
)
def test_a_prompt_that_contradicts_itself_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Prompt(**{"object_id": 1, "plane": "axial", "index": 0, **arguments})


def test_a_grid_with_other_axes_is_refused() -> None:
    stored = Geometry((6, 5, 4), (1, 1, 1), (0, 0, 0), np.diag([-1.0, -1.0, 1.0]))
    with pytest.raises(GeometryError, match="RAS"):
        check_prompt(Prompt(1, "axial", 0, mask=mask_of((0, 0))), stored)


@pytest.mark.parametrize(
    ("plane", "shape", "spacing"),
    [("axial", (5, 6), (4, 2, 1)), ("coronal", (4, 6), (2, 4, 1)), ("sagittal", (4, 5), (1, 4, 2))],
)
def test_planes_lie_where_their_names_say(plane: str, shape: tuple[int, int], spacing: tuple[float, ...]) -> None:
    volume = np.arange(120).reshape(4, 5, 6)
    slices = slices_first(volume, plane)
    assert slices.shape[1:] == slice_shape(GRID.shape_zyx, plane) == shape
    assert slice_spacing_mm(GRID, plane) == spacing
    assert np.shares_memory(slices, volume)
    np.testing.assert_array_equal(
        slices[1], {"axial": volume[1], "coronal": volume[:, 1], "sagittal": volume[:, :, 1]}[plane]
    )
