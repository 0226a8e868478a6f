"""What SAM is trained to minimise on boxes: Dice with squared probabilities, and binary cross-entropy, one to one.

Source: Zhou and Yu, YOLOv5 and MedSAM; the form of the Dice loss is MONAI's `DiceLoss(sigmoid=True, squared_pred=True)`
as in bowang-lab/MedSAM, `train_one_gpu.py`. The paper's cross-entropy uses one letter for probability and logit; here
it takes logits.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_EPSILON = 1e-5


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 Σ p t + ε) / (Σ p² + Σ t² + ε) over the pixels of each mask.

    Args:
        logits: (mask, rows, columns).
        target: the same shape, 0 or 1.

    Returns:
        (mask,).
    """
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)
    shared = (probability * target).sum(1)
    total = (probability**2).sum(1) + (target**2).sum(1)
    return 1 - (2 * shared + _EPSILON) / (total + _EPSILON)


def mask_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The loss of several masks, and its parts.

    Args:
        logits: float32 (mask, rows, columns).
        target: float32, the same shape, 0 or 1.

    Returns:
        "total" = "dice" + "bce", each the mean over masks.
    """
    dice = dice_loss(logits, target).mean()
    entropy = binary_cross_entropy_with_logits(logits, target)
    return {"total": dice + entropy, "dice": dice, "bce": entropy}
