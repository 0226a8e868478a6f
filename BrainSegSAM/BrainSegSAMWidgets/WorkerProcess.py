"""The process that works for the interface, driven by Qt's event loop; nothing here ever waits for it.

The work runs outside Slicer's process so that the interface stays alive, and nothing that a model package prints,
changes or crashes reaches Slicer. The process is started at the first request and kept, so that models stay in memory.
What is said between the two is in `BrainSegSAMLib.wire`; how it is obeyed, in `BrainSegSAMLib.conversation`.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib import wire
from BrainSegSAMLib.conversation import Conversation, Exchange
from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, InputError, WorkerError
from BrainSegSAMLib.worker_client import worker_command, worker_environment

WAITING_KINDS = ("mark",)
"""Requests that a user makes one after the other while drawing: only the newest matters, so it waits for its turn."""
_TICK_MS = 100


def pythonCommand() -> str:
    """The interpreter for children: Slicer's own (`PythonSlicer`), or the current one outside Slicer.

    Raises:
        WorkerError: where this process is no Python interpreter and PythonSlicer cannot be found.
    """
    found = shutil.which("PythonSlicer")
    if found:
        return found
    if Path(sys.executable).name.lower().startswith("python"):
        return sys.executable
    raise WorkerError(_("PythonSlicer was not found in Slicer's program folder; reinstall Slicer"))


def libraryFolder() -> Path:
    """The folder that holds BrainSegSAMLib."""
    import BrainSegSAMLib

    return Path(BrainSegSAMLib.__file__).resolve().parents[1]


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
    onDone: Callable[[Any], None] = lambda data: None
    onFailed: Callable[[BrainSegSAMError], None] = lambda error: None

    def tell(self, what: str, value: Any) -> None:
        """Pass on what `conversation.Conversation` tells."""
        slots = {
            "progress": self.onProgress, "partial": self.onPartial, "log": self.onLog, "done": self.onDone,
            "failed": self.onFailed,
        }
        slots[what](value)


class Job:
    """A request on its way; made by `Worker.request`."""

    def __init__(self, worker: Worker, kind: str, arguments: Mapping[str, Any], listener: Listener) -> None:
        self._worker, self._listener = worker, listener
        self.kind, self.arguments = kind, arguments
        self.exchange: Exchange | None = None  # once it is its turn
        self.running = True
        """Whether it has not ended: its listener will hear of the end."""
        self.wanted = True
        """Whether it was neither cancelled nor abandoned; else the next request waits for its end."""

    def cancel(self, reason: str = "") -> None:
        """Ask for its end: within two seconds the listener's `onFailed` hears `Cancelled`, with the reason."""
        self._worker.cancel(self, reason)

    def abandon(self) -> None:
        """Say that nobody waits for it: it may end what it has begun, as that is kept for later."""
        self._worker.abandon(self)

    def wait(self) -> None:
        """Return when it has ended, without Qt's event loop: for scripts. The listener is told on the way."""
        self._worker.waitFor(self)

    def tell(self, what: str, value: Any) -> None:
        """Pass on what the worker tells."""
        if what in ("done", "failed"):
            self.running = False
        self._listener.tell(what, value)


_dying: list[Any] = []
"""Processes that were killed but that the system has not collected yet; Qt must not lose them before."""


def _forget() -> None:
    _dying[:] = [process for process in _dying if process.state() != qt.QProcess.NotRunning]


class Worker:
    """One worker process: started at the first request, kept warm, replaced after it was killed or has crashed.

    Args:
        command: what runs the worker; by default Slicer's Python with `BrainSegSAMLib.worker`.
        environment: of the process; by default ours, in which the library is found.
    """

    def __init__(self, command: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._command, self._environment = list(command), environment
        self._transport = _Transport(self)
        self.conversation = Conversation(self._transport)
        self._now: Job | None = None  # the one that runs, or ran last
        self._waiting: Job | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self._tick)

    def start(self) -> None:
        """Start the process, so that it is there when it is needed."""
        self.conversation.start()

    def request(self, kind: str, arguments: Mapping[str, Any], listener: Listener) -> Job:
        """Ask for work; returns at once. Arguments may hold numpy arrays and `wire.Shared` at any depth.

        Where a request runs that was cancelled or abandoned, this one waits for its end; so does a "mark" in any case,
        which takes the place of one that waits already (whose listener hears `Cancelled`).

        Raises:
            InputError: where another request runs or waits (a sentence for the user).
        """
        job = Job(self, kind, arguments, listener)
        waiting = self._waiting
        if not self.busy:
            self._begin(job)
        elif kind in WAITING_KINDS and (waiting is None or waiting.kind in WAITING_KINDS):
            self._endWaiting(Cancelled())
            self._waiting = job
        else:
            self.check()
            self._waiting = job
        return job

    def check(self) -> None:
        """Refuse what `request` would refuse now.

        Raises:
            InputError: where another request runs or waits (a sentence for the user).
        """
        runs = self.conversation.busy and self._now is not None and self._now.wanted
        if runs or self._waiting is not None:
            raise InputError(_("BrainSegSAM is working on something else; wait until it has finished, or cancel it."))

    @property
    def busy(self) -> bool:
        """Whether a request runs, be it that nobody wants it any more, or waits."""
        return self.conversation.busy or self._waiting is not None

    @property
    def pid(self) -> int:
        """Of the process; 0 where none runs."""
        return self.conversation.pid

    def cancel(self, job: Job, reason: str = "") -> None:
        """See `Job.cancel`."""
        job.wanted = False
        if job is self._waiting:
            self._endWaiting(Cancelled(reason or str(Cancelled())))
        elif job.running and job.exchange is not None:
            self.conversation.cancel(job.exchange, reason)

    def abandon(self, job: Job) -> None:
        """See `Job.abandon`."""
        job.wanted = False
        if job is self._waiting:
            self._endWaiting(Cancelled())

    def waitFor(self, job: Job) -> None:
        """See `Job.wait`."""
        while job.running:
            self._transport.wait(_TICK_MS)
            self._tick()

    def quit(self, *, wait: bool = False) -> None:
        """End the process and its children at once; what runs or waits ends with `Cancelled`.

        Args:
            wait: until the system has collected the process, for when nobody will be there to see to it.
        """
        self._endWaiting(Cancelled())
        self.conversation.quit()
        self._timer.stop()
        _discharge(self)
        if wait:
            for process in _dying:
                process.waitForFinished(1000)  # a moment: nothing survives being killed
            _forget()

    def command(self) -> list[str]:
        """What runs the worker."""
        return self._command or worker_command(pythonCommand())

    def environment(self) -> dict[str, str]:
        """Variables of the worker."""
        if self._environment is not None:
            return dict(self._environment)
        return worker_environment(libraryFolder(), os.environ)

    def _begin(self, job: Job) -> None:
        def tell(what: str, value: Any) -> None:
            try:
                job.tell(what, value)
            finally:
                if what in ("done", "failed") and not self.conversation.busy:  # the listener may have asked for more
                    self._next()

        self._now = job
        job.exchange = self.conversation.request(job.kind, job.arguments, tell)
        job.arguments = {}
        self._timer.start()

    def _next(self) -> None:
        job, self._waiting = self._waiting, None
        if job is None:
            self._timer.stop()
            return
        try:
            self._begin(job)
        except BrainSegSAMError as error:
            wire.free(job.arguments)
            job.tell("failed", error)

    def _endWaiting(self, error: BrainSegSAMError) -> None:
        job, self._waiting = self._waiting, None
        if job is not None:
            wire.free(job.arguments)
            job.tell("failed", error)

    def _tick(self) -> None:
        self.conversation.tick()


class _Transport:
    """A QProcess, another one each time; see `conversation.Transport`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._process: Any = None
        self._problem = ""  # why no process could be started

    @property
    def process_id(self) -> int:
        """Of what runs the worker; 0 where none runs."""
        return int(self._process.processId()) if self._process is not None else 0

    def start(self) -> None:
        """Start a process; its failure to start is told later, not from in here."""
        _enlist(self._worker)
        self._problem = ""
        self._process = process = qt.QProcess()
        variables = qt.QProcessEnvironment()
        for name, value in self._worker.environment().items():
            variables.insert(name, value)
        process.setProcessEnvironment(variables)
        process.connect("readyReadStandardOutput()", self._onOutput)
        process.connect("readyReadStandardError()", self._onErrors)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onError)
        try:
            command = self._worker.command()
        except WorkerError as error:
            self._problem = str(error)
            self._tellNotStarted()
        else:
            process.start(command[0], command[1:])

    def write(self, data: bytes) -> None:
        """Qt keeps what the process does not take at once."""
        if self._process is not None:
            self._process.write(data)

    def kill(self) -> None:
        """End the process without waiting for it."""
        process, self._process = self._process, None
        if process is None:
            return
        self._disconnect(process)
        process.kill()
        _forget()
        _dying.append(process)

    def wait(self, milliseconds: int) -> None:
        """Let the process speak, at most so long; what it says is told from in here."""
        if self._process is None:
            time.sleep(milliseconds / 1000)
        elif self._process.state() == qt.QProcess.NotRunning:
            self._onNotStarted(self._process)
        else:
            self._process.waitForReadyRead(milliseconds)

    def _disconnect(self, process: Any) -> None:
        process.disconnect("readyReadStandardOutput()", self._onOutput)
        process.disconnect("readyReadStandardError()", self._onErrors)
        process.disconnect("finished(int,QProcess::ExitStatus)", self._onFinished)
        process.disconnect("errorOccurred(QProcess::ProcessError)", self._onError)

    def _onOutput(self) -> None:
        if self._process is not None:
            self._worker.conversation.feed_output(bytes(self._process.readAllStandardOutput().data()))

    def _onErrors(self) -> None:
        if self._process is not None:
            self._worker.conversation.feed_errors(bytes(self._process.readAllStandardError().data()))

    def _onFinished(self, exitCode: int, exitStatus: int) -> None:
        self._onOutput()
        self._onErrors()
        process, self._process = self._process, None
        if process is None:
            return
        _dying.append(process)  # it is speaking to us just now
        qt.QTimer.singleShot(0, _forget)
        if exitStatus == qt.QProcess.NormalExit:
            self._worker.conversation.ended(int(exitCode))
        else:
            self._worker.conversation.ended(None, signal_number=int(exitCode) if os.name != "nt" else 0)

    def _onError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # the only error after which no "finished" comes
            self._tellNotStarted()

    def _tellNotStarted(self) -> None:
        process = self._process  # by then there may be another one
        qt.QTimer.singleShot(0, lambda: self._onNotStarted(process))

    def _onNotStarted(self, process: Any) -> None:
        if process is not None and process is self._process:
            self._process = None
            self._worker.conversation.ended(None, problem=self._problem or str(process.errorString()))


_workers: list[Worker] = []  # those that were started, and so must be ended with Slicer
_shared: list[Worker] = []


def sharedWorker() -> Worker:
    """The module's one warm worker; ended when Slicer quits."""
    if not _shared:
        _shared.append(newWorker())
    return _shared[0]


def newWorker() -> Worker:
    """A worker of one's own, for a long command (train, evaluate, download); `quit` it at the end."""
    return Worker()


def endWorkers() -> None:
    """End all workers, for when Slicer quits."""
    for worker in list(_workers):
        worker.quit(wait=True)


def _enlist(worker: Worker) -> None:
    _endWithSlicer()
    if worker not in _workers:
        _workers.append(worker)


def _discharge(worker: Worker) -> None:
    if worker in _workers:
        _workers.remove(worker)


@functools.cache
def _endWithSlicer() -> None:
    slicer.app.connect("aboutToQuit()", endWorkers)
