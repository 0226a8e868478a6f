"""What this machine computes with, asked for in a worker because it needs torch: for the panel's choice of a device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .backends.devices import resolve_device
from .errors import DependencyError

if TYPE_CHECKING:
    from .worker import Context


def devices(_arguments: Mapping[str, Any], _context: Context) -> dict[str, Any]:
    """What torch can compute with here.

    Returns:
        "auto": the torch device that "auto" takes; "cores": of the processor; "gpus": for each CUDA device "name", the
        maker's "title" and "memory_gb"; "mps": whether there is an Apple GPU; "cuda_built": whether this torch could
        use an NVIDIA GPU at all; "torch": its version.

    Raises:
        DependencyError: where torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise DependencyError("PyTorch is not installed.") from error
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory_gb = round(properties.total_memory / 2**30, 1)
            gpus.append({"name": f"cuda:{index}", "title": properties.name, "memory_gb": memory_gb})
    return {
        "auto": resolve_device("auto"),
        "cores": os.cpu_count() or 1,
        "gpus": gpus,
        "mps": bool(torch.backends.mps.is_available()),
        "cuda_built": torch.version.cuda is not None,
        "torch": str(torch.__version__),
    }
