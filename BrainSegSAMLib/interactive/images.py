"""Images and networks that stay in the worker's memory from one request to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.devices import resolve_device
from ..errors import InputError
from ..geometry import Geometry
from ..image import Image
from ..models.catalogue import find_model
from ..models.published import ANY_MODALITY
from ..models.store import Model, load_model
from ..progress import Progress
from ..resample import resample_channel
from ..single_image import caution
from ..wire import geometry_from


class Context(Protocol):
    """See `worker.Context`."""

    @property
    def progress(self) -> Progress:
        """Reports, and may cancel."""
        ...

    @property
    def warm(self) -> Any:
        """A `worker.Warm`."""
        ...

    def partial(self, data: Mapping[str, Any]) -> None:
        """Send a result on its way."""
        ...


@dataclass(frozen=True, eq=False)
class KeptImage:
    """An image that an effect works on.

    Attributes:
        image_id: the effect's name for it.
        image: its axes are LPS.
    """

    image_id: str
    image: Image


@dataclass(frozen=True, eq=False)
class KeptNetwork:
    """A network in memory.

    Attributes:
        key: tells it from all others.
        network: a `Segmenter`, `Detector` or `Tracker`.
    """

    key: tuple[Any, ...]
    network: Any


def load_image(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Keep an image.

    Args:
        arguments: "image_id": any text, another one for other contents. "name": for messages. "channels": modality →
            {"array": numbers (z, y, x), "geometry": its grid in world space}; the first is the reference, onto whose
            grid all others are brought.
        context: of the request.

    Returns:
        "notes": what was done to the channels, a sentence each.

    Raises:
        InputError, GeometryError: channels that do not overlap or are not finite, or no channel.
    """
    channels: dict[str, NDArray[np.float32]] = {}
    notes: list[str] = []
    grid: Geometry | None = None
    reference = ""
    for modality, channel in arguments["channels"].items():
        array, geometry = np.asarray(channel["array"], dtype=np.float32), geometry_from(channel["geometry"])
        if grid is None:
            grid, reference = geometry, modality
        if not np.isfinite(array).all():
            raise InputError(
                f"The volume for {modality} holds values that are not finite (NaN, infinity); replace them, e.g. by 0."
            )
        array, action = resample_channel(array, geometry, grid, name=modality, target_name=reference)
        channels[modality] = array
        notes += [action] if action else []
    if grid is None:
        raise InputError("No volume was chosen; choose the source volume in Segment Editor.")
    upright, order = grid.reoriented("LPS")
    image = Image(upright, {name: order.apply(array) for name, array in channels.items()}, str(arguments["name"]))
    kept = KeptImage(str(arguments["image_id"]), image)
    if context.warm.find("image", kept.image_id) is None:
        context.warm.drop("tracks")  # of another image: what was followed there is not corrected any more
    context.warm.get("image", kept.image_id, lambda: kept)
    return {"notes": notes}


def kept_image(arguments: Mapping[str, Any], context: Context) -> KeptImage | None:
    """The image that a request names, or None where it must be loaded (again)."""
    if context.warm.find("image", arguments["image_id"]) is None:
        return None
    kept: KeptImage = context.warm.get("image", arguments["image_id"], lambda: None)  # used: it stays
    return kept


def unknown_image(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is answered where `kept_image` gives None."""
    return {"unknown_image": arguments["image_id"]}


_PARTS: Final = {
    "sam": ("yolo_medsam", "segmenter", "takes no boxes and points; choose a segmenter"),
    "yolo_detector": ("yolo_medsam", "detector", "finds no boxes; choose a detector"),
    "sam2_tracker": ("ssnet", "tracker", "follows nothing through the slices; choose a tracker"),
}
"""Method → the method of composed models that hold one, in which folder, and what to say of other models."""


def kept_network(
    arguments: Mapping[str, Any], context: Context, method: str, load: Callable[..., Any]
) -> KeptNetwork:
    """The network that a request names.

    Args:
        arguments: "model": name or folder of a model of the method, or of one that holds one; "device": "auto" or a
            torch device name; "trust": allow weights that need arbitrary unpickling; "precision": see
            `backends.devices.resolve_precision`. The last three may be left out.
        context: of the request.
        method: a key of `_PARTS`.
        load: makes it: `load(model, *, device, trust, precision)`.

    Raises:
        InputError: a model that is or holds none of the method, or a device that is not there.
        ModelError, DependencyError: as `load`.
    """
    folder = _part_folder(str(arguments["model"]), method)
    device = resolve_device(arguments.get("device", "auto"))
    precision = arguments.get("precision", "auto")
    # Its time instead of its hash, which would be computed at every box; what is loaded is verified once.
    changed = (folder / "model.json").stat().st_mtime_ns
    key = (str(folder), changed, device, precision)

    def make() -> KeptNetwork:
        context.progress.stage("Loading the model", until=0.1)
        trust = bool(arguments.get("trust", False))
        return KeptNetwork(key, load(load_model(folder), device=device, trust=trust, precision=precision))

    kept: KeptNetwork = context.warm.get("network", key, make)
    return kept


def kept_picture(kept: KeptImage, network: KeptNetwork, context: Context) -> NDArray[np.uint8]:
    """An image as a network sees it: uint8 (3, z, y, x), axes LPS.

    Raises:
        InputError: as `intensity.picture_of`.
    """
    names = shown_modalities(network.network.model, kept.image)
    lower, upper = network.network.lower, network.network.upper

    def make() -> NDArray[np.uint8]:
        from ..intensity import picture_of

        return picture_of(kept.image, names, lower=lower, upper=upper)

    picture: NDArray[np.uint8] = context.warm.get("picture", (kept.image_id, names, lower, upper), make)
    return picture


def shown_modalities(model: Model, image: Image) -> tuple[str, ...]:
    """Which channels a network is shown: the model's, where the image has them all; else the first in place of all."""
    if set(model.modalities) <= set(image.modalities):
        return model.modalities
    return image.modalities[:1]


def notes_on(network: KeptNetwork, kept: KeptImage, plane: str) -> list[str]:
    """What a user should know of a network that is shown an image's slices of a plane, a sentence each."""
    model: Model = network.network.model
    notes = list(caution(model))
    shown = shown_modalities(model, kept.image)
    if shown != model.modalities and model.modalities != (ANY_MODALITY,):
        notes.append(
            f"The model was trained on {', '.join(model.modalities)}, but sees {shown[0]} in place of all of them; "
            "expect less of it."
        )
    trained = model.settings.get("plane", plane)
    if trained != plane:
        notes.append(f"The model was trained on {trained} slices; expect less of it on {plane} ones.")
    return notes


def _part_folder(name: str, method: str) -> Path:
    folder = find_model(name)
    model = load_model(folder, verify_hashes=False)
    composed, part, instead = _PARTS[method]
    if model.method == composed and (folder / part).is_dir():
        return folder / part
    if model.method != method:
        raise InputError(f"The model '{model.name}' is of the method '{model.method}', which {instead}.")
    return folder
