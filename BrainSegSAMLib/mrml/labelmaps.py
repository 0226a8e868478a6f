"""Masks as Slicer keeps the voxels of a segment: vtkOrientedImageData, in the space of a segmentation node."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import AxisOrder, Geometry

from .spaces import FloatArray, image_to_ras, named, oriented_image, parent_to_world, vtk_matrix, world_geometry

_log = logging.getLogger(__name__)

BoolArray = NDArray[np.bool_]

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
    import slicer

    local = world_to_node(segmentation_node) @ geometry.ijk_to_ras
    world_geometry(local, [bound for size in geometry.size_ijk for bound in (0, size - 1)], named(segmentation_node))
    found = cropped_labelmap(mask_zyx, local, grid, offset_zyx=offset_zyx)
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
        Of each voxel of the image (z, y, x): the volume's index along the axis, rounded.
    """
    to_index = (np.linalg.inv(geometry.ijk_to_ras) @ parent_to_world(segmentation_node) @ image_to_ras(image))[axis]
    extent = image.GetExtent()
    k, j, i = np.ogrid[extent[4] : extent[5] + 1, extent[2] : extent[3] + 1, extent[0] : extent[1] + 1]
    found: NDArray[np.int64] = np.rint(to_index[0] * i + to_index[1] * j + to_index[2] * k + to_index[3]).astype(int)
    return found


def cropped_labelmap(
    mask: BoolArray, ijk_to_ras: FloatArray, grid: Any, *, offset_zyx: tuple[int, int, int] = (0, 0, 0)
) -> Any:
    """A vtkOrientedImageData cropped to the mask, as Slicer keeps segments; None for an empty mask.

    Args:
        mask: bool (z, y, x).
        ijk_to_ras: 4x4, of the voxels of which the mask is a part.
        grid: vtkOrientedImageData to resample onto, or None.
        offset_zyx: the voxel at which the mask begins.
    """
    over_z = np.any(mask, axis=0)
    if not over_z.any():
        return None
    sides = []
    for occupied in map(np.flatnonzero, (mask.any(axis=(1, 2)), over_z.any(axis=1), over_z.any(axis=0))):
        sides.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    cropped = mask[tuple(sides)]
    first = np.array([side.start + start for side, start in zip(sides, offset_zyx, strict=True)])[::-1]
    if grid is None:
        return _filled(cropped, ijk_to_ras, first)
    to_grid = np.linalg.inv(image_to_ras(grid)) @ ijk_to_ras
    last = first + cropped.shape[::-1] - 1
    turn, begin = _whole_steps(to_grid, first, last)
    if turn is None:
        # With a rim of 0: beyond its edge VTK repeats an image for half a voxel, and this one ends with the mask.
        return _resampled(_filled(np.pad(cropped, 1), ijk_to_ras, first - 1), grid, to_grid, first, last)
    sources = [int(source) for source in np.abs(turn).argmax(axis=1)]
    flips = [bool(turn[axis, source] < 0) for axis, source in enumerate(sources)]
    order = AxisOrder((sources[0], sources[1], sources[2]), (flips[0], flips[1], flips[2]))
    return _filled(order.apply(cropped), image_to_ras(grid), np.minimum(begin, begin + turn @ (last - first)))


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


def _filled(mask: BoolArray, ijk_to_ras: FloatArray, first: Any) -> Any:
    """A vtkOrientedImageData of 0 and 1 that begins at a voxel i, j, k."""
    from vtk.util.numpy_support import numpy_to_vtk

    last = first + mask.shape[::-1] - 1
    image = oriented_image(ijk_to_ras, [bound for pair in zip(first, last, strict=True) for bound in pair])
    image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8, order="C").ravel(), deep=True))
    return image


def _resampled(image: Any, grid: Any, to_grid: FloatArray, first: Any, last: Any) -> Any:
    """On the grid, and no farther than it reaches there: a whole head takes long."""
    import slicer

    _log.info("The segments are resampled onto the voxel grid of the segmentation node.")
    corners = np.array(np.meshgrid(*zip(first - 0.5, last + 0.5, strict=True), indexing="ij")).reshape(3, 8)
    there = to_grid[:3, :3] @ corners + to_grid[:3, 3:]
    low, high = np.floor(there.min(axis=1)), np.ceil(there.max(axis=1))
    part = oriented_image(image_to_ras(grid), [bound for pair in zip(low, high, strict=True) for bound in pair])
    found = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample
    if not resample.ResampleOrientedImageToReferenceOrientedImage(image, part, found, False, False):
        raise GeometryError("The segments cannot be resampled onto the voxel grid of the segmentation node.")
    return found
