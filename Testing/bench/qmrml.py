"""Stand-ins for Slicer's MRML widgets, filled from a real MRML scene."""

from __future__ import annotations

from functools import partial

import slicer
from ctk import stand_in
from PySide6 import QtCore, QtWidgets


@stand_in
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows a scene and hands it to its children through connections in the .ui file."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._entered = True

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene

    def _is_entered(self):  # qSlicerAbstractModuleWidget, in which a panel lives
        return self._entered

    isEntered = QtCore.Property(bool, _is_entered)


def _unobserve(observations, *_):
    while observations:
        scene, tag = observations.pop()
        scene.RemoveObserver(tag)


@stand_in
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses a node of given classes from the scene, follows its changes, and can add one."""

    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeAddedByUser = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._observations, self._ids, self._updating = None, [], [], False
        self.destroyed.connect(partial(_unobserve, self._observations))
        self._values = {"nodeTypes": (), "noneDisplay": "None", "baseName": "", "noneEnabled": False,
                        "addEnabled": True, "removeEnabled": True, "renameEnabled": False, "editEnabled": False,
                        "showHidden": False, "showChildNodeTypes": True, "selectNodeUponCreation": True}
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        box = QtWidgets.QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._combo)
        self._combo.currentIndexChanged.connect(self._report)

    # ---- scene

    def setMRMLScene(self, scene):
        _unobserve(self._observations)
        self._scene = scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
                self._observations.append((scene, scene.AddObserver(event, lambda caller, event: self._refresh())))
        self._refresh()

    def mrmlScene(self):
        return self._scene

    def _accepts(self, node):
        if node.GetHideFromEditors() and not self._values["showHidden"]:
            return False
        children = self._values["showChildNodeTypes"]
        return any(node.IsA(t) if children else node.GetClassName() == t for t in self._values["nodeTypes"])

    def _nodes(self):
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._accepts(node)]

    def _refresh(self):
        current, nodes = self.currentNode(), self._nodes()
        none = [("", self._values["noneDisplay"])] if self._values["noneEnabled"] else []
        entries = none + [(node.GetID(), node.GetName()) for node in nodes]
        self._updating = True
        self._combo.clear()
        for _, name in entries:
            self._combo.addItem(name)
        if self._values["addEnabled"]:
            self._combo.addItem(f"Create new {self._values['baseName'] or 'node'}…")
        previous, self._ids = self._ids, [node_id for node_id, _ in entries]
        wanted = current.GetID() if current is not None and current.GetScene() is not None else ""
        # Without a "None" entry the first node is chosen as soon as there is one, as in Slicer.
        index = self._ids.index(wanted) if wanted in self._ids else (0 if self._ids else -1)
        self._combo.setCurrentIndex(index)
        self._updating = False
        if previous != self._ids:
            self._report(index)

    def _report(self, index):
        if self._updating:
            return
        if index == len(self._ids) and self._values["addEnabled"] and index >= 0:
            self.addNode()
            return
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    # ---- choice

    def currentNode(self):
        index = self._combo.currentIndex
        if self._scene is None or not 0 <= index < len(self._ids) or not self._ids[index]:
            return None
        return self._scene.GetNodeByID(self._ids[index])

    def setCurrentNode(self, node):
        node_id = node if isinstance(node, str) else (node.GetID() if node is not None else "")
        self.setCurrentNodeID(node_id)

    def setCurrentNodeID(self, node_id):
        if node_id in self._ids:
            self._combo.setCurrentIndex(self._ids.index(node_id))
        elif not node_id:
            self._combo.setCurrentIndex(-1)

    def _current_id(self):
        node = self.currentNode()
        return node.GetID() if node is not None else ""

    def addNode(self, node_class=""):
        node = self._scene.AddNewNodeByClass(node_class or self._values["nodeTypes"][0], self._values["baseName"])
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def nodeCount(self):
        return len([node_id for node_id in self._ids if node_id])

    currentNodeID = QtCore.Property(str, _current_id, setCurrentNodeID)

    def _setter(name):  # noqa: N805
        def write(self, value):
            self._values[name] = tuple(value) if name == "nodeTypes" else value
            self._refresh()

        return write

    def _getter(name):  # noqa: N805
        return lambda self: self._values[name]

    nodeTypes = QtCore.Property("QStringList", _getter("nodeTypes"), _setter("nodeTypes"))
    noneDisplay = QtCore.Property(str, _getter("noneDisplay"), _setter("noneDisplay"))
    baseName = QtCore.Property(str, _getter("baseName"), _setter("baseName"))
    for _flag in ("noneEnabled", "addEnabled", "removeEnabled", "renameEnabled", "editEnabled", "showHidden",
                  "showChildNodeTypes", "selectNodeUponCreation"):
        locals()[_flag] = QtCore.Property(bool, _getter(_flag), _setter(_flag))
    del _flag, _setter, _getter


slicer.qMRMLWidget = qMRMLWidget
slicer.qMRMLNodeComboBox = qMRMLNodeComboBox
