"""Labelled volumes as networks learn from them: pictures, whole regions, and their connected pieces as objects.

Beside the pieces of regions there are made-up objects, which no network can tell from the image alone: they teach it
that its prompt matters.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .batch import Workers, prepare_all
from .cases import Case
from .components import label_components
from .crops import Crop, head_crop
from .geometry import Geometry
from .image import Image
from .intensity import LOWER_PERCENTILE, UPPER_PERCENTILE, windowed
from .labelled_images import LabelledImage, load_labelled
from .labels import LabelScheme
from .phantom import ORIGIN_LPS_MM, make_phantom
from .progress import Progress

ORIENTATION = "LPS"
"""Axes into which volumes are brought, so that planes mean the same for all."""

MADE_UP = -1
"""Region number of objects that are no region of the model: made of the image and chance."""

BRAIN = -2
"""Region number of the brain as a whole."""

_MADE_UP_SIZE = 4  # voxels across the detail of their chance part, and the least of a cell of its noise
_MADE_UP_LEVEL = 1.1  # in standard deviations; about an eighth of the brain lies above it

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Piece:
    """One connected piece of a region.

    Attributes:
        region: number of the region in the model's scheme, or `MADE_UP`, or `BRAIN`.
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
    """One case, ready to learn from.

    Attributes:
        case_id: the case.
        pictures: uint8 (3, z, y, x), axes LPS.
        objects: at least one of each volume that is learned from.
        truth: region number → bool (z, y, x), the whole region, small pieces included.
        spacing_zyx_mm: of the voxels.
        heads: plane → rows and columns of its slices that the network sees.
    """

    case_id: str
    pictures: NDArray[np.uint8]
    objects: tuple[Piece, ...]
    truth: Mapping[int, BoolArray]
    spacing_zyx_mm: tuple[float, float, float]
    heads: Mapping[str, Crop]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        z, y, x = self.pictures.shape[1:]
        return z, y, x


@dataclass(frozen=True)
class VolumeSettings:
    """How cases become training volumes.

    Attributes:
        planes: keys of `prompts.PLANES` whose slices are used.
        lower_percentile: of the brain's intensities; what is at or below it becomes 0 (`intensity.window`).
        upper_percentile: as `lower_percentile`; what is at or above it becomes 255.
        minimum_object_mm3: smaller pieces are no objects of their own.
        made_up_seed: of made-up objects; None: without them.
        brain: whether the brain is an object, too.
    """

    planes: tuple[str, ...]
    lower_percentile: float = LOWER_PERCENTILE
    upper_percentile: float = UPPER_PERCENTILE
    minimum_object_mm3: float = 0.0
    made_up_seed: int | None = None
    brain: bool = False


def make_volume(
    image: Image, labels: NDArray[np.uint8], modalities: Sequence[str], scheme: LabelScheme, settings: VolumeSettings
) -> TrainingVolume:
    """Prepare one case.

    Args:
        image: with the modalities.
        labels: uint8 (z, y, x), in the values of the scheme.
        modalities: channels in order; at most three.
        scheme: the regions; each 26-connected piece of one is an object.
        settings: window, planes and objects.

    Raises:
        InputError: where the image cannot be windowed.
    """
    from scipy import ndimage

    geometry, order = image.geometry.reoriented(ORIENTATION)
    channels = {name: order.apply(image.channels[name]) for name in modalities}
    pictures = windowed(channels, modalities, lower=settings.lower_percentile, upper=settings.upper_percentile)
    turned = order.apply(labels)
    truth = {number: np.isin(turned, region.labels) for number, region in enumerate(scheme.regions)}
    objects: list[Piece] = []
    for number, mask in truth.items():
        objects += objects_of(number, mask, geometry, minimum_mm3=settings.minimum_object_mm3)
    if settings.made_up_seed is not None:
        rng = np.random.default_rng([settings.made_up_seed, zlib.crc32(image.name.encode())])
        for channel in pictures:
            mask = made_up_mask(channel, rng)
            objects += objects_of(MADE_UP, mask, geometry, minimum_mm3=settings.minimum_object_mm3)
    if settings.brain:
        brain = ndimage.binary_fill_holes((pictures > 0).any(axis=0))
        objects += objects_of(BRAIN, brain, geometry, minimum_mm3=settings.minimum_object_mm3)
    # What is labelled is seen, even where the pictures are black.
    shown = np.maximum(pictures, np.logical_or.reduce(list(truth.values())))
    heads = {plane: head_crop(shown, plane) for plane in settings.planes}
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


def objects_of(region: int, mask: BoolArray, geometry: Geometry, *, minimum_mm3: float) -> list[Piece]:
    """The 26-connected pieces of a mask (z, y, x) that are large enough."""
    from scipy import ndimage

    pieces, _ = label_components(mask)
    found = []
    for index, box in enumerate(ndimage.find_objects(pieces)):
        piece = pieces[box] == index + 1
        if np.count_nonzero(piece) * geometry.voxel_volume_mm3 >= minimum_mm3:
            found.append(Piece(region, box, piece))
    return found


def load_volumes(
    cases: Iterable[Case],
    modalities: Sequence[str],
    scheme: LabelScheme,
    settings: VolumeSettings,
    *,
    label_values: Mapping[int, int],
    synthetic_seeds: Sequence[int],
    progress: Progress,
    workers: Workers | None = None,
) -> dict[str, TrainingVolume]:
    """Every case, and every synthetic one, in memory.

    Args:
        cases: each with a reference.
        modalities: channels in order.
        scheme: of the model.
        settings: see `make_volume`.
        label_values: value in the references' files → value in the scheme, for those that differ.
        synthetic_seeds: of the synthetic cases.
        progress: gets a stage.
        workers: which processes read the cases; sized to machine and cases where None.

    Returns:
        Case id → volume.

    Raises:
        InputError: where cases cannot be used, each of them named; and as `batch.run_batch`.
    """
    items: list[Case | int] = [*cases, *synthetic_seeds]
    volumes = prepare_all(
        items,
        VolumeMaker(tuple(modalities), scheme, settings, dict(label_values)),
        name=_name,
        progress=progress.part("Reading cases", until=0.02),
        workers=workers,
    )
    return dict(zip(map(_name, items), volumes, strict=True))


@dataclass(frozen=True)
class VolumeMaker:
    """What is done with each case, or with each seed of a synthetic one; see `batch.CaseWork`.

    Attributes:
        modalities: channels in order.
        scheme: of the model.
        settings: see `make_volume`.
        label_values: value in the references' files → value in the scheme, for those that differ.
    """

    modalities: tuple[str, ...]
    scheme: LabelScheme
    settings: VolumeSettings
    label_values: Mapping[int, int]

    def load(self, item: Case | int) -> LabelledImage:
        """Read it with its labels, or make it."""
        if isinstance(item, Case):
            return load_labelled(item, self.modalities, self.scheme, self.label_values)
        return synthetic_case(item)

    def compute(self, loaded: LabelledImage, progress: Progress) -> TrainingVolume:
        """Bring it into the form that networks learn from."""
        progress.stage("Preparing")
        return make_volume(loaded.image, loaded.labels, self.modalities, self.scheme, self.settings)

    def save(self, item: Case | int, computed: TrainingVolume) -> TrainingVolume:  # noqa: ARG002  (of the protocol)
        """Hand it on: it is learned from in memory."""
        return computed


def _name(item: Case | int) -> str:
    return item.case_id if isinstance(item, Case) else synthetic_id(item)


def synthetic_case(seed: int) -> LabelledImage:
    """A synthetic case (`phantom.make_phantom`) on its grid, named after its seed."""
    phantom = make_phantom(seed)
    grid = Geometry.axis_aligned(phantom.labels.shape, phantom.spacing_zyx_mm, ORIGIN_LPS_MM)
    return LabelledImage(Image(grid, phantom.channels, synthetic_id(seed)), phantom.labels)


def synthetic_id(seed: int) -> str:
    """Case id of a synthetic case."""
    return f"synthetic_{seed}"
