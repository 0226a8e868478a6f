"""Training of SAM on boxes, from labelled cases to a model folder, on small generated cases: a lesion with a core."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("segment_anything")

import torch

from BrainSegSAMLib import fitting
from BrainSegSAMLib import train as command
from BrainSegSAMLib.backends.checkpoints import load_checkpoint, save_checkpoint
from BrainSegSAMLib.backends.sam import Marks, SamSegmenter, load
from BrainSegSAMLib.backends.sam_architecture import SamArchitecture
from BrainSegSAMLib.backends.sam_network import build
from BrainSegSAMLib.backends.weights import hash_of_weights
from BrainSegSAMLib.batch import Workers
from BrainSegSAMLib.boxes import box_around
from BrainSegSAMLib.cases import Case, find_cases
from BrainSegSAMLib.errors import Cancelled, InputError, ModelError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.intensity import as_frames
from BrainSegSAMLib.methods.yolo_medsam import medsam_training, sam_fitting
from BrainSegSAMLib.methods.yolo_medsam.medsam_training import train_medsam
from BrainSegSAMLib.methods.yolo_medsam.sam_config import SamTrainingConfig
from BrainSegSAMLib.methods.yolo_medsam.sam_fitting import Learner, SamFit
from BrainSegSAMLib.methods.yolo_medsam.sam_validation import TITLE, by_network, score_volumes, true_boxes
from BrainSegSAMLib.methods.yolo_medsam.samples import training_slices
from BrainSegSAMLib.metrics import dice
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from BrainSegSAMLib.training_volumes import TrainingVolume, VolumeMaker, load_volumes, make_volume
from Testing.medsam_cases import (
    ARCHITECTURE,
    CONFIG,
    SCHEME,
    SETTINGS,
    SHAPE,
    decoder_config,
    template,
    untrained,
    write_cases,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), "abcdef")


@pytest.fixture(scope="module")
def cases(source: Path) -> list[Case]:
    return find_cases(source, modalities=["flair"])


@pytest.fixture(scope="module")
def volumes(cases: list[Case]) -> list[TrainingVolume]:
    found = load_volumes(
        cases, ["flair"], SCHEME, CONFIG.volumes, label_values={}, synthetic_seeds=(), progress=Progress()
    )
    return list(found.values())


@pytest.mark.slow
def test_cases_are_read_by_several_workers_alike(
    cases: list[Case], volumes: list[TrainingVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here(*_: object) -> None:
        raise AssertionError("this is the driver's process")

    monkeypatch.setattr(VolumeMaker, "load", not_here)  # in this process, not in those of the workers
    found = load_volumes(
        cases, ["flair"], SCHEME, CONFIG.volumes, label_values={}, synthetic_seeds=(), progress=Progress(),
        workers=Workers(2),
    )  # fmt: skip
    assert list(found) == [volume.case_id for volume in volumes]
    for one, other in zip(found.values(), volumes, strict=True):
        assert np.array_equal(one.pictures, other.pictures)
        assert [piece.box for piece in one.objects] == [piece.box for piece in other.objects]


def test_every_case_that_cannot_be_read_is_named(cases: list[Case]) -> None:
    gone = [replace(case, modalities={"flair": Path(f"no-{case.case_id}.nii.gz")}) for case in cases[:2]]
    with pytest.raises(InputError, match=r"2 of 6 cases cannot be used\. .*no-a.*no-b"):
        load_volumes(
            [*gone, *cases[2:]], ["flair"], SCHEME, CONFIG.volumes, label_values={}, synthetic_seeds=(),
            progress=Progress(),
        )  # fmt: skip


def job_of(volumes: list[TrainingVolume], folder: Path, **changes: Any) -> SamFit:
    plain = SamFit("x", volumes, [1.0] * len(volumes), {0: "whole", 1: "core"}, 2, folder / "x", folder / "features")
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("start"))


# ---- what is learned ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(volumes: list[TrainingVolume], tmp_path_factory: pytest.TempPathFactory) -> SamSegmenter:
    """A network that learned from four of the six volumes, whole and core alike."""
    folder = tmp_path_factory.mktemp("trained")
    config = replace(
        CONFIG, slices_per_iteration=8, warm_up_iterations=10, last_learning_rate_factor=0.05, box_jitter_inward=20.0
    )
    job = job_of(volumes[:4], folder, iterations=200)
    fitted = sam_fitting.fit(job, config, medsam_training.architecture_of(config), progress=Progress())
    save_checkpoint(fitted.weights, folder / "sam.pt")
    return load(SamArchitecture.from_dict(ARCHITECTURE), folder / "sam.pt")


def test_a_small_network_learns_to_segment_what_is_in_a_box(
    trained: SamSegmenter, volumes: list[TrainingVolume]
) -> None:
    with by_network(trained, "axial") as segment:
        scores = score_volumes(
            segment, volumes[4:], {0: "whole", 1: "core"}, plane="axial", fold=0, progress=Progress()
        )
    assert [score.case_id for score in scores] == ["e", "f"]
    for score in scores:
        assert score.dice["whole"] is not None
        assert score.dice["core"] is not None
        assert score.dice["whole"] > 0.9
        assert score.dice["core"] > 0.8


def test_the_mask_obeys_the_box(trained: SamSegmenter, volumes: list[TrainingVolume]) -> None:
    """Two boxes on one slice, around the lesion and around its core: each gets its own."""
    volume = volumes[4]
    index = int(volume.truth[1].sum(axis=(1, 2)).argmax())
    truths = [volume.truth[region][index] for region in (0, 1)]
    boxes = np.array([box_around(mask) for mask in truths])
    with trained.encode(as_frames(volume.pictures, "axial")) as features:
        ((_, logits),) = trained.find(features, {index: Marks(boxes=boxes)})
    whole, core = logits > 0
    assert dice(whole, truths[0]) > 0.9
    assert dice(core, truths[1]) > dice(whole, truths[1]) + 0.2
    assert np.count_nonzero(core) < 0.6 * np.count_nonzero(whole)


# ---- what is frozen, and what is kept of it -------------------------------------------------------------------------


def test_only_the_mask_decoder_is_fine_tuned(volumes: list[TrainingVolume], start: Path, tmp_path: Path) -> None:
    config = decoder_config(start)
    architecture = medsam_training.architecture_of(config)
    learner = Learner(job_of(volumes, tmp_path, start=start), config, architecture)
    assert not learner.network.get_submodule("image_encoder").training
    assert not learner.network.get_submodule("prompt_encoder").training
    assert learner.module.training
    job = job_of(volumes, tmp_path, start=start, iterations=3)
    fitted = sam_fitting.fit(job, config, architecture, progress=Progress())
    before = load_checkpoint(start)
    kept = {name: value for name, value in before.items() if not name.startswith("mask_decoder.")}
    assert hash_of_weights({name: fitted.weights[name] for name in kept}) == hash_of_weights(kept)
    changed = {name for name in before if not fitted.weights[name].equal(before[name])}
    assert changed
    assert all(name.startswith("mask_decoder.") for name in changed)


def test_a_frozen_encoder_that_encodes_anew_keeps_nothing_for_gradients(
    volumes: list[TrainingVolume], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = decoder_config(start, views=0)
    learner = Learner(job_of(volumes, tmp_path, start=start), config, medsam_training.architecture_of(config))
    asked: list[bool] = []
    original = learner.forward.encode_images

    def encode(images: torch.Tensor) -> torch.Tensor:
        asked.append(torch.is_grad_enabled())
        return original(images)

    monkeypatch.setattr(learner.forward, "encode_images", encode)
    learner.losses(learner.batch(0, None), encoded=False)["total"].backward()
    assert asked == [False]
    gradients = {name for name, value in learner.network.named_parameters() if value.grad is not None}
    assert "mask_decoder.mask_tokens.weight" in gradients
    assert all(name.startswith("mask_decoder.") for name in gradients)


def test_kept_image_features_give_the_losses_of_features_computed_anew(
    volumes: list[TrainingVolume], start: Path, tmp_path: Path
) -> None:
    config = decoder_config(start, views=3, augmentation_probability=1.0, slices_per_iteration=6)
    learner = Learner(job_of(volumes, tmp_path, start=start), config, medsam_training.architecture_of(config))
    features = learner.cache(Progress())
    assert len(features.places) == 3 * len(learner.slices)
    for iteration in range(3):
        batch = learner.batch(iteration, features)
        rows = [features.rows[place] for place in features.places]
        numbers = [
            next(n for n, row in enumerate(rows) if np.array_equal(row, picture.numpy().astype(np.float16)))
            for picture in batch.pictures
        ]
        pictures = torch.stack([learner._seen(number, [0])[0] for number in numbers])
        with torch.no_grad():
            kept = learner.losses(batch, encoded=True)
            anew = learner.losses(replace(batch, pictures=pictures), encoded=False)
        for name in ("total", "dice", "bce"):
            assert float(kept[name]) == pytest.approx(float(anew[name]), abs=1e-3)


def test_a_view_is_the_same_each_time_and_its_objects_stay_where_they_are_seen(
    volumes: list[TrainingVolume], start: Path, tmp_path: Path
) -> None:
    config = decoder_config(start, views=4, augmentation_probability=1.0, intensity_change=0.1)
    learner = Learner(job_of(volumes, tmp_path, start=start), config, medsam_training.architecture_of(config))
    number = next(n for n, item in enumerate(learner.slices) if len(item.pieces) == 2)
    pictures = []
    for view in range(4):
        picture, masks = learner._seen(number * 4 + view, [0, 1])
        _, alone = learner._seen(number * 4 + view, [1], masks_only=True)
        assert masks[1].equal(alone[0])
        inside, around = picture[0][masks[0]].mean(), picture[0][~masks[0]].mean()
        assert inside > around + 0.2
        pictures.append(picture)
    assert not any(pictures[0].equal(picture) for picture in pictures[1:])


# ---- from a recipe to a model folder --------------------------------------------------------------------------------


def recipe_file(folder: Path, training: dict[str, Any]) -> Path:
    recipe = {
        "method": "medsam",
        "model": {
            "name": "tiny-sam",
            "title": "Tiny SAM",
            "modalities": ["flair"],
            "regions": [{"name": "whole", "labels": [1, 2]}, {"name": "core", "labels": [2]}],
            "licence": "CC0-1.0",
        },
        "training": training,
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def test_a_network_from_scratch_and_then_its_decoder_by_recipes(source: Path, tmp_path: Path) -> None:
    first = command.TrainJob(recipe_file(tmp_path, SETTINGS), source, tmp_path / "first", device="cpu")
    model = command.run(first)
    assert model.method == "sam"
    assert model.settings["architecture"]["box_as_mask"] is True
    assert model.settings["windowing"] == {"lower": 0.5, "upper": 99.5}
    table = model.results[TITLE]
    assert table["columns"] == ["case", "fold", "whole", "core"]
    assert [row[0] for row in table["rows"]] == [*"abcdef", "mean"]
    assert "frozen_sha256" not in model.training

    tuned = {**SETTINGS, "trained": "decoder", "views": 1, "start_from": str(first.work_folder)}
    second = command.TrainJob(recipe_file(tmp_path, tuned), source, tmp_path / "second", device="cpu")
    made = load_model(command.run(second).folder)
    before, after = (load_checkpoint(m.path_of("sam.pt")) for m in (model, made))
    frozen = {name: value for name, value in after.items() if not name.startswith("mask_decoder.")}
    assert all(value.equal(before[name]) for name, value in frozen.items())
    assert made.training["frozen_sha256"] == hash_of_weights(frozen)
    for fold in range(2):
        weights = [load_checkpoint(j.work_folder / f"fold_{fold}" / "weights.pt")["model"] for j in (first, second)]
        assert weights[0]["image_encoder.pos_embed"].equal(weights[1]["image_encoder.pos_embed"])


def test_no_network_begins_with_weights_that_have_seen_its_left_out_cases(
    cases: list[Case], source: Path, tmp_path: Path
) -> None:
    work = tmp_path / "first.work"
    first = train_medsam(cases, replace(CONFIG, iterations=1), template(tmp_path / "first"), work=work)
    tuned = decoder_config(first.folder, iterations=1)
    with pytest.raises(InputError, match=r"has learned from .*, which fold 0 leaves out"):
        train_medsam(cases, tuned, template(tmp_path / "second"), work=tmp_path / "work")
    other = replace(tuned, start_from=str(work), seed=5)
    with pytest.raises(InputError, match="left out other cases"):
        train_medsam(cases, other, template(tmp_path / "second"), work=tmp_path / "work")
    smaller = replace(tuned, start_from=str(work), architecture={**ARCHITECTURE, "depth": 1, "global_att_blocks": [0]})
    with pytest.raises(InputError, match="another architecture"):
        train_medsam(cases, smaller, template(tmp_path / "second"), work=tmp_path / "work")
    (work / "final" / "weights.pt").unlink()
    with pytest.raises(InputError, match="no network 'final'"):
        train_medsam(cases, replace(tuned, start_from=str(work)), template(tmp_path / "second"), work=tmp_path / "work")
    assert not (tmp_path / "work").exists(), "said before anything is trained"
    (tmp_path / "nnunet.work").mkdir()
    (tmp_path / "nnunet.work" / "prepared.json").write_text("{}")
    foreign = replace(tuned, start_from=str(tmp_path / "nnunet.work"))
    with pytest.raises(InputError, match="holds no training of SAM"):
        train_medsam(cases, foreign, template(tmp_path / "second"), work=tmp_path / "work")


def test_a_training_that_was_cancelled_goes_on_as_if_it_had_not_been(
    cases: list[Case], start: Path, tmp_path: Path
) -> None:
    config = decoder_config(start, iterations=4, train_folds=(0,), final=False, patience=5, validate_every=1,
                            validation_share=0.3)  # fmt: skip
    whole = train_medsam(cases, config, template(tmp_path / "whole"), work=tmp_path / "work_whole")

    def listen(update: ProgressUpdate) -> None:
        if update.stage == "Training" and update.done == 2:
            progress.cancel()

    progress = Progress(listen)
    with pytest.raises(Cancelled):
        train_medsam(cases, config, template(tmp_path / "cut"), work=tmp_path / "work_cut", progress=progress)
    assert (tmp_path / "work_cut" / "fold_0" / "checkpoint.pt").is_file()
    resumed = train_medsam(cases, config, template(tmp_path / "cut"), work=tmp_path / "work_cut")
    assert resumed.weights[0].sha256 == whole.weights[0].sha256
    assert resumed.results == whole.results


def test_training_stops_when_whole_volumes_get_no_better(
    cases: list[Case], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.2, 0.6, 0.5, 0.4, 0.9])
    monkeypatch.setattr(sam_fitting, "mean_dice", lambda scores: next(found))
    config = decoder_config(start, iterations=50, patience=2, validate_every=1, validation_share=0.5,
                            train_folds=(0,), final=False)  # fmt: skip
    done: list[fitting.Fitted] = []
    original = sam_fitting.fit
    monkeypatch.setattr(medsam_training, "fit", lambda *a, **k: done.append(original(*a, **k)) or done[-1])
    train_medsam(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
    assert [item.iterations for item in done] == [2]


def test_validation_looks_with_the_encoder_that_was_learned(
    volumes: list[TrainingVolume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one volume alone decides: its features at one look are not those at the next."""
    encoded: list[str] = []
    original = SamSegmenter.encode

    def encode(self: SamSegmenter, *given: Any, **named: Any) -> Any:
        encoded.append(hash_of_weights(self.forward.network.image_encoder.state_dict()))
        return original(self, *given, **named)

    monkeypatch.setattr(SamSegmenter, "encode", encode)
    config = replace(CONFIG, patience=5, validate_every=1)
    job = job_of(volumes[:2], tmp_path, validation=volumes[2:3])
    sam_fitting.fit(job, config, medsam_training.architecture_of(config), progress=Progress())
    assert len(set(encoded)) == len(encoded) == 2


def test_labels_on_black_are_learned_and_scored_where_the_head_alone_is_shown() -> None:
    grey, labels = np.zeros(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=np.uint8)
    grey[:, 20:40, 20:40] = np.random.default_rng(0).uniform(100, 200, (SHAPE[0], 20, 20))
    labels[3:6, 2:8, 2:8] = 1
    image = Image(Geometry.axis_aligned(SHAPE), {"flair": grey}, "v")
    config = replace(CONFIG, head_only=True)
    volume = make_volume(image, labels, ["flair"], SCHEME, config.volumes)
    for item in training_slices(volume, config, weight=1.0):
        assert item.masks([0]).sum() == 36
    architecture = medsam_training.architecture_of(config)
    segmenter = SamSegmenter(build(architecture), architecture)
    with by_network(segmenter, "axial", head_only=True) as segment:
        score_volumes(segment, [volume], {0: "whole"}, plane="axial", fold=0, progress=Progress())


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"trained": "prompts"}, "use one of: decoder, all"),
        ({"plane": "oblique"}, "use one of: axial, coronal, sagittal"),
        ({"views": 2}, "views is 2; it must be 0 where all of the network is trained"),
        ({"trained": "decoder", "views": 1}, "start_from is empty; it must be given"),
        ({"region_weights": [0, 0]}, "nothing to learn"),
        ({"split": "patient"}, "use one of: folds, slice"),
        ({"split": "slice", "patience": 2, "validate_every": 1}, "patience is 2; it must be 0 where slices are split"),
        ({"feature_budget_gib": 0}, "feature_budget_gib is 0; it must be above 0"),
        ({"region_weights": [1, -1]}, "is negative"),
        ({"box_jitter": -1}, "box_jitter is -1; it must be 0 to 200"),
        ({"region_weights": [1, float("nan")]}, "is negative"),
        ({"patience": 2, "validation_share": 0}, "stopping early needs patients"),
        ({"patience": 2, "validate_every": 3}, "validate_every is 3; it must be at most iterations"),
        ({"epochs": 5}, "There is no setting epochs for training SAM on boxes"),
    ],
)
def test_settings_that_cannot_be_used(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        SamTrainingConfig.from_dict({**SETTINGS, **change})


def test_settings_survive_json() -> None:
    again = SamTrainingConfig.from_dict(json.loads(json.dumps(CONFIG.as_dict())))
    assert again.as_dict() == CONFIG.as_dict()


def test_trainings_that_cannot_be_begun(cases: list[Case], tmp_path: Path) -> None:
    def refused(config: SamTrainingConfig, kind: type[Exception], complaint: str) -> None:
        with pytest.raises(kind, match=complaint):
            train_medsam(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
        assert not (tmp_path / "model").exists()

    refused(replace(CONFIG, architecture="sam9"), InputError, "There is no architecture 'sam9'")
    refused(replace(CONFIG, region_weights=(1.0,)), InputError, "1 numbers for 2 regions")
    refused(replace(CONFIG, folds=9), InputError, "9 folds need as many patients")
    refused(replace(CONFIG, start_from=str(tmp_path / "none.pt")), InputError, r"none\.pt")
    refused(replace(CONFIG, minimum_object_mm3=1e9), InputError, "shows an object to learn")
    save_checkpoint({"a": torch.zeros(1)}, tmp_path / "other.pt")
    fresh = replace(CONFIG, start_from=str(tmp_path / "other.pt"))
    with pytest.raises(ModelError, match=r"other\.pt"):
        train_medsam(cases, fresh, template(tmp_path / "model"), work=tmp_path / "work_2")


def test_true_boxes_are_those_of_pieces_in_three_dimensions() -> None:
    mask = np.zeros((3, 8, 8), dtype=bool)
    mask[0, 1:3, 1:3] = mask[0, 1:3, 5:7] = mask[1, 1:3, 1:7] = True  # one piece that slice 0 cuts in two
    mask[2, 7, 7] = True
    assert true_boxes(mask, "axial") == {
        0: [(0.5, 0.5, 6.5, 2.5)], 1: [(0.5, 0.5, 6.5, 2.5)], 2: [(6.5, 6.5, 7.5, 7.5)]
    }  # fmt: skip
