"""The process that works for an interface: `python -m BrainSegSAMLib.worker`; the messages are in `wire`.

It is started once and kept: models and encoded slices stay in memory from one request to the next. Requests are worked
on one at a time in the main thread, while a second thread listens, so that a cancel arrives. It ends, with all its
children, when its standard input closes: that is also what happens when the interface dies.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Final, TypeVar

from . import __version__, processes, wire
from .errors import BrainSegSAMError, Cancelled, InputError
from .progress import Progress, ProgressUpdate

HEARTBEAT_S: Final = 1.0

HANDLERS: Final[dict[str, str]] = {
    "predict": "BrainSegSAMLib.worker_tasks.predict",
    "command": "BrainSegSAMLib.worker_tasks.command",
    "load_image": "BrainSegSAMLib.interactive.load_image",
    "mark": "BrainSegSAMLib.interactive.mark",
    "detect": "BrainSegSAMLib.interactive.detect",
    "track": "BrainSegSAMLib.interactive.track",
}
"""Kind of a request → `handler(arguments: Mapping[str, Any], context: Context) -> dict[str, Any]`, imported at its
first use. Arrays in the arguments are numpy arrays in shared memory; those in what it returns are sent likewise."""

Handler = Callable[[Mapping[str, Any], "Context"], dict[str, Any]]
Kept = TypeVar("Kept")


class Warm:
    """What stays in memory between requests: per kind, the most recently used ones.

    Args:
        sizes: kind → how many are kept; 1 for a kind that is not named.
    """

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self._sizes = dict(sizes or {})
        self._kept: dict[str, OrderedDict[Hashable, Any]] = {}

    def get(self, kind: str, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What is kept under the key, or what `make` gives, kept from now on.

        Args:
            kind: such as "predictor", "image" or "slices"; each has room of its own.
            key: names it among its kind.
            make: makes it; where that fails, nothing is kept.
        """
        kept = self._kept.setdefault(kind, OrderedDict())
        if key not in kept:
            while len(kept) >= self._sizes.get(kind, 1):  # first, so that both need not fit into memory
                kept.popitem(last=False)
            kept[key] = make()
        kept.move_to_end(key)
        found: Kept = kept[key]
        return found

    def find(self, kind: str, key: Hashable) -> Any:
        """What is kept under the key, or None."""
        return self._kept.get(kind, OrderedDict()).get(key)

    def drop(self, kind: str) -> None:
        """Forget all of a kind."""
        self._kept.pop(kind, None)


SIZES: Final = {"predictor": 2, "network": 3, "image": 3, "picture": 4, "slices": 2, "planes": 16, "tracks": 1}


@dataclass(frozen=True)
class Context:
    """What a handler has beside its arguments.

    Attributes:
        progress: reports to the interface, and ends the work with `Cancelled` at its next check when that asks for it.
        warm: what stays in memory between requests.
    """

    progress: Progress
    warm: Warm
    _send: Callable[[dict[str, Any]], None] = field(repr=False, default=lambda message: None)

    def partial(self, data: Mapping[str, Any]) -> None:
        """Send a result on its way; arrays as in a result."""
        self._send({"type": "partial", "data": data})

    def log(self, line: str) -> None:
        """Send a line for the log."""
        self._send({"type": "log", "line": line})
