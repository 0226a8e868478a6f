"""The process that works for an interface: `python -m BrainSegSAMLib.worker`; the messages are in `wire`.

It is started once and kept: models and encoded slices stay in memory from one request to the next. Requests are worked
on one at a time in the main thread, while a second thread listens, so that a cancel arrives. It ends, with all its
children, when its standard input closes, which it also does when the interface dies, or its parent is another one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict
from typing import Any, BinaryIO, Final, TypeVar

from . import __version__, processes, wire
from .errors import BrainSegSAMError, Cancelled, InputError, explained
from .memory import give_memory_back, keep_memory
from .progress import Progress, ProgressUpdate

HEARTBEAT_S: Final = 1.0
GRACE_S: Final = 2.0
"""How long the work may take to end in order once the interface is gone."""
IDLE_S: Final = 10.0
"""How long nothing is asked for before memory is given back."""
_REPORT_EVERY_S: Final = 0.05

HANDLERS: Final[dict[str, str]] = {
    "predict": "BrainSegSAMLib.worker_tasks.predict",
    "command": "BrainSegSAMLib.worker_tasks.command",
    "devices": "BrainSegSAMLib.machine.devices",
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
    """What stays in memory between requests: per kind, the most recently used ones; closed at its end, where it can be.

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
                _let_go(kept.popitem(last=False)[1])
            kept[key] = make()
        kept.move_to_end(key)
        found: Kept = kept[key]
        return found

    def find(self, kind: str, key: Hashable) -> Any:
        """What is kept under the key, or None."""
        return self._kept.get(kind, OrderedDict()).get(key)

    def rest(self) -> None:
        """Nothing is asked for now: what has a method `rest` gives up memory that it can do without."""
        for kept in self._kept.values():
            for one in kept.values():
                if hasattr(one, "rest"):
                    one.rest()

    def drop(self, kind: str) -> None:
        """Forget all of a kind."""
        for one in self._kept.pop(kind, OrderedDict()).values():
            _let_go(one)


def _let_go(one: Any) -> None:
    if hasattr(one, "close"):
        one.close()


SIZES: Final = {"predictor": 2, "network": 3, "image": 3, "picture": 4, "slices": 2, "planes": 16, "tracks": 1}


Send = Callable[[dict[str, Any]], None]


class Context:
    """What a handler has beside its arguments.

    Attributes:
        progress: reports to the interface, and ends the work with `Cancelled` at its next check when that asks for it.
        warm: what stays in memory between requests.
    """

    def __init__(self, warm: Warm, send: Send | None = None) -> None:
        self.warm = warm
        self._send: Send = send or (lambda _message: None)
        self.progress = Progress(self._report)
        self._last: tuple[str, float, float] = ("", 0.0, 0.0)

    def partial(self, data: Mapping[str, Any]) -> None:
        """Send a result on its way; arrays as in a result."""
        self._send({"type": "partial", "data": data})

    def log(self, line: str) -> None:
        """Send a line for the log."""
        self._send({"type": "log", "line": line})

    def _report(self, update: ProgressUpdate) -> None:
        """Not each of thousands: some twenty a second, and every hundredth of the work."""
        stage, shown, fraction = self._last
        now = time.monotonic()
        soon = now - shown < _REPORT_EVERY_S and update.fraction - fraction < 0.01
        if update.stage == stage and soon and not update.message:
            return
        self._last = (update.stage, now, update.fraction)
        self._send({"type": "progress", **asdict(update)})


class Service:
    """Reads requests and answers them.

    Args:
        source: where requests come from.
        target: where messages go.
        handlers: kind → dotted path of its handler.
    """

    def __init__(self, source: BinaryIO, target: BinaryIO, handlers: Mapping[str, str] = HANDLERS) -> None:
        self._source, self._target, self._handlers = source, target, handlers
        self._writing = threading.Lock()
        self._requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._current: tuple[int, Context] | None = None
        self._cancelled: set[int] = set()
        self._warm = Warm(SIZES)
        self._parent = os.getppid()

    def run(self) -> None:
        """Say hello and work until standard input closes."""
        self._send({"type": "hello", "protocol": wire.PROTOCOL, "version": __version__, "pid": os.getpid()})
        for task in (self._listen, self._watch):
            threading.Thread(target=task, daemon=True).start()
        while (request := self._next()) is not None:
            self._work(request)
        processes.end_descendants()

    def _next(self) -> Any:
        """The next request; after a while without one, what is free of the memory goes back to the system."""
        try:
            return self._requests.get(timeout=IDLE_S)
        except queue.Empty:
            self._warm.rest()
            give_memory_back()
            return self._requests.get()

    # ---- threads beside the main one

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._source:
                message = wire.parse_message(line.decode("utf-8", errors="replace"))
                if message is None:
                    continue
                if message["type"] == "quit":
                    break
                if message["type"] == "cancel":
                    self._cancel(int(message["id"]))
                elif message["type"] == "request":
                    self._requests.put(message)
        self._end()

    def _watch(self) -> None:
        """The heartbeat while a request runs; and the end where the parent died and standard input stays open."""
        wire.sweep_dead()
        while True:
            time.sleep(HEARTBEAT_S)
            if os.getppid() != self._parent:
                self._end()
            current = self._current
            if current is not None:
                children = processes.descendants(os.getpid())
                self._send({"type": "alive", "id": current[0], "children": children})

    def _cancel(self, number: int) -> None:
        self._cancelled.add(number)
        current = self._current
        if current is not None and current[0] == number:
            current[1].progress.cancel()

    def _end(self) -> None:
        """Let the work tidy up; then end all, whatever the main thread does."""
        current = self._current
        if current is not None:
            current[1].progress.cancel()
        self._requests.put(None)
        time.sleep(GRACE_S)
        processes.end_descendants()
        os._exit(0)

    # ---- work

    def _work(self, request: Mapping[str, Any]) -> None:
        number = int(request["id"])
        kept: list[wire.Shared] = []

        def send(message: dict[str, Any]) -> None:
            self._write(wire.line_of({**message, "id": number}, kept))

        context = Context(self._warm, send)
        self._current = (number, context)
        if number in self._cancelled:
            context.progress.cancel()
        try:
            arguments = wire.unpack(request.get("arguments") or {})  # in any case: it takes over the memory
            context.progress.check()
            answer = self._answer(str(request["kind"]), arguments, context)
        except BaseException as error:
            answer = _failure(error)
        self._current = None
        self._cancelled.discard(number)
        try:
            send(answer)
        except Exception as error:  # it fits no message, or no memory
            send(_failure(error))
        _close(kept)

    def _answer(self, kind: str, arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
        if kind not in self._handlers:
            raise InputError(f"This worker does not know '{kind}'; it knows: {', '.join(self._handlers)}.")
        module, _, name = self._handlers[kind].rpartition(".")
        handler: Handler = getattr(importlib.import_module(module), name)
        return {"type": "result", "data": handler(arguments, context)}

    def _send(self, message: Mapping[str, Any]) -> None:
        self._write(wire.encode(message))

    def _write(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(OSError, ValueError):  # nobody listens any more: see _listen
            self._target.write(line)
            self._target.flush()


def _failure(error: BaseException) -> dict[str, Any]:
    """The message that ends a request which failed."""
    if not isinstance(error, BrainSegSAMError):
        traceback.print_exception(error)
    known = explained(error)
    if isinstance(known, Cancelled):
        return {"type": "cancelled", "message": str(known)}
    return {"type": "error", "kind": type(known).__name__, "message": str(known)}


_held: list[wire.Shared] = []


def _close(kept: list[wire.Shared]) -> None:
    """Let go of what was sent. On Windows only at the next time: there it lives as long as somebody holds it."""
    if sys.platform == "win32":
        kept, _held[:] = list(_held), kept
    for shared in kept:
        shared.close()


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Our own standard input and output; the public ones become empty and standard error.

    So nothing that a model package prints comes between the messages, and no child process reads the requests.
    """
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, target


def main(handlers: Mapping[str, str] = HANDLERS) -> int:
    """Work until standard input closes."""
    keep_memory()
    source, target = _streams()
    faulthandler.enable(all_threads=False)
    processes.lead_group()
    Service(source, target, handlers).run()
    return 0


if __name__ == "__main__":
    from BrainSegSAMLib.worker import main as run  # the module that handlers know, not this copy of it

    sys.exit(run())
