"""Whether a published mean Dice and mean IoU can be of the same masks."""

from __future__ import annotations

from ..metrics import highest_mean_dice


def contradiction(name: str, mean_iou: float, mean_dice: float, *, rounding: float = 0.0005) -> str:
    """A sentence where the two cannot be of the same masks; "" where they can.

    Args:
        name: of the row, for the sentence.
        mean_iou: as published.
        mean_dice: as published.
        rounding: half a unit of the last digit published; the numbers are taken at their most favourable.
    """
    bound = highest_mean_dice(mean_iou + rounding)
    if mean_dice - rounding <= bound:
        return ""
    return (
        f"{name}: a mean Dice of {mean_dice:g} cannot go with a mean IoU of {mean_iou:g}, whatever the masks: "
        f"it is at most {highest_mean_dice(mean_iou):.3f} (2·IoU/(1+IoU))."
    )
