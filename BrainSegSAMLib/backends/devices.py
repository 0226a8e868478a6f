"""Which device torch computes on, and in which precision; chosen once, said to the user, never changed silently."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from ..errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS: Final = ("auto", "fp32", "bf16")


def resolve_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    "auto" is the first of cuda, mps, cpu that is there.

    Raises:
        InputError: where the device asked for is not there; the message names those that are.
    """
    import torch

    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available[:0] = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name == "auto":
        return "cuda" if available[0].startswith("cuda") else available[0]
    if name in available or (name == "cuda" and available[0].startswith("cuda")):
        return name
    raise InputError(f"The device '{name}' is not available here; use 'auto' or one of: {', '.join(available)}.")


def gpu_devices() -> list[str]:
    """The CUDA devices of this machine: "cuda:0", "cuda:1", …."""
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def resolve_precision(name: str, device: str) -> str:
    """"fp32", or "bf16" for mixed precision with bfloat16, which costs few digits and saves time where it is native.

    "auto" is bf16 where the device multiplies bfloat16 natively (CUDA devices and CPUs that say so), else fp32.

    Raises:
        InputError: for another name.
    """
    if name not in PRECISIONS:
        raise InputError(f"The precision '{name}' is not known; use one of: {', '.join(PRECISIONS)}.")
    if name != "auto":
        return name
    return "bf16" if _multiplies_bfloat16(device) else "fp32"


def mixed_precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """A block in which the device computes as `resolve_precision` has answered."""
    import torch

    context: contextlib.AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context


def _multiplies_bfloat16(device: str) -> bool:
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without the instructions a CPU emulates bfloat16 and is slower by it. Torch tells of them by private names alone.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if kind == "cpu" else ()
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
