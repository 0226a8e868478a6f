"""How far a job is, and its cancellation, in one object that is handed down through every long-running function.

A job reports named stages, each with a share of the whole; listeners (a progress bar, a panel, a log) get one immutable
`ProgressUpdate` per report. `cancel()` may be called from any thread; the job ends with `Cancelled` at its next
`advance` or `check`, so long loops call one of them at least once a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .errors import Cancelled


@dataclass(frozen=True)
class Measured:
    """What a training measured of a network, for curves.

    Attributes:
        network: which one, as in "fold 0".
        step: the iteration, or epoch, that was measured, from 1.
        of: how many there will be at most.
        values: name ("loss", "validation Dice", …) → value; those that are no finite number are left out.
    """

    network: str
    step: int
    of: int
    values: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", {k: float(v) for k, v in self.values.items() if math.isfinite(v)})


@dataclass(frozen=True)
class ProgressUpdate:
    """One report.

    Attributes:
        stage: what is being done, in words.
        done: units finished in this stage.
        total: units in this stage; 0 where unknown.
        fraction: share of the whole job that is finished, 0 to 1.
        remaining_s: estimated seconds left for the whole job, or None while nothing can be said.
        message: a line for the log, or "".
        unit: what is counted in this stage, where its throughput matters to a user ("cases"); "" elsewhere.
        rate_per_s: units finished per second in this stage so far; None while nothing can be said.
        measured: what a training measured just now; None in all other reports.
    """

    stage: str
    done: int
    total: int
    fraction: float
    remaining_s: float | None
    message: str = ""
    unit: str = ""
    rate_per_s: float | None = None
    measured: Measured | None = None


# Of the whole: start-up takes most of the time so far, so an estimate from it would be far off.
_SAYS_LITTLE_BELOW = 0.05

Listener = Callable[[ProgressUpdate], None]


class Progress:
    """Reports how far a job is and carries its cancellation; safe to cancel from another thread."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._cancelled = threading.Event()
        self._started = time.monotonic()
        self._stage = ""
        self._done = 0
        self._total = 0
        self._stage_begin = 0.0
        self._stage_end = 0.0
        self._stage_started = self._started
        self._unit = ""

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the job to stop at its next check."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise `Cancelled` if the job was asked to stop."""
        if self._cancelled.is_set():
            raise Cancelled

    def stage(self, name: str, *, total: int = 0, until: float = 1.0, unit: str = "") -> None:
        """Begin a stage.

        Args:
            name: what is being done, in words.
            total: units of work in the stage; 0 where unknown.
            until: share of the whole job (0 to 1) that is finished when this stage is.
            unit: what is counted, where its throughput shall be shown.
        """
        self.check()
        self._stage, self._unit = name, unit
        self._stage_started = time.monotonic()
        self._done, self._total = 0, total
        self._stage_begin = self._stage_end
        self._stage_end = max(self._stage_begin, min(1.0, until))
        self._report("")

    def advance(self, units: int = 1, *, message: str = "", measured: Measured | None = None) -> None:
        """Count finished units of the current stage and report; raises `Cancelled` when asked to stop."""
        self.check()
        self._done += units
        self._report(message, measured)

    def log(self, message: str, *, measured: Measured | None = None) -> None:
        """Report a line for the log, and what it says for curves."""
        self._report(message, measured)

    def count(self, unit: str, *, total: int) -> None:
        """Begin to count sub-jobs, so that the reports of `part` say how many of them are finished, and how fast.

        Args:
            unit: what they are, as in "cases".
            total: how many there are.
        """
        self._unit, self._done, self._total = unit, 0, total
        self._stage_started = time.monotonic()

    def counted(self) -> None:
        """One more sub-job is finished."""
        self._done += 1

    def part(self, name: str, *, until: float) -> Progress:
        """A progress for one sub-job (a case of many), which fills this one from here up to `until`.

        The sub-job shares this progress's cancellation; its stages appear as "name: stage".
        """
        begin = self._stage_end
        self._stage_end = max(begin, min(1.0, until))
        return _Part(self, name, begin, self._stage_end)

    def _fraction(self) -> float:
        within = self._done / self._total if self._total > 0 else 0.0
        return self._stage_begin + (self._stage_end - self._stage_begin) * min(1.0, within)

    def _report(self, message: str, measured: Measured | None = None) -> None:
        fraction, rate = self._fraction(), self._rate()
        self._emit(
            ProgressUpdate(self._stage, self._done, self._total, fraction, None, message, self._unit, rate, measured)
        )

    def _rate(self) -> float | None:
        elapsed = time.monotonic() - self._stage_started
        return self._done / elapsed if self._unit and self._done and elapsed > 0 else None

    def _emit(self, update: ProgressUpdate) -> None:
        """Pass a report on, with the estimate of the whole job."""
        if self._listener is None:
            return
        elapsed, fraction = time.monotonic() - self._started, update.fraction
        remaining = elapsed * (1.0 - fraction) / fraction if fraction >= _SAYS_LITTLE_BELOW else None
        self._listener(replace(update, remaining_s=remaining))


class _Part(Progress):
    """A sub-job's progress, mapped onto a span of its parent."""

    def __init__(self, parent: Progress, name: str, begin: float, end: float) -> None:
        super().__init__()
        self._parent = parent
        self._name = name
        self._begin = begin
        self._end = end
        self._cancelled = parent._cancelled

    def _emit(self, update: ProgressUpdate) -> None:
        label = f"{self._name}: {update.stage}" if update.stage else self._name
        fraction = self._begin + (self._end - self._begin) * update.fraction
        parent = self._parent
        update = replace(update, stage=label, fraction=fraction)
        if update.measured is not None:
            network = f"{self._name}: {update.measured.network}"
            update = replace(update, measured=replace(update.measured, network=network))
        if parent._unit and not update.unit:
            done, total, rate = parent._done, parent._total, parent._rate()
            update = replace(update, done=done, total=total, unit=parent._unit, rate_per_s=rate)
        parent._emit(update)
