"""Many cases in one process, one after the other; a failure is a row in the result, not a crash.

While one case is computed, the next one is read and the last one written in a background thread: reading and
compressing use one core, and numpy, SimpleITK and torch let go of Python's lock while they work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar, runtime_checkable

from .errors import BrainSegSAMError, Cancelled
from .progress import Progress

Item = TypeVar("Item")
ItemIn = TypeVar("ItemIn", contravariant=True)
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")
Saved = TypeVar("Saved")
SavedOut = TypeVar("SavedOut", covariant=True)

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


class CaseWork(Protocol[ItemIn, Loaded, Computed, SavedOut]):
    """What is done with each case, in three steps, so that reading and writing overlap with computing."""

    def load(self, item: ItemIn) -> Loaded:
        """Read a case; runs in a background thread."""
        ...

    def compute(self, loaded: Loaded, progress: Progress) -> Computed:
        """Work on what was loaded, one case at a time in each process; `progress` is this case's own."""
        ...

    def save(self, item: ItemIn, computed: Computed) -> SavedOut:
        """Write what was computed; runs in a background thread. What it returns should be small: it may travel."""
        ...


@runtime_checkable
class Resumable(Protocol[ItemIn, SavedOut]):
    """Work that can tell what it has finished, so that nothing is done twice where a worker dies before it says so."""

    def finished(self, item: ItemIn) -> SavedOut | None:
        """What `save` returned for a case in this batch, by what lies there; None where it was not finished."""
        ...


def run_pipeline(
    items: Sequence[Item],
    work: CaseWork[Item, Loaded, Computed, Saved],
    *,
    name: Callable[[Item], str],
    progress: Progress,
    on_row: Callable[[Row[Item, Saved]], None],
    retries: int = 0,
) -> None:
    """Load, compute and save every item; at most two items are in memory beside the one that is computed.

    Args:
        items: what to work on, in order.
        work: what is done with each.
        name: of an item, for progress and log.
        progress: of the whole.
        on_row: told of each finished or failed item, in order, in the calling thread.
        retries: how often an item that fails is tried again before it is reported.

    Raises:
        Cancelled: when the progress was cancelled, after what runs was brought to its end.
    """

    def finish(item: Item, saving: Future[Saved] | str, part: Progress) -> None:
        outcome = saving if isinstance(saving, str) else _outcome(saving)
        for _ in range(retries):
            if isinstance(outcome, str):
                outcome = _attempt(lambda: work.save(item, work.compute(work.load(item), part)))
        progress.counted()
        on_row(Row(item, None, outcome) if isinstance(outcome, str) else Row(item, outcome.value))

    progress.count("cases", total=len(items))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cases") as background:
        loading = background.submit(work.load, items[0]) if items else None
        waiting: tuple[Item, Future[Saved] | str, Progress] | None = None
        for index, item in enumerate(items):
            assert loading is not None
            part = progress.part(name(item), until=(index + 1) / len(items))
            loaded = _outcome(loading)
            loading = background.submit(work.load, items[index + 1]) if index + 1 < len(items) else None
            saving: Future[Saved] | str
            try:
                computed = loaded if isinstance(loaded, str) else _attempt(partial(work.compute, loaded.value, part))
                saving = computed if isinstance(computed, str) else background.submit(work.save, item, computed.value)
            except Cancelled:
                if waiting is not None:
                    finish(*waiting)
                raise
            del loaded, computed
            if waiting is not None:
                finish(*waiting)
            waiting = (item, saving, part)
        if waiting is not None:
            finish(*waiting)


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
