"""The losses of a tracker against closed formulas and against torch's own."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from BrainSegSAMLib.methods.ssnet.loss import LossWeights, clip_loss, dice_loss, focal_loss, true_iou  # noqa: E402


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize(("probability", "target"), [(0.9, 1.0), (0.9, 0.0), (0.3, 1.0), (0.5, 0.0)])
def test_focal_loss_of_one_pixel(probability: float, target: float) -> None:
    """Lin et al., equation 5."""
    right = probability if target else 1 - probability
    weight = 0.25 if target else 0.75
    expected = -weight * (1 - right) ** 2 * math.log(right)
    found = focal_loss(torch.full((1, 1), logit(probability)), torch.full((1, 1), target), alpha=0.25, gamma=2.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_half_the_cross_entropy() -> None:
    logits, target = torch.randn(3, 4, 5), (torch.rand(3, 4, 5) > 0.5).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    torch.testing.assert_close(focal_loss(logits, target, alpha=0.5, gamma=0.0), entropy / 2)


def test_dice_loss_of_even_probabilities() -> None:
    """p = 1/2 everywhere on 8 pixels, 3 of them in the object: 1 - (2 * 1.5 + 1) / (4 + 3 + 1)."""
    target = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 0]])
    assert float(dice_loss(torch.zeros(2, 4), target)) == pytest.approx(0.5)
    assert float(dice_loss(200 * target - 100, target)) == pytest.approx(0.0, abs=1e-6)
    assert float(dice_loss(torch.full((2, 4), -100.0), torch.zeros(2, 4))) == pytest.approx(0.0, abs=1e-6)


def test_true_iou_counts_pixels() -> None:
    logits = torch.tensor([[[1.0, 1, -1, -1]], [[-1.0, -1, -1, -1]]])
    target = torch.tensor([[[0.0, 1, 1, 0]], [[0.0, 0, 0, 0]]])
    assert true_iou(logits, target).tolist() == pytest.approx([1 / 3, 1.0])


def test_only_the_best_candidate_learns_its_mask() -> None:
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    logits = torch.stack([5 * (2 * target - 1), torch.zeros(1, 4, 4)], dim=1).requires_grad_()
    loss = clip_loss(logits, torch.tensor([[0.5, 0.25]]), torch.tensor([2.0]), target, LossWeights())
    loss.total.backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].abs().sum() > 0
    assert logits.grad[:, 1].abs().sum() == 0
    # candidates have IoU 1 (right everywhere) and 0 (nothing above 0)
    assert float(loss.iou.detach()) == pytest.approx((0.5 + 0.25) / 2)
    assert float(loss.object_score.detach()) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)
    parts = {name: float(value.detach()) for name, value in loss.parts().items()}
    expected = 20 * parts["focal"] + parts["dice"] + parts["iou"] + parts["object_score"]
    assert parts["total"] == pytest.approx(expected, rel=1e-5)


def test_a_slice_without_the_object_teaches_the_object_score_alone() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    ious, scores = torch.rand(2, 3, requires_grad=True), torch.zeros(2, requires_grad=True)
    target = torch.zeros(2, 4, 4)
    target[0, 1, 1] = 1
    clip_loss(logits, ious, scores, target, LossWeights()).total.backward()
    assert logits.grad is not None
    assert ious.grad is not None
    assert scores.grad is not None
    assert logits.grad[1].abs().sum() == 0
    assert ious.grad[1].abs().sum() == 0
    assert scores.grad.tolist() == pytest.approx([-0.25, 0.25])
    nowhere = clip_loss(logits, ious, scores, torch.zeros(2, 4, 4), LossWeights()).parts()
    assert nowhere["focal"] == nowhere["dice"] == nowhere["iou"] == 0.0
