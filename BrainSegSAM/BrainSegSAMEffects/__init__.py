"""Our Segment Editor effects. Slicer looks for an effect's class here, under the name of its file."""

from __future__ import annotations

from pathlib import Path

from .SegmentEditorMedSAMBoxEffect import SegmentEditorMedSAMBoxEffect
from .SegmentEditorNNUNetEffect import SegmentEditorNNUNetEffect
from .SegmentEditorSAMTrackEffect import SegmentEditorSAMTrackEffect

EFFECTS = (SegmentEditorNNUNetEffect, SegmentEditorMedSAMBoxEffect, SegmentEditorSAMTrackEffect)


def registerEffects() -> None:
    """Make the effects known to every Segment Editor; called once, when Slicer has started."""
    import qSlicerSegmentationsEditorEffectsPythonQt

    for effect in EFFECTS:
        host = qSlicerSegmentationsEditorEffectsPythonQt.qSlicerSegmentEditorScriptedEffect(None)
        host.setPythonSource((Path(__file__).resolve().parent / f"{effect.__name__}.py").as_posix())
        host.self().register()


__all__ = ["EFFECTS", "registerEffects", *[effect.__name__ for effect in EFFECTS]]
