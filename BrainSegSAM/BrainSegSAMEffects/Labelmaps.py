"""Images of voxels as Segment Editor has them, and as arrays: where they lie on its grid, how segments share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.image import Box
from BrainSegSAMLib.mrml import BINARY_LABELMAP

Placed = tuple[Box, NDArray[np.bool_]]
"""A part of a grid as slices along z, y, x, and which of its voxels (z, y, x) are meant."""

NOTHING = (0, -1, 0, -1, 0, -1)  # the extent of an empty image
MOST_SHARING = 255  # values of an unsigned char besides 0


def emptyGrid(like: Any, extent: Sequence[int]) -> Any:
    """An extent of the same voxels, without values."""
    grid = slicer.vtkOrientedImageData()
    grid.CopyDirections(like)
    grid.SetOrigin(like.GetOrigin())
    grid.SetSpacing(like.GetSpacing())
    grid.SetExtent(*extent)
    return grid


def zeros(grid: Any) -> Any:
    """An image (unsigned char) of a grid's voxels, all 0."""
    image = emptyGrid(grid, grid.GetExtent())
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    valuesOf(image)[...] = 0
    return image


def gridAround(labelmaps: Sequence[Any], grid: Any) -> Any:
    """The part of a grid that holds all labelmaps: a lesion is a small part of a head."""
    filled = [labelmap for labelmap in labelmaps if not labelmap.IsEmpty()]
    match = slicer.vtkOrientedImageDataResample.DoGeometriesMatch
    if not filled or not all(match(labelmap, grid) for labelmap in filled):
        return grid
    bounds = np.array([labelmap.GetExtent() for labelmap in filled])
    whole = np.array(grid.GetExtent())
    first = np.maximum(bounds[:, ::2].min(axis=0), whole[::2])
    last = np.minimum(bounds[:, 1::2].max(axis=0), whole[1::2])
    if (first > last).any():
        return grid
    return emptyGrid(grid, [int(bound) for pair in zip(first, last, strict=True) for bound in pair])


def _common(image: Any, grid: Any) -> tuple[Box, Box]:
    """The voxels that an image and a grid of the same voxels share: slices along z, y, x, of the one and the other."""
    extents = np.array(image.GetExtent()), np.array(grid.GetExtent())
    first = np.maximum(*(extent[::2] for extent in extents))
    stop = np.maximum(np.minimum(*(extent[1::2] for extent in extents)) + 1, first)
    one, other = (
        [slice(int(low), int(high)) for low, high in zip(first - extent[::2], stop - extent[::2], strict=True)]
        for extent in extents
    )
    return (one[2], one[1], one[0]), (other[2], other[1], other[0])


def onGrid(labelmap: Any, grid: Any) -> Any:
    """The labelmap on a grid; what lies outside it is cut off, as everywhere in the Segment Editor."""
    if labelmap.IsEmpty():
        return zeros(grid)
    found = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample
    if not resample.ResampleOrientedImageToReferenceOrientedImage(labelmap, grid, found, False, False):
        raise InputError(_("The result cannot be put onto the voxel grid of the segmentation; nothing was changed."))
    return found


def resultOnGrid(labelmap: Any, grid: Any) -> Any:
    """As `onGrid`, for a result.

    Raises:
        InputError: where nothing of it would be left.
    """
    found = onGrid(labelmap, grid)
    if not labelmap.IsEmpty() and valuesOf(labelmap).any() and not valuesOf(found).any():
        raise InputError(_outside())
    return found


def placedOn(labelmap: Any, grid: Any) -> Placed:
    """Where on a grid a result lies; of an empty one, a single voxel that it does not have.

    Raises:
        InputError: where nothing of the result would be left.
    """
    if not labelmap.IsEmpty():
        if not slicer.vtkOrientedImageDataResample.DoGeometriesMatch(labelmap, grid):
            labelmap = resultOnGrid(labelmap, grid)
        part, box = _common(labelmap, grid)
        mask = arrayOf(labelmap)[part] > 0
        if mask.any():
            return box, mask
        if valuesOf(labelmap).any():
            raise InputError(_outside())
    return (slice(0, 1),) * 3, np.zeros((1, 1, 1), dtype=bool)


def _outside() -> str:
    return str(
        _("The result lies outside the voxel grid of the segmentation, so nothing was changed. Specify a geometry that "
          "holds it in the Segment Editor.")
    )


def sharedImages(placed: Sequence[Placed], grid: Any) -> list[tuple[Any, int]]:
    """As Slicer keeps segments: those without a voxel in common share an image, each with a value of its own.

    Args:
        placed: what each segment has on the grid.
        grid: vtkOrientedImageData.

    Returns:
        For each its image (vtkOrientedImageData, unsigned char) and its value there.
    """
    layers: list[tuple[NDArray[np.uint8], list[Box]]] = []
    places = []
    for box, mask in placed:
        free = (number for number, (values, sharing) in enumerate(layers)
                if len(sharing) < MOST_SHARING and not (values[box] * mask).any())
        number = next(free, len(layers))
        if number == len(layers):
            layers.append((np.zeros(_shape(grid), dtype=np.uint8), []))
        values, sharing = layers[number]
        sharing.append(box)
        values[box] += mask * np.uint8(len(sharing))
        places.append((number, len(sharing)))
    images = [_image(values, sharing, grid) for values, sharing in layers]
    return [(images[number], value) for number, value in places]


def _image(values: NDArray[np.uint8], boxes: Sequence[Box], grid: Any) -> Any:
    """What some parts of a grid hold, as a vtkOrientedImageData that ends with them."""
    first = np.min([[side.start for side in box] for box in boxes], axis=0)
    stop = np.max([[side.stop for side in box] for box in boxes], axis=0)
    bounds = zip(first[::-1], stop[::-1], grid.GetExtent()[::2], strict=True)
    image = emptyGrid(grid, [int(bound) for low, high, start in bounds for bound in (low + start, high - 1 + start)])
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    arrayOf(image)[...] = values[tuple(slice(*sides) for sides in zip(first, stop, strict=True))]
    return image


def voxelsOf(segment: Any, grid: Any) -> NDArray[np.bool_]:
    """Which voxels of a grid a segment has, (z, y, x); its own voxels are the grid's, wherever they end."""
    image, found = segment.GetRepresentation(BINARY_LABELMAP), np.zeros(_shape(grid), dtype=bool)
    if not image.IsEmpty():
        part, box = _common(image, grid)
        found[box] = arrayOf(image)[part] == segment.GetLabelValue()
    return found


def connectedPieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], int]:
    """The 26-connected pieces of a mask, by a filter of Slicer's own.

    `components.label_components` would do as well; importing scipy for it holds the interface up for 0.2 s.

    Args:
        mask: bool (z, y, x).

    Returns:
        uint32 (z, y, x), 0 for background and the pieces numbered from 1; and how many there are.
    """
    import vtkITK

    image = vtk.vtkImageData()
    image.SetDimensions(*mask.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint32).ravel(), deep=True))
    islands = vtkITK.vtkITKIslandMath()
    islands.SetFullyConnected(True)
    islands.SetMinimumSize(0)
    islands.SetInputData(image)
    islands.Update()
    pieces: NDArray[np.uint32] = np.array(arrayOf(islands.GetOutput()), dtype=np.uint32)
    return pieces, int(islands.GetOriginalNumberOfIslands())


def valuesOf(image: Any) -> Any:
    """The values of an image as an array (n,) that shares its memory."""
    return vtk_to_numpy(image.GetPointData().GetScalars())


def arrayOf(image: Any) -> Any:
    """The values of an image as an array (z, y, x) that shares its memory."""
    return valuesOf(image).reshape(_shape(image))


def _shape(image: Any) -> tuple[int, int, int]:
    i, j, k = image.GetDimensions()
    return k, j, i
