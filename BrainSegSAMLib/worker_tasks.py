"""What a worker does for the panel: segment volumes, and run the commands of the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from . import wire
from .console import Console
from .errors import InputError
from .image import Image, Segmentation, bounding_box

if TYPE_CHECKING:
    from .methods.contract import Predictor
    from .worker import Context


def predict(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Segment one examination.

    Args:
        arguments: "model", a name or folder; "device" ("auto", "cpu", "cuda", …); "volumes": modality → {"array":
            numbers (z, y, x), "geometry": see `wire.geometry_data`, "name": for messages}, the first of which has the
            grid of the result; and where wanted "name" of the whole, "trust" and "overrides", as `load_predictor`.
        context: of the worker.

    Returns:
        "segmentation" and "stages" (name → segmentation), see `wire.segmentation_from`; "boxes": region → first and
        last + 1 voxel along z, y, x; "record", which says what was done to what with what, and under "regions" what was
        measured.

    Raises:
        InputError: where a volume cannot be used.
        ModelError: where the model cannot be used.
        DependencyError: where a package is missing.
    """
    started = time.perf_counter()
    context.progress.stage("Preparing the volumes", until=0.01)
    image, actions = _image(arguments)
    context.progress.stage("Loading the model", until=0.02)
    predictor, device = _predictor(arguments, context)
    missing = [name for name in predictor.model.modalities if name not in image.channels]
    if missing:
        raise InputError(f"The model '{predictor.model.name}' needs a volume for {', '.join(missing)}.")
    loaded = time.perf_counter()
    segmentation = predictor.predict(image, progress=context.progress)
    segmented = time.perf_counter()
    return {
        "segmentation": wire.segmentation_data(segmentation),
        "boxes": {region.name: _bounds(mask) for region, mask in segmentation.masks()},
        "stages": {name: wire.segmentation_data(stage) for name, stage in segmentation.stages.items()},
        "record": {
            **_record(segmentation, predictor, device),
            "geometry_actions": actions,
            "inputs": {modality: volume.get("name", modality) for modality, volume in arguments["volumes"].items()},
            "seconds": {"prepare": round(loaded - started, 3), "segment": round(segmented - loaded, 3)},
        },
    }


def _image(arguments: Mapping[str, Any]) -> tuple[Image, list[str]]:
    """All volumes on the grid of the first, and what was done to them."""
    from .resample import resample_channel

    channels, actions = {}, []
    reference, target = "", None
    for modality, volume in arguments["volumes"].items():
        array, name = np.asarray(volume["array"], dtype=np.float32), str(volume.get("name") or modality)
        _check_finite(array, name)
        geometry = wire.geometry_from(volume["geometry"])
        if target is None:
            reference, target = f"'{name}'", geometry
        array, action = resample_channel(array, geometry, target, name=f"{modality} ('{name}')", target_name=reference)
        channels[modality] = array
        if action:
            actions.append(action)
    if target is None:
        raise InputError("No volume was chosen.")
    return Image(target, channels, str(arguments.get("name") or "image")), actions


def _check_finite(array: np.ndarray[Any, Any], name: str) -> None:
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise InputError(
            f"Volume '{name}' holds {count} voxels that are not a finite number (NaN or infinity); replace them, e.g. "
            "by 0, before segmenting."
        )


def _predictor(arguments: Mapping[str, Any], context: Context) -> tuple[Predictor, str]:
    """The predictor, from memory where it was used before, and its device."""
    from .backends.devices import resolve_device
    from .methods import load_predictor
    from .models.catalogue import find_model
    from .models.store import load_model

    folder = find_model(arguments["model"])
    model = load_model(folder, verify_hashes=False)  # those of the weights are verified when they are loaded
    device = resolve_device(str(arguments.get("device") or "auto"))
    trust, overrides = bool(arguments.get("trust")), dict(arguments.get("overrides") or {})
    predictor: Predictor = context.warm.get(
        "predictor",
        (str(folder), model.sha256, device, trust, json.dumps(overrides, sort_keys=True)),
        lambda: load_predictor(folder, device=device, trust=trust, overrides=overrides),
    )
    return predictor, device


def _bounds(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[list[int]]:
    return [[part.start, part.stop] for part in bounding_box(mask)]


def _record(segmentation: Segmentation, predictor: Predictor, device: str) -> dict[str, Any]:
    from .components import as_rows, statistics
    from .runs import RECORD_VERSION, versions

    model = predictor.model
    return {
        "record_version": RECORD_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": {"name": model.name, "title": model.title, "version": model.version, "sha256": model.sha256},
        "device": device,
        "prediction": dict(segmentation.record),
        "notes": list(segmentation.record.get("notes", ())),
        "regions": as_rows(statistics(segmentation)),
    }


def command(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Run a command of the command line, as `brainsegsam` does: train, evaluate, download, import, ….

    Args:
        arguments: "argv": list of str, without the program's name.
        context: of the worker.

    Returns:
        "exit_code": 0, or 1 where some cases failed; "lines": what it says to people; "result": what it says to
        programs, {} for commands that say nothing to them.

    Raises:
        BrainSegSAMError: what the command raises; `InputError` where it is used wrongly.
    """
    from . import cli

    console = _Console(context)
    code = cli.run([str(word) for word in arguments["argv"]], console=console, progress=context.progress)
    return {"exit_code": code, "lines": console.lines, "result": console.answer}


class _Console(Console):
    """Sentences go to the interface's log as they come; progress has its own way."""

    def __init__(self, context: Context) -> None:
        super().__init__("json")
        self._context = context
        self.lines: list[str] = []
        self.answer: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)
        self._context.log(text)

    def warn(self, text: str) -> None:
        self._context.log(text)

    def result(self, data: dict[str, Any]) -> None:
        self.answer = data
