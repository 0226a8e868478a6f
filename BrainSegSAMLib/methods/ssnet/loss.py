"""What a tracker is trained to minimise, per slice of a clip: focal and Dice loss of its mask, its IoU, its score.

Source: Ravi et al. 2024, SAM 2, https://arxiv.org/abs/2408.00714, appendix D.2.2 (weights 20, 1, 1, 1; of several masks
the best one learns); Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5 (focal loss); Milletari et al. 2016,
https://arxiv.org/abs/1606.04797 (Dice loss; here without squares and with 1 added, as SAM has it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


@dataclass(frozen=True)
class LossWeights:
    """How the four parts are added, and the shape of the focal loss; see `TrackerTrainingConfig`."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    object_score: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0


@dataclass(frozen=True, eq=False)
class ClipLoss:
    """The loss of some slices, and its parts before they are weighted.

    Attributes:
        total: scalar, the weighted sum.
        focal: scalar.
        dice: scalar.
        iou: scalar.
        object_score: scalar.
    """

    total: Tensor
    focal: Tensor
    dice: Tensor
    iou: Tensor
    object_score: Tensor

    def parts(self) -> dict[str, Tensor]:
        """All by name."""
        return {name: getattr(self, name) for name in ("total", "focal", "dice", "iou", "object_score")}


def focal_loss(logits: Tensor, target: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Mean over pixels of -alpha_t (1 - p_t)^gamma log p_t.

    Args:
        logits: (…, rows, columns).
        target: the same shape, 0 or 1.
        alpha: weight of object pixels; others get 1 - alpha.
        gamma: 0 gives the weighted cross-entropy.

    Returns:
        (…).
    """
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * (1 - right) ** gamma * entropy).flatten(-2).mean(-1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 Σ p t + 1) / (Σ p + Σ t + 1) over the pixels of (…, rows, columns); returns (…)."""
    probability = logits.sigmoid().flatten(-2)
    target = target.flatten(-2)
    return 1 - (2 * (probability * target).sum(-1) + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of the masks (logits above 0) with targets (0 or 1), over rows and columns; 1 where both are empty."""
    mask, wanted = (logits > 0).flatten(-2), (target > 0.5).flatten(-2)
    union = (mask | wanted).sum(-1)
    shared = (mask & wanted).sum(-1)
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


def clip_loss(logits: Tensor, ious: Tensor, object_scores: Tensor, target: Tensor, weights: LossWeights) -> ClipLoss:
    """The loss of several slices, each with several candidate masks.

    Of the candidates only the one with the least weighted mask loss learns its mask; all learn their IoU. Where the
    object is not in the slice, only the object score learns.

    Args:
        logits: float32 (n, candidates, rows, columns).
        ious: (n, candidates), what the network believes the IoU of each candidate to be.
        object_scores: (n,), logits of "the object is in the slice".
        target: float32 (n, rows, columns), 0 or 1.
        weights: of the parts.
    """
    wanted = target[:, None].expand_as(logits)
    present = target.flatten(1).any(1)
    focal = focal_loss(logits, wanted, alpha=weights.alpha, gamma=weights.gamma)
    dice = dice_loss(logits, wanted)
    best = (weights.focal * focal + weights.dice * dice).argmin(1, keepdim=True)
    error = (ious - true_iou(logits.detach(), wanted)).abs().mean(1)
    shown = present.to(logits.dtype)
    count = shown.sum().clamp(min=1)
    parts = {
        "focal": (focal.gather(1, best)[:, 0] * shown).sum() / count,
        "dice": (dice.gather(1, best)[:, 0] * shown).sum() / count,
        "iou": (error * shown).sum() / count,
        "object_score": binary_cross_entropy_with_logits(object_scores, shown),
    }
    total = torch.stack([getattr(weights, name) * value for name, value in parts.items()]).sum()
    return ClipLoss(total=total, **parts)
