"""A child process that works for the panel: its lines arrive while it runs, and a cancel ends it and its children.

The work runs outside Slicer's process so that the interface stays alive, memory is given back when it ends, and nothing
that a model package prints, changes or crashes reaches Slicer. The child answers in JSON, one object per line on its
standard output; whatever else it prints is for the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt

from BrainSegSAMLib.errors import BrainSegSAMError

GRACE_MS = 2000
"""How long a cancelled child may tidy up before it is killed."""
_TAIL_LINES = 40


def pythonCommand() -> str:
    """The interpreter for children: Slicer's own (`PythonSlicer`), or the current one outside Slicer.

    Raises:
        RuntimeError: where this process is no Python interpreter and PythonSlicer cannot be found.
    """
    found = shutil.which("PythonSlicer")
    if found:
        return found
    if Path(sys.executable).name.lower().startswith("python"):
        return sys.executable
    raise RuntimeError("PythonSlicer was not found in Slicer's program folder; reinstall Slicer.")


def childEnvironment(libraryFolder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of a child: a copy of ours in which the library is found; our own process keeps what it has."""
    paths = [str(libraryFolder), environment.get("PYTHONPATH", "")]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


class Lines:
    """Puts chunks of bytes together to lines: a chunk may end anywhere, even within a character."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are complete now, without their ends."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line.decode("utf-8", errors="replace").rstrip("\r") for line in lines]

    def end(self) -> list[str]:
        """The last line, where it lacks its end."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", errors="replace")] if rest else []


def parseMessage(line: str) -> dict[str, Any] | None:
    """A line as a message (a JSON object with a "type"), or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "type" in message else None


class WorkerProcess:
    """One run of a command.

    Args:
        onMessage: told each JSON message.
        onLog: told each other line.
        onFinished: told once: the exit code (None: crashed, killed or not started), and the end of standard error.
    """

    def __init__(
        self,
        onMessage: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onFinished: Callable[[int | None, str], None],
    ) -> None:
        self._onMessage, self._onLog, self._onFinished = onMessage, onLog, onFinished
        self._out, self._err = Lines(), Lines()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._children: set[int] = set()
        self._over = False
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readError)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onProcessFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self.kill)

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start the command in a folder; returns at once."""
        variables = qt.QProcessEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        self._process.setProcessEnvironment(variables)
        self._process.setWorkingDirectory(str(folder))
        self._process.start(command[0], list(command[1:]))

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return not self._over and self._process.state() != qt.QProcess.NotRunning

    def cancel(self) -> None:
        """Ask it to end; after `GRACE_MS` it is killed together with its children."""
        if self.running:
            self._children |= descendants(int(self._process.processId()))
            self._process.terminate()
            self._timer.start(GRACE_MS)

    def kill(self) -> None:
        """End it and its children at once."""
        if self.running:
            self._children |= descendants(int(self._process.processId()))
            self._killChildren()  # first: on Windows a dead parent no longer leads to its children
            self._process.kill()

    def waitForEnd(self, milliseconds: int) -> None:
        """Block until it has ended, for when Slicer closes."""
        self._process.waitForFinished(milliseconds)

    def _readOutput(self) -> None:
        self._take(self._out.feed(bytes(self._process.readAllStandardOutput().data())), isError=False)

    def _readError(self) -> None:
        self._take(self._err.feed(bytes(self._process.readAllStandardError().data())), isError=True)

    def _take(self, lines: list[str], isError: bool) -> None:
        for line in lines:
            message = None if isError else parseMessage(line)
            if message is not None:
                self._onMessage(message)
                continue
            if isError and line.strip():
                self._tail.append(line)
            self._onLog(line)

    def _onProcessFinished(self, exitCode: int, exitStatus: int) -> None:
        self._readOutput()
        self._readError()
        self._take(self._out.end(), isError=False)
        self._take(self._err.end(), isError=True)
        self._finish(int(exitCode) if exitStatus == qt.QProcess.NormalExit else None)

    def _onProcessError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # the only error after which no "finished" comes
            self._tail.append(self._process.errorString())
            self._finish(None)

    def _finish(self, exitCode: int | None) -> None:
        if not self._over:
            self._over = True
            self._timer.stop()
            self._killChildren()
            self._onFinished(exitCode, "\n".join(self._tail))

    def _killChildren(self) -> None:
        """End what a cancelled process left behind."""
        for pid in self._children:
            _endProcess(pid)
        self._children.clear()


def descendants(pid: int) -> set[int]:
    """Process ids of all children of a process, and of theirs; on Windows its own, which is killed with its tree."""
    if os.name == "nt" or pid <= 0:
        return {pid} if pid > 0 else set()
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    childrenOf: dict[int, list[int]] = {}
    for line in listing.splitlines():
        child, parent = (int(number) for number in line.split())
        childrenOf.setdefault(parent, []).append(child)
    found: set[int] = set()
    pending = [pid]
    while pending:
        fresh = [child for child in childrenOf.get(pending.pop(), []) if child not in found]
        found.update(fresh)
        pending += fresh
    return found


def _endProcess(pid: int) -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
        os.kill(pid, signal.SIGKILL)


# ---- being built: what everybody may code against (see BrainSegSAMLib/wire.py for the messages)


@dataclass(frozen=True)
class Listener:
    """Who hears of a request; each is called on the main thread, and exactly one of the last two, once, as the last.

    Attributes:
        onProgress: a message with the fields of `progress.ProgressUpdate`: stage, fraction, remaining_s, message, …
        onPartial: data of a result on its way; arrays are numpy arrays.
        onLog: a line for the log.
        onDone: data of the result; arrays are numpy arrays.
        onFailed: an error whose message is a sentence; `Cancelled` where it was cancelled.
    """

    onProgress: Callable[[dict[str, Any]], None] = lambda message: None
    onPartial: Callable[[dict[str, Any]], None] = lambda data: None
    onLog: Callable[[str], None] = lambda line: None
    onDone: Callable[[dict[str, Any]], None] = lambda data: None
    onFailed: Callable[[BrainSegSAMError], None] = lambda error: None


class Job:
    """A request on its way; made by `Worker.request`."""

    @property
    def running(self) -> bool:
        """Whether it has not ended: its listener will hear of the end."""
        raise NotImplementedError

    def cancel(self, reason: str = "") -> None:
        """Ask for its end; at the latest after 2 s the listener's `onFailed` hears `Cancelled` with the reason."""
        raise NotImplementedError


class Worker:
    """One worker process: started at the first request, kept warm, replaced after a crash.

    Args:
        command: what runs the worker; by default `[pythonCommand(), "-m", "BrainSegSAMLib.worker"]`.
        environment: of the process; by default ours, in which the library is found.
    """

    def __init__(self, command: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        raise NotImplementedError

    def request(self, kind: str, arguments: Mapping[str, Any], listener: Listener) -> Job:
        """Ask for work; returns at once. Arguments may hold numpy arrays and `wire.Shared` at any depth.

        Raises:
            InputError: where another request runs (a sentence for the user); a "mark" waits instead, and takes the
                place of one that waits already (whose listener hears `Cancelled`).
        """
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        raise NotImplementedError

    def quit(self) -> None:
        """End the process and its children at once; a running request ends with `Cancelled`."""
        raise NotImplementedError


def sharedWorker() -> Worker:
    """The module's one warm worker; ended when Slicer quits."""
    raise NotImplementedError


def newWorker() -> Worker:
    """A worker of one's own, for a long command (train, evaluate, download); `quit` it at the end."""
    raise NotImplementedError
