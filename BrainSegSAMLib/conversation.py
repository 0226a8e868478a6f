"""The interface's half of the worker protocol, all of it but pipes and clocks.

So Qt's event loop (`BrainSegSAMWidgets.WorkerProcess`) and code that waits (`worker_client`) behave alike: one request
at a time, a cancel that is obeyed within two seconds, and a sentence for every way in which a process can fail.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

from . import __version__, errors, processes, wire
from .errors import BrainSegSAMError, Cancelled, InputError, WorkerError

GRACE_S: Final = 2.0
"""How long cancelled work may tidy up before its process is killed."""
HANG_S: Final = 30.0
"""How long a worker that has something to do may be silent; it reports every second."""
START_S: Final = 60.0
"""How long a worker may take to start."""
_COMPUTES_S: Final = 0.02
_PAUSE_S: Final = 5.0
"""After so long without a tick, this computer slept, or our own thread stood still: then nobody could be heard."""
_TAIL_LINES: Final = 40
_SHOWN_LINES: Final = 12
_LINE_LENGTH: Final = 500
_LAUNCHER_SAYS: Final = "exit abnormally"
_FAULT_HANDLER_SAYS: Final = "Fatal Python error"
_AGAIN: Final = "Try again; if it happens again, report it with the log."

Tell = Callable[[str, Any], None]
"""Hears of a request: ("progress", message), ("partial", data), ("log", line), and once, last, ("done", data) or
("failed", error)."""


class Transport(Protocol):
    """A process with pipes."""

    @property
    def process_id(self) -> int:
        """Of the process that was started, which may only be the launcher of the worker; 0 where there is none."""

    def start(self) -> None:
        """Start a new process; `Conversation.ended` is told where it cannot be started."""

    def write(self, data: bytes) -> None:
        """Write to its standard input, without waiting."""

    def kill(self) -> None:
        """End it at once and hear no more of it; `Conversation.ended` is not told."""


class Exchange:
    """A request on its way."""

    def __init__(self, number: int, kind: str, tell: Tell) -> None:
        self.number, self.kind, self.tell = number, kind, tell
        self.kept: list[wire.Shared] = []
        self.line = b""
        self.sent = False
        self.reason = ""  # why it was cancelled
        self.deadline = 0.0  # of the cancel


class Conversation:
    """One worker after another, as the interface sees them.

    Args:
        transport: starts and ends processes.
        clock: seconds.
    """

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport, self._clock = transport, clock
        self._numbers = itertools.count(1)
        self._exchange: Exchange | None = None
        self._running = False
        self._reset()

    def _reset(self) -> None:
        self._output, self._errors = wire.Lines(), wire.Lines()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._pid = 0
        self._started = ""  # when the process of that id was, see `processes.started`
        self._children: dict[int, str] = {}
        self._heard = self._ticked = self._clock()
        self._computed = 0.0  # seconds, when it was last looked at

    # ---- the interface asks

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self._exchange is not None

    @property
    def pid(self) -> int:
        """Of the process that said hello; 0 where there is none."""
        return self._pid

    def start(self) -> None:
        """Start the process where none runs, so that it is there when it is needed."""
        if not self._running:
            self._reset()
            self._running = True
            self._transport.start()

    def request(self, kind: str, arguments: Mapping[str, Any], tell: Tell) -> Exchange:
        """Ask for work.

        Raises:
            InputError: where a request runs already, or the arguments find no memory.
        """
        if self._exchange is not None:
            raise InputError("The worker is busy; wait until it has finished, or cancel it.")
        exchange = Exchange(next(self._numbers), kind, tell)
        message = {"type": "request", "id": exchange.number, "kind": kind, "arguments": arguments}
        exchange.line = wire.line_of(message, exchange.kept)
        self._exchange = exchange
        self._tail.clear()
        self._heard = self._ticked = self._clock()
        self.start()
        self._send_request()
        return exchange

    def cancel(self, exchange: Exchange, reason: str = "") -> None:
        """Ask for the end of a request; the second time nothing happens."""
        if exchange is self._exchange and not exchange.reason:
            exchange.reason = reason or str(Cancelled())
            exchange.deadline = self._clock() + (GRACE_S if exchange.sent else 0)
            if exchange.sent:
                self._transport.write(wire.encode({"type": "cancel", "id": exchange.number}))

    def quit(self, reason: str = "") -> None:
        """End the process and its children at once; a request ends with `Cancelled`."""
        self._kill()
        if self._exchange is not None:
            self._finish("failed", Cancelled(self._exchange.reason or reason or str(Cancelled())))

    # ---- time passes

    def tick(self) -> None:
        """To be called several times a second while `busy`: ends what does not answer in time."""
        exchange = self._exchange
        if exchange is None:
            return
        now = self._clock()
        if now - self._ticked > _PAUSE_S:
            self._heard = now
        self._ticked = now
        if exchange.reason:
            if now >= exchange.deadline:
                if exchange.sent:
                    self._kill()
                self._finish("failed", Cancelled(exchange.reason))
        elif now - self._heard > (HANG_S if self._pid else START_S) and not self._computes():
            what, seconds = ("has not answered for", HANG_S) if self._pid else ("did not start within", START_S)
            self._kill()
            text = f"The worker process {what} {seconds:.0f} seconds and was ended. {_AGAIN}"
            self._finish("failed", WorkerError(self._with_tail(text)))

    def _computes(self) -> bool:
        """Whether a silent worker is at work: a long step of a compiled package lets no other thread speak."""
        seconds = processes.processor_seconds(self._pid) if self._pid else None
        if seconds is None or seconds - self._computed < _COMPUTES_S:
            return False
        self._computed, self._heard = seconds, self._clock()
        return True

    # ---- the worker speaks

    def feed_output(self, chunk: bytes) -> None:
        """What came on its standard output."""
        for line in self._output.feed(chunk):
            message = wire.parse_message(line)
            if message is None:
                self._log(line)
            else:
                self._take(message)

    def feed_errors(self, chunk: bytes) -> None:
        """What came on its standard error."""
        for line in self._errors.feed(chunk):
            self._log(line)

    def ended(self, exit_code: int | None, *, signal_number: int = 0, problem: str = "") -> None:
        """The process has ended by itself, or could not be started.

        Args:
            exit_code: None where it did not exit by itself.
            signal_number: that ended it, where that is known.
            problem: what the system says where it could not be started.
        """
        for line in (*self._output.end(), *self._errors.end()):
            self._log(line)
        self._tidy()
        if self._exchange is not None:
            if self._exchange.reason:
                self._finish("failed", Cancelled(self._exchange.reason))
            else:
                text = why_ended(exit_code, signal_number, problem, self._tail)
                self._finish("failed", WorkerError(self._with_tail(text)))

    def _take(self, message: dict[str, Any]) -> None:
        self._heard = self._clock()
        if message["type"] == "hello":
            self._greet(message)
            return
        exchange = self._exchange
        if exchange is None or message.get("id") != exchange.number:
            with contextlib.suppress(BrainSegSAMError):
                wire.unpack(message.get("data"))  # nobody waits for it any more, but its memory must be freed
            return
        kind = message["type"]
        if kind == "progress":
            exchange.tell("progress", message)
        elif kind == "log":
            self._log(str(message["line"]))
        elif kind == "alive":
            self._children = {int(pid): str(when) for pid, when in message["children"].items()}
        elif kind in ("partial", "result"):
            self._take_data(exchange, message)
        elif kind == "error":
            self._finish("failed", error_from(message))
        elif kind == "cancelled":
            self._finish("failed", Cancelled(exchange.reason or str(message["message"])))

    def _take_data(self, exchange: Exchange, message: Mapping[str, Any]) -> None:
        try:
            data = wire.unpack(message["data"])
        except BrainSegSAMError as error:
            self._finish("failed", error)
            return
        if exchange.reason:  # it was faster than the cancel, but nobody wants it any more
            if message["type"] == "result":
                self._finish("failed", Cancelled(exchange.reason))
        elif message["type"] == "partial":
            exchange.tell("partial", data)
        else:
            self._finish("done", data)

    def _greet(self, message: Mapping[str, Any]) -> None:
        self._pid = int(message.get("pid") or 0)
        self._started = processes.started(self._pid)
        theirs, ours = (message.get("version"), message.get("protocol")), (__version__, wire.PROTOCOL)
        if theirs != ours:
            words = "The worker process is of another version ({}, protocol {}) than this one ({}, protocol {}). "
            text = words.format(*theirs, *ours) + "Restart the program; if that does not help, reinstall it."
            self._kill()
            if self._exchange is not None:
                self._finish("failed", WorkerError(self._with_tail(text)))
            return
        self._send_request()

    # ---- steps

    def _send_request(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._pid and not exchange.sent:
            exchange.sent = True
            self._transport.write(exchange.line)
            exchange.line = b""
            if sys.platform != "win32":  # there it must be held until the worker has it
                for shared in exchange.kept:
                    shared.close()

    def _finish(self, what: str, value: Any) -> None:
        """Tell the end; by then the next request may come."""
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            self._children = {}  # those of a later request are others
            for shared in exchange.kept:
                shared.free()
            exchange.tell(what, value)

    def _kill(self) -> None:
        if self._running:
            if self._pid:
                self._children.update(processes.descendants(self._pid))
            else:  # what we started may only be its launcher
                processes.end_tree(self._transport.process_id)
            self._transport.kill()
            self._tidy()

    def _tidy(self) -> None:
        """End what is left of the process, and free what it shared."""
        pid, known = self._pid, {self._pid: self._started, **self._children}
        self._running, self._pid, self._children = False, 0, {}
        if pid:
            processes.end_group(pid)
            processes.end_all(known)
            wire.sweep(pid)

    def _log(self, line: str) -> None:
        if len(line) > _LINE_LENGTH:
            line = line[:_LINE_LENGTH] + " …"
        if line.strip():
            self._tail.append(line)
        if self._exchange is not None:
            self._exchange.tell("log", line)

    def _with_tail(self, text: str) -> str:
        return "\n".join([text, *list(self._tail)[-_SHOWN_LINES:]])


def error_from(message: Mapping[str, Any]) -> BrainSegSAMError:
    """The error that a message carries, as the class that it was."""
    kind = getattr(errors, str(message.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, BrainSegSAMError)):
        kind = WorkerError
    return kind(str(message.get("message")))


def why_ended(
    exit_code: int | None, signal_number: int = 0, problem: str = "", said: Collection[str] = ()
) -> str:
    """Why a process ended that should not have, and what to do.

    Args:
        exit_code: None where it did not exit by itself.
        signal_number: that ended it, where that is known.
        problem: what the system says where it could not be started.
        said: its last lines.
    """
    if problem:
        return f"The worker process could not start: {problem}."
    # Slicer's launcher of Python turns each end by a signal into these words. What crashes has spoken before; a kill is
    # silent.
    launched = exit_code == 1 and any(_LAUNCHER_SAYS in line for line in said)
    spoke = any(_FAULT_HANDLER_SAYS in line for line in said)
    killed = getattr(signal, "SIGKILL", 9)
    if signal_number == killed or exit_code == 128 + killed or (launched and not spoke):
        how = "crashed or was killed" if launched else "was killed from outside"
        return (
            f"The worker process {how}, most likely because the computer ran out of memory. Close other programs, or "
            "use a smaller image or model, and try again."
        )
    if exit_code is None or launched:
        names = {int(number): number.name for number in signal.Signals}
        how = f" ({names[signal_number]})" if signal_number in names else ""
        return f"The worker process crashed{how}. {_AGAIN}"
    return f"The worker process ended unexpectedly (exit code {exit_code}). {_AGAIN}"
