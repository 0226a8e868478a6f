"""Image features kept on disk, so that an epoch of training a mask decoder costs the decoder alone.

One memory-mapped file of half-precision numbers holds a row for each picture; beside it lies what each row was made
of. A row counts only while that agrees with the picture that is asked for, so an interrupted cache is completed, and
one made by other weights is made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, ModelError, OutputError
from ...files import output_sentence, read_json, write_json
from ...progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

FEATURES_FILE: Final = "features.f16"
_KEYS_FILE: Final = "keys.u8"
_HEADER_FILE: Final = "made_by.json"
_KEY_BYTES: Final = 32
_SPARE_BYTES: Final = 2**28  # of the disk, left to others

Encode = Callable[[Sequence[int]], "Tensor"]
"""Numbers of pictures → their image features, float32 (picture, *shape)."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Image features of pictures.

    Attributes:
        rows: float16 (picture, width, side, side), memory-mapped, read-only.
    """

    rows: NDArray[np.float16]

    def gather(self, indices: Sequence[int]) -> Tensor:
        """Features of some pictures: float32 (index, width, side, side) on the CPU."""
        import torch

        return torch.from_numpy(self.rows[list(indices)]).float()


def cache_bytes(pictures: int, shape: Sequence[int]) -> int:
    """What the features of so many pictures take on disk."""
    return pictures * (int(np.prod(shape)) * np.dtype(np.float16).itemsize + _KEY_BYTES)


def cached_embeddings(
    folder: Path,
    keys: Sequence[bytes],
    encode: Encode,
    *,
    shape: Sequence[int],
    weights: str,
    batch_size: int = 4,
    progress: Progress,
) -> Embeddings:
    """The features of all pictures, computed where the cache does not have them.

    Args:
        folder: of the cache; made where missing.
        keys: 32 bytes that stand for each picture, e.g. a hash of it.
        encode: computes features; asked for pictures in their order.
        shape: of the features of one picture.
        weights: hash of the weights that `encode` uses.
        batch_size: pictures that are encoded in one pass.
        progress: is told the size before anything is written, and why a cache is made anew; may cancel between passes,
            and the next call goes on.

    Raises:
        InputError: where the disk has no room for it.
        ModelError: features that are not finite.
        OutputError: where the files cannot be written.
        Cancelled: when the progress was cancelled.
    """
    made_by = {"weights": weights, "shape": list(shape), "pictures": len(keys)}
    header = folder / _HEADER_FILE
    needed = cache_bytes(len(keys), shape)
    if header.exists() and read_json(header) != made_by:
        other = "weights" if read_json(header).get("weights") != weights else "pictures"
        progress.log(f"The image features in {folder} were made of other {other}; they are computed anew.")
        shutil.rmtree(folder)
    if not header.exists():
        progress.log(f"The image features of {len(keys)} pictures will take {_readable(needed)} in {folder}.")
        _check_room(folder, needed)
        write_json(made_by, header)
    try:
        rows = _open(folder / FEATURES_FILE, np.float16, (len(keys), *shape))
        known = _open(folder / _KEYS_FILE, np.uint8, (len(keys), _KEY_BYTES))
        wanted = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        _complete(rows, known, wanted, encode, batch_size, progress)
    except OSError as error:
        raise OutputError(output_sentence(folder, error)) from error
    rows.flags.writeable = False
    return Embeddings(rows)


def _complete(
    rows: Any, known: Any, wanted: NDArray[np.uint8], encode: Encode, batch_size: int, progress: Progress
) -> None:
    missing = np.flatnonzero((known != wanted).any(axis=1)).tolist()
    for begin in range(0, len(missing), batch_size):
        progress.check()
        batch = missing[begin : begin + batch_size]
        found = encode(batch).detach().cpu().numpy().astype(np.float16)
        if not np.isfinite(found).all():
            raise ModelError("The image features of this model are not finite in 16 bits: its weights are damaged.")
        rows[batch] = found
        rows.flush()
        known[batch] = wanted[batch]  # after the row itself, so that a row that is named is whole
        known.flush()
        if begin // batch_size % 25 == 0:
            progress.log(f"Image features: {begin + len(batch)} of {len(missing)} pictures.")


def _open(path: Path, kind: type[Any], shape: tuple[int, ...]) -> Any:
    """A memory-mapped array; a new one holds zeros."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    mode = "r+" if path.exists() and path.stat().st_size == size else "w+"
    return np.memmap(path, dtype=kind, mode=mode, shape=shape)


def _check_room(folder: Path, needed: int) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + _SPARE_BYTES > free:
        raise InputError(
            f"The image features need {_readable(needed)} in {folder}, but the disk has {_readable(free)} left; choose "
            "a work folder on another disk, lower the setting views (0 keeps nothing and encodes anew), or use fewer "
            "cases."
        )


def _readable(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
