"""Many cases, in this process or through Dask on several; the same call, the same rows.

One worker works in this process (`pipeline`). Several are processes of their own on this machine, or a Dask cluster
that runs already (`cluster`). How many there are by default follows from the machine's cores, memory and GPUs, and from
the number of cases: a process that must first load torch and a model is not worth it for one case.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from .backends.devices import gpu_devices, resolve_device
from .errors import DependencyError, InputError
from .pipeline import CaseWork, Item, Row, Saved, describe_failure, run_pipeline
from .progress import Progress

__all__ = ["CaseWork", "Row", "Workers", "describe_failure", "prepare_all", "run_batch"]

_GB: Final = 1024**3

# A case takes about as long to read and to bring into its form as a process takes to start.
_PREPARED_PER_WORKER: Final = 8
_PREPARING_GB: Final = 2.0


@dataclass(frozen=True)
class Workers:
    """Which processes work on the cases.

    Attributes:
        count: how many processes on this machine; 1 works in this one; None sizes it to the machine and the cases. Not
            used with a scheduler.
        scheduler: address of a Dask cluster that runs already, e.g. "tcp://10.0.0.1:8786"; None for this machine.
        device: torch device name for all, or "auto": with several GPUs each worker gets its own.
        retries: how often a case that fails is tried again before it is reported.
    """

    count: int | None = None
    scheduler: str | None = None
    device: str = "cpu"
    retries: int = 2


@dataclass(frozen=True)
class LocalProcesses:
    """Processes on this machine.

    Attributes:
        devices: the torch device of each.
        threads: of each, for computing.
    """

    devices: tuple[str, ...]
    threads: int


def run_batch(
    items: Sequence[Item],
    start: Callable[[str], CaseWork[Item, Any, Any, Saved]],
    *,
    name: Callable[[Item], str],
    progress: Progress,
    on_row: Callable[[Row[Item, Saved]], None],
    workers: Workers | None = None,
    memory_gb: float = 4.0,
    cases_per_worker: int = 2,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Work on every case, each in one task.

    Args:
        items: what to work on; each can be pickled.
        start: called once in each process with the torch device of that process ("cpu" where none is needed); gives
            what is done with each case. Can be pickled: a frozen dataclass with `__call__`, or a `functools.partial` of
            a function at a module's top.
        name: of an item, for progress and log.
        progress: of the whole; may cancel.
        on_row: told of each finished or failed case in the calling thread; with several workers as they end, otherwise
            in order.
        workers: which processes work; sized to machine and cases where None.
        memory_gb: what one worker needs at its peak; by it the machine's memory bounds the number of workers.
        cases_per_worker: how many cases are worth the start of a process; by it their number bounds that of workers.
        tell: gets a sentence on the cluster that is used, with the address of its dashboard.

    Raises:
        InputError: where the scheduler is not there, or the number of workers or the device makes no sense.
        DependencyError: where several workers are asked for and Dask is not installed.
        BrainSegSAMError: what `start` raises, where no worker can start; where the cluster is lost.
        Cancelled: when the progress was cancelled; finished cases stay finished.
    """
    workers = workers or Workers()
    if not items:
        return
    processes = (
        None
        if workers.scheduler
        else local_processes(len(items), workers, memory_gb=memory_gb, cases_per_worker=cases_per_worker)
    )
    if processes is not None and len(processes.devices) == 1:
        work = start(processes.devices[0])
        run_pipeline(items, work, name=name, progress=progress, on_row=on_row, retries=workers.retries)
        return
    if importlib.util.find_spec("distributed") is None:
        raise DependencyError(
            "Several workers need the Python package 'distributed', which is not installed: pip install distributed. "
            "With --workers 1 it is not needed."
        )
    from .cluster import Cluster, run_on_cluster

    cluster = (
        Cluster(address=workers.scheduler, devices=(workers.device,))
        if processes is None
        else Cluster(devices=processes.devices, threads=processes.threads)
    )
    run_on_cluster(
        items, start, cluster=cluster, name=name, progress=progress, on_row=on_row, retries=workers.retries, tell=tell
    )


def prepare_all(
    items: Sequence[Item],
    work: CaseWork[Item, Any, Any, Saved],
    *,
    name: Callable[[Item], str],
    progress: Progress,
    workers: Workers | None = None,
) -> list[Saved]:
    """Prepare the cases of a training: all of them, because a training without some would be another one.

    Args:
        items: what to prepare; each can be pickled.
        work: what is done with each, on the processor. Can be pickled.
        name: of an item, for progress and log.
        progress: of the whole; may cancel.
        workers: which processes work; sized to machine and cases where None.

    Returns:
        What `save` returned for each, in the order of the items.

    Raises:
        InputError: where cases cannot be used, each of them named; and as `run_batch`.
    """
    prepared: dict[str, Saved] = {}
    failed: list[str] = []

    def on_row(row: Row[Item, Saved]) -> None:
        if row.saved is None:
            failed.append(row.error)
        else:
            prepared[name(row.item)] = row.saved

    run_batch(
        items, partial(_on_any_device, work), name=name, progress=progress, on_row=on_row, workers=workers,
        memory_gb=_PREPARING_GB, cases_per_worker=_PREPARED_PER_WORKER,
    )  # fmt: skip
    if failed:
        count = f"{len(failed)} of {len(items)} cases cannot be used. " if len(failed) > 1 else ""
        raise InputError(count + " ".join(failed))
    return [prepared[name(item)] for item in items]


def _on_any_device(work: CaseWork[Item, Any, Any, Saved], _device: str) -> CaseWork[Item, Any, Any, Saved]:
    """Every process does the same."""
    return work


def local_processes(
    cases: int, workers: Workers, *, memory_gb: float, cases_per_worker: int = 2
) -> LocalProcesses:
    """How many processes on this machine suit so many cases, with which devices and threads.

    On a CPU: as many as there are cores and as memory allows, because several processes of few threads do more than one
    of many; on GPUs: one for each.

    Raises:
        InputError: where the number of workers makes no sense, or the device is not there.
    """
    if workers.count is not None and workers.count < 1:
        raise InputError(f"--workers is {workers.count}; it must be 1 or more.")
    devices = gpu_devices() if workers.device in ("auto", "cuda") else []
    if not devices:
        devices = [resolve_device(workers.device) if workers.device != "cpu" else "cpu"]
    cores = core_count()
    if workers.count is not None:
        count = min(workers.count, cases)
    elif importlib.util.find_spec("distributed") is None:
        count = 1
    else:
        most = len(devices) if devices[0] != "cpu" else min(cores, int(available_memory_gb() / memory_gb))
        count = max(1, min(most, cases // cases_per_worker))
    return LocalProcesses(tuple(devices[i % len(devices)] for i in range(count)), max(1, cores // count))


def core_count() -> int:
    """Cores that this process may use, and not more than a container's share of them."""
    try:
        from dask.system import cpu_count
    except ImportError:  # without Dask there is one worker, and its threads are all that this is asked for
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(cpu_count())


def available_memory_gb() -> float:
    """Memory that is free now, and not more than a container allows."""
    import psutil
    from distributed.system import MEMORY_LIMIT

    return float(min(psutil.virtual_memory().available, MEMORY_LIMIT)) / _GB
