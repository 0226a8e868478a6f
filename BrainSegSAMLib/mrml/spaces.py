"""Matrices, transforms and grids of MRML and VTK as numpy and Geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError
from BrainSegSAMLib.geometry import Geometry

FloatArray = NDArray[np.float64]


def named(node: Any) -> str:
    """Kind and name of a node, for messages."""
    kind = "Segmentation" if node.IsA("vtkMRMLSegmentationNode") else "Volume"
    return f"{kind} '{node.GetName() or node.GetID()}'"


def parent_to_world(node: Any) -> FloatArray:
    """4x4, RAS → RAS: all parent transforms of a node together."""
    import vtk

    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    current = parent
    while current is not None:
        if not current.IsLinear():
            raise GeometryError(
                f"{named(node)} lies under the non-linear transform '{current.GetName()}', which a regular voxel grid "
                "cannot follow. Harden the transform on the volume (Transforms module), which resamples it, or take "
                "the volume out of the transform."
            )
        current = current.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return _array(matrix)


def ijk_to_local_ras(volume_node: Any) -> FloatArray:
    """4x4 of a volume node, without its parent transforms."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return _array(matrix)


def image_to_ras(image: Any) -> FloatArray:
    """4x4 of a vtkOrientedImageData: voxel index, by its extent, to the segmentation node's own RAS."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return _array(matrix)


def _array(matrix: Any) -> FloatArray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(array: FloatArray) -> Any:
    """A 4x4 array as vtkMatrix4x4."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(array.ravel().tolist())
    return matrix


def world_geometry(ijk_to_ras: FloatArray, extent: Any, what: str) -> Geometry:
    """Of the voxels of an extent, which need not start at index 0, as our arrays do."""
    matrix = ijk_to_ras.copy()
    matrix[:3, 3] = ijk_to_ras[:3, :3] @ np.asarray(extent[::2]) + ijk_to_ras[:3, 3]
    size = (extent[1] - extent[0] + 1, extent[3] - extent[2] + 1, extent[5] - extent[4] + 1)
    try:
        return Geometry.from_ijk_to_ras(matrix, size)
    except GeometryError as error:
        raise GeometryError(f"{what}, together with its parent transform: {error}") from error


def oriented_image(ijk_to_ras: FloatArray, extent: Any) -> Any:
    """A vtkOrientedImageData without voxel values: the grid of an extent (first and last index along i, j, k)."""
    import slicer

    image = slicer.vtkOrientedImageData()
    image.SetGeometryFromImageToWorldMatrix(vtk_matrix(ijk_to_ras))
    image.SetExtent(*[int(bound) for bound in extent])
    return image
