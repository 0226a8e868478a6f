"""A result on trial: its own outline in every view, in a node of its own that is hidden, never saved and taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from BrainSegSAMLib.mrml import BINARY_LABELMAP

COLOUR_RGB = (255, 200, 0)


class Preview:
    """Outlines of labelmaps over a segmentation; nothing of it stays after `clear`."""

    def __init__(self) -> None:
        self._node: Any = None
        self._segmentIDs: list[str] = []

    @property
    def visible(self) -> bool:
        """Whether something is shown."""
        return self._node is not None and self._node.GetScene() is not None

    def show(self, segmentationNode: Any, outlines: Sequence[tuple[tuple[int, int, int], Any]]) -> None:
        """Show these outlines instead of those before.

        Args:
            segmentationNode: under whose parent transform they lie.
            outlines: colour (0-255) and labelmap (vtkOrientedImageData in the segmentation's own space) of each.
        """
        if not self.visible:
            self._make(segmentationNode.GetScene())
        parent = segmentationNode.GetParentTransformNode()
        self._node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
        contents = self._node.GetSegmentation()
        while len(self._segmentIDs) > len(outlines):
            contents.RemoveSegment(self._segmentIDs.pop())
        while len(self._segmentIDs) < len(outlines):
            self._segmentIDs.append(contents.AddEmptySegment())
        for segmentID, (colour, labelmap) in zip(self._segmentIDs, outlines, strict=True):
            segment = contents.GetSegment(segmentID)
            segment.SetColor(*[channel / 255.0 for channel in colour])
            segment.SetLabelValue(1)  # not that of the image which Slicer's empty segments share
            segment.AddRepresentation(BINARY_LABELMAP, labelmap)

    def clear(self) -> None:
        """Take everything away."""
        node, self._node, self._segmentIDs = self._node, None, []
        if node is None or node.GetScene() is None:
            return
        scene, display = node.GetScene(), node.GetDisplayNode()
        scene.RemoveNode(node)
        if display is not None and display.GetScene() is not None:
            scene.RemoveNode(display)

    def _make(self, scene: Any) -> None:
        self._segmentIDs = []
        self._node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
        self._node.UnRegister(None)  # Python holds it now
        display = scene.CreateNodeByClass("vtkMRMLSegmentationDisplayNode")
        display.UnRegister(None)
        for node in (self._node, display):
            node.SetName("BrainSegSAM preview")
            node.SetHideFromEditors(True)
            node.SetSaveWithScene(False)
            node.SetUndoEnabled(False)
        scene.AddNode(display)
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetSliceIntersectionThickness(2)
        display.SetVisibility3D(False)
        scene.AddNode(self._node)
        self._node.SetAndObserveDisplayNodeID(display.GetID())
