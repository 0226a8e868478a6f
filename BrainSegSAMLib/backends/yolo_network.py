"""Builds YOLO networks from an architecture's numbers, and reads the weights of Ultralytics' own files."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .checkpoints import load_checkpoint
from .yolo_architecture import CHANNELS, YoloArchitecture
from .yolo_package import ultralytics

if TYPE_CHECKING:
    import torch

_LEAST_SHARED = 0.5  # of a network's parameters that a file must fit for it to be a beginning


def build(architecture: YoloArchitecture) -> torch.nn.Module:
    """An untrained network (Ultralytics' `DetectionModel`) in train mode, on the CPU.

    Raises:
        DependencyError: where ultralytics is not installed.
    """
    ultralytics()
    from ultralytics.nn import tasks

    parts: Any = tasks  # without annotations of its own
    # The plan of any size: what is named replaces the plan's own sizes.
    plan = parts.yaml_model_load(f"{architecture.family}n.yaml")
    plan["scales"] = {"own": [architecture.depth, architecture.width, architecture.max_channels]}
    plan["scale"] = "own"
    network: Any = parts.DetectionModel(plan, ch=CHANNELS, nc=architecture.classes, verbose=False)
    # YOLO26 has a second branch whose boxes do not overlap; as Ultralytics does itself, the first one is asked, which
    # all families have.
    network.end2end = False
    built: torch.nn.Module = network
    return built


def read_published(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a file as Ultralytics writes it: a whole network, pickled.

    It is read with torch's restricted unpickler, which is told the names of network layers and no others, so that what
    may be hidden in the file is not run.

    Returns:
        Parameter name → float32 tensor.

    Raises:
        ModelError: where the file cannot be read, or holds no network.
        DependencyError: where ultralytics is not installed.
    """
    import torch

    ultralytics()
    with torch.serialization.safe_globals(_layers()):
        loaded = load_checkpoint(path)
    network = loaded.get("ema") or loaded.get("model")
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"'{path}' holds no network as Ultralytics writes it; give one of its .pt files.")
    return {name: value.float() for name, value in network.state_dict().items() if value.is_floating_point()}


def begin_with(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> int:
    """Copy those weights that fit; what tells the classes apart does not where their number differs.

    Args:
        network: to be trained.
        weights: of a network of the same size.
        path: where they are from, for the message.

    Returns:
        How many parameters were copied.

    Raises:
        ModelError: where most do not fit.
    """
    own = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    fitting = {name: weights[name] for name, value in own.items()
               if name in weights and weights[name].shape == value.shape}  # fmt: skip
    if len(fitting) < _LEAST_SHARED * len(own):
        raise ModelError(
            f"'{path}' fits {len(fitting)} of the network's {len(own)} parameters only; set 'architecture' to that of "
            "the file."
        )
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def _layers() -> list[Any]:
    """Classes of layers and of Ultralytics' settings: what its files name."""
    import torch
    from ultralytics.nn import modules, tasks
    from ultralytics.utils import IterableSimpleNamespace

    places = [modules.block, modules.conv, modules.head, modules.transformer, tasks,
              torch.nn.modules.activation, torch.nn.modules.batchnorm, torch.nn.modules.container,
              torch.nn.modules.conv, torch.nn.modules.dropout, torch.nn.modules.linear, torch.nn.modules.loss,
              torch.nn.modules.normalization, torch.nn.modules.pooling, torch.nn.modules.upsampling]  # fmt: skip
    found = [item for place in places for _, item in inspect.getmembers(place, inspect.isclass)
             if issubclass(item, torch.nn.Module)]  # fmt: skip
    return [*found, torch.nn.modules.linear.Identity, IterableSimpleNamespace]
