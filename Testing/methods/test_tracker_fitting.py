"""How one network of a tracker is fitted: what learns, in which precision, how far at a time, and what is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sam2")

from BrainSegSAMLib import fitting, training_volumes
from BrainSegSAMLib.backends.checkpoints import load_checkpoint
from BrainSegSAMLib.backends.sam2_training import follow
from BrainSegSAMLib.cases import Case, find_cases
from BrainSegSAMLib.errors import Cancelled
from BrainSegSAMLib.methods.ssnet import tracker_fitting
from BrainSegSAMLib.methods.ssnet.tracker_training import architecture_of, train_tracker
from BrainSegSAMLib.progress import Progress, ProgressUpdate
from Testing.tracker_cases import CONFIG, template, write_cases


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return find_cases(write_cases(tmp_path_factory.mktemp("cases"), ("a", "b", "c", "d")), modalities=["flair"])


def test_a_frozen_encoder_does_not_change(cases: list[Case], tmp_path: Path) -> None:
    quick = replace(CONFIG, iterations=2, encoder_learning_rate_factor=0.0)
    volumes = training_volumes.load_volumes(
        cases, ["flair"], template(tmp_path).scheme, quick.volumes,
        label_values={}, synthetic_seeds=(), progress=Progress(),
    )  # fmt: skip
    job = tracker_fitting.Fit("x", list(volumes.values()), [1.0] * 4, {0: "lesion"}, 2, tmp_path / "x")
    task = tracker_fitting.task_of(job, quick, architecture_of(quick))
    before = {name: value.clone() for name, value in task.module.named_parameters()}
    fitting.fit(task, quick.schedule(2), folder=job.folder, progress=Progress())
    changed = {name for name, value in task.module.named_parameters() if not value.equal(before[name])}
    assert changed
    assert not any(name.startswith("image_encoder.") for name in changed)


def test_mixed_precision_is_for_the_network_alone(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes in bfloat16; its weights and losses stay in single precision, and come out nearly the same."""
    mixed: list[bool] = []

    def noted(network: Any, images: Any, tracks: Any) -> list[Any]:
        mixed.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return follow(network, images, tracks)

    monkeypatch.setattr(tracker_fitting, "follow", noted)
    losses: dict[str, list[float]] = {}
    for precision in ("fp32", "bf16"):
        measured = losses[precision] = []
        progress = Progress(lambda u, to=measured: to.append(u.measured.values["loss"]) if u.measured else None)
        config = replace(CONFIG, precision=precision, iterations=1, train_folds=(0,), final=False)
        folder = tmp_path / precision
        model = train_tracker(cases, config, template(folder / "model"), work=folder / "work", progress=progress)
        kept = load_checkpoint(folder / "work" / "fold_0" / "weights.pt")["model"]
        assert {value.dtype for value in kept.values() if value.is_floating_point()} == {torch.float32}
        assert model.training["settings"]["precision"] == precision
    assert mixed == [False, True]
    assert losses["bf16"][0] != losses["fp32"][0]
    assert losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.02)


def test_gradients_are_clipped(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *arguments: Any, **named: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    for number, limit in enumerate((1e9, 1e-3)):
        config = replace(CONFIG, gradient_clipping=limit, iterations=1, train_folds=(0,), final=False)
        train_tracker(cases, config, template(tmp_path / f"model{number}"), work=tmp_path / f"work{number}")
    whole, clipped = norms
    assert whole > 0.01
    assert clipped == pytest.approx(1e-3, rel=1e-3)


def test_tensorboard_reads_the_curves_also_after_an_interruption(cases: list[Case], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged: dict[int, float] = {}

    def listen(update: ProgressUpdate) -> None:
        if update.measured is not None and "loss" in update.measured.values:
            logged[update.measured.step] = update.measured.values["loss"]
        if update.stage == "Training" and update.done == 5 and not cancelled:
            cancelled.append(True)
            progress.cancel()

    cancelled: list[bool] = []
    config = replace(
        CONFIG, iterations=20, train_folds=(0,), final=False, patience=9, validate_every=4, validation_share=0.5,
        checkpoint_every=100, warm_up_iterations=10,
    )  # fmt: skip
    progress = Progress(listen)
    with pytest.raises(Cancelled):
        train_tracker(cases, config, template(tmp_path / "model"), work=tmp_path / "work", progress=progress)
    progress = Progress(listen)
    train_tracker(cases, config, template(tmp_path / "model"), work=tmp_path / "work", progress=progress)
    events = EventAccumulator(str(tmp_path / "work" / "fold_0" / "tensorboard")).Reload()
    parts = {f"loss/{part}" for part in ("total", "focal", "dice", "iou", "object_score")}
    assert set(events.Tags()["scalars"]) == {*parts, "learning_rate", "dice/validation"}
    curves = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert curves["loss/total"] == pytest.approx(logged)
    assert set(logged) == {1, 10, 20}
    assert curves["learning_rate"] == pytest.approx(
        {step: config.learning_rate * config.schedule(20).factor(step - 1) for step in (1, 10, 20)}
    )
    assert set(curves["dice/validation"]) == {4, 8, 12, 16, 20}
    weighted = (
        config.focal_weight * curves["loss/focal"][10]
        + config.dice_weight * curves["loss/dice"][10]
        + config.iou_weight * curves["loss/iou"][10]
        + config.object_score_weight * curves["loss/object_score"][10]
    )
    assert curves["loss/total"][10] == pytest.approx(weighted, rel=1e-4)
