"""Masks as Slicer keeps the voxels of a segment: vtkOrientedImageData, in the space of a segmentation node."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import Geometry

from .spaces import FloatArray, image_to_ras, named, oriented_image, parent_to_world, vtk_matrix, world_geometry

_log = logging.getLogger(__name__)

BoolArray = NDArray[np.bool_]


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
        A vtkOrientedImageData of 0 and 1 (unsigned char) on the grid or a part of it; empty for an empty mask.

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
    import slicer
    from vtk.util.numpy_support import numpy_to_vtk

    if not mask.any():
        return None
    box = []  # first and last index along z, y, x
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append((int(occupied[0]), int(occupied[-1])))
    cropped = mask[tuple(slice(first, last + 1) for first, last in box)]
    placed = [(first + start, last + start) for (first, last), start in zip(box, offset_zyx, strict=True)]
    image = oriented_image(ijk_to_ras, [bound for pair in placed[::-1] for bound in pair])
    image.GetPointData().SetScalars(numpy_to_vtk(cropped.astype(np.uint8).ravel(), deep=True))
    resample = slicer.vtkOrientedImageDataResample
    if grid is None:
        return image
    if resample.DoGeometriesMatch(image, grid):
        image.SetGeometryFromImageToWorldMatrix(vtk_matrix(image_to_ras(grid)))  # free of rounding
        return image
    _log.info("The segments are resampled onto the voxel grid of the segmentation node.")
    resampled = slicer.vtkOrientedImageData()
    if not resample.ResampleOrientedImageToReferenceOrientedImage(image, grid, resampled, False, True):
        raise GeometryError("The segments cannot be resampled onto the voxel grid of the segmentation node.")
    return resampled
