"""Stands in for the adaptor that hosts an effect written in Python, and for Slicer's effect factory.

What an effect asks of it is answered by the real vtkSlicerSegmentEditorLogic. Where Slicer would only print an error
(unknown parameter, exception in a method) a complaint is made.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import qt
import slicer
from PySide6 import QtCore, QtGui, QtWidgets

_LOGIC = slicer.vtkSlicerSegmentEditorLogic


def _adapted(cls):
    cls.stands_in = True
    return qt.adapt(cls)


@_adapted
class qSlicerSegmentEditorAbstractEffect(QtCore.QObject):
    """What every effect can ask of the editor."""

    ModificationModeSet, ModificationModeAdd, ModificationModeRemove, ModificationModeRemoveAll = range(4)
    NotConfirmed, ConfirmedWithoutDialog, ConfirmedWithDialog = range(3)
    answer_when_hidden = 0  # what the user presses when asked whether a hidden segment may be changed

    def __init__(self, parent=None):
        super().__init__(parent)
        self._values = {"name": "UnnamedScriptedEffect", "title": "", "perSegment": True, "requireSegments": True,
                        "showEffectCursorInSliceView": True, "showEffectCursorInThreeDView": False}
        self._active, self._logic, self._node, self._select = False, None, None, None
        self._options = QtWidgets.QFrame()
        layout = QtWidgets.QFormLayout(self._options)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.setSpacing(4)

    def _host(self, logic, select):
        """The editor's own part: callbacks."""
        self._logic, self._select = logic, select

    def _setter(name):  # noqa: N805
        def write(self, value):
            if name == "title" or isinstance(value, bool) == isinstance(self._values[name], bool):
                self._values[name] = value

        return write

    def _getter(name):  # noqa: N805
        return lambda self: self._values[name] or (self._values["name"] if name == "title" else self._values[name])

    name = QtCore.Property(str, _getter("name"), _setter("name"))
    title = QtCore.Property(str, _getter("title"), _setter("title"))
    for _flag in ("perSegment", "requireSegments", "showEffectCursorInSliceView", "showEffectCursorInThreeDView"):
        locals()[_flag] = QtCore.Property(bool, _getter(_flag), _setter(_flag))
    del _flag, _setter, _getter

    # ---- life

    def active(self):
        return self._active

    def activate(self):
        self._options.setVisible(True)
        self._active = True
        self.updateGUIFromMRML()

    def deactivate(self):
        self._options.setVisible(False)
        self._active = False

    def selectEffect(self, name):
        self._select(name)

    def interactionNodeModified(self, node):
        if node.GetCurrentInteractionMode() != slicer.vtkMRMLInteractionNode.ViewTransform:
            self.selectEffect("")

    # ---- options

    def optionsFrame(self):
        return self._options

    def optionsLayout(self):
        return self._options.layout()

    def addOptionsWidget(self, widget):
        self._adopt(widget)
        self.optionsLayout().addRow(widget)

    def addLabeledOptionsWidget(self, label, widget):
        self._adopt(widget)
        heading = QtWidgets.QLabel(label)
        self.optionsLayout().addRow(heading, widget)
        return heading

    def _adopt(self, widget):
        if isinstance(widget, QtWidgets.QWidget):
            widget.setParent(self._options)
            widget.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.MinimumExpanding)

    # ---- parameters

    def parameterSetNode(self):
        return self._node

    def setParameterSetNode(self, node):
        self._node = node

    def scene(self):
        return self._node.GetScene() if self._node is not None else None

    def parameter(self, name):
        if self._node is None:
            return ""
        value = self._node.GetAttribute(f"{self.name}.{name}")
        value = self._node.GetAttribute(name) if value is None else value
        if value is None:
            QtCore.qCritical(f"Parameter {name} of effect {self.name} cannot be found")
        return value or ""

    def integerParameter(self, name):
        return self._number(name, int)

    def doubleParameter(self, name):
        return self._number(name, float)

    def _number(self, name, kind):
        text = self.parameter(name)
        try:
            return kind(text)
        except ValueError:
            QtCore.qCritical(f"Parameter {name} of effect {self.name} is no number: {text!r}")
            return kind(0)

    def parameterDefined(self, name):
        return self.commonParameterDefined(f"{self.name}.{name}")

    def commonParameterDefined(self, name):
        return self._node is not None and bool(self._node.GetAttribute(name))

    def setParameter(self, name, value):
        self.setCommonParameter(f"{self.name}.{name}", value)

    def setParameterDefault(self, name, value):
        self.setCommonParameterDefault(f"{self.name}.{name}", value)

    def setCommonParameterDefault(self, name, value):
        if not self.commonParameterDefined(name):
            self.setCommonParameter(name, value)

    def setCommonParameter(self, name, value):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise TypeError(f"The parameter {name} takes a text or a number, not {value!r}")
        if self._node is None:
            QtCore.qCritical(f"Effect {self.name} has no parameter node")
            return
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        old = self._node.GetAttribute(name)
        if (old or "") == text:
            return
        disabled = self._node.GetDisableModifiedEvent()
        self._node.SetDisableModifiedEvent(1)
        self._node.SetAttribute(name, text)
        self._node.SetDisableModifiedEvent(disabled)
        self._node.InvokeCustomModifiedEvent(slicer.vtkMRMLSegmentEditorNode.EffectParameterModified)

    def nodeReference(self, name):
        if self._node is None:
            return None
        return self._node.GetNodeReference(f"{self.name}.{name}") or self._node.GetNodeReference(name)

    def setNodeReference(self, name, node):
        self.setCommonNodeReference(f"{self.name}.{name}", node)

    def setCommonNodeReference(self, name, node):
        if self._node.GetNodeReference(name) is not node:
            self._node.SetNodeReferenceID(name, node.GetID() if node is not None else None)
            self._node.InvokeCustomModifiedEvent(slicer.vtkMRMLSegmentEditorNode.EffectParameterModified)

    # ---- the segmentation

    def modifierLabelmap(self):
        return self._logic.GetModifierLabelmap()

    def defaultModifierLabelmap(self):
        return self._logic.GetModifierLabelmap() if self._logic.ResetModifierLabelmapToDefault() else None

    def maskLabelmap(self):
        return self._logic.GetMaskLabelmap() if self._logic.UpdateMaskLabelmap() else None

    def sourceVolumeImageData(self):
        return self._logic.GetAlignedSourceVolume() if self._logic.UpdateAlignedSourceVolume() else None

    def selectedSegmentLabelmap(self):
        return self._logic.GetSelectedSegmentLabelmap() if self._logic.UpdateSelectedSegmentLabelmap() else None

    def referenceGeometryImage(self):
        return self._logic.GetReferenceGeometryImage() if self._logic.UpdateReferenceGeometryImage() else None

    def saveStateForUndo(self):
        self._logic.SaveStateForUndo()

    def modifySelectedSegmentByLabelmap(self, labelmap, mode, extent=None, bypass=False):
        segment_id = self._node.GetSelectedSegmentID() or ""
        self.modifySegmentByLabelmap(self._node.GetSegmentationNode(), segment_id, labelmap, mode, extent, bypass)

    def modifySegmentByLabelmap(self, segmentation, segment_id, labelmap, mode, extent=None, bypass=False):
        if isinstance(extent, bool):  # the overload without an extent
            extent, bypass = None, extent
        modes = (_LOGIC.ModificationModeSet, _LOGIC.ModificationModeAdd, _LOGIC.ModificationModeRemove,
                 _LOGIC.ModificationModeRemoveAll)
        self._logic.ModifySegmentByLabelmap(
            segmentation, segment_id, labelmap, modes[mode], list(extent or (0, -1, 0, -1, 0, -1)), self.perSegment,
            bypass,
        )

    def confirmCurrentSegmentVisible(self):
        visible = self._logic.IsSelectedSegmentVisible()
        return self.ConfirmedWithoutDialog if visible else type(self).answer_when_hidden

    def segmentationDisplayableInView(self, view_node):
        return self._logic.IsSegmentationDisplayableInView(view_node)

    # ---- views

    def renderWindow(self, widget):
        return widget.sliceView().renderWindow()

    def renderer(self, widget):
        return self.renderWindow(widget).GetRenderers().GetItemAsObject(0)

    def viewNode(self, widget):
        return widget.mrmlSliceNode()

    def addActor2D(self, widget, actor):
        self.renderer(widget).AddViewProp(actor)
        self.scheduleRender(widget)

    def removeActor2D(self, widget, actor):
        self.renderer(widget).RemoveViewProp(actor)
        self.scheduleRender(widget)

    def scheduleRender(self, widget):
        widget.sliceView().scheduleRender()

    def forceRender(self, widget):
        widget.sliceView().forceRender()

    def sliceSpacing(self, widget):
        return widget.sliceLogic().GetLowestVolumeSliceSpacing()[2]

    def createCursor(self, widget):
        return QtGui.QCursor()

    def cursorOff(self, widget):
        widget.sliceView().setDefaultViewCursor(QtGui.QCursor(QtCore.Qt.BlankCursor))

    def cursorOn(self, widget):
        widget.sliceView().setDefaultViewCursor(QtGui.QCursor(QtCore.Qt.ArrowCursor))

    def xyzToRas(self, xyz, widget):
        ras = [0.0, 0.0, 0.0]
        _LOGIC.XyzToRas([xyz.x(), xyz.y(), xyz.z()], ras, widget.mrmlSliceNode())
        return QtGui.QVector3D(*ras)

    def xyToRas(self, xy, widget):
        return self.xyzToRas(QtGui.QVector3D(xy.x(), xy.y(), 0), widget)

    def rasToXy(self, ras, widget):
        matrix = _inverse(widget.mrmlSliceNode().GetXYToRAS())
        x, y, _, _ = matrix.MultiplyPoint((ras.x(), ras.y(), ras.z(), 1))
        return QtCore.QPoint(int(x), int(y))

    def xyzToIjk(self, xyz, widget, image, transform=None):
        ijk = [0, 0, 0]
        _LOGIC.XyzToIjk([xyz.x(), xyz.y(), xyz.z()], ijk, widget.mrmlSliceNode(), image, transform)
        return QtGui.QVector3D(*ijk)

    def xyToIjk(self, xy, widget, image, transform=None):
        return self.xyzToIjk(QtGui.QVector3D(xy.x(), xy.y(), 0), widget, image, transform)


def _inverse(matrix):
    import vtk

    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(matrix, inverse)
    return inverse


@_adapted
class qSlicerSegmentEditorScriptedEffect(qSlicerSegmentEditorAbstractEffect):
    """Hosts a Python object; its methods answer the editor where it has them."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._python = None

    def setPythonSource(self, path):
        """As Slicer: the folder's name is the module's, the file's is the class's; loaded only where it is unknown."""
        path = Path(path)
        module_name, class_name = path.parent.name, path.stem
        if not hasattr(sys.modules.get(module_name), class_name):
            spec = importlib.util.spec_from_file_location(module_name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        self._python = getattr(sys.modules[module_name], class_name)(self)
        setattr(slicer, module_name, self._python)
        return True

    def self(self):
        return self._python

    def _call(self, name, *arguments):
        method = getattr(self._python, name, None)
        if method is None:
            return None
        try:
            return method(*arguments)
        except Exception:
            sys.excepthook(*sys.exc_info())
            return None

    def icon(self):
        return self._call("icon") or QtGui.QIcon()

    def helpText(self):
        return self._call("helpText") or ""

    def clone(self):
        return self._call("clone")

    def activate(self):
        super().activate()
        self._call("activate")

    def deactivate(self):
        super().deactivate()
        self._call("deactivate")

    def createCursor(self, widget):
        return self._call("createCursor", widget) or super().createCursor(widget)

    def processInteractionEvents(self, interactor, event_id, widget):
        answer = self._call("processInteractionEvents", interactor, event_id, widget)
        if answer is not None and not isinstance(answer, bool):
            QtCore.qWarning(f"{self.name}.processInteractionEvents returned {answer!r}, not a bool")
            return False
        return bool(answer)

    def interactionNodeModified(self, node):
        if hasattr(self._python, "interactionNodeModified"):
            self._call("interactionNodeModified", node)
        else:
            super().interactionNodeModified(node)

    def updateGUIFromMRML(self):
        if self.active():
            self._call("updateGUIFromMRML")


def _forward(name):
    return lambda self, *arguments: self._call(name, *arguments)


for _name in ("setupOptionsFrame", "processViewNodeEvents", "setMRMLDefaults", "referenceGeometryChanged",
              "sourceVolumeNodeChanged", "masterVolumeNodeChanged", "layoutChanged", "updateMRMLFromGUI", "cleanup"):
    setattr(qSlicerSegmentEditorScriptedEffect, _name, _forward(_name))


@_adapted
class qSlicerSegmentEditorEffectFactory(QtCore.QObject):
    """Knows the registered effects; each editor works with clones of them."""

    effectRegistered = QtCore.Signal(str)
    _only = None

    def __init__(self):
        super().__init__()
        self._effects = []

    @classmethod
    def instance(cls):
        cls._only = cls._only or cls()
        return cls._only

    def registerEffect(self, effect):
        if any(known.name == effect.name for known in self._effects):
            return False
        self._effects.append(effect)
        self.effectRegistered.emit(effect.name)
        return True

    def registeredEffects(self):
        return tuple(self._effects)

    def copyEffects(self, known):
        names = [effect.name for effect in known]
        return [effect.clone() for effect in self._effects if effect.name not in names]


class AbstractScriptedSegmentEditorEffect:
    """What effects in Python derive from (Slicer's package SegmentEditorEffects)."""

    def __init__(self, scriptedEffect):
        self.scriptedEffect = scriptedEffect

    def register(self):
        qSlicerSegmentEditorEffectFactory.instance().registerEffect(self.scriptedEffect)

    def cleanup(self):
        """Overridden by effects."""

    def rasToXy(self, ras, widget):
        point = self.scriptedEffect.rasToXy(QtGui.QVector3D(*ras), widget)
        return [point.x(), point.y()]

    def xyzToRas(self, xyz, widget):
        ras = self.scriptedEffect.xyzToRas(QtGui.QVector3D(*xyz), widget)
        return [ras.x(), ras.y(), ras.z()]

    def xyToRas(self, xy, widget):
        ras = self.scriptedEffect.xyToRas(QtCore.QPoint(*xy), widget)
        return [ras.x(), ras.y(), ras.z()]

    def xyToIjk(self, xy, widget, image, transform=None):
        ijk = self.scriptedEffect.xyToIjk(QtCore.QPoint(*xy), widget, image, transform)
        return [int(ijk.x()), int(ijk.y()), int(ijk.z())]


def _install():
    adaptors = types.ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    for cls in (qSlicerSegmentEditorAbstractEffect, qSlicerSegmentEditorScriptedEffect,
                qSlicerSegmentEditorEffectFactory):
        setattr(adaptors, cls.__name__, cls)
        setattr(slicer, cls.__name__, cls)
    package = types.ModuleType("SegmentEditorEffects")
    package.AbstractScriptedSegmentEditorEffect = AbstractScriptedSegmentEditorEffect
    sys.modules[adaptors.__name__], sys.modules[package.__name__] = adaptors, package
    import slicer_core

    for alias in ("MRMLCorePython", "vtkSegmentationCorePython", "vtkSlicerSegmentationsModuleLogicPython"):
        sys.modules.setdefault(alias, slicer_core)


_install()
