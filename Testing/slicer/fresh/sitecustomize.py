"""Hides packages from a Python, as if they were not installed: for tests of what a fresh Slicer can do.

Python imports this file at its start where its folder is on PYTHONPATH; `hide()` does the same to a running one.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "BRAINSEGSAM_TEST_HIDDEN"


class Without:
    """A finder of modules and of installed packages that finds all but some."""

    def __init__(self, finder, hidden):
        self._finder, self._hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self._hidden else self._finder.find_spec(name, path, target)

    def find_distributions(self, *context):
        find = getattr(self._finder, "find_distributions", lambda *_context: ())
        return (found for found in find(*context) if found.name.replace("-", "_").lower() not in self._hidden)

    def invalidate_caches(self):
        getattr(self._finder, "invalidate_caches", lambda: None)()


def hide(names):
    """Finders without these packages, to be put into `sys.meta_path`."""
    return [Without(finder, frozenset(names)) for finder in sys.meta_path]


if os.environ.get(VARIABLE):
    sys.meta_path[:] = hide(os.environ[VARIABLE].split(","))
