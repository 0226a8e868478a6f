"""Segmentation ↔ segmentation node: every region is a segment; overlaps, names, colours and codes are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Box, Segmentation, bounding_box, members
from BrainSegSAMLib.labels import (
    DEFAULT_COLOURS_RGB,
    LABEL_VALUES_TAG,
    LabelScheme,
    Region,
    Terminology,
    format_label_values,
    parse_label_values,
)

from .labelmaps import BoolArray, Steps, finished, layer_in_parts
from .spaces import (
    FloatArray,
    ijk_to_local_ras,
    image_to_ras,
    named,
    oriented_image,
    parent_to_world,
    world_geometry,
)
from .volumes import check_is_scalar_volume, volume_node_geometry

# vtkSegmentationConverter::GetSegmentationBinaryLabelmapRepresentationName(); written into .seg.nrrd files as well.
BINARY_LABELMAP = "Binary labelmap"

_MOST_SHARING = 255  # values of an unsigned char besides 0


def segmentation_to_node(
    segmentation: Segmentation, reference_volume_node: Any, *, node: Any = None, name: str = "", replace: bool = False,
    boxes: Mapping[str, Box] | None = None,
) -> Any:
    """Put every region of a segmentation as a segment into the scene of its reference volume.

    A new node has the reference volume's geometry and parent transform. In an existing node, which keeps its own, the
    other segments stay untouched; segments are resampled (nearest neighbour) where its voxel grid is another one. All
    segments are made before the scene is touched; where it still fails, what was added is removed.

    Args:
        segmentation: in world space, e.g. predicted from `read_volume_node` of the reference volume.
        reference_volume_node: the volume on which it was found; in a scene.
        node: vtkMRMLSegmentationNode to add to; None makes a new one, with a display node.
        name: of a new node; the segmentation's own by default. Made unique in the scene.
        replace: what happens to a segment of the same name in an existing node: replaced in its place, or kept while
            the new one gets a unique name.
        boxes: region name → slices along z, y, x that hold all of its voxels, where they are known: looking for them in
            the whole of a big volume takes longer than an interface should stand still.

    Returns:
        The vtkMRMLSegmentationNode.

    Raises:
        InputError: where the reference volume or the node cannot be used.
        GeometryError: under a non-linear transform, or where the transform shears the segments' grid.
    """
    steps = segmentation_to_node_in_parts(
        lambda: segmentation, reference_volume_node, node=node, name=name, replace=replace, boxes=boxes
    )
    return finished(steps)


def segmentation_to_node_in_parts(
    current: Callable[[], Segmentation], reference_volume_node: Any, *, node: Any = None, name: str = "",
    replace: bool = False, boxes: Mapping[str, Box] | None = None,
) -> Steps[Any]:
    """As `segmentation_to_node`, a part at a time; the scene is touched after the last one, at once.

    Args:
        current: gives the segmentation where it is now. Asked once more at the end: where volume or node were moved in
            the meantime, all is made again.
        reference_volume_node: the volume on which it was found.
        node: vtkMRMLSegmentationNode to add to, or None.
        name: of a new node.
        replace: what happens to a segment of the same name.
        boxes: region name → slices along z, y, x.

    Yields:
        Between two parts, each of a few milliseconds: an interface can have its turn. The node is what is returned.

    Raises:
        InputError, GeometryError: as `segmentation_to_node`.
    """
    check_is_scalar_volume(reference_volume_node)
    scene = reference_volume_node.GetScene()
    if scene is None:
        raise InputError(f"{named(reference_volume_node)} is in no scene; add it to one first.")
    target = reference_volume_node if node is None else node
    while True:
        segmentation = current()
        grid = _grid_of_volume(target) if node is None else _common_grid(_contents(node))
        place = _place(segmentation, target, grid)
        segments = yield from _segments(segmentation, target, grid, boxes)
        now = _grid_of_volume(target) if node is None else _common_grid(_contents(node))
        if np.array_equal(place, _place(current(), target, now)):
            break
    if node is None:
        return _new_node(scene, segments, reference_volume_node, name or segmentation.name)
    contents = _contents(node)
    modifying = node.StartModify()
    try:
        _add_segments(contents, segments, replace=replace)
        if grid is None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference_volume_node)
    finally:
        node.EndModify(modifying)
    return node


def check_takes_segments(node: Any, reference_volume_node: Any) -> None:
    """Refuse now, before long work on a volume, what `segmentation_to_node` would refuse after it.

    Raises:
        InputError: where the node cannot be used.
        GeometryError: under a non-linear transform, or where the transform shears the segments' grid.
    """
    _contents(node)
    _local_grid(volume_node_geometry(reference_volume_node), node)


def node_to_segmentation(node: Any, *, geometry: Geometry | None = None) -> Segmentation:
    """All segments of a node, overlaps kept, with names, colours and codes; the node is not changed.

    Args:
        node: vtkMRMLSegmentationNode whose source representation is a binary labelmap.
        geometry: grid in world space to sample on (nearest neighbour; what lies outside is cut off), e.g. that of
            `volume_node_geometry`. By default the node's own voxels: its reference geometry, extended to hold every
            segment.

    Returns:
        Label values are those that `segmentation_to_node` noted, as far as the masks still allow it.

    Raises:
        InputError: where the node has no segment, or no voxels.
        GeometryError: as `volume_node_geometry`.
    """
    import slicer

    contents = _contents(node)
    if contents.GetNumberOfSegments() == 0:
        raise InputError(f"{named(node)} has no segment.")
    to_world = parent_to_world(node)
    if geometry is None:
        grid = _common_grid(contents, slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS_AND_REFERENCE_GEOMETRY)
        if grid is None:
            raise InputError(f"{named(node)} has only empty segments and no reference volume to lay them on.")
        geometry = world_geometry(to_world @ image_to_ras(grid), grid.GetExtent(), named(node))
    else:
        extent = [bound for size in geometry.size_ijk for bound in (0, size - 1)]
        grid = oriented_image(np.linalg.inv(to_world) @ geometry.ijk_to_ras, extent)
    regions: list[Region] = []
    masks: dict[str, BoolArray] = {}
    for index in range(contents.GetNumberOfSegments()):
        segment_id = contents.GetNthSegmentID(index)
        region = _region(contents.GetSegment(segment_id), index, masks)
        regions.append(region)
        masks[region.name] = _mask(node, segment_id, grid)
    found = Segmentation.from_masks(geometry, masks, scheme=LabelScheme(tuple(regions)), name=node.GetName())
    return found.relabelled([_noted_labels(contents.GetNthSegment(i)) for i in range(len(regions))])


def segment_mask(node: Any, segment_id: str, geometry: Geometry) -> BoolArray:
    """One segment on a grid in world space, by nearest neighbour: bool (z, y, x); the node is not changed.

    Args:
        node: vtkMRMLSegmentationNode whose source representation is a binary labelmap.
        segment_id: of the segment.
        geometry: the grid; what lies outside is cut off.

    Raises:
        InputError: where there is no such segment, or no voxels.
        GeometryError: under a non-linear transform.
    """
    if _contents(node).GetSegment(segment_id) is None:
        raise InputError(f"{named(node)} has no segment '{segment_id}'.")
    to_local = np.linalg.inv(parent_to_world(node)) @ geometry.ijk_to_ras
    found = np.zeros(geometry.shape_zyx, dtype=bool)
    extent = _extent_on(node, segment_id, to_local, geometry)
    if extent is not None:  # only there, because resampling a whole volume takes long
        z, y, x = (slice(extent[2 * axis], extent[2 * axis + 1] + 1) for axis in (2, 1, 0))
        found[z, y, x] = _mask(node, segment_id, oriented_image(to_local, extent))
    return found


def _extent_on(node: Any, segment_id: str, to_local: FloatArray, geometry: Geometry) -> list[int] | None:
    """First and last index along i, j, k between which a segment lies on a grid; None where it does not."""
    stored = node.GetSegmentation().GetSegment(segment_id).GetRepresentation(BINARY_LABELMAP)
    if stored is None or stored.IsEmpty():
        return None
    bounds = stored.GetExtent()
    sides = [(bounds[2 * axis] - 0.5, bounds[2 * axis + 1] + 0.5) for axis in range(3)]
    corners = np.array(np.meshgrid(*sides, [1.0], indexing="ij")).reshape(4, 8)
    there = (np.linalg.inv(to_local) @ image_to_ras(stored) @ corners)[:3]
    low = np.maximum(np.floor(there.min(axis=1)), 0).astype(int)
    high = np.minimum(np.ceil(there.max(axis=1)), np.array(geometry.size_ijk) - 1).astype(int)
    if (high < low).any():
        return None
    return [int(bound) for pair in zip(low, high, strict=True) for bound in pair]


def _contents(node: Any) -> Any:
    """The vtkSegmentation of a segmentation node that holds voxels."""
    if node is None or not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(f"'{node.GetName() if node else node}' is not a segmentation node.")
    contents = node.GetSegmentation()
    if contents.GetSourceRepresentationName() != BINARY_LABELMAP:
        raise InputError(
            f"{named(node)} is stored as '{contents.GetSourceRepresentationName()}', not as voxels. Make 'Binary "
            "labelmap' its source representation (Segmentations module, Representations) or choose another."
        )
    return contents


def _grid_of_volume(node: Any) -> Any:
    return oriented_image(ijk_to_local_ras(node), node.GetImageData().GetExtent())


def _common_grid(contents: Any, extent_mode: int | None = None) -> Any:
    """The voxel grid that a segmentation's segments share, in the node's own space; None where it has none yet."""
    import slicer

    mode = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY if extent_mode is None else extent_mode
    # Empty for a node without a non-empty segment: then the reference geometry, if it was ever set, counts.
    serialized = contents.DetermineCommonLabelmapGeometry(mode, None) or contents.GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    if not serialized:
        return None
    grid = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(serialized, grid, False)
    return grid


def _place(segmentation: Segmentation, target: Any, grid: Any) -> FloatArray:
    """All that decides which voxels of a node become those of a segmentation."""
    local = _local_grid(segmentation.geometry, target)
    kept = np.empty(0) if grid is None else np.concatenate([image_to_ras(grid).ravel(), grid.GetExtent()])
    return np.concatenate([local.ravel(), kept])


def _segments(
    segmentation: Segmentation, target: Any, grid: Any, boxes: Mapping[str, Box] | None = None
) -> Steps[list[Any]]:
    """One vtkSegment a region, in the space of `target`'s parent transform, on `grid` where that is given."""
    local = _local_grid(segmentation.geometry, target)
    label_map, found = segmentation.label_map, {}
    for layer in _layers(segmentation.scheme):
        labelled = []
        for region in layer:
            box = (boxes or {}).get(region.name)
            labelled.append((region.labels, bounding_box(members(label_map, region.labels)) if box is None else box))
        image = yield from layer_in_parts(label_map, labelled, local, grid)
        for value, region in enumerate(layer, 1):
            found[region.name] = _segment(region, image, value)
    return [found[region.name] for region in segmentation.scheme.regions]


def _layers(scheme: LabelScheme) -> list[list[Region]]:
    """Regions that can share an image, as in Slicer: those without a label in common do not overlap."""
    layers: list[list[Region]] = []
    for region in scheme.regions:
        for layer in layers:
            if len(layer) < _MOST_SHARING and not set(region.labels) & {label for one in layer for label in one.labels}:
                layer.append(region)
                break
        else:
            layers.append([region])
    return layers


def _local_grid(geometry: Geometry, target: Any) -> FloatArray:
    """4x4: voxels of a grid in world space → a node's RAS below its parent transforms, which must not shear it."""
    local: FloatArray = np.linalg.inv(parent_to_world(target)) @ geometry.ijk_to_ras
    extent = [bound for size in geometry.size_ijk for bound in (0, size - 1)]
    world_geometry(local, extent, named(target))
    return local


def _segment(region: Region, image: Any, value: int) -> Any:
    """A vtkSegment of the voxels that have a value in an image; empty where there is none."""
    import slicer

    segment = slicer.vtkSegment()
    describe_segment(segment, region)
    if image is not None:
        segment.SetLabelValue(value)
        segment.AddRepresentation(BINARY_LABELMAP, image)
    return segment


def describe_segment(segment: Any, region: Region, *, taken: Collection[str] = ()) -> None:
    """Give a vtkSegment a region's name, colour, terminology and label values.

    Args:
        segment: of any segmentation, or of none yet.
        region: of a label scheme.
        taken: names that are not free; the first free one of name, name_1, name_2 and so on becomes the segment's.
    """
    segment.SetName(_unique(region.name, taken))
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*[channel / 255.0 for channel in region.colour_rgb])
    segment.SetColorAutoGenerated(False)
    if region.terminology is not None:
        segment.SetTerminology(region.terminology.slicer_entry())
    segment.SetTag(LABEL_VALUES_TAG, format_label_values(region.labels))


def _new_node(scene: Any, segments: list[Any], reference_volume_node: Any, name: str) -> Any:
    node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")  # with the defaults that the user set in Slicer
    node.UnRegister(None)  # Python holds it now; without this it would never be freed
    node.SetName(scene.GenerateUniqueName(name))
    _add_segments(node.GetSegmentation(), segments, replace=False)
    try:
        scene.AddNode(node)
        # Not GetTransformNodeID(): its first call marks the volume as modified.
        parent = reference_volume_node.GetParentTransformNode()
        node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference_volume_node)
        node.CreateDefaultDisplayNodes()
    except BaseException:
        scene.RemoveNode(node)
        raise
    return node


def _add_segments(contents: Any, segments: list[Any], *, replace: bool) -> None:
    """All or none: what was added is removed again where one is refused."""
    old_ids = {contents.GetNthSegment(i).GetName(): contents.GetNthSegmentID(i)
               for i in reversed(range(contents.GetNumberOfSegments()))}
    added: list[tuple[str, str]] = []  # new id, id of the segment it replaces
    try:
        for segment in segments:
            name = segment.GetName()
            replaced = old_ids.get(name, "") if replace else ""
            if name in old_ids and not replaced:
                segment.SetName(_unique(name, {*old_ids, *(other.GetName() for other in segments)}))
            segment_id = contents.GenerateUniqueSegmentID("")
            if not contents.AddSegment(segment, segment_id):
                raise InputError(f"Slicer refused the segment '{name}'.")
            added.append((segment_id, replaced))
    except BaseException:
        for segment_id, _ in added:
            contents.RemoveSegment(segment_id)
        raise
    for segment_id, replaced in added:
        if replaced:
            contents.SetSegmentIndex(segment_id, contents.GetSegmentIndex(replaced))
            contents.RemoveSegment(replaced)


def _unique(name: str, taken: Collection[str]) -> str:
    """`name`, or with the first free number as Slicer appends it: name_1, name_2 and so on."""
    number, candidate = 0, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _region(segment: Any, index: int, taken: Any) -> Region:
    import slicer

    entry = segment.GetTerminology()
    # Slicer writes this placeholder into every segment of which nobody said what it is.
    stated = entry and entry != slicer.vtkSegment().GetTerminology()
    colour = [round(channel * 255) for channel in segment.GetColor()]
    valid = all(0 <= channel <= 255 for channel in colour)
    return Region(
        _unique(segment.GetName() or f"Segment {index + 1}", taken),
        (index + 1,),
        (colour[0], colour[1], colour[2]) if valid else DEFAULT_COLOURS_RGB[index % len(DEFAULT_COLOURS_RGB)],
        Terminology.from_slicer_entry(entry) if stated else None,
    )


def _mask(node: Any, segment_id: str, grid: Any) -> BoolArray:
    """Bool (z, y, x) of one segment on a grid in the node's own space."""
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    shape = tuple(grid.GetDimensions()[::-1])
    stored = node.GetSegmentation().GetSegment(segment_id).GetRepresentation(BINARY_LABELMAP)
    if stored is None or stored.IsEmpty():
        return np.zeros(shape, dtype=bool)
    own, sampled = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, own)
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(own, grid, sampled, False, False)
    values: BoolArray = vtk_to_numpy(sampled.GetPointData().GetScalars()).reshape(shape) > 0
    return values


def _noted_labels(segment: Any) -> tuple[int, ...]:
    import vtk

    text = vtk.reference("")
    return parse_label_values(str(text)) if segment.GetTag(LABEL_VALUES_TAG, text) else ()
