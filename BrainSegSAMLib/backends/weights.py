"""A network's weights: read from a file, and put into a network only if they are of its architecture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .architecture import Architecture
from .checkpoints import load_checkpoint

if TYPE_CHECKING:
    import torch


def read_weights(path: Path, *, trust: bool = False) -> dict[str, torch.Tensor]:
    """Parameters by name from a file.

    Args:
        path: `.pt` or `.pth` (a state dictionary, or one under "model") or `.safetensors`.
        trust: allow a file that needs arbitrary unpickling.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    import torch

    loaded: Mapping[str, Any] = load_checkpoint(path, trust=trust)
    inner = loaded.get("model", loaded)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, torch.Tensor) for v in inner.values()):
        held = ", ".join(str(key) for key in list(loaded)[:5]) or "nothing"
        raise ModelError(f"'{path}' holds no weights of a network by their names, but: {held}.")
    return {str(name): value for name, value in inner.items()}


def shapes_of(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Parameter name → shape."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def hash_of_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (64 hexadecimal digits) of the names and numbers of parameters, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def set_weights(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path, architecture: Architecture
) -> None:
    """Copy weights into a network after checking that names and shapes agree; `path` is named in messages.

    Half precision becomes single.

    Raises:
        ModelError: another size or version, or a network of another family.
    """
    expected, found = shapes_of(network.state_dict()), shapes_of(weights)
    if expected != found:
        raise ModelError(_mismatch(expected, found, path, architecture))
    network.load_state_dict(dict(weights))


def _mismatch(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    path: Path,
    architecture: Architecture,
) -> str:
    known, wanted = architecture.recognise(found), architecture.recognise(expected)
    if known is not None and known != wanted:
        asked = f"'{wanted}'" if wanted else "the architecture of this model"
        return f"'{path}' holds the weights of '{known}', but {asked} is expected; give the file that fits."
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    other = sorted(name for name in set(expected) & set(found) if expected[name] != found[name])
    if len(missing) == len(expected):
        return f"'{path}' holds no weights of {architecture.FAMILY}: it names its parameters {', '.join(extra[:3])}, …"
    faults = [f"lacks {len(missing)} parameters, such as '{missing[0]}'"] if missing else []
    faults += [f"has {len(extra)} that are not known, such as '{extra[0]}'"] if extra else []
    faults += [f"'{other[0]}' has the shape {found[other[0]]} instead of {expected[other[0]]}"] if other else []
    network = f"{architecture.title} network"
    return f"'{path}' does not fit the {network} of this model: it {'; '.join(faults)}. Give the file that fits."
