"""The worker for code that waits: scripts, tests, other programs without an event loop."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .conversation import Conversation, Tell
from .progress import Progress

_RUN = "import sys; sys.path = [path for path in sys.path if path]; from BrainSegSAMLib.worker import main; "
"""Not `-m`: then a `queue.py` in the current folder would be taken for Python's own."""


def worker_command(python: str = "") -> list[str]:
    """What runs a worker, with an interpreter (this one where none is named)."""
    return [python or sys.executable, "-c", _RUN + "sys.exit(main())"]


def worker_environment(library_folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of a worker: a copy of ours in which the library is found; our own process keeps what it has."""
    paths = [str(library_folder), environment.get("PYTHONPATH", "")]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONSAFEPATH": "1",  # for the worker's children, from Python 3.11 on
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


class WorkerClient:
    """A worker for code that waits: scripts, tests, other programs without an event loop. Use it in a `with`.

    Args:
        command: what runs the worker; `worker_command()` by default.
        environment: of the process; by default ours, in which this library is found.
    """

    def __init__(self, command: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command) or worker_command()
        library = Path(__file__).resolve().parents[1]
        self._environment = worker_environment(library, os.environ) if environment is None else dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._news: queue.SimpleQueue[tuple[subprocess.Popen[bytes], str, bytes]] = queue.SimpleQueue()
        self._conversation = Conversation(self)

    @property
    def pid(self) -> int:
        """Of the worker; 0 where none runs."""
        return self._conversation.pid

    def request(
        self, kind: str, arguments: Mapping[str, Any], *, progress: Progress | None = None, tell: Tell | None = None,
    ) -> dict[str, Any]:
        """Ask for work and wait for it.

        Args:
            kind: see `worker.HANDLERS`.
            arguments: with arrays at any depth.
            progress: cancels the work when it is cancelled.
            tell: hears of progress, partial results, lines for the log, and the end.

        Returns:
            The result's data.

        Raises:
            BrainSegSAMError: what the worker raised; `WorkerError` where its process failed.
        """
        end: list[tuple[str, Any]] = []

        def hear(what: str, value: Any) -> None:
            if what in ("done", "failed"):
                end.append((what, value))
            if tell is not None:
                tell(what, value)

        exchange = self._conversation.request(kind, arguments, hear)
        try:
            while not end:
                self._receive(0.1)
                if progress is not None and progress.cancelled:
                    self._conversation.cancel(exchange)
                self._conversation.tick()
        except BaseException:
            self._conversation.quit()
            raise
        (what, value) = end[0]
        if what == "failed":
            raise value
        data: dict[str, Any] = value
        return data

    def close(self) -> None:
        """End the worker and its children."""
        self._conversation.quit()

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, seconds: float) -> None:
        try:
            process, what, chunk = self._news.get(timeout=seconds)
        except queue.Empty:
            return
        if process is not self._process:
            return
        if what == "output":
            self._conversation.feed_output(chunk)
        elif what == "errors":
            self._conversation.feed_errors(chunk)
        else:
            code = process.wait()
            self._process = None
            _close_input(process)
            self._conversation.ended(code if code >= 0 else None, signal_number=max(0, -code))

    # ---- Transport

    @property
    def process_id(self) -> int:
        """Of what runs the worker; 0 where none runs."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start a process, and threads that read from it."""
        try:
            process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except OSError as error:
            self._conversation.ended(None, problem=str(error.strerror))
            return
        self._process = process
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):  # it has died: its end comes by way of what it said
                process.stdin.write(data)
                process.stdin.flush()

    def kill(self) -> None:
        """End the process and collect it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_input(process)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Both pipes until they close, then the news of the end; in a thread of its own."""

        def pump(name: str) -> None:
            pipe = process.stdout if name == "output" else process.stderr
            assert pipe is not None
            with pipe:
                while chunk := os.read(pipe.fileno(), 1 << 16):
                    self._news.put((process, name, chunk))

        errors_thread = threading.Thread(target=pump, args=("errors",), daemon=True)
        errors_thread.start()
        pump("output")
        process.wait()
        errors_thread.join(1.0)  # a grandchild may hold it open for ever
        self._news.put((process, "ended", b""))


def _close_input(process: subprocess.Popen[bytes]) -> None:
    """Close the standard input of a process that has ended, and may not have read all."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
