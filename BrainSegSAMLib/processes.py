"""Processes and their children: which there are, and ending them all at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> set[int]:
    """Ids of all children of a process, and of theirs; on Windows none: there a process is ended with its tree."""
    if sys.platform == "win32" or pid <= 0:
        return set()
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    pending = [pid]
    while pending:
        fresh = [child for child in children.get(pending.pop(), []) if child not in found]
        found.update(fresh)
        pending += fresh
    return found


def end(pid: int, others: Iterable[int] = ()) -> None:
    """End a process that leads a group of its own, what is in that group, and others, at once; without waiting.

    Args:
        pid: of the leader, which may have ended already; its own process is never meant.
        others: further processes, such as `descendants` that lead groups of their own.
    """
    if pid <= 0:
        return
    if sys.platform == "win32":
        command = ["taskkill", "/F", "/T", "/PID", str(pid)]
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, creationflags=subprocess.CREATE_NO_WINDOW
        )
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    end_all(others)


def end_all(pids: Iterable[int]) -> None:
    """End processes at once; those that have ended already are no mistake."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def end_descendants() -> None:
    """End all children of this process, and theirs, at once; on Windows this process with them."""
    if sys.platform == "win32":
        end(os.getpid())
    else:
        end_all(descendants(os.getpid()))


def processor_seconds(pid: int) -> float | None:
    """How long a process has computed so far; None where the system does not say it in a simple way."""
    with contextlib.suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
    return None


def _parents() -> list[tuple[int, int]]:
    """Process and parent, for all processes that we may see."""
    if not (_PROC / "self" / "stat").exists():
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        pairs = (line.split() for line in listing.splitlines())
        return [(int(child), int(parent)) for child, parent in pairs]
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it may have ended by now
                # The name in brackets may hold spaces and brackets; the state and the parent follow the last one.
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                found.append((int(folder.name), int(fields[1])))
    return found
