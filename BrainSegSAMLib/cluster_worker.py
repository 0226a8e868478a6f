"""What runs in the worker processes of a Dask cluster: the work is set up once in a process, then case after case.

A worker has two threads. While one computes, the other reads the next case or writes the last one; two cases are in
memory at most, with whatever number of threads the worker was started and however many batches share it. What was set
up for a few batches is kept, so that those that share a worker do not load their models in turn.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import __version__
from .errors import BrainSegSAMError
from .pipeline import CaseWork, Resumable, describe_failure
from .progress import Progress

CASES_IN_MEMORY: Final = 2
_SESSIONS_KEPT: Final = 3


class CaseError(BrainSegSAMError):
    """A case failed; the message is the sentence that says why. Unlike other errors it surely travels."""


@dataclass(frozen=True)
class Unusable:
    """What a worker gives back for a case where it cannot set the work up, so that it can do no case at all.

    Not an error: Dask would try the case again, and a worker that fails at once is the one that is free.

    Attributes:
        worker: its address.
        reason: as a sentence.
    """

    worker: str
    reason: str


@dataclass(frozen=True)
class Task:
    """What a worker must know beside the case.

    Attributes:
        session: names the batch; workers keep what they set up for it under this name.
        client: id of the Dask client that started the batch.
        start: sets the work up for a torch device.
        devices: torch devices of the workers, in order of their names 0, 1, …; of one, "auto" where each decides.
        threads: of each worker, for computing; None leaves them as they are.
        version: of this project, where the batch was started.
    """

    session: str
    client: str
    start: Callable[[str], CaseWork[Any, Any, Any, Any]]
    devices: tuple[str, ...]
    threads: int | None
    version: str = __version__


class _Session:
    """The work as it was set up in this process, and how many of its cases are under way."""

    def __init__(self, work: CaseWork[Any, Any, Any, Any], client: str) -> None:
        self.work, self.client = work, client
        self.progress = Progress()
        self.cases = 0


_sessions: dict[str, _Session] = {}  # what was used last is last
_ended: set[str] = set()
_changing = threading.Lock()  # of these two, and never for long: a worker that ends a batch does not answer meanwhile
_setting_up = threading.Lock()
_places = threading.BoundedSemaphore(CASES_IN_MEMORY)
_computing = threading.Lock()


def dask_setup(_worker: object) -> None:
    """Dask calls this in each local worker: an interrupt from the keyboard reaches all of them, but is the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work_on(task: Task, item: object) -> object:
    """Do one case.

    Returns:
        What the work's `save` returned; or `Unusable`.

    Raises:
        CaseError: where the case fails.
    """
    try:
        with _session(task) as session, _places:
            return _do(session, item)
    except _StartError as failure:
        return Unusable(_address(), str(failure))
    except Exception as failure:
        raise CaseError(describe_failure(failure)) from None


def end(session: str) -> None:
    """Stop what runs of a batch at its next check, and forget what was set up for it."""
    with _changing:
        _ended.add(session)
        found = _sessions.pop(session, None)
    if found is not None:
        found.progress.cancel()


def _do(session: _Session, item: object) -> object:
    session.progress.check()
    if isinstance(session.work, Resumable) and (known := session.work.finished(item)) is not None:
        return known
    loaded = session.work.load(item)
    with _computing:
        computed = session.work.compute(loaded, session.progress.part("", until=1.0))
    del loaded
    return session.work.save(item, computed)


@contextlib.contextmanager
def _session(task: Task) -> Iterator[_Session]:
    """What was set up for a batch, which is not forgotten as long as the block lasts."""
    with _setting_up:
        session = _sessions.get(task.session)
        if session is None and task.session not in _ended:
            _make_room()
            session = _Session(_set_up(task), task.client)
        with _changing:
            if session is None or task.session in _ended:
                raise CaseError("The batch has ended.")
            _sessions.pop(task.session, None)
            _sessions[task.session] = session
            session.cases += 1
    try:
        yield session
    finally:
        with _changing:
            session.cases -= 1


def _make_room() -> None:
    """Forget batches whose driver was killed; and, where there are many, those that have waited longest."""
    clients = _clients() if _sessions else None
    with _changing:
        gone = [name for name, session in _sessions.items() if clients is not None and session.client not in clients]
        for name in gone:
            _sessions.pop(name).progress.cancel()
        idle = [name for name, session in _sessions.items() if not session.cases]
        for name in idle[: max(0, len(_sessions) - _SESSIONS_KEPT + 1)]:
            del _sessions[name]


def _clients() -> list[str] | None:
    """Ids of the clients that the scheduler knows; None where it does not say."""
    from distributed import get_client

    try:
        found: list[str] = get_client().run_on_scheduler(_known_clients)
    except Exception:  # it may refuse to run functions, or lack this package
        return None
    return found


def _known_clients(dask_scheduler: Any) -> list[str]:
    """Runs in the scheduler."""
    return list(dask_scheduler.clients)


def _set_up(task: Task) -> CaseWork[Any, Any, Any, Any]:
    if task.version != __version__:
        raise _StartError(
            f"A worker runs BrainSegSAM {__version__}, but the batch was started by {task.version}; "
            "install the same version everywhere."
        )
    try:
        work = task.start(_device(task.devices))
    except Exception as failure:
        raise _StartError(describe_failure(failure)) from None
    if task.threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(task.threads)
    return work


class _StartError(Exception):
    """The work cannot be set up in this process."""


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _device(devices: Sequence[str]) -> str:
    from distributed import get_worker

    from .backends.devices import resolve_device

    name = get_worker().name
    device = devices[int(name) % len(devices)] if str(name).isdigit() else devices[0]
    return device if device == "cpu" else resolve_device(device)
