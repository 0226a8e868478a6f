"""What a process frees, it keeps: counted in the page faults that the operating system reports."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from BrainSegSAMLib.memory import KEPT_MEMORY

ROOT = Path(__file__).resolve().parents[2]
COUNT_FAULTS = """
import resource, sys, threading
import numpy as np
from BrainSegSAMLib.memory import keep_memory
if "keep" in sys.argv:
    keep_memory()
def work():
    for _ in range(20):
        np.ones(48_000_000, np.uint8)
if "thread" in sys.argv:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Only glibc is told how to keep memory.")


def faults(*arguments: str, variables: dict[str, str] | None = None) -> int:
    # Without huge pages, which numpy asks for and which would hide how often memory is fetched.
    environment = {"PYTHONPATH": str(ROOT), "NUMPY_MADVISE_HUGEPAGE": "0", **(variables or {})}
    command = [sys.executable, "-c", COUNT_FAULTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout)


def test_memory_is_fetched_once() -> None:
    plain = faults()
    assert plain > 20 * 10_000, "48 MB are 11,718 pages of 4 kB, each time"
    assert faults("keep") < plain / 4


def test_processes_that_are_started_keep_it_in_every_thread() -> None:
    assert faults("thread", variables=KEPT_MEMORY) < faults("thread") / 4
