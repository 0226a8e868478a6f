"""What ends a track, and what of a slice's mask is kept: every rule that fires says where, and by which value.

A tracker of photographs' objects knows no end: it follows what looks like the lesion into whatever comes next.
Over-running the end of an object is the main failure of SAM 2 on volumes (SLM-SAM2, arXiv:2505.01854).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...geometry import Geometry
from ...prompts import PLANES, Prompt
from .config import TrackingSettings
from .lesions import Box

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Firing:
    """One rule that fired.

    Attributes:
        rule: "object score", "empty", "area", "overlap", "detached", "probability", "likeness", "unlike" or "reach".
        object_id: of the object that was followed.
        slice_index: where, counted along the plane on axes LPS.
        direction: +1 or -1.
        value: what was measured there: a score, a ratio, a count of slices; of "detached" and of a "reach" that did not
            stop the track the area in mm² that was removed, else mm beyond the object's known extent.
        limit: what it was measured against.
        stopped: whether the track ended there.
    """

    rule: str
    object_id: int
    slice_index: int
    direction: int
    value: float
    limit: float
    stopped: bool

    def as_dict(self) -> dict[str, Any]:
        """For records."""
        return {**asdict(self), "value": round(self.value, 4), "limit": round(self.limit, 4)}


@dataclass(frozen=True)
class SliceContext:
    """What the rules know of a slice besides the mask.

    Attributes:
        index: of the slice.
        pixel_mm2: area of a pixel.
        inside: (rows, columns) as slices: where the object may be.
        probability: float32 (rows, columns): the prior's probability, or None where there is no prior.
        likeness: float32 (rows, columns): how far each pixel looks like the object (`likeness`), or None where that
            could not be learnt.
    """

    index: int
    pixel_mm2: float
    inside: tuple[slice, slice]
    probability: NDArray[np.float32] | None = None
    likeness: NDArray[np.float32] | None = None


class Watch:
    """Watches one track: an object in one direction."""

    def __init__(self, object_id: int, direction: int, key_mask: BoolArray, settings: TrackingSettings) -> None:
        """Begin at the key slice.

        Args:
            object_id: of the object.
            direction: +1 or -1.
            key_mask: bool (rows, columns): the object on the key slice.
            settings: the rules.
        """
        self.firings: list[Firing] = []
        self._object_id = object_id
        self._direction = direction
        self._settings = settings
        self._previous = key_mask
        self._empty = 0

    def judge(self, logits: NDArray[np.float32], object_score: float, context: SliceContext) -> tuple[BoolArray, bool]:
        """What is kept of the next slice, and whether the track ends.

        Args:
            logits: float32 (rows, columns); the network sees the object where they are above 0.
            object_score: the network's score that the object is there at all.
            context: of the slice.

        Returns:
            The mask that is kept, bool (rows, columns); empty where a rule ends the track because of this slice. And
            whether the track ends here.
        """
        mask = self._within_reach(logits > 0, context)
        if not self._settings.stop_rules:
            return mask, False
        mask = self._attached(self._scored(mask, object_score, context), context)
        if mask.any() and (
            self._jumps(mask, context) or self._elsewhere(mask, context) or self._improbable(mask, context)
        ):
            return np.zeros_like(mask), True
        mask = self._alike(mask, context)  # last: what ends a track is judged by all that the network sees
        if not mask.any():
            self._empty += 1
            limit = self._settings.empty_slices
            if limit is None or self._empty < limit:
                return mask, False
            self._fire("empty", context, self._empty, limit, stopped=True)
            return mask, True
        self._empty = 0
        self._previous = mask
        return mask, False

    def ends_at_reach(self, mask: BoolArray, context: SliceContext, *, next_mm: float, limit_mm: float) -> None:
        """Record that the track ended although the object was still there: the next slice lies beyond its limit."""
        if mask.any():
            self._fire("reach", context, next_mm, limit_mm, stopped=True)

    def _within_reach(self, mask: BoolArray, context: SliceContext) -> BoolArray:
        kept = np.zeros_like(mask)
        kept[context.inside] = mask[context.inside]
        lost = int(np.count_nonzero(mask)) - int(np.count_nonzero(kept))
        if lost:
            self._fire("reach", context, lost * context.pixel_mm2, 0.0)
        return kept

    def _scored(self, mask: BoolArray, object_score: float, context: SliceContext) -> BoolArray:
        limit = self._settings.object_score
        if limit is None or object_score > limit:
            return mask
        self._fire("object score", context, object_score, limit)
        return np.zeros_like(mask)

    def _attached(self, mask: BoolArray, context: SliceContext) -> BoolArray:
        if not self._settings.drop_detached or not mask.any():
            return mask
        kept = touching(mask, self._previous)
        lost = int(np.count_nonzero(mask)) - int(np.count_nonzero(kept))
        if lost:
            self._fire("detached", context, lost * context.pixel_mm2, 0.0)
        return kept

    def _jumps(self, mask: BoolArray, context: SliceContext) -> bool:
        factor, growth = self._settings.area_factor, self._settings.area_growth_mm2
        before, now = int(np.count_nonzero(self._previous)), int(np.count_nonzero(mask))
        if factor is None or now <= factor * before or (now - before) * context.pixel_mm2 <= growth:
            return False
        self._fire("area", context, now / before, factor, stopped=True)
        return True

    def _elsewhere(self, mask: BoolArray, context: SliceContext) -> bool:
        limit = self._settings.minimum_overlap
        if limit is None:
            return False
        # Not intersection over union: the tip of an object is small, but lies within the slice before.
        shared = int(np.count_nonzero(mask & self._previous))
        overlap = shared / min(int(np.count_nonzero(mask)), int(np.count_nonzero(self._previous)))
        if overlap >= limit:
            return False
        self._fire("overlap", context, overlap, limit, stopped=True)
        return True

    def _improbable(self, mask: BoolArray, context: SliceContext) -> bool:
        settings = self._settings
        for rule, limit, values in (
            ("probability", settings.minimum_probability, context.probability),
            ("likeness", settings.minimum_likeness, context.likeness),
        ):
            if limit is None or values is None:
                continue
            mean = float(values[mask].mean())
            if mean < limit:
                self._fire(rule, context, mean, limit, stopped=True)
                return True
        return False

    def _alike(self, mask: BoolArray, context: SliceContext) -> BoolArray:
        limit = self._settings.pixel_likeness
        if limit is None or context.likeness is None:
            return mask
        kept: BoolArray = mask & (context.likeness >= limit)
        lost = int(np.count_nonzero(mask)) - int(np.count_nonzero(kept))
        if lost:
            self._fire("unlike", context, lost * context.pixel_mm2, 0.0)
        return kept

    def _fire(self, rule: str, context: SliceContext, value: float, limit: float, *, stopped: bool = False) -> None:
        self.firings.append(
            Firing(rule, self._object_id, context.index, self._direction, float(value), float(limit), stopped)
        )


def touching(mask: BoolArray, previous: BoolArray) -> BoolArray:
    """The 8-connected pieces of a mask (rows, columns) that overlap another mask of the same shape."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    keep = np.zeros(int(count) + 1, dtype=bool)
    keep[np.unique(pieces[previous & mask])] = True
    keep[0] = False
    kept: BoolArray = keep[pieces]
    return kept


@dataclass(frozen=True)
class Reach:
    """Where an object may be found.

    Attributes:
        box: on the grid's axes.
        beyond_mm: how far this is beyond its known extent across the slices, for records.
        thick: whether the slices are thick, so that it is few of them.
    """

    box: Box
    beyond_mm: float
    thick: bool


def reach_of(
    extent: Box, geometry: Geometry, plane: str, settings: TrackingSettings, *, from_prior: bool
) -> Reach:
    """How far an object may reach from what is known of it.

    Args:
        extent: the object as the prior shows it, or the prompt's slice with its whole rows and columns.
        geometry: grid, axes LPS.
        plane: whose slices are tracked.
        settings: `margin_mm` counts for a prior, in all three axes; `range_mm` for a prompt, across the slices.
        from_prior: which of the two it is.
    """
    axis = PLANES[plane]
    spacing = geometry.spacing_zyx_mm[axis]
    asked = settings.margin_mm if from_prior else settings.range_mm
    # Half a part in 10⁶: 10 mm are ten slices of 1 mm in spite of rounding.
    across = geometry.shape_zyx[axis] if asked is None else int(asked / spacing * (1 + 5e-7))
    thickest = settings.thick_slice_mm
    thick = thickest is not None and spacing > thickest
    if thick:
        across = min(across, settings.thick_slice_reach)
    sides: list[tuple[int, int]] = []
    for each, ((start, stop), size) in enumerate(zip(extent, geometry.shape_zyx, strict=True)):
        margin_mm = settings.margin_mm
        margin = size if margin_mm is None else int(np.ceil(margin_mm / geometry.spacing_zyx_mm[each]))
        grown = across if each == axis else margin
        sides.append((max(0, start - grown), min(size, stop + grown)))
    return Reach((sides[0], sides[1], sides[2]), across * spacing, thick)


def prompt_extent(prompt: Prompt, geometry: Geometry) -> Box:
    """What a prompt tells of its object's extent: its slice, with all rows and columns."""
    z, y, x = (
        (prompt.index, prompt.index + 1) if axis == PLANES[prompt.plane] else (0, size)
        for axis, size in enumerate(geometry.shape_zyx)
    )
    return z, y, x
