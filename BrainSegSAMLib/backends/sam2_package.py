"""How the package sam2 is installed: for messages, and for Slicer, which installs it itself.

sam2 comes as source, and its build imports PyTorch: pip would download another PyTorch just to build it. What it would
compile for graphics cards is not used here.
"""

from __future__ import annotations

import os
from typing import Final

REQUIREMENT: Final = "sam2==1.1.0"
PIP_OPTIONS: Final = ("--no-build-isolation",)
ENVIRONMENT: Final = {"SAM2_BUILD_CUDA": "0"}


def install_command(python: str = "python") -> str:
    """What a user types on this system to install sam2, once PyTorch is there.

    Args:
        python: the interpreter's command.
    """
    # On Windows there is no common way to set a variable for one command, and no compiler to be kept from starting.
    variables = [] if os.name == "nt" else [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    return " ".join([*variables, python, "-m pip install", *PIP_OPTIONS, REQUIREMENT])
