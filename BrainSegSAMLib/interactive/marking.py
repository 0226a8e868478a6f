"""Boxes and points on a plane to masks, and the boxes that a detector proposes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..backends.sam import Marks
from ..errors import InputError, OutputError
from ..geometry import Geometry
from ..methods.yolo_medsam.detector import METHOD as DETECTOR_METHOD
from ..methods.yolo_medsam.detector import Detector, load_detector
from ..methods.yolo_medsam.segmenter import METHOD as SEGMENTER_METHOD
from ..methods.yolo_medsam.segmenter import Segmenter, load_segmenter
from ..methods.yolo_medsam.slices import Slices, slices_of
from ..prompts import PLANES, Prompt, check_box, check_points, slices_first
from ..view_planes import plane_name, slice_index, volume_slice
from ..wire import geometry_data, geometry_from
from .images import Context, KeptImage, KeptNetwork, kept_image, kept_network, kept_picture, notes_on, unknown_image

if TYPE_CHECKING:
    from ..backends.sam_forward import SamForward
    from ..backends.slice_features import SliceFeatures
    from ..boxes import SliceBox, Track


@dataclass(frozen=True, eq=False)
class Mark:
    """What marks one object on one plane.

    Attributes:
        grid: of the plane, see `view_planes`.
        box: (column0, row0, column1, row1) in pixels, or None.
        points: (point, 2): column, row.
        labels: (point,): 1 inside the object, 0 outside.

    Raises:
        InputError: nothing, or only points outside.
    """

    grid: Geometry
    box: tuple[float, float, float, float] | None
    points: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.box is None and not self.labels.any():
            raise InputError("Nothing is marked: drag a box around the object, or set a point inside it.")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The box around all that is marked, as `box`."""
        corners = [*self.points.tolist(), *([self.box[:2], self.box[2:]] if self.box else [])]
        (column0, row0), (column1, row1) = np.min(corners, axis=0), np.max(corners, axis=0)
        return float(column0), float(row0), float(column1), float(row1)

    def marks(self, corner: tuple[int, int]) -> Marks:
        """For the network, in pixels from a corner (row, column) of the plane."""
        shift = np.array(corner[::-1], dtype=np.float64)
        boxes = None if self.box is None else np.array([self.box]) - np.tile(shift, 2)
        if not len(self.points):
            return Marks(boxes)
        return Marks(boxes, self.points[None] - shift, self.labels[None])


@dataclass(frozen=True, eq=False)
class Encoded:
    """Slices with their features, computed when they are first asked for.

    Attributes:
        slices: as the network sees them.
        features: of them.
    """

    slices: Slices
    features: SliceFeatures[SamForward]

    def rest(self) -> None:
        """See `worker.Warm.rest`; where the features cannot be written to their file, they stay in memory."""
        with suppress(OutputError):
            self.features.spill()

    def close(self) -> None:
        """Free all features."""
        self.features.close()


def mark(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Find what is marked; slices that were marked before are not encoded again.

    Args:
        arguments: "image_id"; "model" and what else `images.kept_network` takes; "marks": a list of objects, each with
            "plane": its plane's grid, and "box": [column0, row0, column1, row1], or "points": [[column, row], …] with
            "labels": [1 inside, 0 outside, …], or both.
        context: hears of each mask as it is found: {"number": of the mark, from 0, "mask"}.

    Returns:
        "masks": bool (rows, columns) of each mark's plane; "notes": a sentence each; "seconds" that it took.

    Raises:
        InputError: marks that do not fit their plane, or none of a segmenter's model.
        ModelError, DependencyError, OutputError: as the network.
        Cancelled: when the progress was cancelled.
    """
    started = time.perf_counter()
    kept = kept_image(arguments, context)
    if kept is None:
        return unknown_image(arguments)
    marks = [_read(data) for data in arguments["marks"]]
    for one in marks:
        _check(one)
    network = kept_network(arguments, context, SEGMENTER_METHOD, load_segmenter)
    context.progress.stage("Finding what is marked", total=len(marks))
    masks = []
    notes: dict[str, None] = {}
    for number, one in enumerate(marks):
        context.progress.check()
        masks.append(_masked(one, kept, network, context))
        notes.update(dict.fromkeys(notes_on(network, kept, plane_name(one.grid))))
        if len(marks) > 1:
            context.partial({"number": number, "mask": masks[-1]})
        context.progress.advance()
    return {"masks": masks, "notes": list(notes), "seconds": time.perf_counter() - started}


def _read(data: Mapping[str, Any]) -> Mark:
    box = data.get("box")
    points = np.array(data.get("points") or np.empty((0, 2)), dtype=np.float64).reshape(-1, 2)
    labels = np.array(data.get("labels") or [], dtype=np.int64)
    if len(labels) != len(points):
        raise InputError(f"{len(points)} points have {len(labels)} labels; each needs one: 1 inside, 0 outside.")
    corners = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return Mark(geometry_from(data["plane"]), corners, points, labels)


def _check(one: Mark) -> None:
    shape = slices_first(np.empty(one.grid.shape_zyx, bool), plane_name(one.grid)).shape[1:]
    where = f"The {plane_name(one.grid)} slice"
    if one.box is not None:
        check_box(one.box, (shape[0], shape[1]), where=where)
    check_points(one.points, (shape[0], shape[1]), where=where)


def _masked(one: Mark, kept: KeptImage, network: KeptNetwork, context: Context) -> NDArray[np.bool_]:
    encoded, index, shape = _encoded(one, kept, network, context)
    segmenter: Segmenter = network.network
    marks = {index: one.marks(encoded.slices.corner)}
    ((_, logits),) = segmenter.network.find(encoded.features, marks)
    mask: NDArray[np.bool_] = encoded.slices.on_slice(logits > 0, shape)[0]
    return mask


def _encoded(
    one: Mark, kept: KeptImage, network: KeptNetwork, context: Context
) -> tuple[Encoded, int, tuple[int, int]]:
    """The store that holds a mark's slice, the slice's number in it, and its rows and columns."""
    plane = plane_name(one.grid)
    picture = kept_picture(kept, network, context)
    key: tuple[Any, ...] = (kept.image_id, network.key, plane)
    index = slice_index(kept.image.geometry, one.grid)
    if index is None:
        shown = plane_picture(picture, kept.image.geometry, one.grid)
        kind, index = "planes", 0
        key += (one.grid.size_ijk, one.grid.origin_lps_mm, one.grid.direction_lps.tobytes())
    else:
        shown, kind = picture, "slices"
    rows, columns = slices_first(shown, plane).shape[-2:]
    head_only = network.network.head_only

    def make(*, prompts: tuple[Prompt, ...] = ()) -> Encoded:
        slices = slices_of(shown, plane, head_only=head_only, prompts=prompts)
        return Encoded(slices, network.network.network.encode(slices.frames))

    found: Encoded = context.warm.get(kind, key, make)
    if not _inside(one, found.slices):
        # Beside the head: another part of the slices must be shown, which is rare enough to be encoded by itself.
        bounds = one.bounds
        reach = (bounds[0] - 0.5, bounds[1] - 0.5, bounds[2] + 0.5, bounds[3] + 0.5)
        prompt = Prompt(1, plane, index, box=reach)
        found = context.warm.get("planes", (*key, index, bounds), lambda: make(prompts=(prompt,)))
    return found, index, (rows, columns)


def _inside(one: Mark, slices: Slices) -> bool:
    (row, column), (rows, columns) = slices.corner, slices.frames.shape[2:]
    column0, row0, column1, row1 = one.bounds
    inside = column0 >= column - 0.5 and column1 <= column + columns - 0.5
    return inside and row0 >= row - 0.5 and row1 <= row + rows - 0.5


def plane_picture(picture: NDArray[np.uint8], volume: Geometry, grid: Geometry) -> NDArray[np.uint8]:
    """What a plane of any orientation shows of a picture, by linear interpolation.

    Args:
        picture: uint8 (3, z, y, x).
        volume: its grid.
        grid: of the plane.

    Returns:
        uint8 (3, z, y, x) on the plane's grid; 0 where the volume has nothing.
    """
    from scipy import ndimage

    indices = np.stack(np.meshgrid(*(np.arange(size) for size in grid.size_ijk), indexing="ij"), axis=-1)
    at_zyx = volume.to_ijk(grid.to_lps(indices.reshape(-1, 3)))[:, ::-1].T
    shown = [ndimage.map_coordinates(channel, at_zyx, np.float32, order=1) for channel in picture]
    found: NDArray[np.uint8] = np.rint(np.stack(shown)).astype(np.uint8).reshape(3, *grid.size_ijk)
    return np.ascontiguousarray(found.transpose(0, 3, 2, 1))


# ---- detection ----------------------------------------------------------------------------------------------------


def detect(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Propose boxes, on one slice or on all.

    Args:
        arguments: "image_id"; "model" and what else `images.kept_network` takes; "plane": grid of the slice, or None
            for the whole volume; "confidence": of a box, at least, or None for the detector's own.
        context: a slice is a unit.

    Returns:
        "lesions": by confidence, the highest first; each with its "region", "confidence" and "boxes": one for each of
        its slices, with "plane": the slice's grid, "box": (column0, row0, column1, row1) in its pixels, and
        "confidence", which is 0 for a box that was filled in between others. "plane": whose slices were looked at.
        "notes": a sentence each.

    Raises:
        InputError: a slice of another plane than the detector's, or none of a detector's model.
        ModelError, DependencyError: as the network.
        Cancelled: when the progress was cancelled.
    """
    kept = kept_image(arguments, context)
    if kept is None:
        return unknown_image(arguments)
    network = kept_network(arguments, context, DETECTOR_METHOD, load_detector)
    detector: Detector = network.network
    if (confidence := arguments.get("confidence")) is not None:
        detector = replace(detector, settings=replace(detector.settings, confidence=float(confidence)))
    plane = detector.settings.plane
    picture = kept_picture(kept, network, context)
    grid = geometry_from(arguments["plane"]) if arguments.get("plane") else None
    if grid is not None:
        lesions = _on_one_slice(detector, picture, kept, grid, context)
    else:
        context.progress.stage("Looking for lesions", total=kept.image.geometry.shape_zyx[PLANES[plane]])
        tracks = detector.find(picture, progress=context.progress)
        lesions = [_lesion(track, kept.image.geometry, plane, detector) for track in tracks]
    return {"lesions": lesions, "plane": plane, "notes": notes_on(network, kept, plane)}


def _on_one_slice(
    detector: Detector, picture: NDArray[np.uint8], kept: KeptImage, grid: Geometry, context: Context
) -> list[dict[str, Any]]:
    settings = detector.settings
    if plane_name(grid) != settings.plane:
        raise InputError(
            f"The detector '{detector.model.name}' looks at {settings.plane} slices, but the view shows a "
            f"{plane_name(grid)} one; press Detect in a view of {settings.plane} slices, or for the whole volume."
        )
    index = slice_index(kept.image.geometry, grid)
    if index is None:
        picture, index = plane_picture(picture, kept.image.geometry, grid), 0
    slices = slices_of(picture, settings.plane, head_only=settings.head_only)
    context.progress.stage("Looking for lesions", total=1)
    found = detector.network.detect(
        slices.frames[index : index + 1],
        image_size=settings.image_size,
        confidence=settings.confidence,
        overlap=settings.overlap,
        progress=context.progress,
    )
    surest = sorted((slices.in_slice(item) for item in found), key=lambda item: -item.confidence)
    return [
        {
            "region": detector.model.scheme.names[item.kind],
            "confidence": item.confidence,
            "boxes": [_box(item, geometry_data(grid))],
        }
        for item in surest
    ]


def _lesion(track: Track, geometry: Geometry, plane: str, detector: Detector) -> dict[str, Any]:
    boxes = [_box(item, geometry_data(volume_slice(geometry, plane, item.index))) for item in track.boxes]
    return {"region": detector.model.scheme.names[track.kind], "confidence": track.confidence, "boxes": boxes}


def _box(item: SliceBox, plane: dict[str, Any]) -> dict[str, Any]:
    return {"plane": plane, "box": [float(side) for side in item.box], "confidence": float(item.confidence)}
