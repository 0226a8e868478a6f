"""The command `track`, from its command line to its files: with a tracker that follows brightness where the result
matters, and with a small random SAM 2 where the way through the network does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

import BrainSegSAMLib.track as command
from BrainSegSAMLib import cli, single_image
from BrainSegSAMLib.errors import OutputError
from BrainSegSAMLib.files import sha256_of
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.itk import image_of
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.methods.ssnet.prompting import prompts_from_mask
from BrainSegSAMLib.methods.ssnet.tracker import Tracker
from BrainSegSAMLib.models.store import Model
from BrainSegSAMLib.segmentation_files import read_segmentation, write_seg_nrrd
from Testing.similarity_tracker import SimilarityTracker

GRID = Geometry.axis_aligned((20, 36, 40), (2.0, 1.0, 1.0), (-20.0, 8.0, 11.0))
SLICE = 10


def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    axes = np.ogrid[:20, :36, :40]
    distances = [((axis - c) * mm) ** 2 for axis, c, mm in zip(axes, centre, GRID.spacing_zyx_mm, strict=True)]
    inside: NDArray[np.bool_] = sum(distances) <= radius**2
    return inside


LESION = ball((SLICE, 18, 15), 9)


def write(path: Path, array: NDArray[Any], grid: Geometry = GRID) -> Path:
    sitk.WriteImage(image_of(array, grid), str(path))
    return path


def drawn_on(index: int, mask: NDArray[np.bool_] = LESION) -> NDArray[np.uint8]:
    drawn = np.zeros(mask.shape, dtype=np.uint8)
    drawn[index] = mask[index]
    return drawn


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(400, 10, GRID.shape_zyx)
    return write(tmp_path / "flair.nii.gz", np.where(LESION, 900 + noise / 10, noise).astype(np.float32))


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    return write(tmp_path / "prompt.nii.gz", drawn_on(SLICE))


@pytest.fixture
def follows_brightness(monkeypatch: pytest.MonkeyPatch) -> SimilarityTracker:
    """The command with a tracker whose results can be told beforehand."""
    network = SimilarityTracker()

    def load(model: Model, *, device: str, trust: bool, precision: str) -> Tracker:
        return Tracker(model, network, 64, 0.5, 99.5)

    monkeypatch.setattr(command, "load_tracker", load)
    return network


@pytest.fixture
def run(random_tracker: Path, tmp_path: Path) -> Callable[..., int]:
    def start(*arguments: object, output: str = "out/found.nii.gz") -> int:
        given = ["track", "--model", random_tracker, "--output", tmp_path / output, "--device", "cpu", *arguments]
        return cli.main([str(argument) for argument in given])

    return start


def result_of(tmp_path: Path, name: str = "found.nii.gz") -> tuple[NDArray[Any], dict[str, Any]]:
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / name)))
    record: dict[str, Any] = json.loads((tmp_path / "out" / "found.json").read_text())
    return found, record


def test_one_slice_becomes_a_volume_and_a_record(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--image", image, "--prompt-mask", prompt) == 0
    found, record = result_of(tmp_path)
    np.testing.assert_array_equal(found == 1, LESION)
    assert read_segmentation(tmp_path / "out" / "found.nii.gz").geometry.is_same_grid(GRID)
    assert record["inputs"]["mask"]["sha256"] == sha256_of(prompt)
    assert record["output"]["sha256"] == sha256_of(tmp_path / "out" / "found.nii.gz")
    assert record["prompts"] == [
        {"object": 1, "plane": "axial", "slice": SLICE, "mask_pixels": int(LESION[SLICE].sum())}
    ]
    assert record["slices"] == {"1": [6, 14]}
    assert record["settings"]["direction"] == "both"
    assert record["regions"][0]["volume_ml"] == pytest.approx(LESION.sum() * 2 / 1000)
    shown = capsys.readouterr().out
    assert "axial slices 6 to 14" in shown
    assert "found.json" in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["found.json", "found.nii.gz"]


def test_a_demonstration_is_called_one(
    image: Path, prompt: Path, random_tracker: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(random_tracker, tmp_path / "model")
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**described, "demonstration": True}))
    given = ["--image", image, "--prompt-mask", prompt, "--output", tmp_path / "out" / "found.nii.gz"]
    assert cli.main(["track", "--model", str(folder), *map(str, given)]) == 0
    assert "a demonstration" in capsys.readouterr().out
    assert "a demonstration" in result_of(tmp_path)[1]["notes"][0]


@pytest.mark.parametrize("orientation", ["RAS", "SRA", "PIR"])
def test_the_result_lies_in_the_same_place_however_the_files_are_stored(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    orientation: str,
) -> None:
    grid, order = GRID.reoriented(orientation)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    turned = write(tmp_path / "turned.nii.gz", np.ascontiguousarray(order.apply(stored)), grid)
    assert run("--image", turned, "--prompt-mask", prompt) == 0
    found, record = result_of(tmp_path)
    np.testing.assert_array_equal(found == 1, order.apply(LESION))
    assert record["prompts"][0]["slice"] == SLICE, "slices are counted on axes LPS"
    assert "nearest neighbour" in record["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "slices"),
    [
        (["--forward"], [10, 14]),
        (["--backward"], [6, 10]),
        (["--both", "--range-mm", "4"], [8, 12]),
        (["--set", "range_mm=2", "--set", "direction=forward"], [10, 11]),
    ],
)
def test_direction_and_range(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    arguments: list[str], slices: list[int], capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--image", image, "--prompt-mask", prompt, *arguments) == 0
    assert result_of(tmp_path)[1]["slices"] == {"1": slices}
    if "4" in arguments:
        assert "by the rule 'reach'" in capsys.readouterr().out


def test_a_mask_of_several_slices_prompts_with_its_largest_or_the_one_that_is_named(
    run: Callable[..., int], image: Path, tmp_path: Path, follows_brightness: SimilarityTracker
) -> None:
    mask = drawn_on(8) | drawn_on(9) | drawn_on(12)
    several = write(tmp_path / "several.nii.gz", mask)
    assert run("--image", image, "--prompt-mask", several) == 0
    assert result_of(tmp_path)[1]["prompts"][0]["slice"] == 9
    assert result_of(tmp_path)[1]["notes"] == [
        "The mask of object 1 lies on axial slices 8 to 12; only slice 9 prompts."
    ]
    assert run("--image", image, "--prompt-mask", several, "--slice", 12) == 0
    assert result_of(tmp_path)[1]["prompts"][0]["slice"] == 12
    np.testing.assert_array_equal(result_of(tmp_path)[0] == 1, LESION)
    two = write(tmp_path / "two.nii.gz", np.maximum(drawn_on(8), 2 * drawn_on(10)))
    assert run("--image", image, "--prompt-mask", two, "--slice", 10) == 0
    assert result_of(tmp_path)[1]["notes"] == [
        "The mask of object 1 lies on axial slices 8 to 8; not on 10, so it is not followed."
    ]


def test_each_label_value_is_an_object_and_keeps_its_name(
    run: Callable[..., int], image: Path, tmp_path: Path, follows_brightness: SimilarityTracker
) -> None:
    other = ball((SLICE, 18, 32), 5)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    array[other] = 880
    both = write(tmp_path / "both.nii.gz", array)
    label_map = drawn_on(SLICE) + 4 * drawn_on(SLICE, other)
    names = LabelScheme.plain({"left": 1, "right": 4})
    write_seg_nrrd(Segmentation(GRID, names, label_map), tmp_path / "two.seg.nrrd")
    two = ["--prompt-mask", tmp_path / "two.seg.nrrd", "--set", "pixel_likeness=null"]
    assert run("--image", both, *two, output="out/found.seg.nrrd") == 0
    found = read_segmentation(tmp_path / "out" / "found.seg.nrrd")
    assert found.scheme.names == ("left", "right")
    np.testing.assert_array_equal(found.mask("left"), LESION)
    np.testing.assert_array_equal(found.mask("right"), other)


def test_each_segment_is_an_object_as_it_was_drawn_whether_or_not_segments_overlap(
    run: Callable[..., int], image: Path, tmp_path: Path, follows_brightness: SimilarityTracker
) -> None:
    """The outer one has no hole where the inner one lies; one of several values is one object."""
    core = LESION & ball((SLICE, 18, 15), 4)
    side = drawn_on(SLICE, ball((SLICE, 30, 34), 3))
    nested = LabelScheme((
        Region("Core", (3,), (4, 5, 6)), Region("Whole", (1, 3), (1, 2, 3)), Region("Absent", (5,), (7, 8, 9)),
    ))  # fmt: skip
    path = tmp_path / "nested.seg.nrrd"
    write_seg_nrrd(Segmentation(GRID, nested, drawn_on(SLICE) + 2 * drawn_on(SLICE, core)), path)
    found = prompts_from_mask(path, GRID, plane="axial")
    assert [prompt.object_id for prompt in found.prompts] == [2, 1]
    for prompt, mask in zip(found.prompts, (LESION, core), strict=True):
        np.testing.assert_array_equal(prompt.mask, mask[SLICE])
    assert [(region.name, region.labels, region.colour_rgb) for region in found.scheme.regions] == [
        ("Core", (1,), (4, 5, 6)), ("Whole", (2,), (1, 2, 3)), ("Absent", (3,), (7, 8, 9))
    ]
    assert "Segments may overlap" in found.actions[0]
    assert run("--image", image, "--prompt-mask", path, output="out/found.seg.nrrd") == 0
    written = read_segmentation(tmp_path / "out" / "found.seg.nrrd")
    np.testing.assert_array_equal(written.mask("Whole") | written.mask("Core"), LESION)
    np.testing.assert_array_equal(written.mask("Core")[SLICE], core[SLICE])

    joint = LabelScheme((Region("Both", (1, 3), (1, 2, 3)), Region("Side", (2,), (4, 5, 6))))
    label_map = drawn_on(SLICE) + 2 * drawn_on(SLICE, core) + 2 * side
    write_seg_nrrd(Segmentation(GRID, joint, label_map), path)
    found = prompts_from_mask(path, GRID, plane="axial")
    assert [(prompt.object_id, int(np.count_nonzero(prompt.mask))) for prompt in found.prompts] == [
        (1, int(LESION[SLICE].sum())), (2, int(side.sum()))
    ]
    assert found.scheme == joint
    assert found.actions == ()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--box", 5, 8, 26, 28, "--slice", SLICE],
        ["--point", 15, 18, "--outside-point", 1, 1, "--slice", SLICE],
        ["--box", 5, 5, 26, 14, "--slice", 18, "--plane", "coronal"],
    ],
)
def test_boxes_points_and_planes(
    run: Callable[..., int], image: Path, tmp_path: Path, follows_brightness: SimilarityTracker, arguments: list[Any]
) -> None:
    assert run("--image", image, *arguments) == 0
    found = result_of(tmp_path)[0] == 1
    assert 2 * np.sum(found & LESION) / (found.sum() + LESION.sum()) > 0.97


def test_masks_on_other_grids_are_placed_in_physical_space(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker
) -> None:
    assert run("--image", image, "--prompt-mask", prompt) == 0
    expected = result_of(tmp_path)[0]
    box = (slice(8, 13), slice(5, 32), slice(3, 30))  # as Slicer crops to what is drawn
    cropped = Geometry(
        (27, 27, 5), GRID.spacing_ijk_mm, tuple(GRID.to_lps([3, 5, 8])), GRID.direction_lps  # type: ignore[arg-type]
    )
    assert run("--image", image, "--prompt-mask", write(tmp_path / "c.nii.gz", drawn_on(SLICE)[box], cropped)) == 0
    np.testing.assert_array_equal(result_of(tmp_path)[0], expected)
    finer = Geometry((80, 72, 20), (0.5, 0.5, 2.0), (-20.25, 7.75, 11.0), np.eye(3))
    fine = drawn_on(SLICE).repeat(2, axis=1).repeat(2, axis=2)
    assert run("--image", image, "--prompt-mask", write(tmp_path / "f.nii.gz", fine, finer)) == 0
    np.testing.assert_array_equal(result_of(tmp_path)[0], expected)
    assert "nearest neighbour" in result_of(tmp_path)[1]["notes"][0]


def turned_grid(degrees: float) -> Geometry:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    centre = np.eye(4)
    centre[:3, 3] = GRID.centre_lps_mm
    return GRID.moved_lps(centre @ turn @ np.linalg.inv(centre))


def write_bad_inputs(folder: Path) -> None:
    # Twice as many slices: every second one falls between those of the image.
    fine = Geometry((40, 36, 39), (1.0, 1.0, 1.0), GRID.origin_lps_mm, GRID.direction_lps)
    between = np.zeros(fine.shape_zyx, dtype=np.uint8)
    between[2 * SLICE] = LESION[SLICE]
    between[2 * SLICE + 3, 4:9, 4:9] = 2
    write(folder / "between.nii.gz", between, fine)
    beside = Geometry.axis_aligned((20, 36, 60), GRID.spacing_zyx_mm, GRID.origin_lps_mm)
    outside = np.pad(drawn_on(SLICE), ((0, 0), (0, 0), (0, 20)))
    outside[SLICE, 4:7, 50:53] = 2
    write(folder / "outside.nii.gz", outside, beside)
    write(folder / "empty.nii.gz", np.zeros(GRID.shape_zyx, dtype=np.uint8))
    whole = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    whole[SLICE] = 1
    write(folder / "whole.nii.gz", whole)
    away = Geometry.axis_aligned(GRID.shape_zyx, GRID.spacing_zyx_mm, (200.0, 8.0, 11.0))
    write(folder / "away.nii.gz", drawn_on(SLICE), away)
    write(folder / "oblique.nii.gz", drawn_on(SLICE), turned_grid(40))
    write(folder / "constant.nii.gz", np.full(GRID.shape_zyx, 7, dtype=np.float32))
    write(folder / "nan.nii.gz", np.full(GRID.shape_zyx, np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image", "flair.nii.gz", "--prompt-mask", "empty.nii.gz"], "is empty; draw"),
        (["--image", "flair.nii.gz", "--prompt-mask", "whole.nii.gz"], "covers the whole slice"),
        (["--image", "flair.nii.gz", "--prompt-mask", "away.nii.gz"], "0% of the mask"),
        (["--image", "flair.nii.gz", "--prompt-mask", "oblique.nii.gz"], "not parallel"),
        (["--image", "flair.nii.gz", "--prompt-mask", "between.nii.gz"], "(Label 2) lies on another grid"),
        (["--image", "flair.nii.gz", "--prompt-mask", "outside.nii.gz"], "0% of the mask in outside.nii.gz (Label 2)"),
        (["--image", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz", "--slice", "40"], "slices 0 to 19"),
        (["--image", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz", "--slice", "-1"], "slices 0 to 19"),
        (["--image", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz", "--slice", "3"], "voxels on slices 10 to 10"),
        (["--image", "constant.nii.gz", "--prompt-mask", "prompt.nii.gz"], "same value 7"),
        (["--image", "nan.nii.gz", "--prompt-mask", "prompt.nii.gz"], "NaN"),
        (["--image", "nothing.nii.gz", "--prompt-mask", "prompt.nii.gz"], "does not exist"),
        (["--image", "flair.nii.gz", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz"], "takes one."),
        (["--image", "flair.nii.gz"], "exactly one kind of prompt"),
        (["--image", "flair.nii.gz", "--box", "1", "1", "9", "9"], "number of their slice"),
        (["--image", "flair.nii.gz", "--box", "1", "1", "9", "90", "--slice", "3"], "leaves the slice"),
        (["--image", "flair.nii.gz", "--outside-point", "1", "1", "--slice", "3"], "no point inside"),
        (["--image", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz", "--set", "speed=9"], "no setting speed"),
        (["--image", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz", "--range-mm", "-3"], "range_mm"),
        (["--image", "flair.nii.gz", "--prompt-mask", "prompt.nii.gz", "--both", "--forward"], "not allowed"),
    ],
)
def test_bad_input_is_refused_with_a_sentence_and_nothing_is_written(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str,
) -> None:
    write_bad_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_other_models_and_outputs_are_refused(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, random_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--image", image, "--prompt-mask", prompt, "--model", random_model) == 2
    assert "follows no prompts" in capsys.readouterr().err
    assert run("--image", image, "--prompt-mask", prompt, output="out/found.txt") == 2
    assert ".seg.nrrd or one of" in capsys.readouterr().err


def test_no_file_but_an_earlier_result_is_overwritten(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: sha256_of(path) for path in (image, prompt)}
    for name in (image.name, prompt.name):
        assert run("--image", image, "--prompt-mask", prompt, output=name) == 2
        assert "is one of the inputs" in capsys.readouterr().err
    sidecar = tmp_path / "flair.json"
    sidecar.write_text('{"EchoTime": 0.1}')
    assert run("--image", image, "--prompt-mask", prompt, output="flair.seg.nrrd") == 2
    assert "would overwrite" in (said := capsys.readouterr().err)
    assert "which is no record of BrainSegSAM" in said
    assert sidecar.read_text() == '{"EchoTime": 0.1}'
    assert not (tmp_path / "flair.seg.nrrd").exists()
    sidecar.write_text('{"command": "prompt", "record_version": 1}')
    assert run("--image", image, "--prompt-mask", prompt, output="flair.seg.nrrd") == 2
    assert "flair.json, which is the record of 'prompt'; give" in capsys.readouterr().err
    assert before == {path: sha256_of(path) for path in before}
    assert [run("--image", image, "--prompt-mask", prompt) for _ in range(2)] == [0, 0]


def test_cancelling_writes_nothing(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    class Impatient(cli.Progress):
        def advance(self, units: int = 1, *, message: str = "") -> None:
            self.cancel()
            super().advance(units, message=message)

        def part(self, name: str, *, until: float) -> cli.Progress:
            return self

    monkeypatch.setattr(cli, "Progress", Impatient)
    assert run("--image", image, "--prompt-mask", prompt) == 130
    assert "cancelled" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert all(features.closed for features in follows_brightness.opened)


@pytest.mark.parametrize("output", ["out/found.nii.gz", "out/found.seg.nrrd"])
def test_a_result_without_its_record_is_none(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path, follows_brightness: SimilarityTracker,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str,
) -> None:
    """A record that JSON cannot hold changes nothing; one that cannot be written takes the result with it."""
    arguments = ("--image", image, "--prompt-mask", prompt)
    assert run(*arguments, output=output) == 0
    before = {path: sha256_of(path) for path in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(command, "_extents", lambda owner, prompts: {"1": float("nan")})
        with pytest.raises(ValueError, match="JSON"):
            run(*arguments, output=output)
    assert {path: sha256_of(path) for path in (tmp_path / "out").iterdir()} == before

    def full(*_: object) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr(single_image, "write_json", full)
    assert run(*arguments, output=output) == 2
    assert "The disk is full." in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_the_whole_way_through_a_sam2_network(
    run: Callable[..., int], image: Path, prompt: Path, tmp_path: Path
) -> None:
    arguments = ("--image", image, "--prompt-mask", prompt, "--set", "stop_rules=false", "--range-mm", 8)
    assert run(*arguments) == 0
    found, record = result_of(tmp_path)
    np.testing.assert_array_equal(found[SLICE] == 1, LESION[SLICE], "the key slice keeps the prompt")
    assert not found[:6].any()
    assert not found[15:].any()
    assert record["model"]["name"] == "random-tracker"
    assert run(*arguments, output="out/again.nii.gz") == 0
    again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "again.nii.gz")))
    np.testing.assert_array_equal(again, found)
    assert run("--image", image, "--box", 5, 8, 26, 28, "--slice", 0, "--range-mm", 4) == 0
