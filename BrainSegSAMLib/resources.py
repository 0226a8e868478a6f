"""Where the files that ship with the extension lie.

In a source tree and in an installed Slicer extension `Resources/` is a sibling of this package; in a wheel, inside it.
"""

from __future__ import annotations

from pathlib import Path

_INSIDE = Path(__file__).parent / "Resources"


def resource_path(*parts: str) -> Path:
    """Path of a shipped file or folder below `Resources/`; it is not checked for existence."""
    root = _INSIDE if _INSIDE.is_dir() else Path(__file__).parent.parent / "Resources"
    return root.joinpath(*parts)
