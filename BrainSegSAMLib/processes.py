"""Processes and their children: which there are, what they do, and ending them all at once.

Ids are used again, so a process that may have ended by now is known by its id and the time when it started.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> dict[int, str]:
    """Ids of all children of a process, and of theirs, with when they started; on Windows none: see `lead_group`."""
    if sys.platform == "win32" or pid <= 0:
        return {}
    children: dict[int, dict[int, str]] = {}
    for child, (parent, started) in _listing().items():
        children.setdefault(parent, {})[child] = started
    found: dict[int, str] = {}
    pending = [pid]
    while pending:
        fresh = {child: started for child, started in children.get(pending.pop(), {}).items() if child not in found}
        found.update(fresh)
        pending += fresh
    return found


def started(pid: int) -> str:
    """When a process started, in words that only serve to be compared; "" where there is no such process."""
    if sys.platform == "win32":
        return _times_on_windows(pid)[0]
    if _has_proc():
        with contextlib.suppress(OSError, IndexError):
            return _stat(pid)[19]
        return ""
    return _ps("-o", "lstart=", "-p", str(pid)).strip()


def processor_seconds(pid: int) -> float | None:
    """How long a process has computed so far; None where there is no such process."""
    if sys.platform == "win32":
        return _times_on_windows(pid)[1]
    if _has_proc():
        with contextlib.suppress(OSError, IndexError):
            fields = _stat(pid)
            return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
        return None
    parts = re.split("[-:]", _ps("-o", "time=", "-p", str(pid)).strip())  # days-hours:minutes:seconds, from the right
    if parts == [""]:
        return None
    return sum(float(part) * factor for part, factor in zip(reversed(parts), (1, 60, 3600, 86400), strict=False))


# ---- to end


def lead_group() -> None:
    """Make this process the leader of a group, so that it can be ended with all its children at once."""
    if sys.platform == "win32":
        _end_with_us_on_windows()
    else:
        with contextlib.suppress(PermissionError):  # it leads a group already
            os.setsid()


def end_group(pid: int) -> None:
    """End what is in the group that a process leads or led until just now; on Windows it has ended with its leader."""
    if sys.platform != "win32" and pid > 0:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def end_all(known: Mapping[int, str]) -> None:
    """End processes at once, each only if it still is the one that started then; see `started`."""
    for pid, when in known.items():
        if when and started(pid) == when:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def end_tree(pid: int) -> None:
    """End a process that runs, and all its descendants; on Windows that takes a moment."""
    if pid <= 0:
        return
    if sys.platform == "win32":
        command = ["taskkill", "/F", "/T", "/PID", str(pid)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, capture_output=True, timeout=5, check=False, creationflags=subprocess.CREATE_NO_WINDOW
            )
    else:
        end_all({**descendants(pid), pid: started(pid)})


def end_descendants() -> None:
    """End all children of this process, and theirs, at once; on Windows they end with it."""
    end_all(descendants(os.getpid()))


# ---- what the system says


def _has_proc() -> bool:
    return (_PROC / "self" / "stat").exists()


def _listing() -> dict[int, tuple[int, str]]:
    """Process → its parent and when it started, for all that we may see."""
    found = {}
    if not _has_proc():
        for line in _ps("-A", "-o", "pid=,ppid=,lstart=").splitlines():
            child, parent, when = line.split(maxsplit=2)
            found[int(child)] = (int(parent), when.strip())
        return found
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):  # it may have ended by now
                fields = _stat(int(folder.name))
                found[int(folder.name)] = (int(fields[1]), fields[19])
    return found


def _stat(pid: int) -> list[str]:
    """The fields from the third, the state, on; the second, a name in brackets, may hold spaces and brackets."""
    text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _ps(*options: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}  # times of both sides must be written alike
    return subprocess.run(["ps", *options], capture_output=True, text=True, check=False, env=environment).stdout


if sys.platform == "win32":  # written by the documentation of Windows; our tests have not run there yet
    import ctypes
    import struct
    from ctypes import wintypes

    _kernel = ctypes.WinDLL("kernel32")
    for _name in ("CreateJobObjectW", "GetCurrentProcess", "OpenProcess"):
        getattr(_kernel, _name).restype = wintypes.HANDLE
    _LIMITS = 9  # JobObjectExtendedLimitInformation
    _KILL_ON_JOB_CLOSE = 0x2000
    _QUERY_LIMITED_INFORMATION = 0x1000

    def _end_with_us_on_windows() -> None:
        """Put this process into a job that ends all that is in it with its last handle, which ends with us."""
        job = wintypes.HANDLE(_kernel.CreateJobObjectW(None, None))
        limits = struct.pack("<QQI124x", 0, 0, _KILL_ON_JOB_CLOSE)  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION, 64 bits
        _kernel.SetInformationJobObject(job, _LIMITS, limits, len(limits))
        _kernel.AssignProcessToJobObject(job, wintypes.HANDLE(_kernel.GetCurrentProcess()))

    def _times_on_windows(pid: int) -> tuple[str, float | None]:
        """When a process was made, and the seconds that it has computed; "" and None where there is none."""
        process = wintypes.HANDLE(_kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid))
        times = [ctypes.c_uint64() for _ in range(4)]  # made, ended, in the kernel, outside; in 100 ns
        known = process and _kernel.GetProcessTimes(process, *map(ctypes.byref, times))
        _kernel.CloseHandle(process)
        made, _ended, kernel, user = (time.value for time in times)
        return (str(made), (kernel + user) / 1e7) if known else ("", None)
