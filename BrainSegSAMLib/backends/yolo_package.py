"""The package ultralytics: how it is installed, what its licence asks, and its import without network or traces.

Left to itself, ultralytics looks up hosts when it is imported, downloads fonts and weights that it misses, installs
packages that it wants, and writes settings into the user's home. Here it is imported offline, with its settings in a
folder that is gone when the process ends; what killed processes left is swept by the next one.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from ..errors import DependencyError
from ..locks import hold

REQUIREMENT: Final = "ultralytics>=8.4.190,<8.5"
LICENCE: Final = (
    "ultralytics is licensed under AGPL-3.0: whoever passes on, or offers over a network, software that works together "
    "with it must give the source of the whole under that licence, or buy another licence from Ultralytics."
)
_ENVIRONMENT: Final = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
_PREFIX: Final = "brainsegsam-ultralytics-"
_LOCK_FILE: Final = "lock"  # held as long as the process lives
_OLD_S: Final = 60.0  # by then, whoever made a folder holds it
_FONTS: Final = ("Arial.ttf", "Arial.Unicode.ttf")  # asked for, though nothing is drawn


def ultralytics() -> Any:
    """The package, imported at its first use.

    Raises:
        DependencyError: where it is not installed; the message gives the command and the licence.
    """
    ours = "ultralytics" not in sys.modules
    if ours:
        _prepare()
    try:
        package = importlib.import_module("ultralytics")
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"Detectors need the Python package '{error.name}'; install it with: {install_command()}. Note that "
            f"{LICENCE}"
        ) from error
    if ours:  # else its settings lie in the user's home, and are not ours to change
        settings = package.settings
        # Loggers of other firms, synchronisation, hub: all of its switches.
        settings.update({name: False for name, value in settings.items() if isinstance(value, bool) and value})
    return package


def install_command(python: str = "python") -> str:
    """What a user types to install ultralytics.

    Args:
        python: the interpreter's command.
    """
    return f'{python} -m pip install "{REQUIREMENT}"'


def _prepare() -> None:
    """Environment and settings folder for the import."""
    import matplotlib

    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    held = None
    with suppress(OSError):  # where the disk cannot hold files, nothing is swept either
        held = hold(folder / _LOCK_FILE)
    atexit.register(_remove, folder, held)
    os.environ.update({**_ENVIRONMENT, "YOLO_CONFIG_DIR": str(folder)})
    fonts = folder / "Ultralytics"
    fonts.mkdir()
    for name in _FONTS:
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", fonts / name)


def _sweep() -> None:
    """Remove the folders of processes that were killed, which nobody holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or swept by another process by now
            if time.time() - folder.stat().st_mtime > _OLD_S and (held := hold(folder / _LOCK_FILE)):
                _remove(folder, held)


def _remove(folder: Path, held: IO[bytes] | None) -> None:
    if held is not None:
        held.close()  # what is open cannot be removed on Windows
    shutil.rmtree(folder, ignore_errors=True)
