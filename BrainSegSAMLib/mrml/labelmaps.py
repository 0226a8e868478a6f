"""Masks as Slicer keeps the voxels of a segment: vtkOrientedImageData, in the space of a segmentation node."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import AxisOrder, Geometry
from BrainSegSAMLib.image import Box, bounding_box, members

from .spaces import FloatArray, image_to_ras, named, oriented_image, parent_to_world, vtk_matrix, world_geometry

_log = logging.getLogger(__name__)

BoolArray = NDArray[np.bool_]
Labelled = tuple[Sequence[int], Box]
Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work in parts, between which an interface has its turn."""

_PART, _RESAMPLED_PART = 1 << 20, 1 << 18  # voxels that are written at once

_NO_STEP = 1e-6  # of a slice: what rounding makes of 0

# Of a voxel. Headers round positions; the nearest neighbour of a voxel is the same up to half a voxel.
_SAME_VOXEL = 0.1


def mask_to_labelmap(
    mask_zyx: BoolArray, geometry: Geometry, segmentation_node: Any, grid: Any, *,
    offset_zyx: tuple[int, int, int] = (0, 0, 0),
) -> Any:
    """A mask in world space as voxels of a segmentation node.

    Args:
        mask_zyx: bool (z, y, x).
        geometry: of the whole of which the mask may be a part, in world space.
        segmentation_node: vtkMRMLSegmentationNode; its parent transforms are taken out of the result.
        grid: vtkOrientedImageData in the node's own space; the mask is resampled onto it (nearest neighbour), unless
            its voxels are the same.
        offset_zyx: the voxel of the geometry at which the mask begins.

    Returns:
        A vtkOrientedImageData of 0 and 1 (unsigned char) with the grid's voxels, about as large as the mask, wherever
        the grid ends; empty for an empty mask.

    Raises:
        GeometryError: under a non-linear transform, or where the transforms shear the mask's grid.
    """
    ours = ((True,), bounding_box(mask_zyx))
    return finished(_on_node(mask_zyx, ours, geometry, segmentation_node, grid, offset_zyx))


def labelmap_in_parts(
    label_map_zyx: NDArray[Any], labels: Sequence[int], geometry: Geometry, segmentation_node: Any, grid: Any, *,
    box: Box,
) -> Steps[Any]:
    """As `mask_to_labelmap`, of the voxels of a label map that carry one of some values, a part at a time.

    Args:
        label_map_zyx: integers (z, y, x), the whole of the geometry.
        labels: the values.
        geometry: in world space.
        segmentation_node: vtkMRMLSegmentationNode.
        grid: vtkOrientedImageData in the node's own space.
        box: slices along z, y, x that hold all of these voxels.

    Yields:
        Between two parts, each of a few milliseconds: an interface can have its turn. The labelmap is what is returned.

    Raises:
        GeometryError: as `mask_to_labelmap`.
    """
    return (yield from _on_node(label_map_zyx, (labels, box), geometry, segmentation_node, grid, (0, 0, 0)))


def finished(steps: Steps[Result]) -> Result:
    """Do all steps at once; what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(Result, end.value)


def _on_node(
    label_map: NDArray[Any], labelled: Labelled, geometry: Geometry, segmentation_node: Any, grid: Any,
    offset_zyx: tuple[int, int, int],
) -> Steps[Any]:
    import slicer

    local = world_to_node(segmentation_node) @ geometry.ijk_to_ras
    world_geometry(local, [bound for size in geometry.size_ijk for bound in (0, size - 1)], named(segmentation_node))
    found = yield from layer_in_parts(label_map, [labelled], local, grid, offset_zyx=offset_zyx)
    if found is None:
        found = slicer.vtkOrientedImageData()
        found.SetGeometryFromImageToWorldMatrix(vtk_matrix(image_to_ras(grid)))
        found.SetExtent(0, -1, 0, -1, 0, -1)
    return found


def grid_geometry(grid: Any, segmentation_node: Any) -> Geometry:
    """The voxels of a vtkOrientedImageData in a segmentation node's own space, in world space.

    Raises:
        GeometryError: under a non-linear transform, or where the transform shears the grid.
    """
    to_world = parent_to_world(segmentation_node)
    return world_geometry(to_world @ image_to_ras(grid), grid.GetExtent(), named(segmentation_node))


def world_to_node(node: Any) -> FloatArray:
    """4x4, RAS → RAS: from world space into a node's own.

    Raises:
        GeometryError: under a non-linear transform.
    """
    matrix: FloatArray = np.linalg.inv(parent_to_world(node)).astype(np.float64)
    return matrix


def nearest_indices(image: Any, segmentation_node: Any, geometry: Geometry, axis: int) -> NDArray[np.int64]:
    """Which of a volume's slices each voxel of a segmentation's labelmap lies on, inside the volume or beyond it.

    Args:
        image: vtkOrientedImageData in the node's own space.
        segmentation_node: vtkMRMLSegmentationNode.
        geometry: of the volume, in world space.
        axis: 0, 1, 2: the volume's index i, j, k.

    Returns:
        Of each voxel of the image the volume's index along the axis, rounded: (z, y, x), of length 1 along axes of the
        image along which it does not change.
    """
    to_index = (np.linalg.inv(geometry.ijk_to_ras) @ parent_to_world(segmentation_node) @ image_to_ras(image))[axis]
    extent = image.GetExtent()
    found = np.full((1, 1, 1), to_index[3])
    for side in range(3):
        first, last = extent[2 * side], extent[2 * side + 1]
        if abs(to_index[side]) * max(abs(first), abs(last), 1) < _NO_STEP:
            continue
        shape = [1, 1, 1]
        shape[2 - side] = -1
        found = found + to_index[side] * np.arange(first, last + 1).reshape(shape)
    numbers: NDArray[np.int64] = np.rint(found).astype(int)
    return numbers


def layer_in_parts(
    label_map: NDArray[Any], labelled: Sequence[Labelled], ijk_to_ras: FloatArray, grid: Any, *,
    offset_zyx: tuple[int, int, int] = (0, 0, 0),
) -> Steps[Any]:
    """Voxels of a label map as an image that ends with them, as Slicer keeps segments, made a part at a time.

    Args:
        label_map: integers or bool (z, y, x).
        labelled: label values, and slices along z, y, x that hold all voxels that carry them; no value twice. Those of
            the first become 1, of the second 2 and so on; at most 255.
        ijk_to_ras: 4x4, of the voxels of which the label map is a part.
        grid: vtkOrientedImageData to resample onto (nearest neighbour), or None.
        offset_zyx: the voxel at which the label map begins.

    Yields:
        Between two parts.

    Returns:
        A vtkOrientedImageData (unsigned char); None where there is no voxel.
    """
    boxes = [box for _labels, box in labelled if all(side.stop > side.start for side in box)]
    if not boxes:
        return None
    hull = tuple(slice(min(side.start for side in sides), max(side.stop for side in sides))
                 for sides in zip(*boxes, strict=True))  # fmt: skip
    shape = tuple(side.stop - side.start for side in hull)
    first = np.array([side.start + start for side, start in zip(hull, offset_zyx, strict=True)])[::-1]
    last = first + shape[::-1] - 1
    if grid is None:
        image = _blank(ijk_to_ras, first, last)
        yield from _write(_values(image), label_map, labelled, hull)
        return image
    to_grid = np.linalg.inv(image_to_ras(grid)) @ ijk_to_ras
    turn, begin = _whole_steps(to_grid, first, last)
    if turn is None:
        # With a rim of 0: beyond its edge VTK repeats an image for half a voxel, and this one ends with its voxels.
        image = _blank(ijk_to_ras, first - 1, last + 1)
        values = _values(image)
        for axis in range(3):
            np.moveaxis(values, axis, 0)[[0, -1]] = 0
        yield from _write(values[1:-1, 1:-1, 1:-1], label_map, labelled, hull)
        return (yield from _resampled(image, grid, to_grid, first, last))
    sources = [int(source) for source in np.abs(turn).argmax(axis=1)]
    flips = [bool(turn[axis, source] < 0) for axis, source in enumerate(sources)]
    order = AxisOrder((sources[0], sources[1], sources[2]), (flips[0], flips[1], flips[2]))
    end = begin + turn @ (last - first)
    image = _blank(image_to_ras(grid), np.minimum(begin, end), np.maximum(begin, end))
    yield from _write(order.undo(_values(image)), label_map, labelled, hull)
    return image


def _write(
    target: NDArray[np.uint8], label_map: NDArray[Any], labelled: Sequence[Labelled], hull: Sequence[slice]
) -> Steps[None]:
    """What of the label map is meant within a part of it, into an array of its shape."""
    z, y, x = hull
    slices = max(1, _PART // (target.shape[1] * target.shape[2]))
    for start in range(z.start, z.stop, slices):
        stop = min(start + slices, z.stop)
        target[start - z.start : stop - z.start] = 0
        for value, (labels, box) in enumerate(labelled, 1):
            low, high = max(start, box[0].start), min(stop, box[0].stop)
            if low < high:
                there = target[
                    low - z.start : high - z.start, box[1].start - y.start : box[1].stop - y.start,
                    box[2].start - x.start : box[2].stop - x.start,
                ]  # fmt: skip
                there += members(label_map[low:high, box[1], box[2]], labels) * np.uint8(value)
        yield


def _whole_steps(to_grid: FloatArray, first: Any, last: Any) -> tuple[Any, Any]:
    """How voxels lie on a grid on which they only are counted otherwise: then nothing needs to be resampled.

    Args:
        to_grid: 4x4, from the voxels' indices i, j, k to the grid's.
        first: index of the first voxel.
        last: index of the last one.

    Returns:
        3x3 of 0, 1 and -1, and the first voxel's index on the grid; (None, None) where the grid has other voxels.
    """
    turn, begin = np.rint(to_grid[:3, :3]), to_grid[:3, :3] @ first + to_grid[:3, 3]
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return None, None
    off = np.abs(begin - np.rint(begin)) + np.abs(to_grid[:3, :3] - turn) @ (last - first)
    return (turn, np.rint(begin)) if off.max() < _SAME_VOXEL else (None, None)


def _blank(ijk_to_ras: FloatArray, first: Any, last: Any) -> Any:
    """A vtkOrientedImageData (unsigned char) from a voxel i, j, k to another, with values yet to be written."""
    import vtk

    image = oriented_image(ijk_to_ras, [bound for pair in zip(first, last, strict=True) for bound in pair])
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    return image


def _values(image: Any) -> NDArray[np.uint8]:
    """(z, y, x), sharing the image's memory."""
    from vtk.util.numpy_support import vtk_to_numpy

    values: NDArray[np.uint8] = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return values


def _resampled(image: Any, grid: Any, to_grid: FloatArray, first: Any, last: Any) -> Steps[Any]:
    """On the grid, and no farther than it reaches there: a whole head takes long."""
    import slicer

    _log.info("The segments are resampled onto the voxel grid of the segmentation node.")
    corners = np.array(np.meshgrid(*zip(first - 0.5, last + 0.5, strict=True), indexing="ij")).reshape(3, 8)
    there = to_grid[:3, :3] @ corners + to_grid[:3, 3:]
    low, high = np.floor(there.min(axis=1)), np.ceil(there.max(axis=1))
    found = _blank(image_to_ras(grid), low, high)
    values, part = _values(found), slicer.vtkOrientedImageData()
    slices = max(1, _RESAMPLED_PART // (values.shape[1] * values.shape[2]))
    resample = slicer.vtkOrientedImageDataResample
    for start in range(0, len(values), slices):
        stop = min(start + slices, len(values))
        bounds = zip((low[0], low[1], low[2] + start), (high[0], high[1], low[2] + stop - 1), strict=True)
        asked = oriented_image(image_to_ras(grid), [bound for pair in bounds for bound in pair])
        if not resample.ResampleOrientedImageToReferenceOrientedImage(image, asked, part, False, False):
            raise GeometryError("The segments cannot be resampled onto the voxel grid of the segmentation node.")
        values[start:stop] = _values(part)
        yield
    return found
