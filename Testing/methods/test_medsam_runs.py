"""A training of SAM as a whole: its curves, what it keeps on disk, how it may be split, and labels that do not fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("segment_anything")

from BrainSegSAMLib.cases import Case, find_cases
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image
from BrainSegSAMLib.itk import simpleitk
from BrainSegSAMLib.methods.yolo_medsam import medsam_training, sam_fitting
from BrainSegSAMLib.methods.yolo_medsam.medsam_training import train_medsam
from BrainSegSAMLib.methods.yolo_medsam.sam_fitting import Learner, SamFit
from BrainSegSAMLib.methods.yolo_medsam.sam_validation import SLICE_TITLE, TITLE, score_volumes
from BrainSegSAMLib.progress import Progress
from BrainSegSAMLib.training_volumes import TrainingVolume, make_volume
from Testing.medsam_cases import CONFIG, SCHEME, SHAPE, anatomy, decoder_config, template, untrained, write_cases


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), "abcdef")


@pytest.fixture(scope="module")
def cases(source: Path) -> list[Case]:
    return find_cases(source, modalities=["flair"])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("start"))


def test_curves_are_written_for_tensorboard(cases: list[Case], start: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = decoder_config(start, iterations=10, train_folds=(0,), final=False, patience=9, validate_every=5,
                            validation_share=0.3)  # fmt: skip
    train_medsam(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
    curves = EventAccumulator(str(tmp_path / "work" / "fold_0" / "tensorboard")).Reload()
    steps = {name: [event.step for event in curves.Scalars(name)] for name in curves.Tags()["scalars"]}
    assert steps.pop("dice/validation") == [5, 10]
    assert steps == {name: [1, 10] for name in ("loss/total", "loss/dice", "loss/bce", "learning_rate")}
    losses = [[event.value for event in curves.Scalars(f"loss/{name}")] for name in ("total", "dice", "bce")]
    np.testing.assert_allclose(losses[0], np.sum(losses[1:], axis=0), rtol=1e-5)
    assert all(0 <= event.value <= 1 for event in curves.Scalars("dice/validation"))


def test_what_all_networks_keep_is_said_together_and_limited_before_it_is_written(
    cases: list[Case], start: Path, tmp_path: Path
) -> None:
    """Networks that begin with weights of their own keep features of their own; those that share a file share them."""
    first = tmp_path / "first.work"
    train_medsam(cases, replace(CONFIG, iterations=1), template(tmp_path / "first"), work=first)

    def kept(work: Path) -> int:
        return sum(file.stat().st_size for name in ("features.f16", "keys.sha256") for file in work.rglob(name))

    for number, (begin, caches) in enumerate(((first, 3), (start, 1))):
        config = decoder_config(begin, iterations=1, views=2)
        said: list[tuple[str, int]] = []
        work = tmp_path / f"work_{number}"
        progress = Progress(lambda update, work=work, said=said: said.append((update.message, kept(work))))
        train_medsam(cases, config, template(tmp_path / f"model_{number}"), work=work, progress=progress)
        (before,) = {size for message, size in said if "of this training will take" in message}
        assert before == 0
        needed = kept(work)
        assert len(list(work.rglob("features.f16"))) == caches

        small = replace(config, feature_budget_gib=(needed - 1) / 2**30)
        other, model = tmp_path / f"other_{number}", template(tmp_path / f"small_{number}")
        with pytest.raises(InputError, match=r"more than the setting feature_budget_gib .*lower the setting views"):
            train_medsam(cases, small, model, work=other)
        assert kept(other) == 0
        # The same work folder goes on with a larger budget: no network is another one for it.
        train_medsam(cases, replace(config, feature_budget_gib=needed / 2**30), model, work=other)
        assert kept(other) == needed


def test_slices_are_dealt_out_as_in_the_paper_on_request(
    cases: list[Case], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learned: list[set[tuple[str, int]]] = []
    drawn: list[dict[str, set[int]]] = []
    fit, score = sam_fitting.fit, score_volumes

    def noted_fit(job: SamFit, *given: Any, **named: Any) -> Any:
        learner = Learner(job, *given)
        learned.append({(item.volume.case_id, item.index) for item in learner.slices})
        return fit(job, *given, **named)

    def noted_score(segment: Any, *given: Any, **named: Any) -> Any:
        def segmented(volume: TrainingVolume, boxes: Any) -> Any:
            drawn[-1].setdefault(volume.case_id, set()).update(boxes)
            return segment(volume, boxes)

        drawn.append({})
        return score(segmented, *given, **named)

    monkeypatch.setattr(medsam_training, "fit", noted_fit)
    monkeypatch.setattr(medsam_training, "score_volumes", noted_score)
    config = decoder_config(start, iterations=1, split="slice")
    model = train_medsam(cases, config, template(tmp_path / "model"), work=tmp_path / "work")
    assert "slices of one patient are in training and test alike" in caplog.text
    assert len(learned) == len(drawn) == 1, "one network, and none of all slices"
    tested = {(case_id, index) for case_id, indices in drawn[0].items() for index in indices}
    assert tested
    assert not tested & learned[0]
    assert {case_id for case_id, _ in tested} <= {case_id for case_id, _ in learned[0]}, "the same patients"
    assert len(learned[0]) == pytest.approx(3 * len(tested), abs=3)
    assert model.training["cases"] == [*"abcdef"]
    assert TITLE not in model.results
    assert [row[0] for row in model.results[SLICE_TITLE]["rows"]] == [*sorted(drawn[0]), "mean"]


def test_only_the_slices_that_count_are_scored() -> None:
    grey, labels = anatomy(0)
    image = Image(Geometry.axis_aligned(SHAPE, (2.0, 2.0, 2.0)), {"flair": grey}, "v")
    volume = make_volume(image, labels, ["flair"], SCHEME, CONFIG.volumes)
    shown = np.flatnonzero(volume.truth[0].any(axis=(1, 2))).tolist()

    def segment(of: TrainingVolume, boxes: Any) -> Any:
        """All that is in the region on the first slice that shows it, and nothing on others."""
        return [(index, of.truth[0][index][None] & (index == shown[0])) for index in boxes]

    def scored(*indices: int) -> float | None:
        only = {volume.case_id: set(indices)}
        (score,) = score_volumes(segment, [volume], {0: "whole"}, plane="axial", fold=0, progress=Progress(), only=only)
        return score.dice["whole"]

    assert scored(shown[0]) == 1.0
    assert scored(shown[1]) == 0.0
    assert scored(0) is None, "nothing to find there"


def test_labels_on_another_grid_are_refused_before_anything_is_trained(source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "cases"
    shutil.copytree(source, moved)
    labels = moved / "c" / "c_seg.nii.gz"
    shifted = simpleitk().ReadImage(str(labels))
    shifted.SetOrigin((5.0, 0.0, 0.0))
    simpleitk().WriteImage(shifted, str(labels))
    with pytest.raises(InputError, match=r"c_seg\.nii\.gz lies on another grid than the images of case 'c'"):
        train_medsam(
            find_cases(moved, modalities=["flair"]), CONFIG, template(tmp_path / "model"), work=tmp_path / "work"
        )
    assert not list((tmp_path / "work").glob("fold_*"))
    assert not (tmp_path / "model").exists()
