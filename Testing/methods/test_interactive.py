"""What the worker does for the effects: marks on planes of any orientation, proposals, tracks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib import wire
from BrainSegSAMLib.backends.sam import Marks
from BrainSegSAMLib.backends.sam_forward import SamForward
from BrainSegSAMLib.backends.slice_features import SliceFeatures
from BrainSegSAMLib.boxes import LinkSettings
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.interactive import detect, images, load_image, mark, marking, track
from BrainSegSAMLib.methods.yolo_medsam.detector import Detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectionSettings
from BrainSegSAMLib.methods.yolo_medsam.marking import find_marked
from BrainSegSAMLib.methods.yolo_medsam.segmenter import Segmenter, load_segmenter
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.prompts import PLANES, Prompt, slice_shape, slices_first
from BrainSegSAMLib.view_planes import as_plane, pixels, view_plane, volume_slice
from BrainSegSAMLib.worker_client import WorkerClient
from Testing.box_stand_ins import BrightBoxes
from Testing.interactive_bench import (
    CENTRE_LPS,
    GRID,
    RADIUS_MM,
    Bench,
    BoolArray,
    ball,
    load,
    make_bench,
    tracked,
    turned,
    upright,
)


@pytest.fixture
def bench() -> Bench:
    return make_bench()


def box_on(mask: BoolArray) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5


def asked(model: Path, grid: Geometry, **what: Any) -> dict[str, Any]:
    return {
        "image_id": "one", "model": str(model), "device": "cpu",
        "marks": [{"plane": wire.geometry_data(grid), **what}],
    }  # fmt: skip


class FindsBright:
    """In place of SAM: what is bright in the box; of points, all of their column."""

    precision = "fp32"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return frames

    def find(self, frames: NDArray[np.uint8], marks: Mapping[int, Marks]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        rows, columns = np.mgrid[: frames.shape[2], : frames.shape[3]]
        for index, one in marks.items():
            self.seen.append(frames[index])
            found = frames[index, 0] > 128
            if one.boxes is not None:
                left, top, right, bottom = one.boxes[0]
                found = found & (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
            yield index, np.where(found, 1, -1).astype(np.float32)[None]


@pytest.fixture
def finds_bright(monkeypatch: pytest.MonkeyPatch) -> FindsBright:
    network: Any = FindsBright()
    monkeypatch.setattr(
        marking, "load_segmenter", lambda model, *, device, trust, precision: Segmenter(model, network, 0.5, 99.5, True)
    )
    found: FindsBright = network
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many slices each pass of SAM's encoder had."""
    passes: list[int] = []
    encode = SamForward.encode_slices

    def counted(self: SamForward, frames: NDArray[np.uint8]) -> Any:
        passes.append(len(frames))
        return encode(self, frames)

    monkeypatch.setattr(SamForward, "encode_slices", counted)
    return passes


# ---- marks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", PLANES)
def test_a_box_gives_what_the_command_gives(bench: Bench, random_segmenter: Path, plane: str) -> None:
    """Voxel for voxel as `brainsegsam prompt`, on a volume stored obliquely; random weights give masks of detail."""
    geometry, apply = upright()
    lesion = slices_first(apply(ball(GRID)), plane)
    index = len(lesion) // 2
    box = box_on(lesion[index])
    answer = mark(asked(random_segmenter, volume_slice(GRID, plane, index), box=box), bench.fresh())
    segmenter = load_segmenter(load_model(random_segmenter), device="cpu", trust=False)
    picture = images.kept_picture(
        bench.warm.find("image", "one"), images.KeptNetwork(("other",), segmenter), bench.context
    )
    expected = find_marked(segmenter.network, picture, [Prompt(1, plane, index, box=box)]).owner
    assert answer["masks"][0].any()
    assert not answer["masks"][0].all()
    np.testing.assert_array_equal(answer["masks"][0], slices_first(expected > 0, plane)[index])
    assert picture.shape[1:] == geometry.shape_zyx


def test_a_slice_is_encoded_once(bench: Bench, random_segmenter: Path, encoded: list[int]) -> None:
    plane = volume_slice(GRID, "axial", 12)
    for box in ((5, 5, 15, 15), (4, 6, 20, 21), (5, 5, 15, 15)):
        mark(asked(random_segmenter, plane, box=box), bench.fresh())
    assert encoded == [1]
    mark(asked(random_segmenter, volume_slice(GRID, "axial", 13), box=(5, 5, 15, 15)), bench.fresh())
    mark(asked(random_segmenter, plane, points=[[10, 10]], labels=[1]), bench.fresh())
    assert encoded == [1, 1], "the other slice is new, the first is still kept"
    oblique = view_plane(GRID, view(33))
    for _ in range(2):
        mark(asked(random_segmenter, oblique, box=(5, 5, 15, 15)), bench.fresh())
    assert encoded == [1, 1, 1]


def test_while_nothing_is_asked_for_slices_wait_on_the_disk(
    bench: Bench, random_segmenter: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[SliceFeatures[Any]] = []
    spill = SliceFeatures.spill
    monkeypatch.setattr(SliceFeatures, "spill", lambda store: (stores.append(store), spill(store)))
    what = asked(random_segmenter, volume_slice(GRID, "axial", 12), box=(5, 5, 15, 15))
    expected = mark(what, bench.fresh())["masks"][0]
    bench.warm.rest()
    (store,) = stores
    assert store.bytes_in_memory == 0
    assert store.bytes_on_disk > 0
    np.testing.assert_array_equal(mark(what, bench.fresh())["masks"][0], expected)
    assert encoded == [1]
    bench.warm.drop("slices")
    assert store.bytes_on_disk == 0


def test_where_the_disk_is_full_slices_stay_in_memory(
    bench: Bench, random_segmenter: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    what = asked(random_segmenter, volume_slice(GRID, "axial", 12), box=(5, 5, 15, 15))
    mark(what, bench.fresh())
    bench.warm.rest()
    mark(what, bench.fresh())
    assert encoded == [1]


def view(degrees: float) -> NDArray[np.float64]:
    """SliceToRAS of a view through the ball's centre."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned(degrees), CENTRE_LPS
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


@pytest.mark.parametrize("degrees", [0.0, 15.0, 40.0, 70.0])
def test_an_oblique_view_shows_the_network_what_it_cuts(
    bench: Bench, random_segmenter: Path, finds_bright: FindsBright, degrees: float
) -> None:
    grid = view_plane(GRID, view(degrees))
    centre = pixels(grid, CENTRE_LPS * [-1, -1, 1])
    reach = np.array([RADIUS_MM + 3] * 2) / min(grid.spacing_ijk_mm)
    (mask,) = mark(asked(random_segmenter, grid, box=(*(centre - reach), *(centre + reach))), bench.fresh())["masks"]
    shape = as_plane(np.zeros(grid.shape_zyx, bool), grid).shape
    assert mask.shape == shape
    rows, columns = np.indices(shape)
    column_mm, row_mm = (s for s, n in zip(grid.spacing_ijk_mm, grid.size_ijk, strict=True) if n > 1)
    distance = np.hypot((columns - centre[0]) * column_mm, (rows - centre[1]) * row_mm)
    wrong = mask != (distance < RADIUS_MM)
    assert mask.any()
    assert np.abs(distance[wrong] - RADIUS_MM).max(initial=0) < 1.2, "only at the edge, less than a voxel"


@pytest.mark.parametrize("degrees", [20.0, 44.0, 75.0, 130.0])
def test_a_plane_shows_every_place_where_it_is(degrees: float) -> None:
    """A picture whose grey values are places: linear interpolation is exact, and any flip or exchange of axes shows."""
    geometry = upright()[0]
    grid = view_plane(GRID, view(degrees))

    def greys(on: Geometry) -> NDArray[np.float64]:
        indices = np.stack(np.meshgrid(*(np.arange(n) for n in on.size_ijk), indexing="ij"), axis=-1)
        return np.moveaxis(128 + 3.0 * (on.to_lps(indices) - CENTRE_LPS), -1, 0).transpose(0, 3, 2, 1)

    shown = marking.plane_picture(np.clip(np.rint(greys(geometry)), 0, 255).astype(np.uint8), geometry, grid)
    expected = greys(grid)
    places = np.stack(np.meshgrid(*(np.arange(n) for n in grid.size_ijk), indexing="ij"), axis=-1)
    there = geometry.to_ijk(grid.to_lps(places))
    inside = ((there >= 0) & (there <= np.array(geometry.size_ijk) - 1)).all(axis=-1).transpose(2, 1, 0)
    inside &= ((expected > 5) & (expected < 250)).all(axis=0)
    assert np.count_nonzero(inside) > 300
    assert np.abs(shown - expected)[:, inside].max() <= 1.01, "half a grey value on each side of rounding"


def test_boxes_and_points_go_together(bench: Bench, random_segmenter: Path) -> None:
    plane = volume_slice(GRID, "coronal", 15)
    alone = mark(asked(random_segmenter, plane, box=(8, 6, 20, 18)), bench.fresh())["masks"][0]
    points = {"points": [[10, 8], [18, 16]], "labels": [1, 0]}
    both = mark(asked(random_segmenter, plane, box=(8, 6, 20, 18), **points), bench.fresh())["masks"][0]
    assert (alone != both).any()
    segmenter = load_segmenter(load_model(random_segmenter), device="cpu", trust=False)
    network = images.KeptNetwork(("other",), segmenter)
    picture = images.kept_picture(bench.warm.find("image", "one"), network, bench.context)
    frames = np.moveaxis(slices_first(picture, "coronal"), 0, 1)
    marks = Marks(np.array([[8.0, 6, 20, 18]]), np.array([[[10.0, 8], [18, 16]]]), np.array([[1, 0]]))
    with segmenter.network.encode(frames) as features:
        ((_, expected),) = segmenter.network.find(features, {15: marks})
    np.testing.assert_array_equal(both, expected[0] > 0)


def test_what_lies_beside_the_head_is_shown_too(
    bench: Bench, random_segmenter: Path, finds_bright: FindsBright
) -> None:
    """A segmenter that is shown the head alone, and a box in what was left out."""
    array = np.zeros(GRID.shape_zyx, np.float32)
    array[10:20, 10:20, 10:20] = np.arange(1000).reshape(10, 10, 10) + 500
    load(bench, "little", {"flair": array})
    plane = volume_slice(GRID, "axial", 12)

    def ask(**what: Any) -> BoolArray:
        request = {**asked(random_segmenter, plane, **what), "image_id": "little"}
        mask: BoolArray = mark(request, bench.fresh())["masks"][0]
        return mask

    inside = ask(box=(16, 16, 17, 17))
    ask(box=(0, 0, 3, 3))
    small, large = finds_bright.seen
    assert small.shape[1] < large.shape[1]
    shape = slice_shape(upright()[0].shape_zyx, "axial")
    assert inside.shape == shape
    ask(points=[[0, 0]], labels=[1])
    assert finds_bright.seen[2].shape[1] > small.shape[1]


def test_several_marks_come_one_by_one(bench: Bench, random_segmenter: Path, encoded: list[int]) -> None:
    request = asked(random_segmenter, volume_slice(GRID, "axial", 12), box=(5, 5, 15, 15))
    other = {"plane": wire.geometry_data(volume_slice(GRID, "axial", 14)), "box": [4, 4, 12, 12]}
    masks = mark({**request, "marks": [*request["marks"], other]}, bench.fresh())["masks"]
    assert [one["number"] for one in bench.partials] == [0, 1]
    for mask, partial in zip(masks, bench.partials, strict=True):
        np.testing.assert_array_equal(mask, partial["mask"])
    assert encoded == [1, 1]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"box": [5, 5, 90, 15]}, "leaves the slice"),
        ({"box": [5, 5, 5, 15]}, "0 before 1"),
        ({"points": [[10, 10]], "labels": [0]}, "set a point inside"),
        ({}, "drag a box"),
        ({"points": [[10, 10]], "labels": []}, "labels"),
        ({"points": [[-3, 10]], "labels": [1]}, "outside the slice"),
    ],
)
def test_marks_that_cannot_be_meant_are_refused(
    bench: Bench, random_segmenter: Path, what: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        mark(asked(random_segmenter, volume_slice(GRID, "axial", 12), **what), bench.fresh())


def test_other_models_are_refused(bench: Bench, random_tracker: Path, random_segmenter: Path) -> None:
    plane = volume_slice(GRID, "axial", 12)
    with pytest.raises(InputError, match="choose a segmenter"):
        mark(asked(random_tracker, plane, box=(5, 5, 15, 15)), bench.fresh())
    with pytest.raises(InputError, match="choose a detector"):
        detect({**asked(random_segmenter, plane), "plane": None}, bench.fresh())
    with pytest.raises(InputError, match="choose a tracker"):
        track({**tracked(random_segmenter), "mask": np.ones((2, 2), bool)}, bench.fresh())


def test_an_image_that_is_gone_is_asked_for(bench: Bench, random_segmenter: Path, random_tracker: Path) -> None:
    request = {**asked(random_segmenter, volume_slice(GRID, "axial", 12), box=(5, 5, 15, 15)), "image_id": "two"}
    assert mark(request, bench.fresh()) == {"unknown_image": "two"}
    assert detect(request, bench.fresh()) == {"unknown_image": "two"}
    assert track({**tracked(random_tracker), "image_id": "two"}, bench.fresh()) == {"unknown_image": "two"}


def test_the_oldest_image_goes(bench: Bench, random_segmenter: Path) -> None:
    request = asked(random_segmenter, volume_slice(GRID, "axial", 12), box=(5, 5, 15, 15))
    for name in ("two", "three"):
        load(bench, name, {"t2": np.random.default_rng(1).normal(400, 10, GRID.shape_zyx).astype(np.float32)})
    assert "masks" in mark(request, bench.fresh()), "used: it stays"
    load(bench, "four", {"t2": np.random.default_rng(1).normal(400, 10, GRID.shape_zyx).astype(np.float32)})
    assert "masks" in mark(request, bench.fresh())
    assert mark({**request, "image_id": "two"}, bench.fresh()) == {"unknown_image": "two"}


def test_channels_come_onto_the_first_ones_grid(bench: Bench) -> None:
    other = Geometry.axis_aligned((50, 60, 60), (1.0, 1.0, 1.0), tuple(CENTRE_LPS - [30, 30, 25]))
    first = np.where(ball(GRID), 900, 400).astype(np.float32)
    second = np.where(ball(other), 900, 400).astype(np.float32)
    channels = {
        "flair": {"array": first, "geometry": wire.geometry_data(GRID)},
        "t2": {"array": second, "geometry": wire.geometry_data(other)},
    }
    answer = load_image({"image_id": "both", "name": "both", "channels": channels}, bench.fresh())
    assert len(answer["notes"]) == 1
    assert "t2: resampled linearly" in answer["notes"][0]
    image = bench.warm.find("image", "both").image
    assert np.mean((image.channels["t2"] > 650) == (image.channels["flair"] > 650)) > 0.98
    with pytest.raises(InputError, match="source volume"):
        load_image({"image_id": "none", "name": "none", "channels": {}}, bench.fresh())


# ---- proposals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def finds_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = BrightBoxes()

    def stand_in(model: Any, *, device: str, trust: bool, precision: str) -> Detector:
        link = LinkSettings(0.01, minimum_slices=1)
        return Detector(model, network, DetectionSettings(head_only=True, link=link), 0.5, 99.5)

    monkeypatch.setattr(marking, "load_detector", stand_in)
    monkeypatch.setitem(images._PARTS, "yolo_detector", ("sam", ".", ""))


def test_the_whole_volume_is_searched(bench: Bench, random_segmenter: Path, finds_boxes: None) -> None:
    answer = detect({"image_id": "one", "model": str(random_segmenter), "device": "cpu"}, bench.fresh())
    (lesion,) = answer["lesions"]
    slices = upright()[1](ball(GRID))
    shown = np.flatnonzero(slices.any(axis=(1, 2)))
    assert (lesion["region"], lesion["confidence"]) == ("Object", pytest.approx(0.9))
    assert [box["box"] for box in lesion["boxes"]] == [list(box_on(slices[index])) for index in shown]
    for index, box in zip(shown, lesion["boxes"], strict=True):
        assert wire.geometry_from(box["plane"]).is_same_grid(volume_slice(GRID, "axial", index))
    assert answer["plane"] == "axial"


def test_one_slice_is_searched(bench: Bench, random_segmenter: Path, finds_boxes: None) -> None:
    asking = {"image_id": "one", "model": str(random_segmenter), "device": "cpu"}
    slices = upright()[1](ball(GRID))
    grid = volume_slice(GRID, "axial", 14)
    answer = detect({**asking, "plane": wire.geometry_data(grid)}, bench.fresh())
    assert [box["box"] for box in answer["lesions"][0]["boxes"]] == [list(box_on(slices[14]))]
    oblique = view_plane(GRID, view(0))
    (found,) = detect({**asking, "plane": wire.geometry_data(oblique)}, bench.fresh())["lesions"]
    side = np.ptp(np.array(found["boxes"][0]["box"]).reshape(2, 2), axis=0)
    np.testing.assert_allclose(side, 2 * RADIUS_MM, atol=2.5)
    with pytest.raises(InputError, match="axial slices, but the view shows a coronal one"):
        detect({**asking, "plane": wire.geometry_data(volume_slice(GRID, "coronal", 9))}, bench.fresh())


# ---- a real process -----------------------------------------------------------------------------------------------


def test_through_the_worker(random_segmenter: Path, random_tracker: Path) -> None:
    """The same over pipes and shared memory; what cannot be pickled or written as JSON would show here."""
    bench = Bench()
    array = np.where(ball(GRID), 900, np.random.default_rng(0).normal(400, 10, GRID.shape_zyx)).astype(np.float32)
    load(bench, "one", {"flair": array})
    sent = {"flair": {"array": array, "geometry": wire.geometry_data(GRID)}}
    box = asked(random_segmenter, view_plane(GRID, view(20)), box=(5, 5, 15, 15))
    following = tracked(random_tracker, settings={"range_mm": 4.0})
    with WorkerClient() as client:
        assert client.request("mark", box) == {"unknown_image": "one"}
        assert client.request("load_image", {"image_id": "one", "name": "one", "channels": sent}) == {"notes": []}
        np.testing.assert_array_equal(client.request("mark", box)["masks"][0], mark(box, bench.fresh())["masks"][0])
        with pytest.raises(InputError, match="drag a box"):
            client.request("mark", asked(random_segmenter, volume_slice(GRID, "axial", 3)))
        partials: list[Any] = []
        answer = client.request(
            "track", following, tell=lambda what, value: partials.append(value) if what == "partial" else None
        )
        expected = track(following, bench.fresh())
        np.testing.assert_array_equal(answer["mask"], expected["mask"])
        assert answer["stops"] == expected["stops"]
        assert len(partials) == len(bench.partials)


