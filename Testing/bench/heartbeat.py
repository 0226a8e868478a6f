"""How long the interface stands still: the longest time between two beats of a timer in Qt's event loop."""

from __future__ import annotations

import time
from pathlib import Path

import qt

_SCHEDULE = Path("/proc/thread-self/schedstat")


def _waited_s() -> float:
    """How long this thread has waited for a processor so far, which is other programs' doing; 0 where not known."""
    return int(_SCHEDULE.read_text().split()[1]) / 1e9 if _SCHEDULE.exists() else 0.0


class Heartbeat:
    """Counts from `start` on; `longest_s` is the longest standstill that was our own.

    Where the bench's `wait_until` sleeps between two rounds of events, that is in it: five milliseconds.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.beats = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(1)
        self._timer.connect("timeout()", self._beat)

    def start(self) -> Heartbeat:
        self._last = (time.perf_counter(), _waited_s())
        self._timer.start()
        return self

    def stop(self) -> None:
        self._beat()
        self._timer.stop()

    def _beat(self) -> None:
        now, waited = time.perf_counter(), _waited_s()
        then, waited_before = self._last
        self.longest_s = max(self.longest_s, (now - then) - (waited - waited_before))
        self._last = (now, waited)
        self.beats += 1
