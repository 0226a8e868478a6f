"""The demonstration, with the whole of `predict` and a stand-in for the network; and once with the bundled model."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from BrainSegSAMLib import demo, prediction_work
from BrainSegSAMLib.cases import find_cases, load_image
from BrainSegSAMLib.demo import DemoResult, run_demo, write_synthetic_case
from BrainSegSAMLib.errors import Cancelled, InputError, OutputError
from BrainSegSAMLib.image import Image, Segmentation
from BrainSegSAMLib.itk import image_of, simpleitk
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.models.store import Model, load_model, write_model
from BrainSegSAMLib.phantom import CHANNELS, Phantom, make_phantom
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from BrainSegSAMLib.segmentation_files import read_segmentation

SCHEME = LabelScheme(
    (
        Region("Whole tumour", (1, 2, 3), (230, 159, 0)),
        Region("Tumour core", (1, 3), (86, 180, 233)),
        Region("Enhancing tumour", (3,), (0, 158, 115)),
    )
)
Labels = NDArray[np.uint8]
Answer = Callable[[Image], Labels]
Prepare = Callable[[Answer], str]


@functools.cache
def small_phantom(seed: int) -> Phantom:
    return make_phantom(seed, shape_zyx=(31, 60, 60), spacing_zyx_mm=(5.0, 4.0, 4.0))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A small case, and a picture only where a test looks at it: drawing takes a second."""
    if "slow" in request.keywords:
        return
    monkeypatch.setattr(demo, "make_phantom", small_phantom)
    if "picture" not in request.node.name:
        monkeypatch.setattr(demo, "overlay_png", lambda _image, _segmentation, path, **_: path.write_bytes(b""))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = tmp_path / "stand-in"
    folder.mkdir()
    (folder / "weights").write_bytes(b"none")
    return write_model(
        Model(folder, "stand-in", "Stand-in", "nnunet", CHANNELS, SCHEME, "Apache-2.0", demonstration=True),
        files=["weights"],
    )


class StandIn:
    """Answers with given labels, or with what a function makes of the image."""

    def __init__(self, model: Model, answer: Answer) -> None:
        self.model = model
        self._answer = answer

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        if progress is not None:
            progress.check()
        return Segmentation(image.geometry, SCHEME, self._answer(image), image.name, {"model": self.model.name})


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, model: Model) -> Prepare:
    """Let the model answer as told; gives the folder to ask for."""

    def prepare(function: Answer) -> str:
        stand_in = StandIn(load_model(model.folder), function)
        monkeypatch.setattr(prediction_work, "load_predictor", lambda *_, **__: stand_in)
        return str(model.folder)

    return prepare


def put_in(_: Image) -> Labels:
    return small_phantom(demo.SEED).labels


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_synthetic_case_is_a_case_folder(tmp_path: Path) -> None:
    folder = write_synthetic_case(tmp_path / "synthetic-7", 7)
    (case,) = find_cases(folder, modalities=CHANNELS)
    assert (case.case_id, case.problem) == ("synthetic-7", "")
    image, actions = load_image(case, CHANNELS)
    made = small_phantom(7)
    assert actions == []
    assert image.geometry.orientation == "LPS"
    for name in CHANNELS:
        assert np.abs(image.channels[name] - made.channels[name]).max() <= 0.5
    assert case.reference is not None
    assert np.array_equal(read_segmentation(case.reference).label_map, made.labels)


def test_lesion_is_found_again_measured_and_pictured(tmp_path: Path, answer: Prepare) -> None:
    updates: list[ProgressUpdate] = []
    result = run_demo(tmp_path / "out", model=answer(put_in), device="cpu", progress=Progress(updates.append))
    assert isinstance(result, DemoResult)
    assert (result.case_id, result.lesion_dice, result.problem) == (f"synthetic-{demo.SEED}", 1.0, "")
    assert [row.region for row in result.rows] == list(SCHEME.names)
    assert [row.dice for row in result.rows] == [1.0, 1.0, 1.0]
    assert all(path.exists() for path in result.files.values())
    assert imread(result.files["picture"]).shape[2] >= 3
    rows = table_of(result.files["volumes"])
    assert list(rows[0]) == ["region", "volume_ml", "components", "largest_diameter_mm", "dice"]
    labels = small_phantom(demo.SEED).labels
    assert float(rows[0]["volume_ml"]) == pytest.approx((labels > 0).sum() * 0.08, abs=0.001)
    assert float(rows[2]["volume_ml"]) == pytest.approx((labels == 3).sum() * 0.08, abs=0.001)
    assert {row["dice"] for row in rows} == {"1.0000"}
    fractions = [update.fraction for update in updates]
    assert fractions == sorted(fractions)
    said = result.text()
    for path in result.files.values():
        assert str(path) in said
    assert "Whole tumour" in said
    assert "not for clinical use" in said
    assert "1.000" in said


@pytest.mark.parametrize("shift", [9, None])
def test_lost_lesion_is_a_failure(
    tmp_path: Path, answer: Prepare, shift: int | None
) -> None:
    def miss(image: Image) -> Labels:
        return np.zeros_like(put_in(image)) if shift is None else np.roll(put_in(image), shift, axis=1)

    result = run_demo(tmp_path / "out", model=answer(miss), device="cpu")
    expected = 0.0 if shift is None else dice(miss(None) > 0, put_in(None) > 0)  # type: ignore[arg-type]
    assert result.lesion_dice == pytest.approx(expected)
    assert result.lesion_dice is not None
    assert result.lesion_dice < demo.MINIMUM_DICE
    assert "was not found again" in result.problem
    assert f"{result.lesion_dice:.3f}" in result.problem
    assert result.files["picture"].exists()  # to see what went wrong


def write_case(folder: Path, *, labels: Labels | None) -> Path:
    write_synthetic_case(folder, 3)
    reference = folder / f"{folder.name}_seg.nii.gz"
    if labels is None:
        reference.unlink()
    else:
        geometry = read_segmentation(reference).geometry
        simpleitk().WriteImage(image_of(labels, geometry), str(reference))
    return folder


def test_own_case_with_brats_2021_labels(tmp_path: Path, answer: Prepare) -> None:
    labels = small_phantom(3).labels
    source = write_case(tmp_path / "patient", labels=np.where(labels == 3, 4, labels).astype(np.uint8))
    result = run_demo(tmp_path / "out", case=source, model=answer(lambda _: labels), device="cpu")
    assert [row.dice for row in result.rows] == [1.0, 1.0, 1.0]
    assert any("4 was read as 3" in note for note in result.notes)
    assert not (tmp_path / "out" / demo.SYNTHETIC_FOLDER).exists()
    assert "input" not in result.files


def test_own_case_with_other_labels_is_compared_as_a_whole(
    tmp_path: Path, answer: Prepare
) -> None:
    labels = small_phantom(3).labels
    source = write_case(tmp_path / "patient", labels=(labels > 0).astype(np.uint8) * 7)
    result = run_demo(tmp_path / "out", case=source, model=answer(lambda _: labels), device="cpu")
    assert result.lesion_dice == 1.0
    assert {row.dice for row in result.rows} == {None}
    assert any("label values 7" in note for note in result.notes)


def test_own_case_without_a_reference_cannot_fail(
    tmp_path: Path, answer: Prepare
) -> None:
    source = write_case(tmp_path / "patient", labels=None)
    result = run_demo(tmp_path / "out", case=source, model=answer(lambda _: small_phantom(9).labels), device="cpu")
    assert (result.lesion_dice, result.problem) == (None, "")
    assert {row["dice"] for row in table_of(result.files["volumes"])} == {""}
    assert "Dice of the whole lesion" not in result.text()


def test_several_cases_are_refused_before_any_work(
    tmp_path: Path, answer: Prepare
) -> None:
    for name in ("a", "b"):
        write_case(tmp_path / "cases" / name, labels=None)
    with pytest.raises(InputError, match=r"2 cases \(a, b\)"):
        run_demo(tmp_path / "out", case=tmp_path / "cases", model=answer(put_in), device="cpu")
    assert not (tmp_path / "out").exists()


def test_bad_input(tmp_path: Path, answer: Prepare) -> None:
    model = answer(put_in)
    with pytest.raises(InputError, match="does not exist"):
        run_demo(tmp_path / "out", case=tmp_path / "nowhere", model=model, device="cpu")
    with pytest.raises(InputError, match="seed"):
        run_demo(tmp_path / "out", model=model, device="cpu", seed=-1)
    source = write_case(tmp_path / "patient", labels=None)
    (source / "patient_t2.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"patient_t2\.nii\.gz is empty"):
        run_demo(tmp_path / "out", case=source, model=model, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        run_demo(tmp_path / "file", model=model, device="cpu")


def test_cancel(tmp_path: Path, answer: Prepare) -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        run_demo(tmp_path / "out", model=answer(put_in), device="cpu", progress=progress)


@pytest.mark.slow
def test_bundled_model_finds_the_lesion(tmp_path: Path) -> None:
    result = run_demo(tmp_path, device="cpu")
    assert result.problem == ""
    assert result.lesion_dice is not None
    assert result.lesion_dice >= demo.MINIMUM_DICE
