"""How our own processes get memory from the operating system: what was freed is kept for what comes next.

A network that runs on a CPU asks for the same hundreds of megabytes again for every tile and slice. Left to itself,
glibc gives large blocks back as soon as they are freed, and has to fetch them anew, page by page: that took two fifths
of the time of a prediction by nnU-Net, and more where several processes did it at once. Only processes that are ours
alone do this, never one that a user has imported the library into, such as Slicer's. Other systems than Linux with
glibc go on as before.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_LIMIT: Final = 2**31 - 1  # the greatest that glibc takes at run time
_TOP_PAD: Final = 2**28

KEPT_MEMORY: Final[dict[str, str]] = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(_LIMIT),
    "MALLOC_TOP_PAD_": str(_TOP_PAD),
    # Threads other than the first would have pools of their own, too small for large blocks.
    "MALLOC_ARENA_MAX": "1",
}
"""The same as `keep_memory`, as environment variables of a process that is to be started."""

# Numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_memory() -> None:
    """Let this process keep what it frees; call it first, in a process that is ours alone."""
    library = _glibc()
    if library is not None:
        for parameter, value in (
            (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LIMIT), (_M_TOP_PAD, _TOP_PAD), (_M_ARENA_MAX, 1)
        ):  # fmt: skip
            library.mallopt(parameter, value)


def give_memory_back() -> None:
    """Give back what is free at the moment, for a process that waits for its next work."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
