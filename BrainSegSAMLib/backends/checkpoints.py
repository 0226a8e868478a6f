"""Reads and writes weights files without running what may be hidden in them.

A PyTorch checkpoint is a pickle, and unpickling can run any program. So files are read with torch's restricted
unpickler, which knows tensors and plain containers; NumPy scalars are added, because nnU-Net keeps its losses in them.
A file that needs more is refused unless the caller trusts it by name.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DependencyError, ModelError
from ..files import atomic_path

# What torch's readers raise on bytes that are no checkpoint (found by cutting and altering files; see the tests).
_UNREADABLE = (
    RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError, OverflowError,
    MemoryError, OSError, SystemError, ImportError, pickle.UnpicklingError, struct.error,
)


def load_checkpoint(path: Path | str, *, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint (`.pth`, `.pt`, `.ckpt`) or `.safetensors` file onto the CPU.

    Args:
        path: the file.
        trust: read it with the unrestricted unpickler, which runs whatever program the file holds. Only for a file
            whose maker is trusted, and only when the user asked for it.

    Returns:
        The dictionary that was saved; for `.safetensors` name → tensor.

    Raises:
        ModelError: the file is missing, cut short, no checkpoint, or holds more than data and `trust` is off.
        DependencyError: a `.safetensors` file, and the package safetensors is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no weights file '{path}'.")
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise ModelError(f"The weights file '{path}' cannot be read: {error.strerror or error}.") from error
    if empty:
        raise ModelError(f"The weights file '{path}' is empty; copy or download it again.")
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickled(path, trust=trust)
    if not isinstance(loaded, dict):
        raise ModelError(f"'{path}' is not a checkpoint: it holds a {type(loaded).__name__} instead of a dictionary.")
    return loaded


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all; the same content gives the same bytes, whatever the file's name.

    Raises:
        OutputError: where the file cannot be written.
    """
    import torch

    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(dict(checkpoint), stream)  # given a stream, torch does not put the file's name into the archive


def _load_pickled(path: Path, *, trust: bool) -> Any:
    import torch

    try:
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ModelError(_explain(path, error, trust=trust)) from error


def _explain(path: Path, error: BaseException, *, trust: bool) -> str:
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL " in str(error):
        named = str(error).split("GLOBAL ", 1)[-1].split(" ", 1)[0]
        return (
            f"The weights file '{path}' holds more than data (it asks for '{named}'), and reading it could run any "
            "program on this computer; it was not read. If you trust whoever made it, give --trust."
        )
    if trust and isinstance(error, (ImportError, AttributeError)):
        return f"The weights file '{path}' needs a package that is not installed here: {error}."
    return (
        f"'{path}' is cut short or is not a PyTorch checkpoint; copy or download it again and compare its size with "
        f"the source ({type(error).__name__} while reading)."
    )


def _load_safetensors(path: Path) -> Any:
    try:
        import safetensors
        from safetensors.torch import load_file
    except ImportError as error:
        raise DependencyError(
            f"Reading '{path}' needs the Python package safetensors; install it with 'pip install safetensors'."
        ) from error
    try:
        return load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"'{path}' is cut short or is not a safetensors file; copy or download it again ({error})."
        ) from error


def _numpy_scalars() -> list[Any]:
    """NumPy's scalar and dtype constructors under the names that NumPy 1 and NumPy 2 write into pickles."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in (*np.typecodes["AllInteger"], "e", "f", "d", "?")}
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *dtypes]
