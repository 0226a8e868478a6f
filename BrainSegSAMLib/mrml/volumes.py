"""Volume nodes → arrays and Image, in world space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Image

from .spaces import ijk_to_local_ras, named, parent_to_world, world_geometry


def volume_node_geometry(node: Any) -> Geometry:
    """The grid of a volume node in world space, its linear parent transforms hardened into it.

    Raises:
        InputError: where the node is no three-dimensional scalar volume.
        GeometryError: under a non-linear transform, or where grid and transform together are sheared or degenerate.
    """
    check_is_scalar_volume(node)
    extent = node.GetImageData().GetExtent()
    size = (extent[1] - extent[0] + 1, extent[3] - extent[2] + 1, extent[5] - extent[4] + 1)
    if min(size) < 2:
        raise InputError(
            f"{named(node)} has {size[0]}×{size[1]}×{size[2]} voxels: a single slice cannot be segmented in three "
            "dimensions. Load the whole series."
        )
    return world_geometry(parent_to_world(node) @ ijk_to_local_ras(node), extent, named(node))


def read_volume_node(node: Any) -> tuple[NDArray[np.float32], Geometry]:
    """A volume node as a float32 copy (z, y, x) and its grid in world space; the node is not changed.

    Args:
        node: vtkMRMLScalarVolumeNode with one three-dimensional image.

    Raises:
        InputError: no image data, a label map, colours or several components, a time point of a sequence, a single
            slice, NaN or infinite intensities.
        GeometryError: as `volume_node_geometry`.
    """
    from vtk.util.numpy_support import vtk_to_numpy

    geometry = volume_node_geometry(node)
    scalars = node.GetImageData().GetPointData().GetScalars()
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused below
        array = np.array(vtk_to_numpy(scalars), dtype=np.float32).reshape(geometry.shape_zyx)
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise InputError(
            f"{named(node)} holds {count} voxels that are not a finite number (NaN or infinity); "
            "replace them, e.g. by 0, before segmenting."
        )
    return array, geometry


def image_from_volume_nodes(nodes: Mapping[str, Any], *, name: str = "image") -> Image:
    """Modality name → volume node, all on one grid, as an Image in world space.

    Volumes on different grids are read one by one with `read_volume_node` and resampled by the caller.

    Raises:
        InputError: as `read_volume_node`, or where there is no node.
        GeometryError: as `read_volume_node`, or where two nodes lie on different grids; the message names them.
    """
    channels: dict[str, NDArray[np.float32]] = {}
    reference: tuple[Any, Geometry] | None = None
    for modality, node in nodes.items():
        channels[modality], geometry = read_volume_node(node)
        if reference is None:
            reference = (node, geometry)
        elif difference := reference[1].difference(geometry):
            raise GeometryError(
                f"{named(reference[0])} and {named(node)} lie on different grids: {difference}. "
                "Resample one onto the other first."
            )
    if reference is None:
        raise InputError(f"{name}: no volume was chosen.")
    return Image(reference[1], channels, name)


def check_is_scalar_volume(node: Any) -> None:
    """Raise InputError, naming the node, where it is no grey-value volume with voxels of its own."""
    if node is None:
        raise InputError("No volume was chosen.")
    what = f"'{node.GetName() or node.GetID()}'"
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"{what} is a label map, not an image; choose the volume with the intensities.")
    if not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(f"{what} is a {node.GetNodeTagName()} node, not a volume.")
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        raise InputError(f"Volume {what} is empty: it has no image data. Load or choose another volume.")
    if not node.IsA("vtkMRMLScalarVolumeNode") or image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"Volume {what} has {image.GetNumberOfScalarComponents()} components per voxel (colour, vector or "
            "diffusion data); only grey values are supported. Convert it to a scalar volume first."
        )
    browser = _sequence_browser_of(node)
    if browser is not None:
        raise InputError(
            f"Volume {what} shows one time point of the sequence in '{browser.GetName()}' and changes with it. "
            "Clone the time point that you want (Data module, right click, Clone) and choose the copy."
        )


def _sequence_browser_of(node: Any) -> Any:
    scene = node.GetScene()
    if scene is None:
        return None
    browsers = (
        scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode"))
    )
    return next((browser for browser in browsers if browser.IsProxyNodeID(node.GetID())), None)
