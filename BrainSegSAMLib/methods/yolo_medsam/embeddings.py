"""Image features kept on disk, so that an epoch of training a mask decoder costs the decoder alone.

One file of half-precision numbers holds a row for each picture, and is memory-mapped; a second one names, row by row,
the picture. Rows are only ever added: what is there is never computed again, an interrupted cache is completed, and one
that was made by other weights is made anew. Trainings that run side by side share one: who adds to it holds it alone,
and the others wait and find there what they need.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, ModelError, OutputError
from ...files import output_sentence, read_json, write_json
from ...locks import alone
from ...progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

_FEATURES_FILE: Final = "features.f16"
_KEYS_FILE: Final = "keys.sha256"
_HEADER_FILE: Final = "made_by.json"
_LOCK_FILE: Final = "lock"
_KEY_BYTES: Final = 32
_SPARE_BYTES: Final = 2**28  # of the disk, left to others

Encode = Callable[[Sequence[int]], "Tensor"]
"""Numbers of pictures → their image features, float32 (picture, *shape)."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Image features of pictures.

    Attributes:
        rows: float16 (row, *shape), memory-mapped, read-only.
        places: the row of each picture.
    """

    rows: NDArray[np.float16]
    places: tuple[int, ...]

    def gather(self, pictures: Sequence[int]) -> Tensor:
        """Features of some pictures: float32 (picture, *shape) on the CPU."""
        import torch

        return torch.from_numpy(np.array(self.rows[[self.places[number] for number in pictures]], np.float32))


def bytes_of(pictures: int, shape: Sequence[int]) -> int:
    """What the features of so many pictures take on disk."""
    return pictures * (int(np.prod(shape)) * np.dtype(np.float16).itemsize + _KEY_BYTES)


def check_budget(
    work: Path,
    caches: Mapping[Path, int],
    shape: Sequence[int],
    *,
    budget_bytes: float | None,
    progress: Progress,
) -> None:
    """Say what all image features of a training take together, and refuse what is too much, before any is computed.

    Args:
        work: folder that holds the caches.
        caches: folder → pictures whose features it will hold.
        shape: of the features of one picture.
        budget_bytes: what they may take; None: what is free on the disk.
        progress: is told.

    Raises:
        InputError: where they take more than that, or the disk has no room for what is not there yet.
    """
    needed = sum(bytes_of(pictures, shape) for pictures in caches.values())
    there = sum((folder / name).stat().st_size for folder in caches for name in (_FEATURES_FILE, _KEYS_FILE)
                if (folder / name).exists())  # fmt: skip
    progress.log(
        f"The image features of this training will take {_readable(needed)} in {work}: {sum(caches.values())} pictures "
        f"in {len(caches)} {'files' if len(caches) > 1 else 'file'}; {_readable(there)} are there already."
    )
    if budget_bytes is not None and needed > budget_bytes:
        raise InputError(
            f"The image features of this training need {_readable(needed)} in {work}, more than the setting "
            f"feature_budget_gib allows ({_readable(budget_bytes)}); raise it, lower the setting views (0 keeps "
            "nothing and encodes anew), or use fewer cases."
        )
    _check_room(work, needed - there)


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
    """The features of pictures, computed where the cache does not have them.

    Args:
        folder: of the cache; made where missing. Trainings that encode with the same weights may share it, also at the
            same time.
        keys: the SHA-256 (32 bytes) of each picture; at least one.
        encode: computes features.
        shape: of the features of one picture.
        weights: hash of the weights that `encode` uses.
        batch_size: pictures that are encoded in one pass.
        progress: is told the size before anything is written, why a cache is made anew, and that another training is
            waited for; may cancel between passes, and the next call goes on.

    Raises:
        InputError: where the disk has no room for it.
        ModelError: features that are not finite.
        OutputError: where the files cannot be written.
        Cancelled: when the progress was cancelled.
    """
    made_by = {"weights": weights, "shape": list(shape)}
    try:
        with _held(folder, progress):
            known = _known(folder, made_by, shape, progress)
            there = set(known)
            missing = list({key: number for number, key in enumerate(keys) if key not in there}.values())
            if missing:
                needed = bytes_of(len(missing), shape)
                progress.log(f"Image features: {len(missing)} pictures will take {_readable(needed)} in {folder}.")
                _check_room(folder, needed)
                _add(folder, len(known), keys, missing, encode, shape=shape, batch_size=batch_size, progress=progress)
                known = _read(folder, shape)
            rows = np.memmap(folder / _FEATURES_FILE, np.float16, "r", shape=(len(known), *shape))
    except OSError as error:
        raise OutputError(output_sentence(folder, error)) from error
    places = {key: row for row, key in enumerate(known)}
    return Embeddings(rows, tuple(places[key] for key in keys))


@contextmanager
def _held(folder: Path, progress: Progress) -> Iterator[None]:
    """A block in which no other training reads or writes the cache; it is waited for."""
    said = False

    def waiting() -> None:
        nonlocal said
        if not said:
            progress.log(f"Another training computes image features in {folder}; this one waits for them.")
        said = True
        progress.check()

    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / _LOCK_FILE, waiting=waiting):
        yield


def _known(folder: Path, made_by: Mapping[str, object], shape: Sequence[int], progress: Progress) -> list[bytes]:
    """Keys of the rows that can be used; where none can be, the cache is emptied."""
    header = folder / _HEADER_FILE
    known = _read(folder, shape)
    fault = ""
    if header.exists() and read_json(header) != made_by:
        fault = "were made by other weights"
    elif len(set(known)) != len(known):
        fault = "are damaged"
    if fault:
        progress.log(f"The image features in {folder} {fault}; they are computed anew.")
        for name in (_KEYS_FILE, _FEATURES_FILE):
            (folder / name).unlink(missing_ok=True)
        known = []
    write_json(made_by, header)
    return known


def _read(folder: Path, shape: Sequence[int]) -> list[bytes]:
    """Keys of all rows that were written whole, in order."""
    keys, features = folder / _KEYS_FILE, folder / _FEATURES_FILE
    if not keys.exists() or not features.exists():
        return []
    named = keys.read_bytes()
    count = min(len(named) // _KEY_BYTES, features.stat().st_size // _row_bytes(shape))
    return [named[row * _KEY_BYTES : (row + 1) * _KEY_BYTES] for row in range(count)]


def _add(
    folder: Path,
    known: int,
    keys: Sequence[bytes],
    missing: Sequence[int],
    encode: Encode,
    *,
    shape: Sequence[int],
    batch_size: int,
    progress: Progress,
) -> None:
    """Compute and write what is missing, after so many rows that are known."""
    with (folder / _FEATURES_FILE).open("ab") as features, (folder / _KEYS_FILE).open("ab") as names:
        # What was cut short by an interruption is written again.
        features.truncate(known * _row_bytes(shape))
        names.truncate(known * _KEY_BYTES)
        for begin in range(0, len(missing), batch_size):
            progress.check()
            batch = missing[begin : begin + batch_size]
            found = encode(batch).detach().cpu().half().numpy()
            if not np.isfinite(found).all():
                raise ModelError("The image features of this model are not finite in 16 bits: its weights are damaged.")
            features.write(found.tobytes())
            features.flush()
            names.write(b"".join(keys[number] for number in batch))
            names.flush()
            if begin // batch_size % 25 == 0:
                progress.log(f"Image features: {begin + len(batch)} of {len(missing)} pictures.")


def _row_bytes(shape: Sequence[int]) -> int:
    return bytes_of(1, shape) - _KEY_BYTES


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise InputError(
            f"The image features need {_readable(needed)} in {folder}, but the disk has {_readable(free)} left; choose "
            "a work folder on another disk, lower the setting views (0 keeps nothing and encodes anew), or use fewer "
            "cases."
        )


def _readable(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
