"""Qt as Slicer's Python sees it: PySide6 with PythonQt's manners, so that Slicer code runs unmodified.

* Properties are attributes (`button.text`, `combo.currentIndex = 2`); setters and `isX()` stay methods.
* `widget.connect("clicked(bool)", slot)`; a signal that does not exist raises (PythonQt only answers False).
* An unknown attribute on a Qt object raises instead of being stored silently.
* Enumerations compare with integers; a list of strings arrives as a tuple.

Import it under the name `qt` before anything else imports PySide6. It patches PySide6's own classes.
"""

# ruff: noqa: F403  (the namespace of this module is Qt's)
from __future__ import annotations

import os

os.environ["PYSIDE6_OPTION_PYTHON_ENUM"] = "0x3"
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from typing import ClassVar
from xml.etree import ElementTree

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import *
from PySide6.QtGui import *
from PySide6.QtWidgets import *

_MODULES = (QtCore, QtGui, QtWidgets)
_connect = QtCore.QObject.connect
_disconnect = QtCore.QObject.disconnect
_set_property = QtCore.QObject.setProperty
_get_property = QtCore.QObject.property


# Properties that C++ asks Python subclasses for: as attributes they would call themselves. They stay methods here.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}


class _Property:
    """A Q_PROPERTY as an attribute. On the class itself the original (a static or instance method) stays reachable."""

    def __init__(self, name: str, original: object) -> None:
        self._name, self._original = name, original

    def __get__(self, instance, owner=None):
        if instance is None:
            return self._original
        value = _get_property(instance, self._name)
        return tuple(value) if isinstance(value, list) else value

    def __set__(self, instance, value) -> None:
        if isinstance(value, tuple):
            value = list(value)
        before = instance.metaObject().property(instance.metaObject().indexOfProperty(self._name))
        expected = before.metaType().name()
        if expected in {"bool", "QString"} and not isinstance(value, {"bool": bool, "QString": str}[expected]):
            raise TypeError(f"{type(instance).__name__}.{self._name} takes {expected}, not {value!r}")
        if not _set_property(instance, self._name, value):
            raise TypeError(f"{type(instance).__name__}.{self._name} does not take {value!r}")


def _signature(widget: QtCore.QObject, signal: str) -> str:
    """The signal as Qt knows it; pointers to VTK objects travel as Python objects here."""
    name, _, arguments = signal.partition("(")
    kinds = ["PyObject" if "vtk" in kind else kind.strip() for kind in arguments.rstrip(")").split(",")]
    normal = f"{name}({','.join(kinds)})"
    normal = bytes(QtCore.QMetaObject.normalizedSignature(normal).data()).decode()
    if widget.metaObject().indexOfSignal(normal) < 0:
        raise AttributeError(f"{widget.metaObject().className()} has no signal {signal}")
    return f"2{normal}"


def _python_connect(self, signal, slot):
    return _connect(self, _signature(self, signal), slot)


def _python_disconnect(self, signal, slot):
    return _disconnect(self, _signature(self, signal), slot)


_EXTRA = {
    "connect": _python_connect,
    "disconnect": _python_disconnect,
    "className": lambda self: self.metaObject().className(),
    "delete": lambda self: self.deleteLater(),
}


def _getattribute_over(original):
    def getattribute(self, name):
        if name in _EXTRA:
            return _EXTRA[name].__get__(self)
        return original(self, name)

    return getattribute


def _is_ours(cls: type) -> bool:
    """Whether a class is written in the product: there, attributes may be added freely."""
    return not (cls.__module__.startswith("PySide6") or getattr(cls, "stands_in", False))


def _setattr(self, name, value):
    # Written out, because Python does not let one C type's __setattr__ run on another's objects.
    for cls in type(self).__mro__:
        found = cls.__dict__.get(name)
        if isinstance(found, QtCore.Property):
            found.fset(self, value)
            return
        if hasattr(type(found), "__set__"):
            found.__set__(self, value)
            return
    named_child = isinstance(value, QtCore.QObject) and value.objectName == name  # the .ui loader leaves these
    known = hasattr(type(self), name) or name.startswith("_") or named_child or isinstance(value, QtCore.SignalInstance)
    if not known and not _is_ours(type(self)):
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
    self.__dict__[name] = value


def adapt(cls: type) -> type:
    """Give one QObject class PythonQt's manners; as a decorator, a stand-in widget whose properties are Python's."""
    meta = cls.staticMetaObject
    if cls.__module__.startswith("PySide6"):
        for index in range(meta.propertyCount()):
            name = meta.property(index).name()
            if name in _VIRTUAL:
                continue
            # A class that redefines the method of an inherited property (sizeHint) would hide it.
            if index >= meta.propertyOffset() or name in cls.__dict__:
                setattr(cls, name, _Property(name, getattr(cls, name, None)))
    if cls is QtCore.QObject:
        cls.name = _Property("objectName", None)
    # A class inherits these two unless it has its own, as QFile does for methods that are static as well.
    if cls is QtCore.QObject or "__getattribute__" in cls.__dict__:
        cls.__getattribute__ = _getattribute_over(cls.__getattribute__)
    if cls is QtCore.QObject or "__setattr__" in cls.__dict__:
        cls.__setattr__ = _setattr
    return cls


for _module in _MODULES:
    for _name in dir(_module):
        _class = getattr(_module, _name)
        if isinstance(_class, type) and issubclass(_class, QtCore.QObject) and hasattr(_class, "staticMetaObject"):
            adapt(_class)


class QUiLoader(QtUiTools.QUiLoader):
    """Loads .ui files as Slicer does; a widget class that is not known here is an error, not a plain widget."""

    stand_ins: ClassVar[dict[str, type]] = {}

    def load(self, file):
        document = ElementTree.fromstring(bytes(file.readAll().data()))
        for widget in document.iter("widget"):
            name = widget.get("class")
            if name not in self.stand_ins and not hasattr(QtWidgets, name):
                raise RuntimeError(f"The bench has no stand-in for {name}")
        scene_connections = _take_scene_connections(document)
        for stand_in in self.stand_ins.values():
            self.registerCustomWidget(stand_in)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(document))
        buffer.open(QtCore.QIODevice.ReadOnly)
        top = super().load(buffer)
        if top is None:
            raise RuntimeError(f"Qt could not make the widget: {self.errorString()}")
        for sender, receiver in scene_connections:
            sender_widget = top if top.objectName == sender else top.findChild(QtCore.QObject, sender)
            receiver_widget = top.findChild(QtCore.QObject, receiver)
            _connect(sender_widget, "2mrmlSceneChanged(PyObject)", receiver_widget.setMRMLScene)
        return top


def _take_scene_connections(document) -> list[tuple[str, str]]:
    """Removes connections that carry VTK pointers, which Qt cannot make for Python classes, and returns them."""
    taken = []
    for connections in document.iter("connections"):
        for connection in list(connections):
            if "vtkMRMLScene*" in connection.findtext("signal", ""):
                taken.append((connection.findtext("sender"), connection.findtext("receiver")))
                connections.remove(connection)
    return taken
