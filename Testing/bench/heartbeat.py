"""How long the interface stands still: the longest time between two beats of a timer in Qt's event loop.

And how long it computes in between, which no other program changes.
"""

from __future__ import annotations

import time
from pathlib import Path

import qt

_SCHEDULE = Path("/proc/thread-self/schedstat")


def _waited_s() -> float:
    """How long this thread has waited for a processor so far, which is other programs' doing; 0 where not known."""
    return int(_SCHEDULE.read_text().split()[1]) / 1e9 if _SCHEDULE.exists() else 0.0


class Heartbeat:
    """Counts from `start` on.

    Attributes:
        longest_s: the longest standstill that was our own. Where the bench's `wait_until` sleeps between two rounds of
            events, that is in it: five milliseconds.
        longest_computing_s: the most processor time of the thread between two beats; waiting is not in it.
    """

    def __init__(self) -> None:
        self.longest_s = self.longest_computing_s = 0.0
        self.beats = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(1)
        self._timer.connect("timeout()", self._beat)

    def start(self) -> Heartbeat:
        self._last = (time.perf_counter(), _waited_s(), time.thread_time())
        self._timer.start()
        return self

    def stop(self) -> None:
        self._beat()
        self._timer.stop()

    def _beat(self) -> None:
        now, waited, computed = time.perf_counter(), _waited_s(), time.thread_time()
        then, waited_before, computed_before = self._last
        self.longest_s = max(self.longest_s, (now - then) - (waited - waited_before))
        self.longest_computing_s = max(self.longest_computing_s, computed - computed_before)
        self._last = (now, waited, computed)
        self.beats += 1
