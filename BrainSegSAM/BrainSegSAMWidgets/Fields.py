"""Small things that every panel does with its widgets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from . import Dialogs


class PathFields:
    """Keeps path edits and the text parameters of a parameter node alike. Their own buttons choose folders.

    A parameter of the type Path would show an empty path as ".".

    Args:
        edits: name of the parameter → ctkPathLineEdit.
        onChanged: told after the user has changed one.
        files: name of the parameter → a button that chooses a file instead, where one will do as well, and the filter
            of its dialog.
    """

    def __init__(
        self, edits: Mapping[str, Any], onChanged: Callable[[], None],
        files: Mapping[str, tuple[Any, str]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self._edits = dict(edits)
        self._onChanged = onChanged
        self._parameterNode: Any = None
        for edit in self._edits.values():
            edit.filters = ctk.ctkPathLineEdit.Dirs  # with Files among them, its dialog would offer files alone
            edit.connect("currentPathChanged(QString)", self._onEdited)
        self._buttons = [_FileButton(button, self._edits[name], kinds) for name, (button, kinds) in files.items()]

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the paths of a parameter node, or keep none."""
        self._parameterNode = None
        if parameterNode is not None:
            for name, edit in self._edits.items():
                edit.currentPath = getattr(parameterNode, name)
        self._parameterNode = parameterNode

    def text(self, name: str) -> str:
        """What stands in an edit, without spaces around it."""
        return str(self._edits[name].currentPath).strip()

    def disconnect(self) -> None:
        """Let go of the widgets."""
        for edit in self._edits.values():
            edit.disconnect("currentPathChanged(QString)", self._onEdited)
        for button in self._buttons:
            button.disconnect()
        self._parameterNode = None

    def _onEdited(self, *_path: Any) -> None:
        if self._parameterNode is None:
            return
        for name, edit in self._edits.items():
            if getattr(self._parameterNode, name) != edit.currentPath:
                setattr(self._parameterNode, name, edit.currentPath)
        self._onChanged()


class _FileButton:
    """Chooses a file for a path edit."""

    def __init__(self, button: Any, edit: Any, kinds: str) -> None:
        self._button, self._edit, self._kinds = button, edit, kinds
        button.connect("clicked(bool)", self._onClicked)

    def disconnect(self) -> None:
        self._button.disconnect("clicked(bool)", self._onClicked)

    def _onClicked(self, *_checked: Any) -> None:
        path = Dialogs.openFile(_("Choose a file"), self._kinds)
        if path:
            self._edit.currentPath = path


class Connections:
    """Signals of widgets and what hears them; PythonQt would keep a panel alive through them until `end`."""

    def __init__(self, connections: Sequence[tuple[Any, str, Callable[..., None]]]) -> None:
        self._connections = list(connections)
        for widget, signal, slot in self._connections:
            widget.connect(signal, slot)

    def end(self) -> None:
        """Disconnect them all."""
        for widget, signal, slot in self._connections:
            widget.disconnect(signal, slot)
        self._connections = []


def allowOrSay(button: Any, reason: str, tip: str, label: Any = None) -> None:
    """Enable a button, or disable it and say why in its tooltip, and in a label where there is one."""
    button.enabled = not reason
    button.toolTip = reason or tip
    if label is not None:
        label.text = reason
        label.visible = bool(reason)


def orderTabs(widgets: Sequence[Any]) -> None:
    """Make the tab key go through these widgets, and what is inside them, in this order."""
    stops: list[Any] = []
    for widget in widgets:
        _addStops(widget, stops)
    for first, second in itertools.pairwise(stops):
        qt.QWidget.setTabOrder(first, second)


def _addStops(widget: Any, stops: list[Any]) -> None:
    if widget.focusPolicy != qt.Qt.NoFocus:
        if widget not in stops:
            stops.append(widget)
        return
    for child in widget.children():
        if child.isWidgetType():
            _addStops(child, stops)


def readableSize(count: float) -> str:
    """Bytes for people."""
    for unit in (_("bytes"), "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def isUrl(text: str) -> bool:
    """Whether a text is the address of something on another machine rather than a path."""
    return "://" in text
