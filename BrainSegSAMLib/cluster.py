"""A batch on several processes, through Dask: on this machine, or on a cluster that runs already.

Each case is one task. As many are in flight as the workers have places for, so that neither the driver's memory nor a
worker's grows with the number of cases. What fails is tried again by the scheduler, on any worker; a worker that dies
takes no more with it than the cases that it was doing, and they are done elsewhere. A worker that cannot even begin,
because it has not got the model say, gets no more cases.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import queue
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic

from .cluster_worker import CASES_IN_MEMORY, CaseError, Task, Unusable, dask_setup, end, work_on
from .errors import BrainSegSAMError, InputError
from .memory import KEPT_MEMORY
from .pipeline import CaseWork, Item, Row, Saved
from .progress import Progress

_POLL_S: Final = 0.2
_COUNT_WORKERS_EVERY_S: Final = 2.0
_CONNECT_S: Final = 10.0
_RESULT_S: Final = 5.0
# Starting many processes that each import torch takes a while on a busy machine.
_LOCAL_START: Final = "300s"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Where the workers are.

    Attributes:
        devices: torch devices of the workers in their order; on a running cluster one for all, "auto" where each
            decides for itself.
        threads: of each local worker, for computing.
        address: of the scheduler of a running cluster; None starts one local process for each device.
        patience_s: how long a running cluster may be without any worker before the batch is given up.
    """

    devices: tuple[str, ...]
    threads: int = 1
    address: str | None = None
    patience_s: float = 600.0


def run_on_cluster(
    items: Sequence[Item],
    start: Callable[[str], CaseWork[Item, Any, Any, Saved]],
    *,
    cluster: Cluster,
    name: Callable[[Item], str],
    progress: Progress,
    on_row: Callable[[Row[Item, Saved]], None],
    retries: int,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Work on every case; see `batch.run_batch`."""
    count = len(cluster.devices)
    where = f"to {cluster.address}" if cluster.address else f"{count} worker{'s' * (count != 1)}"
    progress.stage(f"{'Connecting' if cluster.address else 'Starting'} {where}", until=0.0)
    with _connected(cluster) as client:
        if tell is not None:
            tell(_greeting(client, cluster))
        task = Task(
            secrets.token_hex(8), client.id, start, cluster.devices, None if cluster.address else cluster.threads
        )  # fmt: skip
        try:
            _Driver(client, task, items, name, progress, on_row, retries, cluster).run()
        finally:
            # Also on a cluster of others: no worker goes on with cases that nobody waits for, or keeps the model.
            with contextlib.suppress(Exception):
                client.run(end, task.session, on_error="ignore")


@dataclass(frozen=True)
class _Submitted:
    """A case that a worker has, or waits for.

    Attributes:
        index: of the case.
        workers: addresses of those that may do it; empty where any may.
    """

    index: int
    workers: frozenset[str]


class _Driver(Generic[Item, Saved]):
    """Submits cases as places become free, and passes on what came of them."""

    def __init__(
        self,
        client: Any,
        task: Task,
        items: Sequence[Item],
        name: Callable[[Item], str],
        progress: Progress,
        on_row: Callable[[Row[Item, Saved]], None],
        retries: int,
        cluster: Cluster,
    ) -> None:
        self._client, self._task, self._items, self._name = client, task, items, name
        self._progress, self._on_row, self._retries, self._cluster = progress, on_row, retries, cluster
        self._running: dict[Any, _Submitted] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting = iter(range(len(items)))
        self._again: deque[int] = deque()
        self._suspects: deque[int] = deque()
        self._deaths: Counter[int] = Counter()
        self._keys = itertools.count()
        self._left = len(items)
        self._begun = False  # some worker could set the work up
        self._left_out: dict[str, str] = {}
        self._usable: frozenset[str] = frozenset()
        self._places = 0
        self._counted = 0.0
        self._had_workers = time.monotonic()

    def run(self) -> None:
        self._progress.stage("Working on the cases", total=len(self._items), until=1.0, unit="cases")
        while self._left:
            self._submit()
            self._progress.check()
            with contextlib.suppress(queue.Empty):
                self._finish(self._ended.get(timeout=_POLL_S))

    def _submit(self) -> None:
        """Fill the free places."""
        self._count_places()
        while len(self._running) < self._places and (index := self._next()) is not None:
            # Each time under a new key: the scheduler remembers deaths by it.
            key = (f"case-{self._task.session}", index, next(self._keys))
            # Workers that come later are welcome, so workers are named only where one must be left out.
            workers = self._usable if self._left_out else frozenset()
            future = self._client.submit(
                work_on, self._task, self._items[index], key=key, pure=False, retries=self._retries,
                workers=sorted(workers) or None,
            )  # fmt: skip
            self._running[future] = _Submitted(index, workers)
            future.add_done_callback(self._ended.put)

    def _next(self) -> int | None:
        """The next case: suspects come last, and each alone."""
        if self._again:
            return self._again.popleft()
        index = next(self._waiting, None)
        if index is None and self._suspects and not self._running:
            return self._suspects.popleft()
        return index

    def _count_places(self) -> None:
        now = time.monotonic()
        if now - self._counted < _COUNT_WORKERS_EVERY_S:
            return
        try:
            threads = self._client.ncores()
        except Exception as error:
            raise self._lost() from error
        self._counted = now
        self._usable = frozenset(threads).difference(self._left_out)
        self._places = sum(min(CASES_IN_MEMORY, threads[worker]) for worker in self._usable)
        if not threads:
            self._places = 1  # so that a cluster that starts its workers on demand sees a demand
        if self._usable:
            self._had_workers = now
        else:
            self._check_hope(bool(threads), now - self._had_workers)
        self._take_back(threads)

    def _check_hope(self, any_worker: bool, waited_s: float) -> None:
        """Give up where no worker can be used, and none will be."""
        reason = next(reversed(self._left_out.values()), "")
        if any_worker and not self._begun and not self._deaths:
            raise BrainSegSAMError(reason)
        if waited_s > self._cluster.patience_s:
            raise BrainSegSAMError(
                f"The cluster at {self._client.scheduler.address} has had no worker that could be used for "
                f"{self._cluster.patience_s:.0f} seconds{f' ({reason})' if reason else ''}; start workers, and this "
                "command again with --resume."
            )

    def _take_back(self, present: Collection[str]) -> None:
        """Take cases back that wait for workers which are all gone; others may have come."""
        for future, submitted in list(self._running.items()):
            if submitted.workers and submitted.workers.isdisjoint(present):
                self._forget(future)
                self._end(submitted.index, self._died(submitted.index, times=1))

    def _finish(self, future: Any) -> None:
        if future not in self._running:
            return
        index = self._running[future].index
        error: str | None = ""
        saved: Any = None
        try:
            saved = future.result(timeout=_RESULT_S)
        except asyncio.TimeoutError:
            # Its worker died before it gave the result back, so the case is under way again.
            future.add_done_callback(self._ended.put)
            return
        except CaseError as failure:
            error = str(failure)
            self._begun = True
        except Exception as failure:
            error = self._judge(failure, index)
        self._forget(future)
        if isinstance(saved, Unusable):
            self._leave_out(saved)
            self._again.append(index)
            return
        self._begun = self._begun or error == ""
        self._end(index, error, saved)

    def _forget(self, future: Any) -> None:
        del self._running[future]
        future.release()

    def _end(self, index: int, error: str | None, saved: Saved | None = None) -> None:
        """Report what became of a case; nothing has yet where the error is None."""
        if error is None:
            return
        self._left -= 1
        self._on_row(Row(self._items[index], saved, error))
        self._progress.advance()

    def _leave_out(self, unusable: Unusable) -> None:
        if unusable.worker not in self._left_out:
            _log.warning("The worker %s is left out: %s", unusable.worker, unusable.reason)
            self._left_out[unusable.worker] = unusable.reason
            self._counted = 0.0

    def _judge(self, failure: Exception, index: int) -> str | None:
        """The sentence for a failure that is not the case's own; None where the case gets another chance."""
        from distributed import KilledWorker

        if isinstance(failure, KilledWorker):
            # A running cluster has its own number of deaths after which it says so; here each is told at once.
            return self._died(index, times=1 if self._cluster.address is None else max(1, self._retries))
        if self._client.status != "running" or type(failure).__name__ in ("FutureCancelledError", "CancelledError"):
            raise self._lost() from failure
        sentence = (
            f"A worker could not take or give back the case ({type(failure).__name__}: {failure}); "
            "check that BrainSegSAM is installed alike for the scheduler and all workers."
        )
        if not self._begun:
            raise BrainSegSAMError(sentence) from failure
        return sentence

    def _died(self, index: int, *, times: int) -> str | None:
        """As `_judge`, for a case whose worker died."""
        self._deaths[index] += times
        if self._deaths[index] > self._retries:
            return (
                "Its worker process died each time, probably for want of memory; "
                "work on it with fewer workers, or on a machine with more memory."
            )
        # The last attempt is made alone: perhaps another case killed the worker, and this one was only beside it.
        (self._suspects if self._deaths[index] == self._retries else self._again).append(index)
        return None

    def _lost(self) -> BrainSegSAMError:
        return BrainSegSAMError(
            f"The connection to the scheduler {self._cluster.address or 'of the local workers'} was lost; finished "
            "cases are kept. Start this command again with --resume."
        )


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """A client of a running cluster, or of local workers that end with the block."""
    import dask
    from distributed import Client, LocalCluster

    if cluster.address is not None:
        try:
            client = Client(cluster.address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"No Dask scheduler answers at '{cluster.address}'. Start one with 'dask scheduler', give its address "
                "as in tcp://host:8786, or leave --scheduler out to work on this machine alone."
            ) from error
        with client:
            yield client
        return
    environment = _thread_settings(cluster.threads)
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # the driver counts the deaths of a case's workers itself
        # A machine that was asleep, or a process that was stopped, has not lost its workers.
        "distributed.scheduler.worker-ttl": None,
        "distributed.comm.timeouts.connect": _LOCAL_START,
        # A worker that died is started again; on a busy machine that takes longer than Dask waits for it otherwise.
        "distributed.deploy.lost-worker-timeout": _LOCAL_START,
        "distributed.worker.preload": [dask_setup.__module__],
        "distributed.nanny.pre-spawn-environ": {**KEPT_MEMORY, **environment},
        # Workers are sized by what a case needs; Dask would stop one that is busy with a large case.
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=len(cluster.devices),
            threads_per_worker=CASES_IN_MEMORY,
            memory_limit=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            env=environment,
            silence_logs=logging.CRITICAL,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def _thread_settings(threads: int) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return dict.fromkeys(names, str(threads))


def _greeting(client: Any, cluster: Cluster) -> str:
    link = str(client.dashboard_link).removesuffix("/status")
    if importlib.util.find_spec("bokeh") is None:
        link += "/info/main/workers.html (with the Python package bokeh: live plots)"
    else:
        link += "/status"
    count = len(client.ncores())
    kind = f"cluster at {cluster.address}" if cluster.address else "local cluster"
    return f"Dask: {kind}, {count} worker{'s' * (count != 1)}; dashboard: {link}"
