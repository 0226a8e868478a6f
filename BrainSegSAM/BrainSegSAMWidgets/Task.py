"""One long piece of work of a panel: its bar, status and log, and a command that runs in a worker of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, InputError

from . import WorkerProcess

_EARLY = 0.05
"""Share of the work below which start-up and loading count for too much of an estimate."""


class TaskView:
    """Shows how far a piece of work is.

    Args:
        progressBar: 0 to 100; hidden while nothing runs.
        statusLabel: the stage and the time left, or how it ended.
        logText: all that the work says.
    """

    def __init__(self, progressBar: Any, statusLabel: Any, logText: Any) -> None:
        self.progressBar, self.statusLabel, self.logText = progressBar, statusLabel, logText
        self.end("")

    def begin(self) -> None:
        """A piece of work starts."""
        self.logText.clear()
        self._setFraction(0.0)
        self.say(_("Starting…"))

    def show(self, message: dict[str, Any]) -> None:
        """A report of progress: the fields of `progress.ProgressUpdate`."""
        fraction = float(message.get("fraction") or 0.0)
        self._setFraction(fraction)
        stage = str(message.get("stage") or "").removeprefix("case: ")
        left = timeLeft(message.get("remaining_s")) if fraction >= _EARLY else ""
        self.say(f"{stage} – {left}" if left else stage)
        if message.get("message"):
            self.log(str(message["message"]))

    def end(self, text: str) -> None:
        """The work is over; the text says how."""
        self._setFraction(None)
        self.say(text)

    def say(self, text: str) -> None:
        """Put words where the stage stands."""
        self.statusLabel.text = text
        self.statusLabel.visible = bool(text)

    def log(self, line: str) -> None:
        """Add a line to the log."""
        self.logText.appendPlainText(line)

    def _setFraction(self, fraction: float | None) -> None:
        self.progressBar.visible = fraction is not None
        self.progressBar.value = round(100 * (fraction or 0.0))


class CommandTask:
    """Runs one command of the command line at a time, in a worker of its own, and shows it.

    Args:
        view: of the panel.
        onChanged: told when a command starts and when it has ended, to enable and disable what depends on it.
        onProgress: told each report of progress as well.
    """

    def __init__(
        self, view: TaskView, onChanged: Callable[[], None], onProgress: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.view = view
        self._onChanged = onChanged
        self._onProgress = onProgress
        self._worker: Any = None
        self._job: Any = None
        self._onDone: Callable[[dict[str, Any]], None] = lambda data: None
        self._onFailed: Callable[[BrainSegSAMError], None] = lambda error: None

    @property
    def running(self) -> bool:
        """Whether a command is at work."""
        return self._job is not None

    def start(
        self,
        arguments: Sequence[str],
        onDone: Callable[[dict[str, Any]], None],
        onFailed: Callable[[BrainSegSAMError], None],
    ) -> None:
        """Run a command; returns at once.

        Args:
            arguments: as after `brainsegsam`, e.g. ["models", "remove", "flames"].
            onDone: gets "exit_code" (0; 1: some cases failed; 3: doubtful), "lines" and "result".
            onFailed: gets an error in words; `Cancelled` where it was cancelled.

        Raises:
            InputError: where another command of this panel runs.
        """
        if self.running:
            raise InputError(_("Something is running here already; wait for it or cancel it."))
        self._onDone, self._onFailed = onDone, onFailed
        self.view.begin()
        self._worker = WorkerProcess.newWorker()
        listener = WorkerProcess.Listener(
            onProgress=self._progressed, onLog=self.view.log, onDone=self._done, onFailed=self._failed
        )
        self._job = self._worker.request("command", {"argv": list(arguments)}, listener)
        self._onChanged()

    def cancel(self) -> None:
        """Ask the command to end."""
        if self.running:
            self.view.say(_("Cancelling…"))
            self._job.cancel()

    def abort(self) -> None:
        """End the command at once and tell nobody, for when the panel goes."""
        worker, self._worker, self._job = self._worker, None, None
        self._onDone = self._onFailed = lambda _result: None
        self._onChanged = lambda: None
        if worker is not None:
            worker.quit()

    def _progressed(self, message: dict[str, Any]) -> None:
        if self.running:
            self.view.show(message)
            if self._onProgress is not None:
                self._onProgress(message)

    def _done(self, data: dict[str, Any]) -> None:
        self._end()
        self._onDone(data)
        self._onChanged()

    def _failed(self, error: BrainSegSAMError) -> None:
        self._end()
        self.view.end(str(error))
        self.view.log(str(error))
        self._onFailed(error)
        self._onChanged()

    def _end(self) -> None:
        worker, self._worker, self._job = self._worker, None, None
        if worker is not None:
            qt.QTimer.singleShot(0, worker.quit)  # not from in here: it is speaking to us just now
        self.view.end("")


def timeLeft(seconds: float | None) -> str:
    """A duration for people: "about 2 min left"; "" where it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    if seconds < 100 * 60:
        return _("about {minutes} min left").format(minutes=round(seconds / 60))
    return _("about {hours} h left").format(hours=round(seconds / 3600))
