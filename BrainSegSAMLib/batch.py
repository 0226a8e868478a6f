"""Many cases: in this process one after the other, or through Dask on several; a failure is a row, not a crash.

With one worker, while one case is computed, the next one is read and the last one written in a background thread:
reading and compressing use one core, and numpy, SimpleITK and torch let go of Python's lock while they work. With
several, each is a process that does the same; see `cluster`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from .errors import BrainSegSAMError, Cancelled
from .progress import Progress

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")
Saved = TypeVar("Saved")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row(Generic[Item, Saved]):
    """What became of one item.

    Attributes:
        item: what was worked on.
        saved: what `save` returned; None where it failed.
        error: the sentence that says why it failed; "" where it did not.
    """

    item: Item
    saved: Saved | None
    error: str = ""


class CaseWork(Protocol[Item, Loaded, Computed, Saved]):
    """What is done with each case, in three steps, so that reading and writing overlap with computing."""

    def load(self, item: Item) -> Loaded:
        """Read a case; may run in another thread than `compute`."""
        ...

    def compute(self, loaded: Loaded, progress: Progress) -> Computed:
        """Work on what was loaded; one case at a time in each process."""
        ...

    def save(self, item: Item, computed: Computed) -> Saved:
        """Write what was computed, and say in a few words what came out: it travels back to the driver."""
        ...


@dataclass(frozen=True)
class Workers:
    """Which processes work on the cases.

    Attributes:
        count: how many local processes; 1 works in this one; None sizes it to the machine and the number of cases.
            Not used with a scheduler.
        scheduler: address of a Dask cluster that runs already, e.g. "tcp://10.0.0.1:8786"; None for local processes.
        device: torch device name for all, or "auto": with several GPUs each worker gets its own.
        retries: how often a case that fails is tried again before it is reported.
    """

    count: int | None = None
    scheduler: str | None = None
    device: str = "cpu"
    retries: int = 2


def run_batch(
    items: Sequence[Item],
    start: Callable[[str], CaseWork[Item, Any, Any, Saved]],
    *,
    name: Callable[[Item], str],
    progress: Progress,
    on_row: Callable[[Row[Item, Saved]], None],
    workers: Workers | None = None,
    memory_gb: float = 4.0,
) -> None:
    """Work on every case, each in one task.

    Args:
        items: what to work on; each can be pickled.
        start: called once in each process with the torch device of that process ("cpu" where none is needed); gives
            what is done with each case. Can be pickled: a frozen dataclass with `__call__`, or a `functools.partial` of a
            function at a module's top.
        name: of an item, for progress and log.
        progress: of the whole; may cancel.
        on_row: told of each finished or failed case in the calling thread; with several workers as they end, otherwise
            in order.
        workers: which processes work; this one alone where None.
        memory_gb: what one worker needs at its peak; the machine's memory bounds the number of workers by it.

    Raises:
        InputError: where the scheduler is not there or the number of workers makes no sense.
        DependencyError: where several workers are asked for and Dask is not installed.
        BrainSegSAMError: what `start` raises, where no worker can start; where the cluster is lost.
        Cancelled: when the progress was cancelled; finished cases stay finished.
    """
    raise NotImplementedError


def run_pipeline(
    items: Sequence[Item],
    *,
    load: Callable[[Item], Loaded],
    compute: Callable[[Loaded, Progress], Computed],
    save: Callable[[Item, Computed], Saved],
    name: Callable[[Item], str],
    progress: Progress,
    on_row: Callable[[Row[Item, Saved]], None] | None = None,
) -> list[Row[Item, Saved]]:
    """Load, compute and save every item; at most two items are in memory beside the one that is computed.

    Args:
        items: what to work on, in order.
        load: reads one item; runs in the background thread.
        compute: works on what was loaded; runs in the calling thread with a progress of its own.
        save: writes what was computed; runs in the background thread.
        name: of an item, for progress and log.
        progress: of the whole.
        on_row: told of each finished or failed item, in order, in the calling thread.

    Returns:
        One row per item, in order. A `Cancelled` ends the whole and is raised after what runs was brought to its end.
    """
    rows: list[Row[Item, Saved]] = []

    def finish(item: Item, saving: Future[Saved] | str) -> None:
        outcome = saving if isinstance(saving, str) else _outcome(saving)
        rows.append(Row(item, None, outcome) if isinstance(outcome, str) else Row(item, outcome.value))
        if on_row is not None:
            on_row(rows[-1])

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cases") as background:
        loading = background.submit(load, items[0]) if items else None
        waiting: tuple[Item, Future[Saved] | str] | None = None
        for index, item in enumerate(items):
            assert loading is not None
            part = progress.part(name(item), until=(index + 1) / len(items))
            loaded = _outcome(loading)
            loading = background.submit(load, items[index + 1]) if index + 1 < len(items) else None
            saving: Future[Saved] | str
            try:
                computed = loaded if isinstance(loaded, str) else _attempt(partial(compute, loaded.value, part))
                saving = computed if isinstance(computed, str) else background.submit(save, item, computed.value)
            except Cancelled:
                if waiting is not None:
                    finish(*waiting)
                raise
            del loaded, computed
            if waiting is not None:
                finish(*waiting)
            waiting = (item, saving)
        if waiting is not None:
            finish(*waiting)
    return rows


@dataclass(frozen=True)
class _Value(Generic[Item]):
    value: Item


def _outcome(future: Future[Item]) -> _Value[Item] | str:
    return _attempt(future.result)


def _attempt(work: Callable[[], Item]) -> _Value[Item] | str:
    """The value of a call, or the sentence that says why it failed; a cancellation goes through."""
    try:
        return _Value(work())
    except Cancelled:
        raise
    except Exception as failure:
        return describe_failure(failure)


def describe_failure(failure: BaseException) -> str:
    """A sentence for a failure: our own errors speak for themselves, others are named and logged with their origin."""
    if isinstance(failure, BrainSegSAMError):
        return str(failure)
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return "There was not enough memory; close other programs, or choose another device."
    _log.error("unexpected failure", exc_info=failure)
    return f"An unexpected error occurred ({type(failure).__name__}: {failure}); please report it with the log."
