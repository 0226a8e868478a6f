"""What the record of every run says, whatever the command."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

from . import __version__

RECORD_VERSION: Final = 1
RUN_FILE: Final = "run.json"
_PACKAGES: Final = ("nnunetv2", "torch", "numpy", "scipy", "SimpleITK")


def versions() -> dict[str, str]:
    """Versions of Python, this project and the packages that decide a result."""
    found = {"python": platform.python_version(), "brainsegsam": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
