"""Three planes of a case as a page can draw them: a grey image each, and reference and predictions as paths over it.

Paths instead of pixels, because a reader switches methods and regions on and off and enlarges what looks wrong, and
because they are small: a report of 500 cases is one file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import DependencyError, GeometryError
from .geometry import Geometry
from .image import Segmentation
from .planes import PLANES, Plane, windowed

BoolArray = NDArray[np.bool_]

_MARGIN_MM: Final = 8.0
_HEAD_ABOVE: Final = 0.08  # of the grey values, 0 to 1
_MOST_PIXELS: Final = 288
_QUALITY: Final = 62


def overlay(
    reference: Segmentation,
    predictions: Mapping[str, Segmentation],
    *,
    regions: Sequence[str],
    background: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Draw a case on the axial, the coronal and the sagittal slice that tell most.

    That is the slice on which most voxels are judged differently by reference and predictions, summed over regions and
    predictions; where all agree, the one on which the regions are largest.

    Args:
        reference: the expert's.
        predictions: method → its segmentation, on the reference's grid.
        regions: which ones, by name.
        background: intensities (z, y, x) on the same grid; a dark ground where None.

    Returns:
        For JSON: {"planes": [{"name", "position", "letters" (left, right, up, down), "size_mm" (width, height),
        "grid" (columns, rows), "grey" (WebP in base64, or ""), "reference": {region: path}, "predictions":
        {method: {region: path}}}, …]}. A path is one of SVG, in half voxels from the upper left corner; "" where the
        region is not on the slice.

    Raises:
        GeometryError: where a prediction is on another grid.
        DependencyError: where a package that draws is not installed.
    """
    for name, prediction in predictions.items():
        if not prediction.geometry.is_same_grid(reference.geometry):
            raise GeometryError(
                f"{name} cannot be drawn over the reference: {prediction.geometry.difference(reference.geometry)}."
            )
    geometry, order = reference.geometry.reoriented("LPS")
    true = {region: order.apply(reference.mask(region)) for region in regions}
    found = {
        name: {region: order.apply(prediction.mask(region)) for region in regions}
        for name, prediction in predictions.items()
    }
    grey = None if background is None else windowed(order.apply(background))
    box = _shown_box(grey, [*true.values(), *(mask for masks in found.values() for mask in masks.values())], geometry)
    slices = _most_telling(true, found)
    drawn = [_draw(plane, slices[2 - plane.normal], geometry, grey, true, found, box) for plane in PLANES]
    return {"planes": drawn}


def _most_telling(
    true: Mapping[str, BoolArray], found: Mapping[str, Mapping[str, BoolArray]]
) -> tuple[int, int, int]:
    """Per axis z, y, x: the slice where most is judged differently, and of several such the one that shows most."""
    shape = next(iter(true.values())).shape
    differently = np.zeros(shape, dtype=np.uint16)
    anywhere = np.zeros(shape, dtype=bool)
    for region, mask in true.items():
        anywhere |= mask
        for masks in found.values():
            differently += mask ^ masks[region]
            anywhere |= masks[region]
    best = []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        counts = differently.sum(axis=others, dtype=np.int64), anywhere.sum(axis=others)
        best.append(int(np.lexsort(counts[::-1])[-1]) if counts[1].any() else size // 2)
    return best[0], best[1], best[2]


def _shown_box(
    grey: NDArray[np.float64] | None, masks: Sequence[BoolArray], geometry: Geometry
) -> tuple[slice, slice, slice]:
    """The part of the grid (z, y, x) that is shown: the head, and all that is marked."""
    shape = masks[0].shape
    shown = np.zeros(shape, dtype=bool) if grey is None else grey > _HEAD_ABOVE
    for mask in masks:
        shown |= mask
    slices = []
    for axis, spacing in enumerate(geometry.spacing_zyx_mm):
        filled = np.flatnonzero(shown.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = round(_MARGIN_MM / spacing)
        low, high = (int(filled[0]), int(filled[-1])) if filled.size else (0, shape[axis] - 1)
        slices.append(slice(max(0, low - margin), min(shape[axis], high + margin + 1)))
    return slices[0], slices[1], slices[2]


def _draw(
    plane: Plane,
    index: int,
    geometry: Geometry,
    grey: NDArray[np.float64] | None,
    true: Mapping[str, BoolArray],
    found: Mapping[str, Mapping[str, BoolArray]],
    box: tuple[slice, slice, slice],
) -> dict[str, Any]:
    window = tuple(slice(index, index + 1) if axis == 2 - plane.normal else part for axis, part in enumerate(box))

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return plane.slice_of(array[window], 0)

    voxel = [0, 0, 0]
    voxel[plane.normal] = index
    rows, columns = cut(next(iter(true.values()))).shape
    spacing = geometry.spacing_ijk_mm
    size_mm = (columns * spacing[plane.across], rows * spacing[plane.down])
    return {
        "name": plane.name,
        "position": plane.position(geometry, voxel),
        "letters": list(plane.letters),
        "size_mm": [round(size, 2) for size in size_mm],
        "grid": [columns, rows],
        "grey": "" if grey is None else _webp(cut(grey), size_mm),
        "reference": {region: outline(cut(mask)) for region, mask in true.items()},
        "predictions": {
            name: {region: outline(cut(mask)) for region, mask in masks.items()} for name, masks in found.items()
        },
    }


def outline(mask: BoolArray) -> str:
    """The outlines of a bool mask (rows, columns) as an SVG path in half voxels; holes by the even-odd rule.

    A pixel (row, column) has its centre at x = 2·column + 1, y = 2·row + 1. Corners are cut, as contours at one half
    do, so that a pixel alone is a diamond of half its area.
    """
    if not mask.any():
        return ""
    try:
        from contourpy import contour_generator
    except ImportError as error:
        raise DependencyError(
            "The Python package contourpy is needed to draw outlines; it comes with matplotlib: pip install matplotlib"
        ) from error
    closed = np.pad(mask, 1).astype(np.float64)
    parts = []
    for line in contour_generator(z=closed).lines(0.5):
        points = np.rint(2 * np.asarray(line)).astype(int) - 1  # the padding is one pixel, and a centre lies at 1
        steps = np.diff(points, axis=0)
        turns = np.flatnonzero(np.any(steps[1:] != steps[:-1], axis=1)) + 1
        corners = points[np.concatenate([[0], turns])]
        moves = " ".join(f"{dx} {dy}" for dx, dy in np.diff(corners, axis=0))
        parts.append(f"M{corners[0, 0]} {corners[0, 1]}l{moves}z".replace(" -", "-"))
    return "".join(parts)


def _webp(grey: NDArray[np.float64], size_mm: tuple[float, float]) -> str:
    """A slice of grey values from 0 to 1 as WebP in base64, with square pixels and not too many of them."""
    try:
        from PIL import Image as Picture
    except ImportError as error:
        raise DependencyError(
            "The Python package pillow is needed to draw slices; install it with: pip install pillow"
        ) from error
    picture = Picture.fromarray(np.rint(grey * 255).astype(np.uint8))
    rows, columns = grey.shape
    per_mm = min(max(columns / size_mm[0], rows / size_mm[1]), _MOST_PIXELS / max(size_mm))
    pixels = (max(1, round(size_mm[0] * per_mm)), max(1, round(size_mm[1] * per_mm)))
    if pixels != (columns, rows):
        picture = picture.resize(pixels, Picture.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=_QUALITY, method=4)
    return base64.b64encode(stream.getvalue()).decode("ascii")
