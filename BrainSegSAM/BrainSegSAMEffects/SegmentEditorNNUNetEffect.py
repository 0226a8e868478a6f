"""Segments whole structures with an nnU-Net model: into the selected segment, or as new segments."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .EffectBase import EffectBase


class SegmentEditorNNUNetEffect(EffectBase):
    """The effect "nnU-Net auto-segmentation" (being built)."""

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "BrainSegSAM nnU-Net"
        scriptedEffect.title = _("nnU-Net auto-segmentation")
        scriptedEffect.requireSegments = False
        EffectBase.__init__(self, scriptedEffect)

    def setupOptionsFrame(self) -> None:
        """Make the options."""
        self.addRunWidgets()
