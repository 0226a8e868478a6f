"""Follows an object through the slices, which come back one by one; later corrections find the slices encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..crops import Crop, bounds_of
from ..geometry import Geometry
from ..methods.ssnet.config import tracking_settings
from ..methods.ssnet.encoded import EncodedSlices
from ..methods.ssnet.rules import Reach, prompt_extent, reach_of
from ..methods.ssnet.tracker import METHOD, Tracker, load_tracker
from ..methods.ssnet.tracking import Target
from ..methods.ssnet.tracking import track as follow
from ..prompts import Prompt, slice_spacing_mm, slices_first
from .images import Context, kept_image, kept_network, kept_picture, notes_on, unknown_image


@dataclass(eq=False)
class _Followed:
    """What stays of an object that was followed, for corrections of it."""

    encoded: EncodedSlices
    plane: str = ""
    crop: Crop | None = None

    def rest(self) -> None:
        """See `worker.Warm.rest`."""
        self.encoded.rest()

    def close(self) -> None:
        """Free all features."""
        self.encoded.close()


def track(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Follow one object from a slice.

    Args:
        arguments: "image_id"; "model" and what else `images.kept_network` takes; "plane": a key of `prompts.PLANES`;
            "index": of the slice, on axes LPS; "mask": bool (rows, columns): the object on it; "settings": of
            `methods.ssnet.config.TrackingSettings` that differ from the defaults; "again": whether it is the object of
            the last request, corrected on this slice, so that it is looked at in the same part of the slices.
        context: hears of each slice as it is found: {"index", "mask": bool (rows, columns)}.

    Returns:
        "start": first slice on which something was found, "mask": bool (slice, rows, columns) from there on, as it is
        in the end; "stops": `methods.ssnet.rules.Firing`s that ended it, by slice; "notes": a sentence each.

    Raises:
        InputError: a mask that cannot be followed, a setting that cannot be used, or none of a tracker's model.
        ModelError, DependencyError, OutputError: as the network.
        Cancelled: when the progress was cancelled.
    """
    kept = kept_image(arguments, context)
    if kept is None:
        return unknown_image(arguments)
    settings = tracking_settings(arguments.get("settings", {}))
    network = kept_network({**arguments, "precision": settings.precision}, context, METHOD, load_tracker)
    tracker: Tracker = network.network
    picture = kept_picture(kept, network, context)
    geometry = kept.image.geometry
    prompt = Prompt(1, str(arguments["plane"]), int(arguments["index"]), mask=np.asarray(arguments["mask"], dtype=bool))
    followed: _Followed = context.warm.get(
        "tracks",
        (kept.image_id, network.key, settings.memory_budget_mib, settings.batch_size),
        lambda: _Followed(EncodedSlices(tracker.network, picture, settings, keep_crops=True)),
    )
    reach = reach_of(prompt_extent(prompt, geometry), geometry, prompt.plane, settings, from_prior=False)
    again = bool(arguments.get("again")) and followed.plane == prompt.plane and _holds(followed.crop, prompt)
    tracked = follow(
        tracker.network,
        picture,
        geometry,
        [Target(prompt, replace(reach, thick=False))],  # what is said of it names settings that the effect has not
        image_size=tracker.image_size,
        settings=settings,
        encoded=followed.encoded,
        crop=followed.crop if again else None,
        watcher=lambda _, index, owner: context.partial({"index": index, "mask": owner > 0}),
        progress=context.progress,
    )
    followed.plane, followed.crop = prompt.plane, tracked.crops[1]
    start, mask = _extent(slices_first(tracked.owner > 0, prompt.plane))
    return {
        "start": start,
        "mask": mask,
        "stops": [firing.as_dict() for firing in tracked.firings if firing.stopped],
        "notes": [*notes_on(network, kept, prompt.plane), *_note_on(reach, prompt, geometry), *tracked.notes],
    }


def _note_on(reach: Reach, prompt: Prompt, geometry: Geometry) -> list[str]:
    """That thick slices, by themselves, are not followed far."""
    if not reach.thick:
        return []
    apart = slice_spacing_mm(geometry, prompt.plane)[0]
    return [
        f"The {prompt.plane} slices are {apart:g} mm apart. Too much changes between slices so thick, so the object is "
        f"followed over {round(reach.beyond_mm / apart)} of them; choose a range to follow it farther."
    ]


def _holds(crop: Crop | None, prompt: Prompt) -> bool:
    """Whether a part of the slices holds a prompt's mask."""
    bounds = bounds_of(prompt) if prompt.mask is not None and prompt.mask.any() else None
    if crop is None or bounds is None:
        return False
    return all(part.start <= low and high <= part.stop for part, (low, high) in zip(crop, bounds, strict=True))


def _extent(slices: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """The first slice that is not empty, and all up to the last."""
    shown = np.flatnonzero(slices.any(axis=(1, 2)))
    first, last = int(shown[0]), int(shown[-1])  # the prompt's own slice is never empty
    return first, np.ascontiguousarray(slices[first : last + 1])
