"""Follows objects from their prompts through a volume, both ways, and writes what stays into one map.

All objects that lie on one plane go through the network together, on slices that are encoded once; only small objects
have crops, and so features, of their own. What several objects claim belongs to the one with the higher logit, so
objects that meet do not merge. Memory does not grow with the number of objects: each slice is merged as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...backends.sam2_session import Seed, Step
from ...crops import Crop, head_crop
from ...geometry import Geometry
from ...intensity import as_frames
from ...progress import Progress
from ...prompts import PLANES, Prompt, check_prompt, slice_shape, slice_spacing_mm, slices_first
from .config import DIRECTIONS, TrackingSettings
from .encoded import EncodedSlices
from .likeness import Likeness, learn
from .rules import Firing, Reach, SliceContext, Watch
from .tracker import Network, Session
from .zoom import crop_for, cropped

ABSENT: Final = -1024.0
"""Logit of what was not tracked; sam2's own value for slices without the object."""

PROMPTED: Final = 1024.0
"""Logit inside a prompt's mask: nothing overrules what the user drew."""

Watcher = Callable[[str, int, NDArray[np.int32]], None]
"""Hears of each slice as it is found: plane, index, and int32 (rows, columns): number of the object of each pixel so
far. What several objects claim, and the prompts' own slices, may still change."""


@dataclass(frozen=True, eq=False)
class Target:
    """An object to follow.

    Attributes:
        prompt: where it is; objects may have several targets, which are merged.
        reach: where it may be found.
    """

    prompt: Prompt
    reach: Reach


@dataclass(frozen=True, eq=False)
class Tracked:
    """What was found of several objects.

    Attributes:
        owner: int32 (z, y, x): number of the object that a voxel belongs to, 0 for none.
        logits: float32 (z, y, x): the highest logit of any object; `ABSENT` where nothing was tracked.
        firings: every rule that fired, by object.
        zoomed: numbers of the objects that were tracked in a crop.
        crops: number of each object → rows and columns of the slices in which it was tracked.
        notes: what a user should know, a sentence each.
    """

    owner: NDArray[np.int32]
    logits: NDArray[np.float32]
    firings: tuple[Firing, ...]
    zoomed: tuple[int, ...]
    crops: Mapping[int, Crop]
    notes: tuple[str, ...]


def track(
    network: Network,
    picture: NDArray[np.uint8],
    geometry: Geometry,
    targets: Sequence[Target],
    *,
    image_size: int,
    settings: TrackingSettings,
    probability: NDArray[np.float32] | None = None,
    encoded: EncodedSlices | None = None,
    crop: Crop | None = None,
    watcher: Watcher | None = None,
    progress: Progress | None = None,
) -> Tracked:
    """Follow objects from their prompts.

    Args:
        network: what follows them.
        picture: uint8 (3, z, y, x), axes LPS.
        geometry: its grid.
        targets: the objects; any planes, any slices.
        image_size: side of the network's picture in pixels.
        settings: directions, rules and limits.
        probability: float32 (z, y, x), 0 to 1: the prior's probability of being in an object, for the rule that uses
            it; None where there is no prior.
        encoded: features of this network and picture, kept by the caller for further calls (later corrections); None:
            they are made here and freed at the end.
        crop: of an earlier track of the same object (`Tracked.crops`), which then is tracked there again, whatever its
            size on the prompt now; None: as `zoom.crop_for` says. It must hold the prompts.
        watcher: see `Watcher`.
        progress: gets one stage with a unit for each slice step; may cancel.

    Returns:
        The objects on the picture's grid.

    Raises:
        InputError, GeometryError: where a prompt does not fit the volume.
        Cancelled: when the progress was cancelled; the features' memory and file are freed.
    """
    progress = progress or Progress()
    for target in targets:
        check_prompt(target.prompt, geometry)
    groups = _groups(targets, picture, geometry, image_size, settings, crop)
    canvas = _Canvas(geometry.shape_zyx)
    done: list[_Track] = []
    progress.stage("Tracking", total=sum(group.steps for group in groups))
    with nullcontext(encoded) if encoded is not None else EncodedSlices(network, picture, settings) as slices:
        for group in groups:
            tracks = [
                _Track(target, replace(seed, direction=direction), group, geometry)
                for target in group.targets
                for seed in [_seed(cropped(target.prompt, group.crop))]  # one for both directions: computed once
                for direction in DIRECTIONS[settings.direction]
            ]
            keep = slices.keep_crops or not group.zoomed
            with slices.features(group.plane, group.crop, progress, keep=keep) as features:
                session = network.begin(features, [one.seed for one in tracks])
                circumstances = _Circumstances(picture, canvas, settings, probability, watcher)
                steps = _run(session, tracks, circumstances, progress)
            progress.advance(max(0, group.steps - steps))
            done += tracks
    for target in targets:
        canvas.stamp(target.prompt)
    firings = [firing for one in done if one.watch for firing in one.watch.firings]
    return Tracked(
        canvas.owner,
        canvas.logits,
        tuple(sorted(firings, key=lambda f: (f.object_id, f.slice_index))),
        tuple(sorted({t.prompt.object_id for group in groups if group.zoomed for t in group.targets})),
        {target.prompt.object_id: group.crop for group in groups for target in group.targets},
        (*_notes_on_thick_slices(targets, geometry), *_notes_on_prompts(done)),
    )


class _Canvas:
    """The merged result while it grows."""

    def __init__(self, shape_zyx: tuple[int, int, int]) -> None:
        self.owner = np.zeros(shape_zyx, dtype=np.int32)
        self.logits = np.full(shape_zyx, ABSENT, dtype=np.float32)

    def write(
        self, prompt: Prompt, index: int, crop: Crop, mask: NDArray[np.bool_], logits: NDArray[np.float32]
    ) -> None:
        """Merge what one object's track gives on one slice; `logits` above 0 outside the mask were refused."""
        owner = slices_first(self.owner, prompt.plane)[index][crop]
        best = slices_first(self.logits, prompt.plane)[index][crop]
        values = np.where(mask | (logits <= 0), logits, np.float32(ABSENT))
        higher = values > best
        owner[higher & mask] = prompt.object_id
        best[higher] = values[higher]

    def stamp(self, prompt: Prompt) -> None:
        """Give the prompt's slice the mask that the user drew, whatever tracks made of it."""
        if prompt.mask is None:
            return
        owner = slices_first(self.owner, prompt.plane)[prompt.index]
        best = slices_first(self.logits, prompt.plane)[prompt.index]
        outside = (owner == prompt.object_id) & ~prompt.mask & (best < PROMPTED)
        owner[outside], best[outside] = 0, ABSENT
        owner[prompt.mask], best[prompt.mask] = prompt.object_id, PROMPTED


@dataclass(frozen=True, eq=False)
class _Group:
    """Targets that share slices, and so features."""

    plane: str
    crop: Crop
    zoomed: bool
    targets: tuple[Target, ...]
    steps: int


def _groups(
    targets: Sequence[Target], picture: NDArray[np.uint8], geometry: Geometry, image_size: int,
    settings: TrackingSettings, given: Crop | None,
) -> list[_Group]:  # fmt: skip
    groups = []
    for plane in PLANES:
        of_plane = [target for target in targets if target.prompt.plane == plane]
        if not of_plane:
            continue
        shape = slice_shape(geometry.shape_zyx, plane)
        _, row_mm, column_mm = slice_spacing_mm(geometry, plane)
        head = head_crop(picture, plane, [target.prompt for target in of_plane])
        if given is not None:
            groups.append(_Group(plane, given, given != head, tuple(of_plane), _steps(of_plane, settings)))
            continue
        large: list[Target] = []
        for target in of_plane:
            crop = crop_for(
                target.prompt, shape, (row_mm, column_mm), head=head, image_size=image_size, settings=settings
            )
            if crop is None:
                large.append(target)
            else:
                groups.append(_Group(plane, crop, True, (target,), _steps((target,), settings)))
        if large:
            groups.append(_Group(plane, head, False, tuple(large), _steps(large, settings)))
    return groups


def _steps(targets: Sequence[Target], settings: TrackingSettings) -> int:
    """How many steps a session of these targets takes at most."""
    lengths = [
        (reach[1] - target.prompt.index) if direction > 0 else (target.prompt.index - reach[0] + 1)
        for target in targets
        for direction in DIRECTIONS[settings.direction]
        for reach in [target.reach.box[PLANES[target.prompt.plane]]]
    ]
    return max(lengths)


@dataclass(frozen=True, eq=False)
class _Circumstances:
    """What all tracks share."""

    picture: NDArray[np.uint8]
    canvas: _Canvas
    settings: TrackingSettings
    probability: NDArray[np.float32] | None
    watcher: Watcher | None


class _Track:
    """One object in one direction."""

    def __init__(self, target: Target, seed: Seed, group: _Group, geometry: Geometry) -> None:
        self.target, self.seed, self.group = target, seed, group
        self.watch: Watch | None = None
        self.found = True
        self.at_edge = False
        self._likeness: Likeness | None = None
        axis = PLANES[group.plane]
        self._first, self._stop = target.reach.box[axis]
        self._count = geometry.shape_zyx[axis]
        self._slice_mm, row_mm, column_mm = slice_spacing_mm(geometry, group.plane)
        self._pixel_mm2 = row_mm * column_mm
        sides = [side for other, side in enumerate(target.reach.box) if other != axis]
        rows, columns = (
            slice(max(0, start - part.start), max(0, stop - part.start))
            for (start, stop), part in zip(sides, group.crop, strict=True)
        )
        self._inside = (rows, columns)
        # A small object's crop, unlike the head's, has sides beyond which the slice goes on, and so may the object.
        shape = slice_shape(geometry.shape_zyx, group.plane)
        self._edges = [
            edge
            for axis, (part, size) in enumerate(zip(group.crop if group.zoomed else (), shape, strict=False))
            for edge, further in (((axis, 0), part.start > 0), ((axis, -1), part.stop < size))
            if further
        ]

    def take(self, step: Step, circumstances: _Circumstances) -> bool:
        """Take the next slice; whether the track goes on."""
        prompt, crop = self.target.prompt, self.group.crop
        prior = circumstances.probability
        here = None if prior is None else slices_first(prior, prompt.plane)[step.slice_index][crop]
        frame = as_frames(circumstances.picture, prompt.plane)[step.slice_index][:, crop[0], crop[1]]
        alike = self._likeness.of(frame) if self._likeness and (step.logits > 0).any() else None
        context = SliceContext(step.slice_index, self._pixel_mm2, self._inside, here, alike)
        if self.watch is None:
            mask = step.logits > 0 if prompt.mask is None else prompt.mask[crop]
            self._likeness = learn(frame, mask) if circumstances.settings.stop_rules else None
            self.watch = Watch(prompt.object_id, self.seed.direction, mask, circumstances.settings)
            self.found = bool(mask.any())
            ended = not self.found
        else:
            mask, ended = self.watch.judge(step.logits, step.object_score, context)
        if not (step.slice_index == prompt.index and prompt.mask is not None):
            circumstances.canvas.write(prompt, step.slice_index, crop, mask, step.logits)
        if circumstances.watcher is not None:
            owner = slices_first(circumstances.canvas.owner, prompt.plane)[step.slice_index]
            circumstances.watcher(prompt.plane, step.slice_index, owner)
        self.at_edge |= any(mask.take(where, axis).any() for axis, where in self._edges)
        following = step.slice_index + self.seed.direction
        if ended or not 0 <= following < self._count:
            return False
        if not self._first <= following < self._stop:
            limit_mm = self.target.reach.beyond_mm
            self.watch.ends_at_reach(mask, context, next_mm=limit_mm + self._slice_mm, limit_mm=limit_mm)
            return False
        return True


def _seed(prompt: Prompt) -> Seed:
    """A prompt in the network's coordinates: edges of pixels, not centres, are whole. Its direction is set later."""
    if prompt.mask is not None:
        return Seed(prompt.index, 1, mask=np.ascontiguousarray(prompt.mask))
    if prompt.box is not None:
        column0, row0, column1, row1 = (value + 0.5 for value in prompt.box)
        return Seed(prompt.index, 1, box=(column0, row0, column1, row1))
    points = tuple((column + 0.5, row + 0.5) for column, row in prompt.points)
    return Seed(prompt.index, 1, points=points, point_labels=prompt.point_labels)


def _run(session: Session, tracks: Sequence[_Track], circumstances: _Circumstances, progress: Progress) -> int:
    """Advance the tracks of one group to their ends; gives the number of steps."""
    done = 0
    while steps := session.step():
        for step in steps:
            if not tracks[step.track].take(step, circumstances):
                session.stop(step.track)
        done += 1
        progress.advance()
    return done


def _notes_on_prompts(tracks: Sequence[_Track]) -> list[str]:
    """Prompts at which nothing was found, and objects that may be cut off; each is named once."""
    missed = dict.fromkeys(one.target.prompt.where for one in tracks if not one.found)
    cut = dict.fromkeys(one.target.prompt.object_id for one in tracks if one.at_edge)
    return [f"{where} found nothing; mark the object with a mask, or in another place." for where in missed] + [
        f"Object {number} was so small on its prompt that it was tracked in a crop of the slices. It reaches the "
        "crop's edge and may be cut off there; the setting zoom_pixels=null tracks it in the whole head."
        for number in cut
    ]


def _notes_on_thick_slices(targets: Sequence[Target], geometry: Geometry) -> list[str]:
    notes = []
    for plane in PLANES:
        short = [target.reach for target in targets if target.reach.thick and target.prompt.plane == plane]
        if short:
            apart, furthest = slice_spacing_mm(geometry, plane)[0], max(reach.beyond_mm for reach in short)
            count = round(furthest / apart)
            notes.append(
                f"The {plane} slices are {apart:g} mm apart. Too much changes between slices so thick, so objects are "
                f"followed at most {furthest:g} mm ({count} slice{'' if count == 1 else 's'}) beyond what is known of "
                "them; thick_slice_mm and thick_slice_reach decide it, or margin_mm or range_mm where they allow less."
            )
    return notes
