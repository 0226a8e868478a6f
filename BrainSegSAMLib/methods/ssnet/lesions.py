"""The lesions of a mask one by one, and on which slice each is tracked from.

Source: Jang et al. (SSNet): "each lesion was separated", tracked from the layer with its largest area. They do not name
the connectivity; voxels that touch at a face, an edge or a corner belong together here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...components import label_components
from ...prompts import PLANES, slices_first

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and the one after the last, along z, y and x."""


@dataclass(frozen=True)
class Lesion:
    """One connected piece of a mask.

    Attributes:
        number: 1 or more; its value in the map of lesions.
        voxels: how many it has.
        volume_mm3: its volume.
        box: the voxels that it spans, on the grid's axes.
        key_index: the slice with its largest area.
        large: whether it is large enough to be tracked.
        fills_slice: whether it is all of its key slice, so that there is nothing to tell it from.
    """

    number: int
    voxels: int
    volume_mm3: float
    box: Box
    key_index: int
    large: bool
    fills_slice: bool

    @property
    def tracked(self) -> bool:
        """Whether it is tracked at all."""
        return self.large and not self.fills_slice


def find_lesions(
    mask: NDArray[np.bool_],
    spacing_zyx_mm: tuple[float, float, float],
    *,
    plane: str,
    minimum_volume_mm3: float,
    content: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int32], list[Lesion]]:
    """Tell the lesions of a mask apart.

    Args:
        mask: bool (z, y, x), axes LPS.
        spacing_zyx_mm: spacing of voxel centres.
        plane: whose slices the key slice is one of.
        minimum_volume_mm3: smallest volume that is tracked.
        content: see `key_slice`.

    Returns:
        int32 (z, y, x) with each lesion's number, 0 outside; and the lesions in the order of their numbers.
    """
    from scipy import ndimage

    labels, _ = label_components(mask)
    voxel_mm3 = float(np.prod(spacing_zyx_mm))
    lesions = []
    for position, found in enumerate(ndimage.find_objects(labels)):
        number = position + 1
        inside = labels[found] == number
        voxels = int(np.count_nonzero(inside))
        z, y, x = ((int(part.start), int(part.stop)) for part in found)
        shown = None if content is None else content[found]
        key_index = (z, y, x)[PLANES[plane]][0] + key_slice(inside, plane, content=shown)
        lesions.append(
            Lesion(
                number,
                voxels,
                voxels * voxel_mm3,
                (z, y, x),
                key_index,
                # Half a part in 10⁹: a lesion of exactly the given volume counts in spite of rounding.
                voxels * voxel_mm3 >= minimum_volume_mm3 * (1 - 5e-10),
                bool((slices_first(labels, plane)[key_index] == number).all()),
            )
        )
    return labels, lesions


def key_slice(mask: NDArray[np.bool_], plane: str, *, content: NDArray[np.float32] | None = None) -> int:
    """Index of the slice with the largest area; of several equal ones, the nearest to the centre of the mask's voxels.

    Args:
        mask: bool (z, y, x), axes LPS, with a voxel or more.
        plane: a key of `prompts.PLANES`.
        content: float32 (z, y, x): of two that are as near, the one with the higher sum under the mask is taken, so
            that a volume stored upside down gives the same slice. The first one where None.
    """
    slices = slices_first(mask, plane)
    areas = np.count_nonzero(slices, axis=(1, 2))
    largest = np.flatnonzero(areas == areas.max())
    # Times the number of voxels, so in whole numbers: rounding must not decide.
    apart = np.abs(largest * areas.sum() - (np.arange(len(areas)) * areas).sum())
    nearest = [int(index) for index in largest[apart == apart.min()]]
    if content is None:
        return nearest[0]
    shown = slices_first(content, plane)
    return max(nearest, key=lambda index: float(shown[index][slices[index]].sum(dtype=np.float64)))
