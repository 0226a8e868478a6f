"""Everything that opens a window of its own; in one place, so that tests can answer."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

TITLE = "BrainSegSAM"


def openFile(title: str, filters: str) -> str:
    """Path of a file that the user chooses; "" where they cancel."""
    found = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", filters)
    return str(found)


def confirm(question: str) -> bool:
    """Whether the user agrees."""
    return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle=TITLE))


def showError(text: str) -> None:
    """Say what went wrong."""
    slicer.util.errorDisplay(text, windowTitle=TITLE)


def openInBrowser(path: Path) -> None:
    """Show a file in the web browser."""
    if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path))):
        showError(_("The web browser could not be opened; the report is {path}").format(path=path))
