"""Stand-in for `slicer.parameterNodeWrapper`: fields of the types bool, int, float, str, Path, Enum and MRML node.

Values live in a real vtkMRMLScriptedModuleNode; a widget of the .ui file is bound by its SlicerParameterName.
"""

from __future__ import annotations

import enum
import typing
from pathlib import Path

import ctk  # noqa: F401  (registers the stand-ins before .ui files are loaded)
import qt
import slicer
import vtk

_SIMPLE = {bool: lambda text: text == "True", int: int, float: float, str: str, Path: Path}


def parameterNodeWrapper(cls):
    """Class decorator: typed fields become properties that read and write a parameter node."""
    hints = typing.get_type_hints(cls, include_extras=True)
    cls.allParameters = {}
    for name, kind in hints.items():
        kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
        if not (kind in _SIMPLE or issubclass(kind, enum.Enum) or issubclass(kind, slicer.vtkMRMLNode)):
            raise TypeError(f"{cls.__name__}.{name}: the bench does not know parameters of type {kind}")
        default = getattr(cls, name, None)
        if default is None and kind in _SIMPLE:
            default = kind()
        if default is None and issubclass(kind, enum.Enum):
            default = next(iter(kind))
        cls.allParameters[name] = (kind, default)
        setattr(cls, name, property(lambda self, n=name: _read(self, n), lambda self, v, n=name: _write(self, n, v)))
    for method in (__init__, connectGui, disconnectGui, AddObserver, RemoveObserver, StartModify, EndModify):
        setattr(cls, method.__name__, method)
    return cls


def _read(self, name):
    kind, default = self.allParameters[name]
    if issubclass(kind, slicer.vtkMRMLNode):
        return self.parameterNode.GetNodeReference(name)
    text = self.parameterNode.GetParameter(name)
    if text == "":
        return default if kind is not str else ""
    return kind[text] if issubclass(kind, enum.Enum) else _SIMPLE[kind](text)


def _write(self, name, value):
    kind, _ = self.allParameters[name]
    if issubclass(kind, slicer.vtkMRMLNode):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} takes a {kind.__name__}, not {value!r}")
        self.parameterNode.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        return
    if not isinstance(value, kind):
        raise TypeError(f"{name} takes a {kind.__name__}, not {value!r}")
    self.parameterNode.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))


def __init__(self, parameterNode):  # noqa: N807
    self.parameterNode = parameterNode
    self._connections = {}
    for name, (kind, default) in self.allParameters.items():
        if default is not None and kind in _SIMPLE and not parameterNode.GetParameter(name):
            _write(self, name, default)


def AddObserver(self, event, callback, priority=0.0):
    return self.parameterNode.AddObserver(event, callback, priority)


def RemoveObserver(self, tag):
    self.parameterNode.RemoveObserver(tag)


def StartModify(self):
    return self.parameterNode.StartModify()


def EndModify(self, wasModified):
    self.parameterNode.EndModify(wasModified)


class _Binding:
    """One widget and one field, in both directions."""

    def __init__(self, owner, name, widget):
        self.owner, self.name, self.widget = owner, name, widget
        self.kind = owner.allParameters[name][0]
        if issubclass(self.kind, enum.Enum):
            label = getattr(self.kind, "label", lambda member: member.name)
            self.widget.clear()
            for member in self.kind:
                self.widget.addItem(label(member))
        self.to_widget()
        self.widget.connect(self.signal(), self.from_widget)

    def signal(self):
        if isinstance(self.widget, slicer.qMRMLNodeComboBox):
            return "currentNodeChanged(vtkMRMLNode*)"
        signals = {qt.QCheckBox: "toggled(bool)", qt.QComboBox: "currentIndexChanged(int)",
                   qt.QLineEdit: "textChanged(QString)", qt.QSpinBox: "valueChanged(int)",
                   qt.QDoubleSpinBox: "valueChanged(double)"}
        return signals[type(self.widget)]

    def from_widget(self, *_):
        if isinstance(self.widget, slicer.qMRMLNodeComboBox):
            value = self.widget.currentNode()
        elif isinstance(self.widget, qt.QComboBox):
            value = list(self.kind)[self.widget.currentIndex]
        elif isinstance(self.widget, qt.QCheckBox):
            value = self.widget.checked
        else:
            value = self.kind(self.widget.text if isinstance(self.widget, qt.QLineEdit) else self.widget.value)
        setattr(self.owner, self.name, value)

    def to_widget(self):
        value = getattr(self.owner, self.name)
        if isinstance(self.widget, slicer.qMRMLNodeComboBox):
            self.widget.setCurrentNode(value)
        elif isinstance(self.widget, qt.QComboBox):
            self.widget.currentIndex = list(self.kind).index(value)
        elif isinstance(self.widget, qt.QCheckBox):
            self.widget.checked = value
        elif isinstance(self.widget, qt.QLineEdit):
            self.widget.text = str(value)
        else:
            self.widget.value = value


def connectGui(self, ui):
    named = {w.property("SlicerParameterName"): w for w in vars(ui).values() if w.property("SlicerParameterName")}
    bindings = [_Binding(self, name, widget) for name, widget in named.items()]
    tag = self.parameterNode.AddObserver(
        vtk.vtkCommand.ModifiedEvent, lambda caller, event: [binding.to_widget() for binding in bindings]
    )
    self._connections[tag] = bindings
    return tag


def disconnectGui(self, tag):
    for binding in self._connections.pop(tag, []):
        binding.widget.disconnect(binding.signal(), binding.from_widget)
    self.parameterNode.RemoveObserver(tag)


__all__ = ["parameterNodeWrapper"]
