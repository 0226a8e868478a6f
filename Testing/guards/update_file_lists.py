"""Writes FileLists.cmake: what the Slicer extension installs, listed file by file from what git tracks.

Run it after a file was added or removed: `python Testing/guards/update_file_lists.py`. A guard test fails until then.
"""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
LIST_FILE = ROOT / "FileLists.cmake"
_HEADER = "# Every file that is installed. Written by Testing/guards/update_file_lists.py; do not edit by hand.\n"


def tracked_files() -> list[str]:
    """Paths that git tracks and that still exist, relative to the root, sorted.

    Raises:
        OSError, CalledProcessError: outside a git checkout.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return sorted(path for path in listing.split("\0") if path and (ROOT / path).is_file())


def file_lists(paths: list[str]) -> dict[str, list[str]]:
    """CMake variable → files, relative to the CMakeLists.txt that uses them."""
    lists: dict[str, list[str]] = {
        "BrainSegSAM_MODULE_SCRIPTS": [],
        "BrainSegSAM_MODULE_RESOURCES": [],
        "BrainSegSAM_LIBRARY_SCRIPTS": [],
        "BrainSegSAM_LIBRARY_RESOURCES": [],
    }
    for path in paths:
        top, _, below = path.partition("/")
        is_script = PurePosixPath(path).suffix == ".py"
        if PurePosixPath(path).name == "CMakeLists.txt":
            continue
        if top == "BrainSegSAM":
            lists["BrainSegSAM_MODULE_SCRIPTS" if is_script else "BrainSegSAM_MODULE_RESOURCES"].append(below)
        elif top == "BrainSegSAMLib":
            lists["BrainSegSAM_LIBRARY_SCRIPTS" if is_script else "BrainSegSAM_LIBRARY_RESOURCES"].append(path)
        elif top == "Resources" and not is_script and "Screenshots" not in path:  # what only the README needs stays out
            lists["BrainSegSAM_LIBRARY_RESOURCES"].append(path)
    return lists


def as_cmake(lists: dict[str, list[str]]) -> str:
    """The text of FileLists.cmake."""
    blocks = [f"set({name}\n" + "".join(f"  {path}\n" for path in paths) + "  )\n" for name, paths in lists.items()]
    return _HEADER + "\n" + "\n".join(blocks)


if __name__ == "__main__":
    LIST_FILE.write_text(as_cmake(file_lists(tracked_files())), encoding="utf-8")
