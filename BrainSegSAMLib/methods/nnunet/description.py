"""What a trained nnU-Net's own JSON files say: its channels, its labels, and how its images were read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, ModelError
from ...labels import DEFAULT_COLOURS_RGB, LabelScheme, Region
from ...modalities import OTHER, REFERENCE, ModalityTable

_REORIENTING_READER = "NibabelIOWithReorient"  # brings every image to RAS before nnU-Net sees it


def channel_modalities(dataset: Mapping[str, Any], override: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Canonical modality names in channel order.

    Args:
        dataset: content of `dataset.json`; its channel names are looked up among the aliases, unknown ones lower-cased.
        override: names to use instead, one per channel, or None.
        path: of `dataset.json`, for messages.

    Raises:
        ModelError: no channels, another number of names, or names that do not differ.
    """
    channels = dataset.get("channel_names")
    if not isinstance(channels, Mapping) or not channels:
        raise ModelError(f"'{path}' has no channel_names, so it is not of nnU-Net v2.")
    try:
        described = [str(channels[key]) for key in sorted(channels, key=int)]
    except ValueError as error:
        raise ModelError(f"'{path}': the keys of channel_names must be numbers ({error}).") from error
    if override is not None and len(override) != len(described):
        raise ModelError(
            f"The model has {len(described)} channels ({', '.join(described)}), but {len(override)} modalities were "
            f"given: {', '.join(override)}."
        )
    table = ModalityTable.default()
    names = tuple(override) if override is not None else tuple(_modality(name, table) for name in described)
    if len(set(names)) != len(names):
        raise ModelError(
            f"'{path}' names its channels {', '.join(described)}, which does not tell them apart; name them with "
            "--modalities."
        )
    return names


def _modality(name: str, table: ModalityTable) -> str:
    known = table.recognise(name)
    return name.strip().lower() if known is None or known in (REFERENCE, OTHER) else known


def label_scheme(dataset: Mapping[str, Any], path: Path) -> LabelScheme:
    """Labels or regions as `dataset.json` names them, with default colours; background and the ignore label are none.

    Raises:
        ModelError: where the labels cannot be used.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, Mapping):
        raise ModelError(f"'{path}' has no labels, so it is not of nnU-Net v2.")
    regions: list[Region] = []
    try:
        for name, value in labels.items():
            values = sorted({int(v) for v in value} if isinstance(value, list) else {int(value)})
            if name == "ignore" or values == [0]:
                continue
            regions.append(Region(name, tuple(values), DEFAULT_COLOURS_RGB[len(regions) % len(DEFAULT_COLOURS_RGB)]))
        return LabelScheme(tuple(regions))
    except (ValueError, TypeError) as error:  # InputError is a ValueError
        reason = error if isinstance(error, InputError) else f"names must come first and numbers second ({error})."
        raise ModelError(f"'{path}': the labels cannot be used: {reason}") from error


def training_orientation(plans: Mapping[str, Any]) -> tuple[str | None, str]:
    """Axes of the images that the network saw in training (None: voxel order as stored), and why, in words."""
    reader = str(plans.get("image_reader_writer") or "a reader that is not stated")
    if reader == _REORIENTING_READER:
        return "RAS", f"The training read its images with {reader}, which brings them to RAS."
    return None, (
        f"The training read its images with {reader}, so in the voxel order in which they were stored; images to "
        "segment should be stored in the same order."
    )


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: where it cannot be read or is no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ModelError(f"'{path}' must hold one JSON object.")
    return data
