"""The command that segments what a user boxes on slices: image and boxes in, segmentation and record out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .backends.devices import resolve_device
from .errors import InputError
from .geometry import Geometry
from .image import Image, Segmentation
from .labels import LabelScheme
from .methods.yolo_medsam.composing import METHOD as COMPOSED
from .methods.yolo_medsam.composing import SEGMENTER_FOLDER
from .methods.yolo_medsam.marking import find_marked
from .methods.yolo_medsam.segmenter import METHOD, load_segmenter
from .models.catalogue import find_model
from .models.store import Model, load_model
from .progress import Progress
from .prompts import PLANES, Prompt, check_prompt
from .single_image import begin_record, caution, check_output, read_image, segmentation_of, write_result

VoxelBox = tuple[int, int, int, int, int, int]
"""Voxel indices i0, j0, k0, i1, j1, k1 of the first and the last voxel in the box, on the image's grid as stored; one
of i, j, k is the same in both and says which slice the box lies on, or several where the plane is named."""

_LPS_AXES: Final = {plane: 2 - axis for plane, axis in PLANES.items()}  # plane → index axis along which it is counted


@dataclass(frozen=True)
class PromptJob:
    """What to segment, in what, and where to write it.

    Attributes:
        images: one volume, or one for each of the model's modalities, in their order; the result has the grid of the
            first.
        model: name in the catalogue, or model folder, of a segmenter, or of a `yolo_medsam` model, whose segmenter is
            used.
        output: label map (.nii.gz, .nii, .nrrd, .mha) or segmentation (.seg.nrrd); the record lies beside it as .json.
        boxes: on any slices of any planes.
        plane: of the slices that the boxes lie on, a key of `prompts.PLANES`; "" where each box says it.
        separate: each box is an object of its own; else all boxes are of one.
        device: "auto", or a torch device name.
        trust: allow weights that need arbitrary unpickling.
        precision: "auto", "fp32" or "bf16"; see `backends.devices.resolve_precision`.
    """

    images: tuple[Path, ...]
    model: str
    output: Path
    boxes: tuple[VoxelBox, ...]
    plane: str = ""
    separate: bool = False
    device: str = "auto"
    trust: bool = False
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class PromptResult:
    """What came out.

    Attributes:
        segmentation: on the first image's grid; its record is what was written.
        output: where it was written.
        record: where its record was written.
    """

    segmentation: Segmentation
    output: Path
    record: Path


def run(job: PromptJob, *, progress: Progress | None = None) -> PromptResult:
    """Segment what boxes mark.

    Raises:
        InputError, GeometryError: where an image or a box cannot be used; nothing is written then.
        ModelError: where the model is no segmenter, or cannot be used.
        OutputError: where the result cannot be written.
        Cancelled: when the progress was cancelled; nothing is written then.
    """
    progress = progress or Progress()
    started = time.time()
    device = resolve_device(job.device)
    model = _segmenter_model(job.model)
    files = {f"image {index}": path for index, path in enumerate(job.images)}
    record_path = check_output(job.output, job.images, command="prompt")
    progress.stage("Reading", until=0.05)
    image, notes = read_image(job.images, model)
    geometry, order = image.geometry.reoriented("LPS")
    upright = Image(geometry, {name: order.apply(array) for name, array in image.channels.items()}, image.name)
    numbers = range(1, len(job.boxes) + 1) if job.separate else [1] * len(job.boxes)
    prompts = [
        placed(box, image.geometry, number=number, plane=job.plane)
        for number, box in zip(numbers, job.boxes, strict=True)
    ]
    if not prompts:
        raise InputError("There is no box, so nothing is marked; give one or more.")
    progress.stage("Loading the model", until=0.1)
    segmenter = load_segmenter(model, device=device, trust=job.trust, precision=job.precision)
    found = find_marked(
        segmenter.network,
        segmenter.picture(upright, image.modalities),
        prompts,
        head_only=segmenter.head_only,
        progress=progress.part(image.name, until=0.98),
    )
    progress.check()
    names = {f"Object {number}": number for number in numbers} if job.separate else {"Object": 1}
    record = {
        **begin_record("prompt", model, files, device=device),
        "precision": segmenter.network.precision,
        "boxes": [list(box) for box in job.boxes],
        "prompts": [prompt.as_dict() for prompt in prompts],
        "notes": [
            *caution(model),
            *notes,
            *(f"In the box {_shown(box)} nothing was found."
              for box, prompt in zip(job.boxes, prompts, strict=True) if prompt in found.missed),
        ],
    }
    segmentation = segmentation_of(found.owner, order, LabelScheme.plain(names), image)
    segmentation = write_result(segmentation, record, output=job.output, record_path=record_path, started=started)
    return PromptResult(segmentation, job.output, record_path)


def placed(box: VoxelBox, stored: Geometry, *, number: int, plane: str = "") -> Prompt:
    """A box of voxels on the grid of a file, as the prompt of an object on axes LPS.

    Args:
        box: both ends are inside.
        stored: grid of the file.
        number: of the object.
        plane: of the slice; "" where one of i, j and k alone is the same at both ends.

    Raises:
        InputError: a box that leaves the grid, is inverted, or lies on no slice or on several; or as `check_prompt`.
    """
    shown = _shown(box)
    low, high = np.array(box[:3]), np.array(box[3:])
    if (low > high).any():
        raise InputError(f"The box {shown} is inverted; give i0,j0,k0,i1,j1,k1 with the smaller index first.")
    if (low < 0).any() or (high >= stored.size_ijk).any():
        size = "×".join(str(count) for count in stored.size_ijk)
        raise InputError(f"The box {shown} leaves the image of {size} voxels; indices are counted from 0.")
    grid = stored.reoriented("LPS")[0]
    corners = np.rint(grid.to_ijk(stored.to_lps([low, high])))
    low, high = corners.min(axis=0), corners.max(axis=0)
    flat = [name for name, axis in _LPS_AXES.items() if low[axis] == high[axis]]
    if plane and plane not in flat:
        raise InputError(f"The box {shown} lies on no single {plane} slice; leave --plane out, or give another box.")
    if not flat:
        raise InputError(
            f"The box {shown} does not say on which slice it lies: one of i, j and k must be the same at both ends."
        )
    if not plane and len(flat) > 1:
        raise InputError(
            f"The box {shown} is one voxel wide, so it may lie on a slice of several planes ({', '.join(flat)}); name "
            "the plane of its slice with --plane."
        )
    plane = plane or flat[0]
    column, row = (axis for axis in range(3) if axis != _LPS_AXES[plane])
    edges = (low[column] - 0.5, low[row] - 0.5, high[column] + 0.5, high[row] + 0.5)
    prompt = Prompt(number, plane, int(low[_LPS_AXES[plane]]), box=edges)
    check_prompt(prompt, grid)
    return prompt


def _shown(box: VoxelBox) -> str:
    """A box as the command line has it."""
    return ",".join(str(value) for value in box)


def _segmenter_model(name: str) -> Model:
    model = load_model(find_model(name))
    if model.method == COMPOSED:
        model = load_model(model.folder / SEGMENTER_FOLDER)
    if model.method != METHOD:
        raise InputError(
            f"The model '{model.name}' is of the method '{model.method}', which takes no boxes; choose a segmenter "
            f"(method '{METHOD}'): 'brainsegsam models list' shows which there are."
        )
    return model


# ---- command line -------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options; device and progress are the caller's."""
    parser.add_argument(
        "--image", required=True, nargs="+", type=Path, help="a volume, or one for each of the model's modalities"
    )
    parser.add_argument("--model", required=True, help="a segmenter, or a model that holds one: name, or a folder")
    parser.add_argument("--output", required=True, type=Path, help="label map or .seg.nrrd to write")
    parser.add_argument(
        "--box", required=True, nargs="+", action="extend", metavar="I0,J0,K0,I1,J1,K1",
        help="voxel indices of the first and the last voxel, counted from 0; one of i, j, k is the same in both",
    )
    parser.add_argument(
        "--plane", choices=list(PLANES), default="", help="of the boxes' slices; needed for boxes one voxel wide only"
    )
    parser.add_argument("--separate", action="store_true", help="each box is an object of its own")
    parser.add_argument("--trust", action="store_true", help="load weights that need arbitrary unpickling")


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run`.
    """
    job = PromptJob(
        tuple(options.image),
        options.model,
        options.output,
        tuple(_box(text) for text in options.box),
        options.plane,
        options.separate,
        options.device,
        options.trust,
    )
    result = run(job, progress=progress)
    record = result.segmentation.record
    for row in record["regions"]:
        yield f"{row['region']}: {row['volume_ml']:.2f} mL"
    yield from record["notes"]
    yield f"Written to {result.output} and {result.record}"


def _box(text: str) -> VoxelBox:
    """What `_shown` shows."""
    try:
        i0, j0, k0, i1, j1, k1 = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"The box '{text}' is not six whole numbers with commas: i0,j0,k0,i1,j1,k1.") from error
    return i0, j0, k0, i1, j1, k1
