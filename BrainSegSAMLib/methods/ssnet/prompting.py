"""Prompts from a file: masks that somebody drew, brought onto the grid of the image that is tracked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from ...errors import GeometryError, InputError
from ...geometry import Geometry
from ...image import Segmentation
from ...labels import LabelScheme
from ...prompts import PLANES, Prompt, slices_first
from ...resample import resample_segmentation
from ...segmentation_files import read_segmentation
from .lesions import key_slice

INSIDE: Final = 0.9
"""Share of a mask's voxels that must lie in the image."""

AREA_LEFT: Final = 0.5
"""Share of its area on the slice that a mask must keep when it is brought onto the image's grid."""


@dataclass(frozen=True, eq=False)
class PlacedPrompts:
    """Prompts on axes LPS of an image.

    Attributes:
        prompts: one for each object.
        scheme: what the objects' numbers mean.
        actions: what was done to bring them onto the image's grid, a sentence each.
    """

    prompts: tuple[Prompt, ...]
    scheme: LabelScheme
    actions: tuple[str, ...] = ()


def prompts_from_mask(
    path: Path, geometry: Geometry, *, plane: str, slice_index: int | None = None
) -> PlacedPrompts:
    """One prompt for each region of a mask file: each segment of a segmentation, each value of a label map.

    Args:
        path: a label map or .seg.nrrd, on any grid.
        geometry: grid of the image, axes as stored.
        plane: whose slices are tracked.
        slice_index: the slice that prompts, counted from 0 on axes LPS; each object's largest one where None. Objects
            that are not on it are left out.

    Raises:
        InputError: where the file cannot be read, or is empty, there or on the slice.
        GeometryError: where the mask lies outside the image, or would not stay what was drawn on the image's grid.
    """
    drawn = read_segmentation(path)
    if not drawn.label_map.any():
        raise InputError(f"{path} is empty; draw the object on a slice.")
    placed, actions = _placed(drawn, geometry, plane, path)
    _, order = geometry.reoriented("LPS")
    scheme = _apart(placed.scheme)
    prompts, unused = [], []
    for region, mask in placed.masks():
        volume, number = order.apply(mask), scheme[region.name].labels[0]
        if not volume.any():
            continue
        index = key_slice(volume, plane) if slice_index is None else slice_index
        slices = slices_first(volume, plane)
        if not 0 <= index < len(slices):
            raise InputError(f"There is no {plane} slice {index}: the image has slices 0 to {len(slices) - 1}.")
        drawn_on = np.flatnonzero(slices.any(axis=(1, 2)))
        if index in drawn_on:
            prompts.append(Prompt(number, plane, index, mask=np.ascontiguousarray(slices[index])))
        if list(drawn_on) != [index]:
            unused.append(
                f"The mask of object {number} lies on {plane} slices {drawn_on[0]} to {drawn_on[-1]}; "
                + (f"only slice {index} prompts." if index in drawn_on else f"not on {index}, so it is not followed.")
            )
    if not prompts:
        shown = np.flatnonzero(slices_first(order.apply(placed.label_map), plane).any(axis=(1, 2)))
        raise InputError(
            f"{path} is empty on {plane} slice {slice_index}; it has voxels on slices {shown[0]} to {shown[-1]} "
            "(counted from 0 on axes LPS)."
        )
    if scheme != placed.scheme:
        # What is drawn inside of another one counts on its slice: prompts that come later do.
        prompts.sort(key=lambda prompt: -np.count_nonzero(np.asarray(prompt.mask)))
        unused.append(
            "Segments may overlap: each is followed as it was drawn, but a voxel of the result belongs to one of them."
        )
    return PlacedPrompts(tuple(prompts), scheme, (*actions, *unused))


def _apart(scheme: LabelScheme) -> LabelScheme:
    """A scheme in which each region has a value of its own: the scheme itself where no regions overlap."""
    if not scheme.overlapping:
        return scheme
    return LabelScheme(tuple(replace(region, labels=(n,)) for n, region in enumerate(scheme.regions, start=1)))


def _placed(drawn: Segmentation, target: Geometry, plane: str, path: Path) -> tuple[Segmentation, tuple[str, ...]]:
    """The mask on the image's grid; refused where an object would no longer be what was drawn."""
    difference = drawn.geometry.difference(target)
    if not difference:
        return drawn, ()
    placed = resample_segmentation(drawn, target)
    masks = {region.name: mask for region, mask in drawn.masks() if mask.any()}
    for name, mask in masks.items():
        # One object of several must not vanish unseen because the others are all right.
        what = f"{path}" if len(masks) == 1 else f"{path} ({name})"
        indices_ijk = np.argwhere(mask)[:, ::-1]
        there = target.to_ijk(drawn.geometry.to_lps(indices_ijk))
        inside = float(np.mean(np.all((there >= -0.5) & (there <= np.asarray(target.size_ijk) - 0.5), axis=1)))
        if inside < INSIDE:
            raise GeometryError(
                f"Only {inside:.0%} of the mask in {what} lies inside the image; check that both are of the same "
                "examination."
            )
        before, after = (_largest_area_mm2(one, plane, name) for one in (drawn, placed))
        if after < AREA_LEFT * before:
            raise GeometryError(
                f"The mask in {what} lies on another grid ({difference}), and of its largest {plane} slice of "
                f"{before:.0f} mm² only {after:.0f} mm² lie on one slice of the image: its slices are not parallel to "
                "the image's, or fall between them. Draw it on the image that is tracked."
            )
    return placed, (f"The prompt mask was brought onto the image's grid by nearest neighbour ({difference}).",)


def _largest_area_mm2(segmentation: Segmentation, plane: str, region: str) -> float:
    geometry, order = segmentation.geometry.reoriented("LPS")
    mask = slices_first(order.apply(segmentation.mask(region)), plane)
    rows_mm, columns_mm = (mm for axis, mm in enumerate(geometry.spacing_zyx_mm) if axis != PLANES[plane])
    return float(np.count_nonzero(mask, axis=(1, 2)).max()) * rows_mm * columns_mm
