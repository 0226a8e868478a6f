"""Where the numbers go."""

from __future__ import annotations

from pathlib import Path

from ..errors import OutputError
from ..files import check_writable


def check_output(path: Path) -> None:
    """Refuse, before any work, a place that no file can be written to.

    Raises:
        OutputError: where it is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file for the numbers.")
    check_writable(path.parent)
