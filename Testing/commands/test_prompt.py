"""The command `prompt`, from its command line to its files: with a network that finds what is bright in a box where the
result matters, and with a small random SAM where the way through the network does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

import BrainSegSAMLib.prompt as command
from BrainSegSAMLib import cli
from BrainSegSAMLib.backends.sam import Marks
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.itk import image_of
from BrainSegSAMLib.methods.yolo_medsam.composing import compose
from BrainSegSAMLib.methods.yolo_medsam.marking import find_marked
from BrainSegSAMLib.methods.yolo_medsam.segmenter import Segmenter
from BrainSegSAMLib.prompt import placed
from BrainSegSAMLib.prompts import Prompt, slices_first
from BrainSegSAMLib.segmentation_files import read_segmentation

GRID = Geometry.axis_aligned((20, 36, 40), (2.0, 1.0, 1.0), (-20.0, 8.0, 11.0))


def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    axes = np.ogrid[:20, :36, :40]
    distances = [((axis - c) * mm) ** 2 for axis, c, mm in zip(axes, centre, GRID.spacing_zyx_mm, strict=True)]
    inside: NDArray[np.bool_] = sum(distances) <= radius**2
    return inside


LESIONS = ball((10, 18, 12), 7), ball((10, 20, 30), 5)


class FindsBright:
    """In place of a network: what is bright and at most one pixel outside the box, or in the same column as a point."""

    precision = "fp32"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, frames: NDArray[np.uint8], **_: Any) -> Any:
        return nullcontext(frames)

    def find(
        self, features: NDArray[np.uint8], marks: Mapping[int, Marks]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        rows, columns = np.mgrid[: features.shape[2], : features.shape[3]]
        for index in sorted(marks):
            self.asked.append(index)
            found = []
            for box in marks[index].boxes if marks[index].boxes is not None else ():
                inside = (columns >= box[0] - 1) & (columns <= box[2] + 1) & (rows >= box[1] - 1) & (rows <= box[3] + 1)
                found.append(inside & (features[index, 0] > 128))
            for points in marks[index].points if marks[index].points is not None else ():
                found.append(columns == points[0, 0])
            yield index, np.where(found, 1, -1).astype(np.float32)


def write(path: Path, array: NDArray[Any], grid: Geometry = GRID) -> Path:
    sitk.WriteImage(image_of(array, grid), str(path))
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(400, 10, GRID.shape_zyx)
    return write(tmp_path / "flair.nii.gz", np.where(LESIONS[0] | LESIONS[1], 900, noise).astype(np.float32))


@pytest.fixture
def finds_bright(monkeypatch: pytest.MonkeyPatch) -> FindsBright:
    """The command with a network whose results can be told beforehand."""
    network: Any = FindsBright()
    monkeypatch.setattr(
        command, "load_segmenter", lambda model, *, device, trust, precision: Segmenter(model, network, 0.5, 99.5)
    )
    found: FindsBright = network
    return found


@pytest.fixture
def run(random_segmenter: Path, tmp_path: Path) -> Callable[..., int]:
    def start(*arguments: object, output: str = "out/found.nii.gz") -> int:
        given = ["prompt", "--model", random_segmenter, "--output", tmp_path / output, "--device", "cpu", *arguments]
        return cli.main([str(argument) for argument in given])

    return start


def result_of(tmp_path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "found.nii.gz")))
    record: dict[str, Any] = json.loads((tmp_path / "out" / "found.json").read_text())
    return found, record


def voxel_box(mask: NDArray[np.bool_], axis: int, index: int) -> str:
    """The box around what a slice of a mask shows, as the command takes it; the axis is numpy's."""
    chosen = np.zeros_like(mask)
    where: list[Any] = [slice(None)] * 3
    where[axis] = index
    chosen[tuple(where)] = mask[tuple(where)]
    low, high = (edges(axis=1)[::-1] for edges in (np.array(np.nonzero(chosen)).min, np.array(np.nonzero(chosen)).max))
    return ",".join(str(value) for value in (*low, *high))


def on_slice(mask: NDArray[np.bool_], axis: int, index: int) -> NDArray[np.bool_]:
    kept = np.zeros_like(mask)
    where: list[Any] = [slice(None)] * 3
    where[axis] = index
    kept[tuple(where)] = mask[tuple(where)]
    return kept


def test_a_box_becomes_a_mask_and_a_record(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--image", image, "--box", voxel_box(LESIONS[0], 0, 10)) == 0
    found, record = result_of(tmp_path)
    np.testing.assert_array_equal(found == 1, on_slice(LESIONS[0], 0, 10))
    assert finds_bright.asked == [10], "no other slice is looked at"
    assert record["command"] == "prompt"
    assert record["boxes"] == [[5, 11, 10, 19, 25, 10]]
    assert record["prompts"] == [{"object": 1, "plane": "axial", "slice": 10, "box": [4.5, 10.5, 19.5, 25.5]}]
    assert record["regions"][0]["region"] == "Object"
    assert record["precision"] == "fp32"
    assert "found.json" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["found.json", "found.nii.gz"]


def test_many_boxes_are_one_object_or_many(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright
) -> None:
    boxes = [voxel_box(LESIONS[0], 0, 9), voxel_box(LESIONS[0], 0, 10), voxel_box(LESIONS[1], 0, 10)]
    expected = [on_slice(LESIONS[0], 0, 9), on_slice(LESIONS[0], 0, 10), on_slice(LESIONS[1], 0, 10)]
    assert run("--image", image, "--box", *boxes) == 0
    np.testing.assert_array_equal(result_of(tmp_path)[0], np.logical_or.reduce(expected))
    assert run("--image", image, "--box", *boxes[:2], "--box", boxes[2], "--separate") == 0
    found = result_of(tmp_path)[0]
    for number, mask in enumerate(expected):
        np.testing.assert_array_equal(found == number + 1, mask)
    segmentation = read_segmentation(tmp_path / "out" / "found.nii.gz")
    assert segmentation.geometry.is_same_grid(GRID)


@pytest.mark.parametrize(("axis", "index", "plane"), [(0, 10, "axial"), (1, 17, "coronal"), (2, 13, "sagittal")])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SRA", "PIR"])
def test_boxes_lie_in_the_same_place_however_the_files_are_stored(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright, axis: int, index: int, plane: str,
    orientation: str,
) -> None:
    """Voxel indices are those of the file; the slice and the mask are the same place in the head."""
    grid, order = GRID.reoriented(orientation)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    turned = write(tmp_path / "turned.nii.gz", np.ascontiguousarray(order.apply(stored)), grid)
    expected = order.apply(on_slice(LESIONS[0], axis, index))
    low, high = (np.array(np.nonzero(expected)).min(axis=1)[::-1], np.array(np.nonzero(expected)).max(axis=1)[::-1])
    assert run("--image", turned, "--box", ",".join(str(value) for value in (*low, *high))) == 0
    found, record = result_of(tmp_path)
    np.testing.assert_array_equal(found == 1, expected)
    assert (record["prompts"][0]["plane"], record["prompts"][0]["slice"]) == (plane, index)


@pytest.mark.parametrize("orientation", ["LPS", "SRA"])
@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("sagittal", 2)])
def test_a_box_may_be_one_voxel_wide_where_the_plane_is_named(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright, orientation: str, plane: str,
    axis: int,
) -> None:  # fmt: skip
    grid, order = GRID.reoriented(orientation)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    turned = write(tmp_path / "turned.nii.gz", np.ascontiguousarray(order.apply(stored)), grid)
    line = np.zeros(GRID.shape_zyx, bool)
    line[10, 12:24, 13] = True
    marked = np.array(np.nonzero(order.apply(line)))[::-1]
    box = ",".join(str(value) for value in (*marked.min(axis=1), *marked.max(axis=1)))
    assert run("--image", turned, "--box", box, "--plane", plane) == 0
    found, record = result_of(tmp_path)
    (prompt,) = record["prompts"]
    assert prompt["plane"] == plane
    assert prompt["slice"] == (10 if axis == 0 else 13)
    assert prompt["box"] == ([12.5, 11.5, 13.5, 23.5] if axis == 0 else [11.5, 9.5, 23.5, 10.5])
    assert (found == 1)[order.apply(line)].all()


def test_a_box_may_be_one_voxel(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright
) -> None:
    assert run("--image", image, "--box", "12,18,10,12,18,10", "--plane", "axial") == 0
    assert result_of(tmp_path)[1]["prompts"][0]["box"] == [11.5, 17.5, 12.5, 18.5]


def test_nothing_found_is_said(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--image", image, "--box", "2,2,3,6,6,3") == 0
    found, record = result_of(tmp_path)
    assert not found.any()
    assert record["notes"] == ["In the box 2,2,3,6,6,3 nothing was found."]
    assert "nothing was found" in capsys.readouterr().out
    # Of several boxes on a slice, the one that is meant is named.
    assert run("--image", image, "--box", voxel_box(LESIONS[0], 0, 10), "2,2,10,4,4,10") == 0
    assert result_of(tmp_path)[1]["notes"] == ["In the box 2,2,10,4,4,10 nothing was found."]


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        (["5,11,10,19,25"], "not six whole numbers"),
        (["5,11,nan,19,25,10"], "not six whole numbers"),
        (["5,11,10.5,19,25,10.5"], "not six whole numbers"),
        (["5,11,10,19,25,11"], "does not say on which slice"),
        (["5,11,10,5,25,10"], "(axial, sagittal); name the plane of its slice with --plane"),
        (["5,11,10,5,25,10", "5,11,10,19,25,10", "--plane", "sagittal"], "lies on no single sagittal slice"),
        (["5,11,10,19,25,10", "--plane", "coronal"], "lies on no single coronal slice"),
        (["19,11,10,5,25,10"], "is inverted"),
        (["5,11,10,40,25,10"], "leaves the image of 40×36×20 voxels"),
        (["5,11,10,19,25,10", "5,11,20,19,25,20"], "leaves the image"),
        (["0,0,10,39,35,10"], "covers the whole slice"),
    ],
)
def test_bad_boxes_are_refused_with_a_sentence_and_nothing_is_written(
    run: Callable[..., int], image: Path, tmp_path: Path, finds_bright: FindsBright, boxes: list[str], says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--image", image, "--box", *boxes) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_other_models_and_outputs_are_refused(
    run: Callable[..., int], image: Path, random_tracker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = ("--image", image, "--box", "5,11,10,19,25,10")
    assert run(*box, "--model", random_tracker) == 2
    assert "takes no boxes" in capsys.readouterr().err
    assert run("--image", image, image, *box[2:]) == 2
    assert "takes one." in capsys.readouterr().err
    assert run(*box, output="out/found.txt") == 2
    assert ".seg.nrrd or one of" in capsys.readouterr().err
    assert run(*box, output=image.name) == 2
    assert "is one of the inputs" in capsys.readouterr().err


def test_the_whole_way_through_a_sam_network(run: Callable[..., int], image: Path, tmp_path: Path) -> None:
    boxes = ["5,11,10,19,25,10", "25,14,10,35,26,10", "5,17,6,19,17,14"]
    assert run("--image", image, "--box", *boxes, "--separate") == 0
    found, record = result_of(tmp_path)
    assert record["model"]["name"] == "random-segmenter"
    assert [prompt["plane"] for prompt in record["prompts"]] == ["axial", "axial", "coronal"]
    outside = np.ones(found.shape, bool)
    outside[10] = outside[:, 17] = False
    assert not found[outside].any()
    assert run("--image", image, "--box", *boxes, "--separate") == 0
    np.testing.assert_array_equal(result_of(tmp_path)[0], found)


def test_cancelling_writes_nothing(
    run: Callable[..., int], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Impatient(cli.Progress):
        def advance(self, units: int = 1, *, message: str = "") -> None:
            self.cancel()
            super().advance(units, message=message)

        def part(self, name: str, *, until: float) -> cli.Progress:
            return self

    monkeypatch.setattr(cli, "Progress", Impatient)
    assert run("--image", image, "--box", *(f"5,11,{k},19,25,{k}" for k in range(2, 14))) == 130
    assert "cancelled" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_the_segmenter_of_a_composed_model_takes_boxes(
    run: Callable[..., int], image: Path, tmp_path: Path, random_model: Path, random_segmenter: Path
) -> None:
    compose(random_model, random_segmenter, tmp_path / "boxed")
    assert run("--image", image, "--box", "5,11,10,19,25,10", "--model", tmp_path / "boxed") == 0
    assert result_of(tmp_path)[1]["model"]["name"] == "random-segmenter"


def test_a_box_of_an_oblique_volume_is_the_same_voxels() -> None:
    """Axes that are turned by 20 degrees, permuted and flipped, with three spacings."""
    turn = np.deg2rad(20)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    grid = Geometry((7, 9, 11), (0.7, 3.0, 1.1), (5.0, -40.0, 13.0), turned @ np.eye(3)[:, [1, 2, 0]] * [1, -1, -1])
    prompt = placed((1, 2, 3, 4, 2, 9), grid, number=1)
    marked = np.zeros((11, 9, 7), bool)  # z, y, x of the grid as stored
    marked[3:10, 2, 1:5] = True
    order = grid.reoriented("LPS")[1]
    assert prompt.box is not None
    column0, row0, column1, row1 = (int(side + 0.5) for side in prompt.box)
    shown = np.zeros_like(order.apply(marked))
    slices_first(shown, prompt.plane)[prompt.index, row0:row1, column0:column1] = True
    np.testing.assert_array_equal(order.undo(shown), marked)


def test_points_and_boxes_of_all_planes_are_found_together() -> None:
    network: Any = FindsBright()
    picture = np.zeros((3, 4, 5, 6), np.uint8)
    picture[:, 2, 1:4, 1:4] = 255
    prompts = [
        Prompt(1, "axial", 2, box=(0.5, 0.5, 3.5, 3.5)),
        Prompt(2, "axial", 1, points=((4, 3),), point_labels=(1,)),
        Prompt(3, "coronal", 0, points=((2, 1), (0, 0)), point_labels=(1, 0)),
    ]
    found = find_marked(network, picture, prompts)
    expected = np.zeros((4, 5, 6), int)
    expected[2, 1:4, 1:4] = 1
    expected[1, :, 4] = 2
    expected[:, 0, 2] = 3
    np.testing.assert_array_equal(found.owner, expected)
    assert found.missed == ()
    with pytest.raises(InputError, match="drawn already"):
        find_marked(network, picture, [Prompt(1, "axial", 0, mask=np.ones((5, 6), bool))])
