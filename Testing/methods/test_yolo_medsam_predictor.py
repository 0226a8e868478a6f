"""From an image to a segmentation by way of boxes, with stand-ins for both networks that know what is right.

The detector's stand-in boxes what is bright on a slice; the segmenter's fills the ellipse in a box. So the right answer
is known: the lesion is an ellipsoid along the grid's axes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.boxes import SliceBox, box_around
from BrainSegSAMLib.errors import Cancelled, InputError, ModelError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image, Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.methods import load_predictor
from BrainSegSAMLib.methods.contract import Predictor
from BrainSegSAMLib.methods.yolo_medsam.config import YoloMedSAMSettings
from BrainSegSAMLib.methods.yolo_medsam.detector import Detector
from BrainSegSAMLib.methods.yolo_medsam.detector_config import DetectionSettings
from BrainSegSAMLib.methods.yolo_medsam.finding import DetectedBoxes, PriorBoxes
from BrainSegSAMLib.methods.yolo_medsam.predictor import YoloMedSAMPredictor, painted
from BrainSegSAMLib.methods.yolo_medsam.segmenter import Segmenter
from BrainSegSAMLib.models.store import Model
from BrainSegSAMLib.progress import Progress
from Testing.box_stand_ins import BrightBoxes, Ellipses, ellipsoid

NESTED = LabelScheme((Region("Whole", (1, 2, 3), (1, 2, 3)), Region("Core", (1, 3), (4, 5, 6)),
                      Region("Active", (3,), (7, 8, 9))))  # fmt: skip
ONE = LabelScheme.plain({"lesion": 1})
GRID = Geometry.axis_aligned((20, 40, 50), (3.0, 0.8, 1.2))
LESION = (10.0, 18.0, 22.0), (5.5, 9.5, 12.5)  # centre and half axes in voxels, z, y, x


TRUTH = ellipsoid(*LESION, GRID.shape_zyx)


def image_of(truth: NDArray[np.bool_]) -> Image:
    head = ellipsoid([(n - 1) / 2 for n in truth.shape], [n / 2 for n in truth.shape], truth.shape)
    noise = np.random.default_rng(0).uniform(50, 60, truth.shape)
    return Image(GRID, {"flair": np.where(truth, 200.0, np.where(head, noise, 0)).astype(np.float32)}, "case")


def model(method: str, scheme: LabelScheme = ONE, modalities: tuple[str, ...] = ("flair",)) -> Model:
    return Model(Path(), method.replace("_", "-"), method, method, modalities, scheme, "CC0-1.0")


def by_detector(
    settings: YoloMedSAMSettings | None = None, network: Any = None, scheme: LabelScheme = ONE, plane: str = "axial"
) -> YoloMedSAMPredictor:
    settings = settings or YoloMedSAMSettings()
    detection = DetectionSettings(plane=plane)
    detector = Detector(model("yolo_detector", scheme), network or BrightBoxes(), detection, 0.5, 99.5)
    segmenter: Any = Segmenter(model("sam", modalities=("any",)), Ellipses(), 0.5, 99.5)  # type: ignore[arg-type]
    source = DetectedBoxes(detector, settings)
    return YoloMedSAMPredictor(model("yolo_medsam", scheme), settings, source=source, segmenter=segmenter, device="cpu")


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_what_is_in_the_boxes_is_the_lesion() -> None:
    predictor = by_detector()
    assert isinstance(predictor, Predictor)
    fractions: list[float] = []
    found = predictor.predict(image_of(TRUTH), progress=Progress(lambda update: fractions.append(update.fraction)))
    assert found.geometry is GRID
    assert dice(found.mask("lesion"), TRUTH) > 0.93
    assert fractions == sorted(fractions)
    (lesion,) = found.record["lesions"]
    assert lesion["region"] == "lesion"
    assert (lesion["plane"], lesion["slices_lps"]) == ("axial", [5, 15])
    assert lesion["volume_mm3"] == pytest.approx(np.count_nonzero(found.label_map) * GRID.voxel_volume_mm3)
    asked = predictor._segmenter.network.asked  # type: ignore[attr-defined]
    assert asked == list(range(5, 16)), "slices without a box are not looked at"


@pytest.mark.parametrize("axes", ["RAS", "PIR", "SLA"])
def test_the_result_lies_where_the_lesion_does_however_the_volume_is_stored(axes: str) -> None:
    image = image_of(TRUTH)
    stored, order = GRID.reoriented(axes)
    turned = Image(stored, {"flair": order.apply(image.channels["flair"])}, "case")
    found = by_detector().predict(turned)
    assert found.geometry is stored
    np.testing.assert_array_equal(order.undo(found.label_map), by_detector().predict(image).label_map)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("axes", ["LPS", "PIR"])
def test_the_record_says_where_a_lesion_lies_in_space(plane: str, axes: str) -> None:
    image = image_of(TRUTH)
    stored, order = GRID.reoriented(axes)
    turned = Image(stored, {"flair": order.apply(image.channels["flair"])}, "case")
    (lesion,) = by_detector(plane=plane).predict(turned).record["lesions"]
    first, last = (edges(axis=1)[::-1] for edges in (np.array(np.nonzero(TRUTH)).min, np.array(np.nonzero(TRUTH)).max))
    assert lesion["box_ijk_lps"] == [(first - 0.5).tolist(), (last + 0.5).tolist()]
    corners = GRID.to_lps([first - 0.5, last + 0.5])
    np.testing.assert_allclose(lesion["corners_lps_mm"], corners, atol=0.05)
    np.testing.assert_allclose(lesion["centre_lps_mm"], corners.mean(axis=0), atol=0.1)


def test_a_segmenter_that_sees_the_head_alone_draws_in_the_same_place() -> None:
    image = image_of(TRUTH)
    shown = np.zeros_like(image.channels["flair"])
    shown[:, 5:35, 4:40] = image.channels["flair"][:, 5:35, 4:40]
    inside = replace(image, channels={"flair": shown})
    whole, head = by_detector(), by_detector()
    head._segmenter = replace(head._segmenter, head_only=True)
    np.testing.assert_array_equal(head.predict(inside).label_map, whole.predict(inside).label_map)
    assert whole.predict(inside).label_map.any()


def test_nothing_found_is_an_empty_result_and_said() -> None:
    blank = image_of(np.zeros_like(TRUTH))
    found = by_detector(network=SimpleNamespace(detect=lambda frames, **_: [])).predict(blank)
    assert not found.label_map.any()
    assert found.record["lesions"] == []
    assert any("No box was found" in note for note in found.record["notes"])


def test_a_missing_modality_is_refused_and_cancelling_stops() -> None:
    with pytest.raises(InputError, match="lacks flair"):
        by_detector().predict(Image(GRID, {"t2": np.ones(GRID.shape_zyx, np.float32)}))
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        by_detector().predict(image_of(TRUTH), progress=progress)


def test_settings_replace_the_detectors_own() -> None:
    thin = np.zeros_like(TRUTH)
    thin[10] = TRUTH[10]
    assert not by_detector().predict(image_of(thin)).label_map.any(), "on one slice alone it does not count"
    assert by_detector(YoloMedSAMSettings(minimum_slices=1)).predict(image_of(thin)).label_map.any()
    seen: list[float] = []

    def detect(frames: NDArray[np.uint8], *, confidence: float, **_: Any) -> list[SliceBox]:
        seen.append(confidence)
        return []

    for settings in (YoloMedSAMSettings(), YoloMedSAMSettings(confidence=0.6)):
        by_detector(settings, SimpleNamespace(detect=detect)).predict(image_of(TRUTH))
    assert seen == [0.25, 0.6]
    assert YoloMedSAMSettings.from_dict(YoloMedSAMSettings(inputs=("t2",)).as_dict()).inputs == ("t2",)


class Given:
    """A model that segments: what it is given."""

    def __init__(self, scheme: LabelScheme, masks: Sequence[NDArray[np.bool_]]) -> None:
        self.model = model("nnunet", scheme)
        self._masks = masks

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        record = {"settings": {"mirroring": True}, "notes": ["Look at lesion 2."]}
        found = painted(self.model.scheme, self._masks)
        return Segmentation(image.geometry, self.model.scheme, found, image.name, record)


def test_a_priors_lesions_are_drawn_anew_and_its_small_ones_kept() -> None:
    core = ellipsoid(LESION[0], [half / 2 for half in LESION[1]], GRID.shape_zyx)
    small = np.zeros_like(TRUTH)
    small[2, 5, 5:7] = True
    blocks = np.zeros_like(TRUTH)
    for index in np.flatnonzero(TRUTH.any(axis=(1, 2))):  # as a careless prior draws it: its boxes are right
        column0, row0, column1, row1 = (int(side + 0.5) for side in box_around(TRUTH[index]))
        blocks[index, row0:row1, column0:column1] = True
    settings = YoloMedSAMSettings(margin_mm=0)
    prior = Given(NESTED, [blocks | small, core, np.zeros_like(core)])
    segmenter: Any = Segmenter(model("sam", modalities=("any",)), Ellipses(), 0.5, 99.5)  # type: ignore[arg-type]
    predictor = YoloMedSAMPredictor(
        model("yolo_medsam", NESTED), settings, source=PriorBoxes(prior, settings), segmenter=segmenter, device="cpu"
    )
    found = predictor.predict(image_of(TRUTH))
    assert dice(found.mask("Whole") & ~small, TRUTH) > 0.93
    assert dice(blocks, TRUTH) < 0.9
    assert dice(found.mask("Core"), core) > 0.9
    assert not found.mask("Active").any()
    assert found.mask("Whole")[small].all()
    assert found.record["boxes_from"]["settings"] == {"mirroring": True}
    assert found.record["notes"] == ["Look at lesion 2."], "what a prior has to say is not lost"
    larger = replace(settings, margin_mm=4.0)
    wide = YoloMedSAMPredictor(
        model("yolo_medsam", NESTED), larger, source=PriorBoxes(prior, larger), segmenter=segmenter, device="cpu"
    ).predict(image_of(TRUTH))
    row = 18
    before, after = (np.flatnonzero(one.mask("Whole")[10, row]) for one in (found, wide))
    assert (before[0] - after[0]) * 1.2 == pytest.approx(4.0, abs=1.2), "4 mm to the side, whatever the spacing"


@pytest.mark.parametrize("kinds", [(0, 1), (1, 0)])
def test_what_is_of_one_kind_alone_goes_to_the_surer_box(kinds: tuple[int, int]) -> None:
    """Two kinds that share no label and lie in one place: whichever the scheme names first, the less sure one gets
    what is left over."""
    sure, unsure = kinds
    inner = ellipsoid(LESION[0], [half / 2 for half in LESION[1]], GRID.shape_zyx)
    bright = BrightBoxes()

    def detect(frames: NDArray[np.uint8], **asked: Any) -> list[SliceBox]:
        boxes = [replace(item, kind=unsure, confidence=0.3) for item in bright.detect(frames, **asked)]
        middle = [index for index in range(len(frames)) if inner[index].any()]
        return boxes + [SliceBox(index, box_around(inner[index]), sure, 0.9) for index in middle]

    two = LabelScheme.plain({"metastasis": 1, "meningioma": 2})
    predictor = by_detector(network=SimpleNamespace(detect=detect), scheme=two)
    found = predictor.predict(image_of(TRUTH))
    assert dice(found.mask(two.names[sure]), inner) > 0.9
    assert dice(found.mask(two.names[unsure]), TRUTH & ~inner) > 0.9
    first, second = found.record["lesions"]
    assert (first["region"], second["region"]) == (two.names[sure], two.names[unsure])


@pytest.mark.parametrize("swap", [False, True])
def test_regions_within_others_belong_to_both(swap: bool) -> None:
    scheme = LabelScheme(NESTED.regions[::-1]) if swap else NESTED
    whole, core, active = np.zeros((3, 1, 1, 4), bool)
    whole[..., :3], core[..., :2], active[..., :1] = True, True, True
    masks = {"Whole": whole, "Core": core, "Active": active}
    label_map = painted(scheme, [masks[name] for name in scheme.names])
    assert label_map.ravel().tolist() == [3, 1, 2, 0]
    found = Segmentation(Geometry.axis_aligned((1, 1, 4), (1, 1, 1)), scheme, label_map)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found.mask(name), mask)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"confidence": 1.5}, "confidence is 1.5; it must be between 0 and 1"),
        ({"plane": "oblique"}, "plane is oblique"),
        ({"minimum_slices": 0}, "minimum_slices is 0"),
        ({"inputs": ["a", "b", "c", "d"]}, "at most 3 modalities"),
        ({"margin_mm": -1}, "margin_mm is -1"),
        ({"colour": 1}, "no setting colour"),
        ({"margin_mm": "wide"}, "wrong kind"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        YoloMedSAMSettings.from_dict(values)


def test_settings_that_would_change_nothing_are_refused() -> None:
    YoloMedSAMSettings(confidence=0.4).check_used(by_detector=True)
    YoloMedSAMSettings(margin_mm=5.0).check_used(by_detector=False)
    with pytest.raises(InputError, match="margin_mm changes nothing where a detector finds the boxes"):
        YoloMedSAMSettings(margin_mm=5.0).check_used(by_detector=True)


def test_a_composed_model_runs_from_its_folder(
    random_model: Path, random_segmenter: Path, random_tracker: Path, tmp_path: Path, write_case: Callable[..., Path]
) -> None:
    from BrainSegSAMLib import cli
    from BrainSegSAMLib.methods.yolo_medsam.composing import compose
    from BrainSegSAMLib.models.store import load_model

    made = compose(random_model, random_segmenter, tmp_path / "boxed", settings={"margin_mm": 1.0})
    assert (made.method, made.modalities, made.scheme) == (
        "yolo_medsam", load_model(random_model).modalities, load_model(random_model).scheme
    )
    assert made.training["composed_of"]["segmenter"]["name"] == load_model(random_segmenter).name
    with pytest.raises(ModelError, match="boxes come from a detector"):
        compose(random_tracker, random_segmenter, tmp_path / "tracked")
    with pytest.raises(InputError, match="confidence changes nothing where a prior finds the boxes"):
        compose(random_model, random_segmenter, tmp_path / "sure", settings={"confidence": 0.4})
    with pytest.raises(InputError, match="minimum_slices changes nothing"):
        load_predictor(tmp_path / "boxed", overrides={"minimum_slices": 3})
    edited = json.loads((tmp_path / "boxed" / "model.json").read_text())
    edited["regions"] = edited["regions"][::-1]
    shutil.copytree(tmp_path / "boxed", tmp_path / "edited")
    (tmp_path / "edited" / "model.json").write_text(json.dumps(edited))
    with pytest.raises(ModelError, match=r"does not fit .* compose it again"):
        load_predictor(tmp_path / "edited")
    grid = Geometry.axis_aligned((12, 32, 32), (2.0, 2.0, 2.0))
    write_case(tmp_path / "cases" / "a", grid, modalities=made.modalities)
    arguments = ["predict", "--model", str(tmp_path / "boxed"), "--input", str(tmp_path / "cases"), "--output"]
    more = [str(tmp_path / "out"), "--device", "cpu", "--set", "precision=fp32", "--no-mirroring"]
    assert cli.main([*arguments, *more]) == 0
    assert (tmp_path / "out" / "a.seg.nrrd").is_file()
