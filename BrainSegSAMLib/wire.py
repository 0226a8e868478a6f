"""The messages between an interface and its worker process: one JSON object a line, arrays in shared memory.

The worker (`BrainSegSAMLib.worker`) speaks first, on its standard output:

    {"type": "hello", "protocol": 2, "version": "0.1.0", "pid": 4711}

Both sides come out of one folder, so another protocol or version means that it was changed meanwhile; it is refused.

Then the interface asks, on the worker's standard input, one request at a time:

    {"type": "request", "id": 7, "kind": "predict", "arguments": {…}}     what the kinds are: `worker.HANDLERS`
    {"type": "cancel", "id": 7}                                           ends with "cancelled", or with what was faster
    {"type": "quit"}                                                      the same as closing standard input

and hears, with the id of the request, any number of

    {"type": "progress", "id": 7, …}              the fields of `progress.ProgressUpdate`
    {"type": "partial", "id": 7, "data": {…}}     a result on its way
    {"type": "log", "id": 7, "line": "…"}         for the log; so is all that comes on standard error
    {"type": "alive", "id": 7, "children": {…}}   every second; ids of the worker's child processes → when each started

and one of

    {"type": "result", "id": 7, "data": {…}}
    {"type": "error", "id": 7, "kind": "InputError", "message": "…"}      the class in `errors`, and a sentence
    {"type": "cancelled", "id": 7, "message": "…"}

Arrays may lie anywhere in "arguments" and "data": `pack` puts a small one into the line and a big one into shared
memory, and `unpack` gives arrays again. Shared memory is a file in the memory-backed folder that Linux has, a named
mapping on Windows, and a memory-mapped temporary file elsewhere. Whoever receives an array maps it and takes its name
away at once, so that it is freed when nobody uses it any more; what was sent to a process that died before that is
freed by `sweep`. Python's own shared memory is not used: on POSIX it starts a further process that tidies up, inside
Slicer too.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .geometry import Geometry
from .image import Segmentation
from .labels import LabelScheme

PROTOCOL: Final = 2
INLINE_BYTES: Final = 1 << 16
"""Arrays of up to this many bytes (a mask of 724×724 pixels, with one bit each) travel inside the line."""
_ARRAY: Final = "$array"
_MEMORY_FOLDER: Final = Path("/dev/shm")
_PREFIX: Final = "brainsegsam-"
_OLD_S: Final = 60.0
_numbers = itertools.count()


# ---- lines


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line, with its end."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def parse_message(line: str) -> dict[str, Any] | None:
    """A line as a message (a JSON object with a "type"), or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "type" in message else None


class Lines:
    """Puts chunks of bytes together to lines: a chunk may end anywhere, even within a character.

    What was written over, as a progress bar does by going back to the line's beginning, is left out.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are complete now, without their ends."""
        self._rest += chunk
        *lines, rest = self._rest.split(b"\n") if b"\n" in chunk else [self._rest]
        self._rest = rest[rest.rfind(b"\r", 0, -1) + 1 :]  # not the very last, which may belong to the line's end
        return [_shown(line) for line in lines]

    def end(self) -> list[str]:
        """The last line, where it lacks its end."""
        rest, self._rest = self._rest, bytearray()
        return [_shown(rest)] if rest else []


def _shown(line: bytearray) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2]


# ---- arrays


class Shared:
    """An array in shared memory that another process will take over.

    Args:
        shape: of the array.
        dtype: of the array; numbers or bool.
        in_parts: the memory is taken by `put`, part by part, which takes a moment for a big array; else all at once,
            and `array` is writable.

    When the message is sent, `close` it: the memory stays for the receiver. `free` it where no receiver will come.

    Raises:
        InputError: where there is not enough memory.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, *, in_parts: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = tuple(int(n) for n in shape)
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}"
        try:
            self._map, self._handle = _create(self._name, size)
            if not in_parts:
                _take(self._handle, 0, size)
        except OSError as error:
            _unlink(self._name)
            raise _no_memory(size, error) from error
        self.array: NDArray[Any] = np.frombuffer(self._map, self.dtype, self.array_size).reshape(self.shape)

    @property
    def array_size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def put(self, start: int, values: NDArray[Any]) -> None:
        """Fill elements in the order of memory, from one on, and take their memory.

        Raises:
            InputError: where there is not enough of it.
        """
        try:
            _take(self._handle, start * self.dtype.itemsize, values.size * self.dtype.itemsize)
        except OSError as error:
            raise _no_memory(values.size * self.dtype.itemsize, error) from error
        self.array.reshape(-1)[start : start + values.size] = values

    @property
    def reference(self) -> dict[str, Any]:
        """What the message carries; see `open_shared`."""
        return {_ARRAY: self._name, "shape": list(self.shape), "dtype": self.dtype.str}

    def close(self) -> None:
        """Let go of it here once the message was sent; on Windows it must be held until the receiver has answered."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self.array = np.empty(0)
        with contextlib.suppress(BufferError):  # a view of ours is still alive; its end frees the memory
            self._map.close()

    def free(self) -> None:
        """Take it back, where no receiver will come or has come; else nothing happens."""
        self.close()
        _unlink(self._name)


def _no_memory(size: int, error: OSError) -> InputError:
    return InputError(f"There is no memory for {size / 1e6:.0f} MB to hand over: {error.strerror}.")


def share(array: NDArray[Any]) -> Shared:
    """Copy an array into shared memory."""
    shared = Shared(array.shape, array.dtype)
    shared.array[...] = array
    return shared


def open_shared(reference: Mapping[str, Any]) -> NDArray[Any]:
    """The array that another process shared, without a copy; writable, and freed with its last view.

    Raises:
        InputError: where it is gone.
    """
    shape, dtype = tuple(reference["shape"]), np.dtype(reference["dtype"])
    count = int(np.prod(shape, dtype=np.int64))
    try:
        mapped = _open(str(reference[_ARRAY]), count * dtype.itemsize)
    except (OSError, ValueError) as error:
        raise InputError("An array that was handed over is gone; start the work again.") from error
    return np.frombuffer(mapped, dtype, count).reshape(shape)


def sweep(pid: int) -> None:
    """Free what a process shared and nobody received; for when it, or its only receiver, has died."""
    for folder in _folders():
        for path in folder.glob(f"{_PREFIX}{pid}-*"):
            with contextlib.suppress(OSError):
                path.unlink()


def sweep_dead() -> None:
    """Free what processes left that ended before its receiver came, as both may when a computer's session ends."""
    if os.name == "nt":
        return  # a mapping ends with its last holder; and asking for a process by `os.kill` would end it
    for folder in _folders():
        for path in folder.glob(f"{_PREFIX}*-*-*"):
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            with contextlib.suppress(OSError):
                if pid.isdecimal() and not _runs(int(pid)) and time.time() - path.stat().st_mtime > _OLD_S:
                    path.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def pack_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask of any shape for a message, one bit a voxel in base64."""
    bits = base64.b64encode(np.packbits(mask, axis=None).tobytes()).decode("ascii")
    return {_ARRAY: "", "shape": list(mask.shape), "dtype": "bits", "data": bits}


def unpack_mask(reference: Mapping[str, Any]) -> NDArray[np.bool_]:
    """What `pack_mask` packed."""
    shape = tuple(reference["shape"])
    bits = np.frombuffer(base64.b64decode(reference["data"]), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape, dtype=np.int64))).astype(bool).reshape(shape)


def pack(value: Any, kept: list[Shared]) -> Any:
    """Data for a message: arrays, `Shared` ones too, become references, tuples lists, numpy's numbers Python's.

    Args:
        value: mappings with str keys, sequences, arrays, numbers, text, None.
        kept: gets the `Shared` that must be closed when the message is sent.
    """
    if isinstance(value, Shared):
        kept.append(value)
        return value.reference
    if isinstance(value, np.ndarray):
        return _pack_array(value, kept)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: pack(item, kept) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item, kept) for item in value]
    return value


def free(value: Any) -> None:
    """Take back what of `Shared` lies in data that will not be sent after all."""
    if isinstance(value, Shared):
        value.free()
    elif isinstance(value, Mapping):
        for item in value.values():
            free(item)
    elif isinstance(value, list | tuple):
        for item in value:
            free(item)


def unpack(value: Any) -> Any:
    """Data of a message with its arrays mapped; takes over what is in shared memory.

    Raises:
        InputError: where an array is gone.
    """
    if isinstance(value, dict):
        if _ARRAY not in value:
            return {key: unpack(item) for key, item in value.items()}
        if value["dtype"] == "bits":
            return unpack_mask(value)
        if value[_ARRAY]:
            return open_shared(value)
        data = bytearray(base64.b64decode(value["data"]))
        return np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"])
    return [unpack(item) for item in value] if isinstance(value, list) else value


def line_of(message: Mapping[str, Any], kept: list[Shared]) -> bytes:
    """A message as a line, its arrays packed; see `pack`. Where that fails, nothing of it stays in memory.

    Raises:
        InputError: where there is not enough memory.
        TypeError, ValueError: where something in it fits no message.
    """
    packed: list[Shared] = []
    try:
        line = encode(pack(message, packed))
    except BaseException:
        for shared in packed:
            shared.free()
        raise
    kept += packed
    return line


def _pack_array(array: NDArray[Any], kept: list[Shared]) -> dict[str, Any]:
    if array.dtype == np.bool_ and array.size <= INLINE_BYTES * 8:
        return pack_mask(array)
    if array.nbytes <= INLINE_BYTES:
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
        return {_ARRAY: "", "shape": list(array.shape), "dtype": array.dtype.str, "data": data}
    kept.append(share(array))
    return kept[-1].reference


# ---- what travels


def geometry_data(geometry: Geometry) -> dict[str, Any]:
    """A grid for a message, exact to the last bit; `geometry_from` reads it."""
    return {
        "size_ijk": list(geometry.size_ijk),
        "spacing_ijk_mm": list(geometry.spacing_ijk_mm),
        "origin_lps_mm": list(geometry.origin_lps_mm),
        "direction_lps": geometry.direction_lps.tolist(),
    }


def geometry_from(data: Mapping[str, Any]) -> Geometry:
    """What `geometry_data` wrote."""
    i, j, k = (int(n) for n in data["size_ijk"])
    spacing, origin = ((float(x), float(y), float(z)) for x, y, z in (data["spacing_ijk_mm"], data["origin_lps_mm"]))
    return Geometry((i, j, k), spacing, origin, np.asarray(data["direction_lps"], dtype=np.float64))


def segmentation_data(segmentation: Segmentation) -> dict[str, Any]:
    """A segmentation, without stages, for a message; `segmentation_from` reads it."""
    return {
        "geometry": geometry_data(segmentation.geometry),
        "scheme": segmentation.scheme.as_list(),
        "label_map": segmentation.label_map,
        "name": segmentation.name,
    }


def segmentation_from(data: Mapping[str, Any]) -> Segmentation:
    """What `segmentation_data` wrote, after `unpack`."""
    return Segmentation(
        geometry_from(data["geometry"]), LabelScheme.from_list(data["scheme"]), data["label_map"], data["name"]
    )


# ---- memory of the operating system


def _folders() -> list[Path]:
    return [_MEMORY_FOLDER, Path(tempfile.gettempdir())]


def _path(name: str) -> Path:
    """Where an array lies; the memory-backed folder may be small, as in many containers, so both are looked at."""
    return next((folder / name for folder in _folders() if (folder / name).exists()), _folders()[-1] / name)


if sys.platform == "win32":

    def _create(name: str, size: int) -> tuple[mmap.mmap, int]:
        return mmap.mmap(-1, max(1, size), tagname=name), -1

    def _take(handle: int, start: int, size: int) -> None:
        """Nothing: the system has promised it."""

    def _open(name: str, size: int) -> mmap.mmap:
        return mmap.mmap(-1, max(1, size), tagname=name)

    def _unlink(name: str) -> None:
        """Nothing: a mapping ends with its last holder."""

else:

    def _create(name: str, size: int) -> tuple[mmap.mmap, int]:
        """A file in the memory-backed folder where that has room, or else in the temporary one; and its handle."""
        folders = [folder for folder in _folders() if folder.is_dir() and shutil.disk_usage(folder).free > size]
        path = next(iter(folders), _folders()[-1]) / name
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, max(1, size))
            return mmap.mmap(handle, max(1, size)), handle
        except OSError:
            os.close(handle)
            raise

    def _take(handle: int, start: int, size: int) -> None:
        """Make sure of the room: a file with holes would end the process at the first write that finds none."""
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, start, size)

    def _open(name: str, size: int) -> mmap.mmap:
        path = _path(name)
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            path.unlink()
            return mmap.mmap(handle, max(1, size))
        finally:
            os.close(handle)

    def _unlink(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _path(name).unlink()
