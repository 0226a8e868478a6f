"""What runs in the worker processes of a Dask cluster: the work is set up once in a process, then case after case.

A worker has two threads. While one computes, the other reads the next case or writes the last one; two cases are in
memory at most, whatever number of threads the worker was started with.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import __version__
from .errors import BrainSegSAMError
from .pipeline import CaseWork, Resumable, describe_failure
from .progress import Progress

CASES_IN_MEMORY: Final = 2


class CaseError(BrainSegSAMError):
    """A case failed; the message is the sentence that says why. Unlike other errors it surely travels."""


class StartError(BrainSegSAMError):
    """A worker could not set the work up, so it can do no case at all."""


@dataclass(frozen=True)
class Task:
    """What a worker must know beside the case.

    Attributes:
        session: names the batch; workers keep what they set up for it under this name.
        start: sets the work up for a torch device.
        devices: torch devices of the workers, in order of their names 0, 1, …; of one, "auto" where each decides.
        threads: of each worker, for computing; None leaves them as they are.
        version: of this project, where the batch was started.
    """

    session: str
    start: Callable[[str], CaseWork[Any, Any, Any, Any]]
    devices: tuple[str, ...]
    threads: int | None
    version: str = __version__


class _Session:
    """The work as it was set up in this process."""

    def __init__(self, work: CaseWork[Any, Any, Any, Any]) -> None:
        self.work = work
        self.progress = Progress()
        self.places = threading.BoundedSemaphore(CASES_IN_MEMORY)
        self.computing = threading.Lock()


_sessions: dict[str, _Session] = {}
_ended: set[str] = set()
_setting_up = threading.Lock()


def dask_setup(_worker: object) -> None:
    """Dask calls this in each local worker: an interrupt from the keyboard reaches all of them, but is the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work_on(task: Task, item: object) -> object:
    """Do one case.

    Raises:
        StartError: where the work cannot be set up.
        CaseError: where the case fails.
    """
    session = _session(task)
    with session.places:
        try:
            session.progress.check()
            if isinstance(session.work, Resumable) and (known := session.work.finished(item)) is not None:
                return known
            loaded = session.work.load(item)
            with session.computing:
                computed = session.work.compute(loaded, session.progress.part("", until=1.0))
            del loaded
            return session.work.save(item, computed)
        except Exception as failure:
            raise CaseError(describe_failure(failure)) from None


def end(session: str) -> None:
    """Stop what runs of a batch at its next check, and forget what was set up for it."""
    _ended.add(session)
    found = _sessions.pop(session, None)
    if found is not None:
        found.progress.cancel()


def _session(task: Task) -> _Session:
    with _setting_up:
        if task.session not in _sessions:
            if task.session in _ended:
                raise CaseError("The batch has ended.")
            _sessions.clear()  # of a batch whose driver was killed
            _sessions[task.session] = _Session(_set_up(task))
        return _sessions[task.session]


def _set_up(task: Task) -> CaseWork[Any, Any, Any, Any]:
    if task.version != __version__:
        raise StartError(
            f"A worker runs BrainSegSAM {__version__}, but the batch was started by {task.version}; "
            "install the same version everywhere."
        )
    try:
        work = task.start(_device(task.devices))
    except Exception as failure:
        raise StartError(describe_failure(failure)) from None
    if task.threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(task.threads)
    return work


def _device(devices: Sequence[str]) -> str:
    from distributed import get_worker

    from .backends.devices import resolve_device

    name = get_worker().name
    device = devices[int(name) % len(devices)] if str(name).isdigit() else devices[0]
    return device if device == "cpu" else resolve_device(device)
