"""What commands on a single image share: reading what a network sees, and writing the result with its record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case, load_image
from .components import as_rows, statistics
from .errors import InputError, OutputError
from .files import atomic_path, json_text, read_json, sha256_of, write_json
from .geometry import AxisOrder
from .image import Image, Segmentation
from .labels import LabelScheme
from .models.store import Model
from .runs import RECORD_VERSION, versions
from .segmentation_files import LABEL_MAP_SUFFIXES, SEGMENTATION_SUFFIX, write_label_map, write_seg_nrrd
from .volumes import volume_sha256, volume_stem, volume_suffix


def read_image(paths: Sequence[Path], model: Model) -> tuple[Image, list[str]]:
    """The image with its channels in the order in which the network sees them, and what was done to them.

    Args:
        paths: one volume, or one for each of the model's modalities, in their order.
        model: of the network.

    Raises:
        InputError: another number of volumes, or one that cannot be used.
    """
    wanted = model.modalities
    if len(paths) == len(wanted):
        names = wanted
    elif len(paths) == 1:
        names = (volume_stem(paths[0]) or "image",)
    else:
        more = f", or {len(wanted)}: {', '.join(wanted)}, in this order" if len(wanted) > 1 else ""
        raise InputError(f"{len(paths)} images are given; the model '{model.name}' takes one{more}.")
    case = Case(volume_stem(paths[0]) or "image", dict(zip(names, paths, strict=True)))
    image, actions = load_image(case, names)
    if len(wanted) > 1 and len(names) == 1:
        actions.append(
            f"The model was trained on {', '.join(wanted)} together, but sees one image in place of all of them; "
            "expect less of it."
        )
    return image, actions


def caution(model: Model) -> tuple[str, ...]:
    """What is said of a model that is only a demonstration, in a sentence that says so once; nothing of others."""
    if not model.demonstration:
        return ()
    title = model.title.replace("(demonstration)", "").strip()
    badge = "" if "demonstration" in model.intended_use.lower() else ", a demonstration"
    return (f"{title}{badge}: {model.intended_use}",)


def check_output(output: Path, inputs: Sequence[Path], *, command: str) -> Path:
    """Where the record of a result goes; refuses at once what cannot be written, or would overwrite other files.

    Args:
        output: label map or `.seg.nrrd` to write.
        inputs: files that are read.
        command: whose record may be overwritten.

    Raises:
        InputError: another suffix, one of the inputs, or a record that would overwrite what is none of the command.
        OutputError: where nothing can be written there.
    """
    suffix = volume_suffix(output)
    if suffix not in LABEL_MAP_SUFFIXES:
        raise InputError(
            f"{output} does not end as a result does; use {SEGMENTATION_SUFFIX} or one of "
            f"{', '.join(LABEL_MAP_SUFFIXES)}."
        )
    if output.resolve() in {path.resolve() for path in inputs}:
        raise InputError(f"{output} is one of the inputs and would be overwritten; give the result another name.")
    record = output.with_name(volume_stem(output).removesuffix(".seg") + ".json")
    there = _kind_of(record) if record.exists() else None
    if there not in (None, command):
        # None of ours: such as the description that BIDS puts beside an image under the image's name.
        what = f"the record of '{there}'" if there else "no record of BrainSegSAM"
        raise InputError(
            f"The record of {output.name} would overwrite {record}, which is {what}; give the result another name."
        )
    with atomic_path(output.with_name(f".writable-{output.name}")) as probe:
        probe.write_bytes(b"")
    output.with_name(f".writable-{output.name}").unlink(missing_ok=True)
    return record


def begin_record(command: str, model: Model, inputs: Mapping[str, Path], *, device: str) -> dict[str, Any]:
    """What the record of every result says, whatever the command.

    Args:
        command: its name.
        model: that was used.
        inputs: what a file is → the file.
        device: torch device name.
    """
    return {
        "record_version": RECORD_VERSION,
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": {"name": model.name, "sha256": model.sha256},
        "device": device,
        "inputs": {name: {"path": str(path), "sha256": volume_sha256(path)} for name, path in inputs.items()},
    }


def segmentation_of(owner: NDArray[np.int32], order: AxisOrder, scheme: LabelScheme, image: Image) -> Segmentation:
    """A segmentation on an image's own grid.

    Args:
        owner: int32 (z, y, x), axes LPS: the label value of each voxel.
        order: by which the image's axes became LPS.
        scheme: what the label values mean.
        image: with its axes as stored.
    """
    highest = max(label for region in scheme.regions for label in region.labels)
    label_map = np.ascontiguousarray(order.undo(owner)).astype(np.uint8 if highest < 256 else np.uint16)
    return Segmentation(image.geometry, scheme, label_map, image.name)


def write_result(
    segmentation: Segmentation, record: Mapping[str, Any], *, output: Path, record_path: Path, started: float
) -> Segmentation:
    """Write a segmentation, and its record beside it: both or none.

    Args:
        segmentation: what was found.
        record: all that is known of it beside its regions and its grid.
        output: label map or `.seg.nrrd`.
        record_path: as `check_output` gave it.
        started: when the command began, by `time.time`.

    Returns:
        The segmentation with its complete record.

    Raises:
        OutputError: where one cannot be written.
        ValueError: as `files.json_text`; an earlier result is still there then.
    """
    segmentation = replace(
        segmentation,
        record={
            **record,
            "regions": as_rows(statistics(segmentation)),
            "geometry": segmentation.geometry.as_dict(),
            "seconds": round(time.time() - started, 3),
        },
    )
    json_text(segmentation.record)
    try:
        record_path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{record_path} of an earlier run cannot be replaced: {error.strerror}.") from error
    if output.name.lower().endswith(SEGMENTATION_SUFFIX):
        write_seg_nrrd(segmentation, output)
    else:
        write_label_map(segmentation, output)
    try:
        write_json({**segmentation.record, "output": {"file": output.name, "sha256": sha256_of(output)}}, record_path)
    except BaseException:
        with contextlib.suppress(OSError):
            output.unlink()
        raise
    return segmentation


def _kind_of(record: Path) -> str:
    """Which command a record is of; "" where it is none of ours."""
    try:
        found = read_json(record)
    except InputError:
        return ""
    ours = isinstance(found, dict) and "record_version" in found
    return str(found.get("command", "predict")) if ours else ""  # the record of a case does not name its command
