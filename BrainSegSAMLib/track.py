"""The command that follows what a user marks on one slice: image and prompt in, segmentation and record out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.devices import resolve_device
from .console import parse_setting
from .errors import InputError
from .geometry import Geometry
from .image import Image, Segmentation
from .labels import LabelScheme
from .methods.ssnet.config import DIRECTIONS, TrackingSettings, tracking_settings
from .methods.ssnet.prompting import PlacedPrompts, prompts_from_mask
from .methods.ssnet.rules import prompt_extent, reach_of
from .methods.ssnet.tracker import METHOD, load_tracker
from .methods.ssnet.tracking import Target, track
from .models.catalogue import find_model
from .models.store import Model, load_model
from .progress import Progress
from .prompts import PLANES, Box, Point, Prompt, check_prompt, slices_first
from .single_image import begin_record, caution, check_output, read_image, segmentation_of, write_result


@dataclass(frozen=True)
class TrackJob:
    """What to follow, in what, and where to write it. One of `mask`, `box` and `points` is given.

    Attributes:
        images: one volume, or one for each of the tracker's modalities, in their order; the result has the grid of the
            first.
        model: name in the catalogue, or model folder, of a tracker.
        output: label map (.nii.gz, .nii, .nrrd, .mha) or segmentation (.seg.nrrd); the record lies beside it as .json.
        mask: file with the objects' masks; each segment or label value is an object. It may lie on another
            grid.
        box: (column0, row0, column1, row1) in pixels of the slice, see `prompts.Prompt`.
        points: (column, row) in pixels of the slice.
        point_labels: for each point, 1: inside the object, or 0: outside.
        plane: whose slices are tracked, a key of `prompts.PLANES`.
        slice_index: the prompt's slice, counted as `prompts` says; of a mask, each object's largest slice where None.
        device: "auto", or a torch device name.
        trust: allow weights that need arbitrary unpickling.
        settings: of `methods.ssnet.config.TrackingSettings`, that differ from the defaults.
    """

    images: tuple[Path, ...]
    model: str
    output: Path
    mask: Path | None = None
    box: Box | None = None
    points: tuple[Point, ...] = ()
    point_labels: tuple[int, ...] = ()
    plane: str = "axial"
    slice_index: int | None = None
    device: str = "auto"
    trust: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrackResult:
    """What came out.

    Attributes:
        segmentation: on the first image's grid; its record is what was written.
        output: where it was written.
        record: where its record was written.
    """

    segmentation: Segmentation
    output: Path
    record: Path


def run(job: TrackJob, *, progress: Progress | None = None) -> TrackResult:
    """Follow objects through a volume.

    Raises:
        InputError, GeometryError: where an image, the prompt or a setting cannot be used; nothing is written then.
        ModelError: where the model is no tracker, or cannot be used.
        OutputError: where the result cannot be written.
        Cancelled: when the progress was cancelled; nothing is written then.
    """
    progress = progress or Progress()
    started = time.time()
    settings = tracking_settings(job.settings)
    device = resolve_device(job.device)
    model = _tracker_model(job.model)
    files = _files(job)
    record_path = check_output(job.output, list(files.values()), command="track")
    progress.stage("Reading", until=0.05)
    image, notes = read_image(job.images, model)
    geometry, order = image.geometry.reoriented("LPS")
    upright = Image(geometry, {name: order.apply(array) for name, array in image.channels.items()}, image.name)
    found = _prompts(job, image.geometry)
    progress.stage("Loading the model", until=0.1)
    tracker = load_tracker(model, device=device, trust=job.trust, precision=settings.precision)
    tracked = track(
        tracker.network,
        np.ascontiguousarray(tracker.picture(upright, image.modalities)),
        geometry,
        [_target(prompt, geometry, settings) for prompt in found.prompts],
        image_size=tracker.image_size,
        settings=settings,
        progress=progress.part(image.name, until=0.98),
    )
    progress.check()
    record = {
        **begin_record("track", model, files, device=device),
        "precision": tracker.precision,
        "settings": {name: getattr(settings, name) for name in TrackingSettings.__dataclass_fields__},
        "prompts": [prompt.as_dict() for prompt in found.prompts],
        "zoomed": list(tracked.zoomed),
        "slices": _extents(tracked.owner, found.prompts),
        "rules_fired": [firing.as_dict() for firing in tracked.firings],
        "notes": [*caution(model), *notes, *found.actions, *tracked.notes],
    }
    segmentation = segmentation_of(tracked.owner, order, found.scheme, image)
    segmentation = write_result(segmentation, record, output=job.output, record_path=record_path, started=started)
    return TrackResult(segmentation, job.output, record_path)


def _tracker_model(name: str) -> Model:
    model = load_model(find_model(name))
    if model.method != METHOD:
        raise InputError(
            f"The model '{model.name}' is of the method '{model.method}', which follows no prompts; choose a tracker "
            f"(method '{METHOD}'): 'brainsegsam models list' shows which there are."
        )
    return model


# ---- inputs -------------------------------------------------------------------------------------------------------


def _prompts(job: TrackJob, stored: Geometry) -> PlacedPrompts:
    given = [job.mask is not None, job.box is not None, bool(job.points)]
    if sum(given) != 1:
        raise InputError("Give exactly one kind of prompt: a mask, a box or points.")
    if job.mask is not None:
        found = prompts_from_mask(job.mask, stored, plane=job.plane, slice_index=job.slice_index)
    elif job.slice_index is None:
        raise InputError("A box or points need the number of their slice.")
    else:
        prompt = Prompt(1, job.plane, job.slice_index, None, job.box, job.points, job.point_labels)
        found = PlacedPrompts((prompt,), LabelScheme.plain({"Object": 1}))
    for prompt in found.prompts:
        check_prompt(prompt, stored.reoriented("LPS")[0])
    return found


def _target(prompt: Prompt, geometry: Geometry, settings: TrackingSettings) -> Target:
    extent = prompt_extent(prompt, geometry)
    return Target(prompt, reach_of(extent, geometry, prompt.plane, settings, from_prior=False))


# ---- outputs ------------------------------------------------------------------------------------------------------


def _files(job: TrackJob) -> dict[str, Path]:
    """What is read: what it is → the file."""
    files = {f"image {index}": path for index, path in enumerate(job.images)}
    return files if job.mask is None else {**files, "mask": job.mask}


def _extents(owner: NDArray[np.int32], prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """First and last slice of each object, on axes LPS."""
    extents = {}
    for prompt in prompts:
        slices = np.flatnonzero(slices_first(owner == prompt.object_id, prompt.plane).any(axis=(1, 2)))
        if len(slices):
            extents[str(prompt.object_id)] = [int(slices[0]), int(slices[-1])]
    return extents


# ---- command line -------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options; device and progress are the caller's."""
    parser.add_argument(
        "--image", required=True, nargs="+", type=Path, help="a volume, or one for each of the tracker's modalities"
    )
    parser.add_argument("--model", required=True, help="a tracker: name in the catalogue, or a model folder")
    parser.add_argument("--output", required=True, type=Path, help="label map or .seg.nrrd to write")
    parser.add_argument("--prompt-mask", type=Path, help="what to follow, drawn on one slice: objects by their values")
    parser.add_argument("--box", nargs=4, type=float, metavar=("COL0", "ROW0", "COL1", "ROW1"), help="in pixels")
    parser.add_argument(
        "--point", nargs=2, type=float, action="append", default=[], metavar=("COL", "ROW"), help="inside the object"
    )
    parser.add_argument(
        "--outside-point", nargs=2, type=float, action="append", default=[], metavar=("COL", "ROW"), help="not in it"
    )
    parser.add_argument(
        "--slice", type=int, metavar="N",
        help="the prompt's slice, counted from 0 to superior, posterior or left; a mask's largest one where left out",
    )
    parser.add_argument("--plane", choices=list(PLANES), default="axial", help="whose slices (default: axial)")
    ways = parser.add_mutually_exclusive_group()
    for direction in DIRECTIONS:
        ways.add_argument(f"--{direction}", dest="direction", action="store_const", const=direction)
    parser.add_argument("--range-mm", type=float, help="how far from the prompt's slice (default: as far as it goes)")
    parser.add_argument("--trust", action="store_true", help="load weights that need arbitrary unpickling")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the tracking, e.g. area_factor=3 or stop_rules=false; the value is JSON",
    )


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run`.
    """
    settings = dict(parse_setting(text) for text in options.set)
    if options.direction is not None:
        settings["direction"] = options.direction
    if options.range_mm is not None:
        settings["range_mm"] = options.range_mm
    inside, outside = [tuple(point) for point in options.point], [tuple(point) for point in options.outside_point]
    job = TrackJob(
        tuple(options.image),
        options.model,
        options.output,
        options.prompt_mask,
        tuple(options.box) if options.box else None,
        (*inside, *outside),
        (1,) * len(inside) + (0,) * len(outside),
        options.plane,
        options.slice,
        options.device,
        options.trust,
        settings,
    )
    result = run(job, progress=progress)
    record = result.segmentation.record
    for row in record["regions"]:
        yield f"{row['region']}: {row['volume_ml']:.2f} mL"
    for number, (first, last) in record["slices"].items():
        yield f"Object {number}: {job.plane} slices {first} to {last}"
    yield from record["notes"]
    for firing in record["rules_fired"]:
        if firing["stopped"]:
            yield (
                f"Object {firing['object_id']} ended at slice {firing['slice_index']} by the rule '{firing['rule']}' "
                f"({firing['value']:g} against {firing['limit']:g})"
            )
    yield f"Written to {result.output} and {result.record}"
