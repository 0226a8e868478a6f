"""Data sets for YOLO: what is written, re-read by Ultralytics itself, and who learns from what."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib.boxes import SliceBox
from BrainSegSAMLib.cases import Case
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.yolo_medsam.dataset import (
    DatasetSlice,
    deal_patients,
    patients_apart,
    read_manifest,
    split_by_case,
    split_by_slice,
    with_background,
    write_manifest,
    write_slices,
    write_split,
)
from BrainSegSAMLib.methods.yolo_medsam.slices import background_slices, known_boxes, slices_of
from BrainSegSAMLib.training_volumes import TrainingVolume, VolumeSettings, make_volume

SCHEME = LabelScheme.plain({"oedema": 1, "core": 2})
MODALITIES = ("t1ce", "t2", "flair")
SHAPE = (10, 40, 48)


def made_volume(name: str, *, grid: Geometry | None = None, minimum_mm3: float = 0.0) -> TrainingVolume:
    """A head with two pieces of oedema, one with a core, and slices of head without a lesion; all on axes LPS."""
    grid = grid or Geometry.axis_aligned(SHAPE, (3.0, 1.0, 1.0))
    rng = np.random.default_rng(5)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:7, 10:20, 12:30] = 1
    labels[4:6, 12:16, 15:20] = 2
    labels[7, 30:32, 33] = 1
    head = np.zeros(SHAPE, dtype=bool)
    head[1:9, 5:35, 8:40] = True
    channels = {m: np.where(head, 100 + 50 * rng.random(SHAPE) + 40 * labels, 0).astype(np.float32) for m in MODALITIES}
    order = grid.reoriented("LPS")[1]
    stored = Image(grid, {m: order.undo(array) for m, array in channels.items()}, name)
    settings = VolumeSettings(("axial", "coronal"), minimum_object_mm3=minimum_mm3)
    return make_volume(stored, order.undo(labels), MODALITIES, SCHEME, settings)


def test_boxes_and_background_of_a_volume() -> None:
    volume = made_volume("a")
    boxes = known_boxes(volume, "axial")
    assert [(item.index, item.kind) for item in boxes] == [(3, 0), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0), (7, 0)]
    assert boxes[0].box == (11.5, 9.5, 29.5, 19.5)
    assert set(boxes[0].outline) == {(11.5, 9.5), (29.5, 9.5), (29.5, 19.5), (11.5, 19.5)}
    assert background_slices(volume, "axial") == [1, 2, 8]
    assert [item.index for item in known_boxes(volume, "axial", minimum_pixels=30)] == [3, 4, 5, 6]
    large = made_volume("a", minimum_mm3=100)
    assert [item.index for item in known_boxes(large, "axial") if item.kind == 0] == [3, 4, 5, 6]
    assert background_slices(large, "axial") == [1, 2, 8], "a slice with a piece too small is no background"


def test_axes_as_stored_make_no_difference() -> None:
    plain = made_volume("a")
    turned = np.array([[0, 0, -1.0], [0, -1.0, 0], [1.0, 0, 0]])
    stored = Geometry((10, 40, 48), (3.0, 1.0, 1.0), (5.0, 6.0, 7.0), turned)
    other = made_volume("a", grid=stored)
    np.testing.assert_array_equal(plain.pictures, other.pictures)
    assert known_boxes(plain, "coronal") == known_boxes(other, "coronal")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DatasetSlice], TrainingVolume]:
    """A data set of two cases of one patient and one of another, cropped to the head."""
    root = tmp_path_factory.mktemp("dataset")
    slices: list[DatasetSlice] = []
    volume = made_volume("a")
    shown = slices_of(volume.pictures, "axial", head_only=True)
    boxes = known_boxes(volume, "axial")
    indices = sorted({item.index for item in boxes} | set(background_slices(volume, "axial")))
    for case_id, patient in (("a_1", "ann"), ("a_2", "ann"), ("b", "")):
        slices += write_slices(Case(case_id, {}, None, patient), shown, boxes, indices, root, plane="axial")
    write_manifest(slices, root)
    return root, slices, volume


def test_the_manifest_says_whose_slices_they_are(written: tuple[Path, list[DatasetSlice], TrainingVolume]) -> None:
    root, slices, _ = written
    assert read_manifest(root) == slices
    assert {item.patient for item in slices} == {"ann", "b"}
    assert [item.boxes for item in slices if item.case_id == "b"] == [0, 0, 1, 2, 2, 1, 1, 0]
    assert (slices[0].row, slices[0].column) == (0, 4)
    assert sorted(path.stem for path in (root / "images").iterdir()) == sorted(item.name for item in slices)
    assert (root / "labels" / "b_axial_0001.txt").read_text() == ""


def test_ultralytics_reads_what_was_written(written: tuple[Path, list[DatasetSlice], TrainingVolume]) -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("The outside oracle is of the extra [detection].")
    from BrainSegSAMLib.backends.yolo_package import ultralytics

    ultralytics()
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    root, slices, volume = written
    split = split_by_case(slices, {"train": ["a_1", "a_2"], "test": ["b"]})
    data = check_det_dataset(str(write_split(root, "mine", split, ["oedema: 'odd'", "core"])))
    assert data["names"] == {0: "oedema: 'odd'", 1: "core"}
    read = YOLODataset(img_path=data["test"], data=data, task="detect", imgsz=40, augment=False, rect=False)
    assert len(read.labels) == 8
    shown = slices_of(volume.pictures, "axial", head_only=True)
    known = known_boxes(volume, "axial")
    for label in read.labels:
        index = int(Path(label["im_file"]).stem[-4:])
        here = [shown.in_frame(item) for item in known if item.index == index]
        assert label["cls"].ravel().tolist() == [item.kind for item in here]
        rows, columns = label["shape"]
        assert (rows, columns) == shown.frames.shape[2:]
        centre, size = label["bboxes"][:, :2], label["bboxes"][:, 2:]
        edges = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * [columns, rows, columns, rows]
        wanted = np.reshape([item.box for item in here], (-1, 4)) + 0.5
        np.testing.assert_allclose(edges, wanted, atol=1e-4)
    picture, _, _ = read.load_image(4)
    np.testing.assert_array_equal(np.moveaxis(picture[..., ::-1], -1, 0), shown.frames[5])  # OpenCV reads BGR


def test_turned_pictures_keep_tight_boxes(tmp_path: Path) -> None:
    """A disc is as wide as before however it is turned; the box around its turned box would be up to 1.41 as wide."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("Augmentation is that of the extra [detection].")
    from BrainSegSAMLib.backends.yolo_package import ultralytics

    ultralytics()
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    z, y, x = np.indices((3, 64, 64))
    disc = ((y - 30) ** 2 + (x - 34) ** 2 <= 12**2) & (z == 1)
    head = np.full(disc.shape, 50, np.float32)
    image = Image(Geometry.axis_aligned(disc.shape, (1.0, 1.0, 1.0)), dict.fromkeys(MODALITIES, head + 100 * disc), "a")
    volume = make_volume(image, disc.astype(np.uint8), MODALITIES, SCHEME, VolumeSettings(("axial",)))
    slices = write_slices(
        Case("a", {}), slices_of(volume.pictures, "axial"), known_boxes(volume, "axial"), [1], tmp_path, plane="axial"
    )
    data = check_det_dataset(str(write_split(tmp_path, "one", {"train": slices}, ["disc", "core"])))
    still = {"mosaic": 0, "translate": 0, "scale": 0, "fliplr": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
    chosen = get_cfg(overrides={**still, "degrees": 45})
    read = YOLODataset(img_path=data["train"], data=data, task="detect", imgsz=64, augment=True, hyp=chosen)
    for _ in range(8):
        width, height = (read[0]["bboxes"][0, 2:] * 64).tolist()
        assert width == pytest.approx(25, abs=1.5)
        assert height == pytest.approx(25, abs=1.5)


def test_a_box_survives_the_crop_to_the_head() -> None:
    volume = made_volume("a")
    shown = slices_of(volume.pictures, "axial", head_only=True)
    assert shown.frames.shape[2:] == (40, 40)
    for item in known_boxes(volume, "axial"):
        assert shown.in_slice(shown.in_frame(item)) == item
    assert shown.in_frame(SliceBox(0, (-0.5, 3.0, 60.0, 9.0))).box == (-0.5, 3.0, 39.5, 9.0), "cut off at the edge"
    whole = slices_of(volume.pictures, "coronal")
    assert whole.frames.shape == (40, 3, 10, 48)


def rows(patients: str, *, of_each: int = 10, positive: int = 4) -> list[DatasetSlice]:
    return [DatasetSlice(f"{p}_{i:03d}", p, p, "axial", i, 0, 0, int(i < positive)) for p in patients
            for i in range(of_each)]  # fmt: skip


def test_patients_are_dealt_six_two_two() -> None:
    cases = [Case(f"{patient}{visit}", {}, None, patient) for patient in "abcdefghij" for visit in (1, 2)]
    parts = deal_patients(cases, seed=3)
    assert {part: len({case_id[0] for case_id in ids}) for part, ids in parts.items()} == {
        "train": 6, "val": 2, "test": 2,
    }  # fmt: skip
    assert sorted(case_id for ids in parts.values() for case_id in ids) == sorted(case.case_id for case in cases)
    assert deal_patients(cases, seed=3) == parts
    assert deal_patients(cases, seed=4) != parts
    assert patients_apart(split_by_case(rows("abcdefghij"), {k: [i[0] for i in v] for k, v in parts.items()}))
    assert [len(ids) for ids in deal_patients(cases[:6], seed=0).values()] == [2, 2, 2]
    with pytest.raises(InputError, match="needs 3 patients, but there are only 2"):
        deal_patients(cases[:4], seed=3)


def test_a_patient_in_two_parts_is_noticed() -> None:
    slices = [DatasetSlice(f"{name}_1", "one", name, "axial", 1, 0, 0, 1) for name in "ab"]
    with pytest.raises(AssertionError, match="several parts"):
        split_by_case(slices, {"train": ["a"], "test": ["b"]})


def test_a_split_by_slice_warns(caplog: pytest.LogCaptureFixture) -> None:
    split = split_by_slice(rows("abc"), seed=1)
    assert [len(part) for part in split.values()] == [18, 6, 6]
    assert len({item.name for part in split.values() for item in part}) == 30
    assert not patients_apart(split)
    assert "say nothing about other patients" in caplog.text


@pytest.mark.parametrize(("share", "count"), [(0.0, 8), (0.5, 14), (1.0, 20)])
def test_background_is_kept_in_the_proportion_asked_for(share: float, count: int) -> None:
    kept = with_background(rows("ab"), share)
    assert len(kept) == count
    assert sum(item.boxes for item in kept) == 8
    assert {item.patient for item in kept if not item.boxes} == (set("ab") if share else set())


def test_bad_data_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a box"):
        write_split(tmp_path, "none", {"train": rows("a", positive=0)}, ["lesion"])
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("name,patient\nx,y\n")
    with pytest.raises(InputError, match="is no manifest"):
        read_manifest(tmp_path)
    volume = made_volume("a")
    shown = slices_of(volume.pictures, "axial")
    beyond = [SliceBox(3, (60.0, 5.0, 70.0, 9.0))]
    with pytest.raises(InputError, match="a: slice 3 has the box"):
        write_slices(Case("a", {}), shown, beyond, [3], tmp_path, plane="axial")
