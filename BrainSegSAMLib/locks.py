"""Files that one process at a time holds, on every system.

The system lets go of them when their process ends, however it ends; so nothing that a killed process leaves behind must
be found out to be stale.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_PAUSE_S: Final = 0.1

if sys.platform == "win32":
    import msvcrt

    _HELD = PermissionError

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    _HELD = BlockingIOError

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def hold(path: Path) -> IO[bytes] | None:
    """Hold a file until what is returned is closed; None where somebody else holds it.

    Args:
        path: made where missing, in a folder that is there; nothing is written into it.

    Raises:
        OSError: where the file cannot be made, or lies on a disk where nothing can be held, as on some network disks.
    """
    stream = path.open("ab")
    try:
        _take(stream.fileno())
    except _HELD:
        stream.close()
        return None
    except OSError:
        stream.close()
        raise
    return stream


@contextmanager
def alone(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """A block in which nobody else holds a file; it begins when they have let go of it.

    Args:
        path: as `hold`.
        waiting: called again and again until then; may raise, which ends the waiting.

    Raises:
        OSError: as `hold`.
    """
    while (stream := hold(path)) is None:
        waiting()
        time.sleep(_PAUSE_S)
    with stream:
        yield
