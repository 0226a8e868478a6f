"""Stand-ins for the CTK widgets that the panel uses."""

from __future__ import annotations

import qt
from PySide6 import QtCore, QtWidgets


def stand_in(cls: type) -> type:
    """Makes a Qt subclass behave and load from .ui files as the widget of the same name in Slicer."""
    cls.stands_in = True
    qt.QUiLoader.stand_ins[cls.__name__] = cls
    return qt.adapt(cls)


@stand_in
class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path, and a button that opens a dialog: for files as soon as they are among the filters."""

    currentPathChanged = QtCore.Signal(str)
    Dirs, Files, Drives, Readable, Writable = 1, 2, 4, 0x10, 0x20
    AllEntries = Dirs | Files | Drives

    def __init__(self, parent=None):
        super().__init__(parent)
        self._filters = self.AllEntries
        self._line = QtWidgets.QLineEdit(self)
        self._browse = QtWidgets.QToolButton(self)
        self._browse.setText("…")
        box = QtWidgets.QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(self._line)
        box.addWidget(self._browse)
        self._line.textChanged.connect(self.currentPathChanged)
        self._browse.clicked.connect(lambda: self.browse())

    def browse(self):
        dialog = QtWidgets.QFileDialog
        if not self._filters & self.Files:
            path = dialog.getExistingDirectory(self, "Select a directory...", self.currentPath)
        elif self._filters & self.Writable:
            path, _kind = dialog.getSaveFileName(self, "Select a file to save ", self.currentPath)
        else:
            path, _kind = dialog.getOpenFileName(self, "Open a file", self.currentPath)
        if path:
            self.setCurrentPath(path)

    def setCurrentPath(self, path):
        self._line.setText(path)

    def setFilters(self, filters):
        self._filters = filters

    currentPath = QtCore.Property(str, lambda self: self._line.text, setCurrentPath)
    filters = QtCore.Property(int, lambda self: self._filters, setFilters)


@stand_in
class ctkCollapsibleButton(QtWidgets.QWidget):
    """A heading that hides what is below it."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._text, self._collapsed, self._folded = "", False, []
        self._header = QtWidgets.QToolButton(self)
        self._header.setAutoRaise(True)
        self._header.setCheckable(True)
        self._header.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._header.clicked.connect(lambda: self.setCollapsed(not self._collapsed))
        self._show_state()

    def _show_state(self):
        self._header.setText(self._text)
        self._header.setArrowType(QtCore.Qt.RightArrow if self._collapsed else QtCore.Qt.DownArrow)
        height = self._header.sizeHint().height()
        self._header.setGeometry(0, 0, max(self.width, 1), height)
        self.setContentsMargins(0, height, 0, 0)
        if self._collapsed:  # what was hidden before stays hidden when it is opened again
            self._folded += [child for child in self.children() if isinstance(child, QtWidgets.QWidget)
                             and child is not self._header and not child.isHidden()]
        for child in self._folded:
            child.setVisible(not self._collapsed)
        if not self._collapsed:
            self._folded = []
        self.setMaximumHeight(height if self._collapsed else 16777215)

    def resizeEvent(self, event):
        self._header.setGeometry(0, 0, self.width, self._header.sizeHint().height())

    def showEvent(self, event):
        self._show_state()

    def setText(self, text):
        self._text = text
        self._show_state()

    def setCollapsed(self, collapsed):
        if collapsed != self._collapsed:
            self._collapsed = collapsed
            self._show_state()
            self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, lambda self: self._text, setText)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, setCollapsed)
