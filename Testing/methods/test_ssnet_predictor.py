"""SSNet from an image to its stages, with a prior that thresholds and a tracker that follows brightness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.errors import Cancelled, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image, Segmentation
from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.methods.contract import Predictor
from BrainSegSAMLib.methods.ssnet.config import SSNetSettings
from BrainSegSAMLib.methods.ssnet.predictor import SSNetPredictor, agreement_scheme
from BrainSegSAMLib.methods.ssnet.tracker import Tracker, tracker_inputs, vote_name
from BrainSegSAMLib.models.store import Model
from BrainSegSAMLib.progress import Progress
from Testing.similarity_tracker import SimilarityTracker

GRID = Geometry.axis_aligned((24, 40, 44), (1.0, 1.0, 1.0), (-10.0, 5.0, 30.0))
LESION = LabelScheme.plain({"Lesion": 1})

# The lesions of these tests have tips of one voxel, which do not look like the rest.
NO_LIKENESS = {"minimum_likeness": None, "pixel_likeness": None}


def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    axes = np.ogrid[: GRID.shape_zyx[0], : GRID.shape_zyx[1], : GRID.shape_zyx[2]]
    inside: NDArray[np.bool_] = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) <= radius**2
    return inside


LARGE, OTHER, TINY = ball((12, 20, 14), 6), ball((12, 18, 33), 4), ball((4, 33, 8), 1)


def image(**lesions: NDArray[np.bool_]) -> Image:
    """Noise in which each modality shows its own lesions bright."""
    channels = {}
    for seed, (modality, mask) in enumerate(lesions.items()):
        noise = np.random.default_rng(seed).normal(400, 10, GRID.shape_zyx)
        channels[modality] = np.where(mask, 900 + noise / 10, noise).astype(np.float32)
    return Image(GRID, channels, "case")


EVERYTHING = LARGE | OTHER | TINY
THREE = image(flair=EVERYTHING, t1=EVERYTHING, t2=EVERYTHING)


class ThresholdPrior:
    """A Predictor: bright voxels of the first modality; it also gives probabilities."""

    def __init__(self, *, above: float = 700.0) -> None:
        self.above = above
        self.model = Model(Path(), "threshold", "Threshold", "threshold", ("flair", "t1", "t2"), LESION, "MIT")

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        return self.predict_with_probabilities(image, progress=progress)[0]

    def predict_with_probabilities(
        self, image: Image, *, progress: Progress | None = None
    ) -> tuple[Segmentation, NDArray[np.float32]]:
        probability = 1 / (1 + np.exp(-np.clip(image.channels["flair"] - self.above, -2000, 2000) / 50))
        label_map = (probability > 0.5).astype(np.uint8)
        record = {"settings": {"mirroring": True}}
        return Segmentation(image.geometry, LESION, label_map, image.name, record), probability[None]


class SilentPrior:
    """The same without probabilities."""

    def __init__(self) -> None:
        self._inner = ThresholdPrior()
        self.model = self._inner.model

    def predict(self, image: Image, *, progress: Progress | None = None) -> Segmentation:
        return self._inner.predict(image, progress=progress)


def predictor(
    *, prior: Any = None, network: SimilarityTracker | None = None, modalities: tuple[str, ...] = ("any",),
    **settings: Any,
) -> SSNetPredictor:
    prior = prior or ThresholdPrior()
    tracker_model = Model(Path(), "similarity", "Similarity", "sam2_tracker", modalities, LESION, "MIT")
    model = replace(prior.model, name="composed", method="ssnet")
    tracker = Tracker(tracker_model, network or SimilarityTracker(), 64, 0.5, 99.5)
    chosen = SSNetSettings.from_dict({**NO_LIKENESS, **settings})
    return SSNetPredictor(model, chosen, prior=prior, tracker=tracker, device="cpu")


def masks(result: Segmentation) -> dict[str, NDArray[np.bool_]]:
    return {name: stage.label_map > 0 for name, stage in result.stages.items() if name != "agreement"}


def test_a_predictor_keeps_its_contract_and_carries_every_stage() -> None:
    made = predictor()
    result = made.predict(THREE)
    assert isinstance(made, Predictor)
    assert result.geometry is GRID
    assert result.scheme == made.model.scheme
    assert list(result.stages) == ["threshold", "flair", "t1", "t2", "ensemble", "agreement"]
    for name, mask in masks(result).items():
        np.testing.assert_array_equal(mask, EVERYTHING, err_msg=name)
    assert {stage.geometry for stage in result.stages.values()} == {GRID}
    assert result.record["settings"] == {"mirroring": True, **SSNetSettings().as_dict(), **NO_LIKENESS}
    assert result.record["votes"] == {"flair": ["flair"], "t1": ["t1"], "t2": ["t2"]}
    again = made.predict(THREE)
    np.testing.assert_array_equal(again.label_map, result.label_map)


def test_the_prior_answers_unless_the_ensemble_is_asked_for() -> None:
    shrunk = image(flair=EVERYTHING, t1=ball((12, 20, 14), 4), t2=ball((12, 20, 14), 4))
    by_default = predictor().predict(shrunk)
    np.testing.assert_array_equal(by_default.label_map > 0, EVERYTHING)
    asked = predictor(answer="ensemble").predict(shrunk)
    np.testing.assert_array_equal(asked.label_map, asked.stages["ensemble"].label_map)
    assert asked.label_map.sum() < by_default.label_map.sum()
    assert by_default.record["answer"] == "prior"


@pytest.mark.parametrize("rule", ["majority", "union", "intersection", "mean_logit", "staple"])
def test_each_ensemble_rule_works_on_the_tracks(rule: str) -> None:
    small, large = ball((12, 20, 14), 4) | OTHER | TINY, EVERYTHING
    result = predictor(ensemble=rule).predict(image(flair=large, t1=small, t2=large))
    found = masks(result)
    assert not (found["ensemble"] & ~(found["flair"] | found["t1"] | found["t2"])).any()
    assert ((found["flair"] & found["t1"] & found["t2"]) & ~found["ensemble"]).sum() == 0
    if rule == "intersection":
        np.testing.assert_array_equal(found["ensemble"], found["flair"] & found["t1"] & found["t2"])


def test_lesions_too_small_to_track_keep_the_priors_voxels_in_every_stage() -> None:
    without = EVERYTHING & ~TINY
    result = predictor(minimum_lesion_mm3=20.0).predict(image(flair=EVERYTHING, t1=without, t2=without))
    for name, mask in masks(result).items():
        assert mask[TINY].all(), name
    assert set(result.stages["agreement"].label_map[TINY]) == {1}, "nobody but the prior says so"
    assert [row["tracked"] for row in result.record["lesions"]] == [False, True, True]
    tracked = predictor(minimum_lesion_mm3=1.0).predict(image(flair=EVERYTHING, t1=without, t2=without))
    assert all(row["tracked"] for row in tracked.record["lesions"])
    assert next(row for row in tracked.record["lesions"] if row["voxels"] == TINY.sum())["zoomed"] is True


def test_the_agreement_map_counts_and_lesions_that_disagree_are_flagged() -> None:
    elsewhere = ball((12, 20, 17), 5) | OTHER
    result = predictor().predict(image(flair=LARGE | OTHER, t1=LARGE | OTHER, t2=elsewhere))
    found = masks(result)
    counts = sum(found[name].astype(int) for name in ("threshold", "flair", "t1", "t2"))
    np.testing.assert_array_equal(result.stages["agreement"].label_map, counts)
    assert result.stages["agreement"].scheme == agreement_scheme(4)
    rows = {row["number"]: row for row in result.record["lesions"]}
    disagreeing = next(row for row in rows.values() if row["voxels"] == LARGE.sum())
    agreeing = next(row for row in rows.values() if row["voxels"] == OTHER.sum())
    assert agreeing["agreement"] == pytest.approx(1.0)
    assert disagreeing["agreement"] < 0.95
    strict = predictor(flag_agreement=0.97).predict(image(flair=LARGE | OTHER, t1=LARGE | OTHER, t2=elsewhere))
    assert [row["flagged"] for row in strict.record["lesions"]] == [
        row["voxels"] == LARGE.sum() for row in strict.record["lesions"]
    ]
    assert any("disagree on lesion" in note for note in strict.record["notes"])


def test_no_lesion_is_an_empty_result_that_says_so() -> None:
    network = SimilarityTracker()
    result = predictor(network=network, prior=ThresholdPrior(above=5000.0)).predict(THREE)
    assert not result.label_map.any()
    assert all(not stage.label_map.any() for stage in result.stages.values())
    assert list(result.stages) == ["threshold", "flair", "t1", "t2", "ensemble", "agreement"]
    assert result.record["lesions"] == []
    assert "No lesion was found" in result.record["notes"][0]
    assert network.opened == []


def test_lesions_that_are_all_too_small_are_the_priors_and_it_is_said() -> None:
    network = SimilarityTracker()
    result = predictor(network=network, minimum_lesion_mm3=1e6).predict(THREE)
    for name, mask in masks(result).items():
        np.testing.assert_array_equal(mask, EVERYTHING, err_msg=name)
    assert any("none was tracked" in note for note in result.record["notes"])
    assert network.opened == []


def test_a_lesion_that_fills_its_key_slice_is_the_priors_and_it_is_said() -> None:
    full = np.zeros(GRID.shape_zyx, dtype=bool)
    full[3:5] = True
    network = SimilarityTracker()
    result = predictor(network=network).predict(image(flair=full, t1=full, t2=full))
    for name, mask in masks(result).items():
        np.testing.assert_array_equal(mask, full, err_msg=name)
    assert network.opened == []
    assert [row["tracked"] for row in result.record["lesions"]] == [False]
    assert result.record["notes"] == [
        "Lesion 1 fills its whole axial slice 3, so it cannot be told from anything and was not tracked."
    ]
    both = full | OTHER
    result = predictor().predict(image(flair=both, t1=both, t2=both))
    for name, mask in masks(result).items():
        np.testing.assert_array_equal(mask, both, err_msg=name)
    assert [row["tracked"] for row in result.record["lesions"]] == [False, True]
    assert any("Lesion 1 fills" in note for note in result.record["notes"])
    tiny = predictor(minimum_lesion_mm3=1e6).predict(image(flair=both, t1=both, t2=both))
    assert sum("none was tracked" in note for note in tiny.record["notes"]) == 1


def test_lesions_at_the_ends_of_the_volume() -> None:
    ends = ball((0, 20, 14), 5) | ball((23, 18, 33), 5)
    result = predictor().predict(image(flair=ends, t1=ends, t2=ends))
    np.testing.assert_array_equal(result.stages["ensemble"].label_map > 0, ends)
    assert sorted(row["key_slice"] for row in result.record["lesions"]) == [0, 23]


def test_a_track_that_leaves_the_priors_reach_is_cut_and_it_is_recorded() -> None:
    beyond = LARGE | ball((12, 20, 20), 4) | ball((18, 20, 14), 4)
    result = predictor(margin_mm=1.0, minimum_probability=None).predict(image(flair=LARGE, t1=beyond, t2=beyond))
    fired = result.record["rules_fired"]["t1"]
    assert {firing["rule"] for firing in fired} >= {"reach"}
    found = masks(result)["t1"]
    assert np.flatnonzero(found.any(axis=(1, 2))).max() <= 19
    assert np.flatnonzero(found.any(axis=(0, 1))).max() <= 21
    stopped = predictor(minimum_probability=0.5).predict(image(flair=LARGE, t1=beyond, t2=beyond))
    assert "probability" in {firing["rule"] for firing in stopped.record["rules_fired"]["t1"]}


def test_a_prior_without_probabilities_still_works_and_it_is_said() -> None:
    result = predictor(prior=SilentPrior()).predict(THREE)
    np.testing.assert_array_equal(result.stages["ensemble"].label_map > 0, EVERYTHING)
    assert any("no probabilities" in note for note in result.record["notes"])


def turned(degrees: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    matrix[:3, 3] = [12.0, -7.0, 3.0]
    return matrix


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SRA", "PIR"])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_the_result_lies_in_the_same_place_however_the_image_is_stored(orientation: str, degrees: float) -> None:
    lesions = {"flair": LARGE | OTHER, "t1": LARGE | OTHER, "t2": ball((12, 20, 16), 5) | OTHER}
    spacing = Geometry(GRID.size_ijk, (1.0, 0.8, 2.5), GRID.origin_lps_mm, np.eye(3)).moved_lps(turned(degrees))
    straight = Image(spacing, image(**lesions).channels, "straight")
    expected = predictor(answer="ensemble").predict(straight)
    grid, order = spacing.reoriented(orientation)
    stored = Image(grid, {name: order.apply(array) for name, array in straight.channels.items()}, "stored")
    result = predictor(answer="ensemble").predict(stored)
    assert result.geometry is grid
    np.testing.assert_array_equal(result.label_map, order.apply(expected.label_map))
    for name, stage in result.stages.items():
        np.testing.assert_array_equal(stage.label_map, order.apply(expected.stages[name].label_map), err_msg=name)
    centres = [row["centre_lps_mm"] for row in result.record["lesions"]]
    assert centres == [row["centre_lps_mm"] for row in expected.record["lesions"]]


def test_a_z_flip_flips_the_result() -> None:
    lesions = {"flair": LARGE | OTHER, "t1": LARGE | OTHER, "t2": ball((13, 20, 15), 5) | OTHER}
    straight = image(**lesions)
    flipped = Image(GRID, {name: array[::-1] for name, array in straight.channels.items()}, "flipped")
    expected, result = predictor(answer="ensemble").predict(straight), predictor(answer="ensemble").predict(flipped)
    np.testing.assert_array_equal(result.label_map, expected.label_map[::-1])


@pytest.mark.parametrize("prior", [ThresholdPrior, SilentPrior])
def test_a_z_flip_flips_the_key_slice_of_a_lesion_of_two_equal_ones(prior: type[Any]) -> None:
    """By what the prior finds more probable; by brightness where it gives no probabilities."""
    even = np.zeros(GRID.shape_zyx, dtype=bool)
    even[8:12, 15:22, 15:22] = True
    straight = image(flair=even, t1=even, t2=even)
    straight.channels["flair"][9:11][even[9:11]] = np.repeat([780.0, 790.0], 49)
    flipped = Image(GRID, {name: array[::-1] for name, array in straight.channels.items()}, "flipped")
    keys = [predictor(prior=prior()).predict(one).record["lesions"][0]["key_slice"] for one in (straight, flipped)]
    assert keys == [10, 23 - 10]


@pytest.mark.parametrize(
    ("apart", "settings", "reach"),
    [
        (4.5, {}, "9 mm (2 slices)"),
        (6.0, {}, "6 mm (1 slice)"),
        (12.0, {}, "0 mm (0 slices)"),
        (6.0, {"margin_mm": 30.0}, "12 mm (2 slices)"),
        (6.0, {"thick_slice_mm": None}, None),
        (4.0, {}, None),
    ],
)
def test_thick_slices_limit_the_reach_and_it_is_said(apart: float, settings: Any, reach: str | None) -> None:
    thick = Image(Geometry.axis_aligned(GRID.shape_zyx, (apart, 1.0, 1.0)), THREE.channels, "thick")
    notes = [note for note in predictor(**settings).predict(thick).record["notes"] if "apart" in note]
    assert len(notes) == (reach is not None)
    if reach is not None:
        assert f"{apart:g} mm apart" in notes[0]
        assert f"at most {reach} beyond" in notes[0]


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        ({"flair": THREE.channels["flair"]}, "lacks t1, t2"),
        ({**THREE.channels, "t1": np.full(GRID.shape_zyx, 5.0, dtype=np.float32)}, "t1 has the same value"),
    ],
)
def test_images_that_cannot_be_used_are_refused(channels: Mapping[str, NDArray[np.float32]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        predictor().predict(Image(GRID, channels, "case"))


def test_cancelling_ends_it_and_frees_the_features() -> None:
    network = SimilarityTracker()
    progress = Progress(lambda update: progress.cancel() if "t1" in update.stage else None)
    with pytest.raises(Cancelled):
        predictor(network=network).predict(THREE, progress=progress)
    assert all(features.closed for features in network.opened)
    assert len(network.opened) <= 4, "two lesions, whole slices and crops, of the first two votes at most"


def test_progress_never_goes_back() -> None:
    fractions: list[float] = []
    predictor().predict(THREE, progress=Progress(lambda update: fractions.append(update.fraction)))
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_what_the_tracker_sees() -> None:
    prior = ThresholdPrior().model
    general = replace(prior, modalities=("any",))
    trained = replace(prior, modalities=("flair", "t1ce", "t2"))
    assert tracker_inputs(general, prior) == (("flair",), ("t1",), ("t2",))
    assert tracker_inputs(trained, prior) == (("flair", "t1ce", "t2"),)
    assert tracker_inputs(trained, prior, (("flair",), ("t1ce", "t2"))) == (("flair",), ("t1ce", "t2"))
    with pytest.raises(InputError, match="pd; there are: flair, t1, t2"):
        tracker_inputs(general, prior, (("pd",),))
    result = predictor(inputs=[["flair"], ["flair", "t2"]]).predict(THREE)
    assert list(result.stages)[1:3] == ["flair", "flair-t2"]


def test_votes_have_names_that_suit_files_and_differ() -> None:
    assert vote_name(("flair", "t1ce")) == "flair-t1ce"
    assert vote_name(("t1 w/ contrast: a", "../b")) == "t1_w_contrast_a-.._b"
    assert vote_name(("t1+c", "β")) == "t1+c-β"
    prior = ThresholdPrior()
    for names in (("a b", "a/b"), ("ensemble", "t1"), ("threshold", "t1"), ("t1", "agreement")):
        prior.model = replace(prior.model, modalities=names)
        with pytest.raises(InputError, match="the same name"):
            predictor(prior=prior)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"answer": "both"}, "prior, ensemble"),
        ({"ensemble": "best"}, "majority"),
        ({"plane": "oblique"}, "axial"),
        ({"inputs": ["flair"]}, "groups of modalities"),
        ({"inputs": [["a", "b", "c", "d"]]}, "one to three"),
        ({"inputs": [["a"], ["a"]]}, "vote twice"),
        ({"minimum_lesion_mm3": -1}, "minimum_lesion_mm3"),
        ({"nonsense": 1}, "no setting nonsense"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SSNetSettings.from_dict(values)


def test_settings_survive_their_table() -> None:
    settings = SSNetSettings.from_dict({"inputs": [["flair"], ["t2"]], "area_factor": None, "margin_mm": 4.0})
    assert SSNetSettings.from_dict(settings.as_dict()) == settings
