"""Clips for training a tracker: a few slices of a volume, an object in them, and a prompt on the first.

A clip is taken as a user's tracking would go: from a slice with the object along an axis, up or down, often past the
place where the object ends. Sources: Ravi et al. 2024, SAM 2, https://arxiv.org/abs/2408.00714, appendix D (sampling of
frames, jittered boxes, corrective clicks); Ma et al. 2025, MedSAM2, https://arxiv.org/abs/2504.03600.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...components import label_components
from ...errors import InputError
from ...geometry import Geometry
from ...image import Image
from ...intensity import as_frames, windowed
from ...labels import LabelScheme
from ...prompts import PLANES
from .tracker_config import TrackerTrainingConfig
from .zoom import Crop, head_crop

ORIENTATION = "LPS"
"""Axes into which volumes are brought, so that planes mean the same for all."""

MADE_UP = -1
"""Region number of objects that are no region of the model: made of the image and chance."""

_MADE_UP_SIZE = 4  # voxels across the detail of their chance part, and the least of a cell of its noise
_MADE_UP_LEVEL = 1.1  # in standard deviations; about an eighth of the brain lies above it
_LEAST_AREA = 0.1  # of an object's largest slice: where less of it shows, no clip begins
_LEAST_PIXELS = 4

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrackedObject:
    """One connected piece of a region.

    Attributes:
        region: number of the region in the model's scheme, or `MADE_UP`.
        box: slices (z, y, x) of the volume that just hold it.
        mask: bool, of the box's shape.
    """

    region: int
    box: tuple[slice, slice, slice]
    mask: BoolArray

    def inside(self, shape_zyx: tuple[int, int, int]) -> BoolArray:
        """Its mask in the whole volume: bool (z, y, x)."""
        whole = np.zeros(shape_zyx, dtype=bool)
        whole[self.box] = self.mask
        return whole

    def slices(self, axis: int, indices: NDArray[np.intp], shape_zyx: tuple[int, int, int]) -> BoolArray:
        """Its mask on some slices along an axis: bool (slice, rows, columns)."""
        rows, columns = (a for a in range(3) if a != axis)
        found = np.zeros((len(indices), shape_zyx[rows], shape_zyx[columns]), dtype=bool)
        first_to_last = self.box[axis]
        for position, index in enumerate(indices):
            if first_to_last.start <= index < first_to_last.stop:
                part = np.take(self.mask, index - first_to_last.start, axis=axis)
                found[position][self.box[rows], self.box[columns]] = part
        return found


@dataclass(frozen=True, eq=False)
class TrainingVolume:
    """One case, ready to take clips from.

    Attributes:
        case_id: the case.
        pictures: uint8 (3, z, y, x), axes LPS.
        objects: at least one of each volume that clips are taken from.
        truth: region number → bool (z, y, x), the whole region, small pieces included.
        spacing_zyx_mm: of the voxels.
        heads: plane → rows and columns of its slices that the network sees.
    """

    case_id: str
    pictures: NDArray[np.uint8]
    objects: tuple[TrackedObject, ...]
    truth: Mapping[int, BoolArray]
    spacing_zyx_mm: tuple[float, float, float]
    heads: Mapping[str, Crop]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        z, y, x = self.pictures.shape[1:]
        return z, y, x


@dataclass(frozen=True, eq=False)
class Clip:
    """Some slices in the order in which they are tracked, and objects in them.

    Attributes:
        case_id: where it is from.
        frames: uint8 (k, 3, rows, columns).
        masks: bool (object, k, rows, columns); each object shows on the first slice.
        single: number of the channel that alone shall be shown, or None.
        both: whether objects are also tracked from the last slice to the first.
    """

    case_id: str
    frames: NDArray[np.uint8]
    masks: BoolArray
    single: int | None = None
    both: bool = False

    def orders(self) -> list[tuple[int, tuple[int, ...]]]:
        """The tracks of this clip: (object, slices in the order of the track); each begins where the object shows."""
        forward = tuple(range(len(self.frames)))
        found = [(number, forward) for number in range(len(self.masks))]
        if self.both:
            found += [(n, forward[::-1]) for n in range(len(self.masks)) if self.masks[n, -1].sum() >= _LEAST_PIXELS]
        return found


def make_volume(
    image: Image, labels: NDArray[np.uint8], modalities: Sequence[str], scheme: LabelScheme,
    config: TrackerTrainingConfig,
) -> TrainingVolume:  # fmt: skip
    """Prepare one case.

    Args:
        image: with the modalities.
        labels: uint8 (z, y, x), in the values of the scheme.
        modalities: channels in order; at most three.
        scheme: what can be tracked; each 26-connected piece of a region is an object.
        config: window and least size.

    Raises:
        InputError: where the image cannot be windowed.
    """
    geometry, order = image.geometry.reoriented(ORIENTATION)
    channels = {name: order.apply(image.channels[name]) for name in modalities}
    pictures = windowed(channels, modalities, lower=config.lower_percentile, upper=config.upper_percentile)
    turned = order.apply(labels)
    truth = {number: np.isin(turned, region.labels) for number, region in enumerate(scheme.regions)}
    objects: list[TrackedObject] = []
    for number, mask in truth.items():
        objects += objects_of(number, mask, geometry, minimum_mm3=config.minimum_object_mm3)
    if config.made_up_weight > 0:
        rng = np.random.default_rng([config.seed, zlib.crc32(image.name.encode())])
        for channel in pictures:
            mask = made_up_mask(channel, rng)
            objects += objects_of(MADE_UP, mask, geometry, minimum_mm3=config.minimum_object_mm3)
    heads = {plane: head_crop(pictures, plane) for plane, weight in config.planes.items() if weight > 0}
    return TrainingVolume(image.name, pictures, tuple(objects), truth, geometry.spacing_zyx_mm, heads)


def made_up_mask(channel: NDArray[np.uint8], rng: np.random.Generator) -> BoolArray:
    """Blobs that follow the image in part only: where smooth noise and half of the brightness are together high.

    What such an object is cannot be told from the image, so a network must look at its prompt and remember it. Lesions
    alone do not teach that: each is the most conspicuous thing of its slice, prompt or not.

    Args:
        channel: uint8 (z, y, x), 0 outside the brain.
        rng: draws the noise.

    Returns:
        bool (z, y, x).
    """
    from scipy import ndimage

    brain = channel > 0
    coarse = tuple(-(-size // _MADE_UP_SIZE) + 2 for size in channel.shape)
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 1.5)
    noise = ndimage.zoom(noise, _MADE_UP_SIZE, order=1)[tuple(slice(0, size) for size in channel.shape)]
    if not brain.any():
        return brain
    bright = ndimage.gaussian_filter(channel.astype(np.float32), 1.0)
    bright = (bright - bright[brain].mean()) / max(float(bright[brain].std()), 1e-6)
    found: BoolArray = brain & (noise / noise.std() + 0.5 * bright > _MADE_UP_LEVEL)
    return found


def objects_of(region: int, mask: BoolArray, geometry: Geometry, *, minimum_mm3: float) -> list[TrackedObject]:
    """The 26-connected pieces of a mask (z, y, x) that are large enough."""
    from scipy import ndimage

    pieces, _ = label_components(mask)
    found = []
    for index, box in enumerate(ndimage.find_objects(pieces)):
        piece = pieces[box] == index + 1
        if np.count_nonzero(piece) * geometry.voxel_volume_mm3 >= minimum_mm3:
            found.append(TrackedObject(region, box, piece))
    return found


# ---- sampling -----------------------------------------------------------------------------------------------------


def draw_clip(
    volumes: Sequence[TrainingVolume], weights: Sequence[float], config: TrackerTrainingConfig, rng: np.random.Generator
) -> Clip:
    """Draw one clip.

    Args:
        volumes: to draw from; those without an object are passed over.
        weights: how often each is drawn, relative to the others.
        config: how clips are placed.
        rng: draws everything.

    Raises:
        InputError: where no volume has an object that may be drawn.
    """
    drawable = [_region_shares(volume, config) for volume in volumes]
    shares = np.array([weight if shares else 0.0 for weight, shares in zip(weights, drawable, strict=True)])
    if not shares.any():
        raise InputError("None of the training cases has an object to track; check regions and label values.")
    chosen = int(rng.choice(len(volumes), p=shares / shares.sum()))
    volume, regions = volumes[chosen], drawable[chosen]
    numbers = sorted(regions)
    likely = np.array([regions[number] for number in numbers])
    region = numbers[int(rng.choice(len(numbers), p=likely / likely.sum()))]
    candidates = [item for item in volume.objects if item.region == region]
    followed = candidates[int(rng.integers(len(candidates)))]
    plane = _choose(config.planes, rng)
    indices = draw_slices(followed, PLANES[plane], volume.shape_zyx, config, rng)
    return _cut(volume, followed, plane, indices, config, rng)


def draw_slices(
    followed: TrackedObject, axis: int, shape_zyx: tuple[int, int, int], config: TrackerTrainingConfig,
    rng: np.random.Generator,
) -> NDArray[np.intp]:  # fmt: skip
    """Numbers of `config.clip_length` slices along an axis; the first one shows the object.

    They go up or down in equal steps. At the edge of the volume the last slice is repeated.
    """
    step = int(rng.integers(1, config.largest_step + 1))
    # Of tracks both ways only the one that begins with the clip can pass the object's end, so that one goes either way.
    upwards = config.directions == "forward" or (config.directions != "backward" and rng.random() < 0.5)
    other = tuple(a for a in range(3) if a != axis)
    areas = followed.mask.sum(axis=other)
    # Beginning where only a few pixels show would teach little: a user starts where the object is large.
    starts = np.flatnonzero(areas >= max(_LEAST_AREA * areas.max(), min(_LEAST_PIXELS, areas.max())))
    if rng.random() < config.end_probability:
        reach = (config.clip_length - 2) * step
        near = starts >= len(areas) - 1 - reach if upwards else starts <= reach
        starts = starts[near] if near.any() else starts
    first = followed.box[axis].start + int(rng.choice(starts))
    indices = first + (step if upwards else -step) * np.arange(config.clip_length)
    inside: NDArray[np.intp] = np.clip(indices, 0, shape_zyx[axis] - 1)
    return inside


def _region_shares(volume: TrainingVolume, config: TrackerTrainingConfig) -> dict[int, float]:
    weights = dict(enumerate(config.region_weights)) if config.region_weights else dict.fromkeys(volume.truth, 1.0)
    weights[MADE_UP] = config.made_up_weight
    regions = {item.region for item in volume.objects}
    return {number: weights[number] for number in regions if weights[number] > 0}


def _choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], dtype=float)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


def _cut(
    volume: TrainingVolume, followed: TrackedObject, plane: str, indices: NDArray[np.intp],
    config: TrackerTrainingConfig, rng: np.random.Generator,
) -> Clip:  # fmt: skip
    axis, (rows, columns) = PLANES[plane], volume.heads[plane]
    frames = np.ascontiguousarray(as_frames(volume.pictures, plane)[indices][:, :, rows, columns])
    masks = [followed.slices(axis, indices, volume.shape_zyx)[:, rows, columns]]
    drawable = _region_shares(volume, config)
    others = [item for item in volume.objects if item is not followed and item.region in drawable]
    for position in rng.permutation(len(others)):
        if len(masks) == config.objects_per_clip:
            break
        mask = others[position].slices(axis, indices, volume.shape_zyx)[:, rows, columns]
        if mask[0].sum() >= _LEAST_PIXELS:
            masks.append(mask)
    single = int(rng.integers(3)) if rng.random() < config.single_modality_probability else None
    return Clip(volume.case_id, frames, np.stack(masks), single, config.directions == "both")


# ---- prompts ------------------------------------------------------------------------------------------------------


def jittered_box(mask: BoolArray, jitter: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The box around a mask with each side moved in or out.

    Args:
        mask: bool (rows, columns), not empty.
        jitter: largest move of a side, as a share of the box's width or height.
        rng: draws the moves.

    Returns:
        Column and row of one corner, column and row of the opposite one, in pixels (first pixel: 0 to 1), inside the
        slice.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
    size = np.array([corners[2] - corners[0], corners[3] - corners[1]] * 2)
    limits = np.array(mask.shape[::-1] * 2, dtype=float)
    moved = np.clip(corners + rng.uniform(-jitter, jitter, 4) * size, 0, limits)
    return float(moved[0]), float(moved[1]), float(moved[2]), float(moved[3])


def corrective_click(
    answer: BoolArray, wanted: BoolArray, rng: np.random.Generator
) -> tuple[tuple[float, float], int]:
    """Where a user would click next: a random pixel that is wrong.

    Args:
        answer: bool (rows, columns), what the tracker said.
        wanted: the same shape, not empty.
        rng: draws the pixel.

    Returns:
        (column, row) of the pixel's centre (first pixel: 0 to 1), and 1 where it lacks or 0 where it is too much. An
        answer without a fault is confirmed by a click inside the object.
    """
    wrong = answer != wanted
    rows, columns = np.nonzero(wrong if wrong.any() else wanted)
    chosen = int(rng.integers(len(rows)))
    row, column = int(rows[chosen]), int(columns[chosen])
    return (column + 0.5, row + 0.5), int(wanted[row, column])
