"""A Dask scheduler and workers on this machine that are started by hand, as the documentation says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_DASK = [sys.executable, "-m", "dask"]


class HandStarted:
    """The processes, each the first of a group of its own; their logs lie in the folder.

    Attributes:
        address: of the scheduler.
    """

    def __init__(self, folder: Path) -> None:
        self.address = ""
        self._folder = folder
        self._file = folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int) -> None:
        self._run("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        for _ in range(workers):
            self.add_worker()
        waited = time.monotonic()
        while not (self._file.exists() and self._file.read_text().strip()):
            assert time.monotonic() - waited < 300
            time.sleep(0.1)
        self.address = json.loads(self._file.read_text())["address"]

    def add_worker(self) -> subprocess.Popen[bytes]:
        return self._run("worker", "--nthreads", "2", "--no-dashboard")

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As when its machine is gone: nobody starts it again."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._processes.remove(process)

    def kill_all(self) -> None:
        for process in reversed(self._processes[:]):
            self.kill(process)

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self._folder / f"dask-{len(self._processes)}.log").open("ab") as log:
            process = subprocess.Popen(
                [*_DASK, *words, "--scheduler-file", str(self._file)],
                stdout=log, stderr=log, env=environment, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[HandStarted]:
    """A scheduler and some workers, which are killed at the end."""
    cluster = HandStarted(folder)
    try:
        cluster.start(workers)
        yield cluster
    finally:
        cluster.kill_all()
