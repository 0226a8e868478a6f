"""The one door through which our effects change segments: Segment Editor's own modification path.

So masking, editable area, editable intensity range and overwrite mode hold, and Undo takes back one Apply. A `Target`
says what a result was asked for; where that is no longer there, nothing is written.

    target = Target.of(self.scriptedEffect)                    # when the work is asked for
    labelmap = target.labelmap(mask, geometry)                 # when it comes back; good for a Preview
    fillSegment(self.scriptedEffect, target, labelmap)         # at Apply
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Box, Segmentation, bounding_box
from BrainSegSAMLib.labels import Region
from BrainSegSAMLib.mrml import BINARY_LABELMAP
from BrainSegSAMLib.prompts import PLANES

from .Labelmaps import (
    NOTHING,
    arrayOf,
    connectedPieces,
    emptyGrid,
    gridAround,
    onGrid,
    placedOn,
    resultOnGrid,
    sharedImages,
    valuesOf,
    voxelsOf,
    zeros,
)

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Target:
    """What a result will be written into, as it was when the work was asked for.

    Attributes:
        segmentationNode: the edited segmentation.
        segmentID: the segment; "" where segments will be added.
        sourceVolumeNode: the volume on which the result is found.
        sourceGeometry: its voxels, in world space.
        grid: vtkOrientedImageData without voxel values: the voxels of the segmentation, in its own space.
    """

    segmentationNode: Any
    segmentID: str
    sourceVolumeNode: Any
    sourceGeometry: Geometry
    grid: Any
    _gridGeometry: Geometry
    _sourceToSegmentation: Matrix
    _worldToSegmentation: Matrix

    @classmethod
    def of(cls, scriptedEffect: Any, *, perSegment: bool = True, volumeNode: Any = None) -> Target:
        """What the editor works on now.

        Args:
            scriptedEffect: the effect's host.
            perSegment: whether the selected segment will be changed; otherwise segments will be added.
            volumeNode: on which the result will be found; Segment Editor's source volume by default.

        Raises:
            InputError: where no segmentation of voxels, no segment or no usable source volume is chosen.
            GeometryError: where the segmentation or the volume lies under a transform that cannot be followed.
        """
        parameters = scriptedEffect.parameterSetNode()
        segmentationNode = parameters.GetSegmentationNode() if parameters is not None else None
        if segmentationNode is None:
            raise InputError(_("Choose a segmentation in the Segment Editor first."))
        segmentID = (parameters.GetSelectedSegmentID() or "") if perSegment else ""
        if perSegment and segmentationNode.GetSegmentation().GetSegment(segmentID) is None:
            raise InputError(_("Select the segment that shall be changed first."))
        sourceVolumeNode = volumeNode if volumeNode is not None else parameters.GetSourceVolumeNode()
        if sourceVolumeNode is None:
            raise InputError(_("Choose a source volume in the Segment Editor first."))
        sourceGeometry = mrml.volume_node_geometry(sourceVolumeNode)
        mrml.check_takes_segments(segmentationNode, sourceVolumeNode)
        grid = _grid(scriptedEffect)
        return cls(
            segmentationNode, segmentID, sourceVolumeNode, sourceGeometry, grid,
            mrml.grid_geometry(grid, segmentationNode), _relation(sourceGeometry, segmentationNode),
            _rows(mrml.world_to_node(segmentationNode)),
        )

    def gridGeometry(self) -> Geometry:
        """The voxels of the segmentation, in world space."""
        return self._gridGeometry

    def intoSegment(self, segmentID: str) -> Target:
        """The same place, for another segment ("": for new ones)."""
        return replace(self, segmentID=segmentID)

    def labelmap(self, mask: Any, geometry: Geometry, *, offset_zyx: tuple[int, int, int] = (0, 0, 0)) -> Any:
        """A result as voxels of the segmentation.

        Args:
            mask: bool array (z, y, x).
            geometry: of the whole, in world space as it was when the work was asked for.
            offset_zyx: the voxel of the geometry at which the mask begins, where it covers only a part.

        Returns:
            A vtkOrientedImageData of 0 and 1 in the segmentation's own space, on its grid or a part of it.

        Raises:
            InputError: where the volume or the segmentation was moved or removed in the meantime.
        """
        self._checkPlace()
        return mrml.mask_to_labelmap(
            np.asarray(mask, dtype=bool), self.now(geometry), self.segmentationNode, self.grid, offset_zyx=offset_zyx
        )

    def labelmapInParts(self, segmentation: Segmentation, region: Region, box: Box) -> mrml.Steps[Any]:
        """As `labelmap`, of a region, a part at a time; what is returned is the labelmap.

        Args:
            segmentation: on the whole of the volume, in world space as it was when the work was asked for.
            region: of its scheme.
            box: slices along z, y, x that hold all of the region's voxels.

        Raises:
            InputError: as `labelmap`.
        """
        self._checkPlace()
        return (
            yield from mrml.labelmap_in_parts(
                segmentation.label_map, region.labels, self.now(segmentation.geometry), self.segmentationNode,
                self.grid, box=box,
            )
        )

    def now(self, geometry: Geometry) -> Geometry:
        """Where the voxels of a geometry are now, if the volume and the segmentation were moved together since."""
        moved = np.linalg.inv(mrml.world_to_node(self.segmentationNode)) @ np.array(self._worldToSegmentation)
        return geometry if np.allclose(moved, np.eye(4), rtol=0, atol=1e-9) else geometry.moved_ras(moved)

    def check(self, scriptedEffect: Any) -> None:
        """Raise InputError, saying what changed, where a result may no longer be written."""
        parameters = scriptedEffect.parameterSetNode()
        if parameters is None or parameters.GetSegmentationNode() is not self.segmentationNode:
            raise InputError(
                _("Another segmentation is edited now, so nothing was changed. Select '{name}' again.").format(
                    name=self.segmentationNode.GetName()
                )
            )
        self._checkPlace()
        if not self.segmentID:
            return
        segment = self.segmentationNode.GetSegmentation().GetSegment(self.segmentID)
        if segment is None:
            raise InputError(_("The segment that should be changed was removed, so nothing was changed."))
        if parameters.GetSelectedSegmentID() != self.segmentID:
            raise InputError(
                _("Another segment is selected now, so nothing was changed. Select '{name}' again.").format(
                    name=segment.GetName()
                )
            )

    def _checkPlace(self) -> None:
        for node in (self.segmentationNode, self.sourceVolumeNode):
            if node.GetScene() is None:
                raise InputError(
                    _("'{name}' was removed from the scene, so nothing was changed.").format(name=node.GetName())
                )
        now = mrml.volume_node_geometry(self.sourceVolumeNode)
        same = now.size_ijk == self.sourceGeometry.size_ijk
        if not same or not np.allclose(_relation(now, self.segmentationNode), self._sourceToSegmentation, atol=1e-4):
            raise InputError(
                _("'{volume}' or '{segmentation}' was moved or changed in the meantime; start again.").format(
                    volume=self.sourceVolumeNode.GetName(), segmentation=self.segmentationNode.GetName()
                )
            )


def fillSegment(
    scriptedEffect: Any, target: Target, labelmap: Any, *, add: bool = False, removed: Any = None
) -> None:
    """Write a result into the target's segment, as one step for Undo.

    Args:
        scriptedEffect: the effect's host.
        target: what the result was asked for.
        labelmap: of `Target.labelmap`.
        add: whether what is in the segment stays; otherwise it is replaced, where the mask allows it.
        removed: labelmap of what the segment loses before, where the mask allows it; see `sameObject`.

    Raises:
        InputError: where the target is no longer there, or nothing of the result would be left; nothing is changed.
    """
    target.check(scriptedEffect)
    grid = _grid(scriptedEffect)
    before = target.segmentationNode.GetSegmentation().GetSegment(target.segmentID).GetRepresentation(BINARY_LABELMAP)
    modifier = resultOnGrid(labelmap, gridAround([labelmap] if add else [labelmap, before], grid))
    modes = slicer.qSlicerSegmentEditorAbstractEffect
    erased = None if removed is None else _editable(scriptedEffect, onGrid(removed, gridAround([removed], grid)))
    scriptedEffect.saveStateForUndo()
    if erased is not None and valuesOf(erased).any():
        scriptedEffect.modifySelectedSegmentByLabelmap(erased, modes.ModificationModeRemove, True)
    scriptedEffect.modifySelectedSegmentByLabelmap(
        modifier, modes.ModificationModeAdd if add else modes.ModificationModeSet
    )


def sameObject(target: Target, labelmap: Any, geometry: Geometry, plane: str, slices: Collection[int]) -> Any:
    """What the target's segment has of an object on some slices, besides a new result for it.

    Args:
        target: what the result was asked for.
        labelmap: the result, of `Target.labelmap`.
        geometry: of the source volume with axes LPS, in world space as it was when the work was asked for.
        plane: a key of `prompts.PLANES`.
        slices: of the plane.

    Returns:
        A labelmap (vtkOrientedImageData): on those slices, all pieces of the segment that share a voxel with the
        result, without the result itself. Other pieces are other objects.
    """
    segment = target.segmentationNode.GetSegmentation().GetSegment(target.segmentID)
    image = segment.GetRepresentation(BINARY_LABELMAP)
    if image.IsEmpty():
        return slicer.vtkOrientedImageData()
    number = mrml.nearest_indices(image, target.segmentationNode, target.now(geometry), 2 - PLANES[plane])
    followed = np.isin(number, list(slices))
    # No more than those slices, as far as the image's axes allow it.
    sides = zip(bounding_box(followed), followed.shape, strict=True)
    z, y, x = (side if size > 1 else slice(None) for side, size in sides)
    mask = (arrayOf(image)[z, y, x] == segment.GetLabelValue()) & followed[z, y, x]
    if not mask.any():
        return slicer.vtkOrientedImageData()
    starts = [low + (side.start or 0) for low, side in zip(image.GetExtent()[::2], (x, y, z), strict=True)]
    bounds = zip(starts, mask.shape[::-1], strict=True)
    part = emptyGrid(image, [bound for start, size in bounds for bound in (start, start + size - 1)])
    result = arrayOf(onGrid(labelmap, part)) > 0
    pieces, count = connectedPieces(mask)
    touched = np.zeros(count + 1, dtype=bool)
    touched[pieces[result]] = True
    touched[0] = False
    found = zeros(part)
    arrayOf(found)[...] = touched[pieces] & ~result
    return found


def addSegments(scriptedEffect: Any, target: Target, results: Sequence[tuple[Region, Any]]) -> list[str]:
    """Add results as new segments, as one step for Undo.

    What the editor's mask allows of all results together is found by writing their union through the editor, which also
    takes it from the segments that may be overwritten. Among themselves the new segments keep their overlap.

    Args:
        scriptedEffect: the effect's host.
        target: what the results were asked for.
        results: region (name, colour, terminology) and its labelmap, of `Target.labelmap`.

    Returns:
        The ids of the new segments.

    Raises:
        InputError: where the target is no longer there, or nothing of a result would be left; nothing is changed. Where
            Slicer refuses a segment, which Undo takes back.
    """
    target.check(scriptedEffect)
    grid = gridAround([labelmap for _region, labelmap in results], _grid(scriptedEffect))
    placed = [placedOn(labelmap, grid) for _region, labelmap in results]
    union = zeros(grid)
    for box, mask in placed:
        arrayOf(union)[box] |= mask
    scriptedEffect.saveStateForUndo()
    node = target.segmentationNode
    logic, contents = slicer.vtkSlicerSegmentationsModuleLogic, node.GetSegmentation()
    modifying = node.StartModify()
    try:
        first = _addSegment(contents, results[0][0], None if _joins(contents, grid) else emptyGrid(grid, NOTHING))
        mode = slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeAdd
        scriptedEffect.modifySegmentByLabelmap(node, first, union, mode)
        masks, permitted = placed, arrayOf(union)
        if _restricted(scriptedEffect):
            permitted = voxelsOf(contents.GetSegment(first), grid)
            masks = [(box, mask & permitted[box]) for box, mask in placed]
        if np.count_nonzero(masks[0][1]) < np.count_nonzero(permitted):
            [(image, _value)] = sharedImages(masks[:1], grid)
            logic.SetBinaryLabelmapToSegment(image, node, first, logic.MODE_REPLACE)
        segmentIDs = [first]
        for (region, _labelmap), (image, value) in zip(results[1:], sharedImages(masks[1:], grid), strict=True):
            segmentIDs.append(_addSegment(contents, region, image, value))
        for segmentID in segmentIDs:
            logic.SetSegmentStatus(contents.GetSegment(segmentID), logic.InProgress)
    finally:
        node.EndModify(modifying)
    return segmentIDs


def _addSegment(contents: Any, region: Region, image: Any = None, value: int = 1) -> str:
    """A segment whose voxels have a value in an image; without one, an empty segment, as Slicer makes it."""
    taken = [contents.GetNthSegment(index).GetName() for index in range(contents.GetNumberOfSegments())]
    if image is None:
        segmentID = contents.AddEmptySegment()
        mrml.describe_segment(contents.GetSegment(segmentID), region, taken=taken)
        return str(segmentID)
    segment = slicer.vtkSegment()
    mrml.describe_segment(segment, region, taken=taken)
    segment.AddRepresentation(BINARY_LABELMAP, image)
    segment.SetLabelValue(value)
    segmentID = contents.GenerateUniqueSegmentID("")
    if not contents.AddSegment(segment, segmentID):
        raise InputError(
            _("Slicer refused the segment '{name}'. Press Undo to take back what was written, and Apply again.").format(
                name=segment.GetName()
            )
        )
    return str(segmentID)


def _joins(contents: Any, grid: Any) -> bool:
    """Whether a new segment may share the first image, where Slicer puts it: across grids it would overwrite others."""
    if contents.GetNumberOfSegments() == 0:
        return True
    image = contents.GetNthSegment(0).GetRepresentation(BINARY_LABELMAP)
    return bool(image.IsEmpty() or slicer.vtkOrientedImageDataResample.DoGeometriesMatch(image, grid))


def _relation(sourceGeometry: Geometry, segmentationNode: Any) -> Matrix:
    """4x4 from the source volume's voxels to the segmentation's own space, which a shared transform does not change."""
    return _rows(mrml.world_to_node(segmentationNode) @ sourceGeometry.ijk_to_ras)


def _rows(matrix: Any) -> Matrix:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _grid(scriptedEffect: Any) -> Any:
    """The voxels that the editor works on now, without values."""
    reference = scriptedEffect.referenceGeometryImage()
    if reference is None:
        raise InputError(
            _("The segmentation has no voxel grid. Choose its source volume in the Segment Editor once more.")
        )
    return emptyGrid(reference, reference.GetExtent())


def _restricted(scriptedEffect: Any) -> bool:
    """Whether the editor's mask can protect voxels."""
    parameters = scriptedEffect.parameterSetNode()
    everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    return bool(parameters.GetMaskMode() != everywhere or parameters.GetSourceVolumeIntensityMask())


def _editable(scriptedEffect: Any, labelmap: Any) -> Any:
    """The labelmap without what the editor's mask protects: its editable area and its intensity range.

    Slicer applies them itself to all that is added. Its eraser does not suit: inside a single segment it reaches beyond
    that segment, and what it erases it gives to it.
    """
    parameters = scriptedEffect.parameterSetNode()
    protected = scriptedEffect.maskLabelmap()
    if protected is None:
        raise InputError(_("The editable area cannot be found out, so nothing was changed; choose it once more."))
    allowed = valuesOf(onGrid(protected, labelmap)) == 0
    if parameters.GetSourceVolumeIntensityMask():
        source = scriptedEffect.sourceVolumeImageData()
        if source is None:
            raise InputError(_("The source volume holds no voxels, so its editable intensity range cannot be used."))
        low, high = parameters.GetSourceVolumeIntensityMaskRange()
        values = valuesOf(onGrid(source, labelmap))
        allowed &= (values >= low) & (values <= high)
    valuesOf(labelmap)[...] *= allowed
    return labelmap
