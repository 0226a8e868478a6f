"""Stand-ins for `slicer.ScriptedLoadableModule` and `slicer.i18n`: what a scripted module is built on."""

from __future__ import annotations

import sys
import unittest

import qt
import slicer


class ScriptedLoadableModule:
    """Describes a module to Slicer; `parent` is Slicer's module object."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__

    def runTest(self, msec=100, **kwargs):
        test = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        test.messageDelay = msec
        test.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """A module's panel; `parent` is the widget into whose layout it goes."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()

    def setup(self):
        """Slicer adds its developer's buttons here."""

    def cleanup(self):
        """Overridden by modules."""


class ScriptedLoadableModuleLogic:
    """What a module can do without its panel."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's self-test."""

    messageDelay = 0

    def delayDisplay(self, message, msec=None):
        slicer.app.processEvents()

    def runTest(self):
        """Overridden by modules."""


__all__ = [
    "ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


def tr(text):
    return text


def translate(context, text):
    return text
