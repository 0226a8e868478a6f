"""Which device torch computes on; chosen once, said to the user, never changed silently."""

from __future__ import annotations

from ..errors import InputError


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
