"""Stands in for Slicer's Segment Editor widget: a thin shell over the real vtkSlicerSegmentEditorLogic.

Its own panel (effects, options, help) is there for pictures and clicks; masking and overwriting are set on the
parameter node, as Slicer's panel does.
"""

from __future__ import annotations

import slicer
import vtk
from ctk import stand_in
from PySide6 import QtCore, QtWidgets
from qmrml import qMRMLWidget
from segment_editor_effects import qSlicerSegmentEditorEffectFactory

_INTERACTIONS = [
    *[f"{button}Button{kind}Event" for button in ("Left", "Right", "Middle") for kind in
      ("Press", "Release", "DoubleClick")],
    "MouseMoveEvent", "MouseWheelForwardEvent", "MouseWheelBackwardEvent", "KeyPressEvent", "KeyReleaseEvent",
    "EnterEvent", "LeaveEvent",
]


def follow_subject_hierarchy(scene):
    """Give segmentations and volumes their items in the subject hierarchy, which Slicer's Qt plugins make."""
    kinds = ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode", "vtkMRMLTransformNode")

    def hierarchy():
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller, event, node):
        if any(node.IsA(kind) for kind in kinds) and not node.GetHideFromEditors() and not scene.IsClosing():
            hierarchy().CreateItem(hierarchy().GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(caller, event, node):
        if any(node.IsA(kind) for kind in kinds) and not scene.IsClosing():
            item = hierarchy().GetItemByDataNode(node)
            if item:
                hierarchy().RemoveItem(item, False, False)

    scene.AddObserver(scene.NodeAddedEvent, added)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removed)


@stand_in
class qMRMLSegmentEditorWidget(qMRMLWidget):
    """Effects, their options, and the way of the views' events to the active effect."""

    segmentationNodeChanged = QtCore.Signal(object)
    sourceVolumeNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._logic, self._node, self._active = slicer.vtkSlicerSegmentEditorLogic(), None, None
        self._effects, self._observations, self._view_observations = [], [], []
        self._segmentation, self._source, self._destroyed = None, None, False
        column = QtWidgets.QVBoxLayout(self)
        self._buttons_row, self._buttons = QtWidgets.QHBoxLayout(), {}
        column.addLayout(self._buttons_row)
        self._group, self._help = QtWidgets.QGroupBox(), QtWidgets.QLabel()
        self._help.setWordWrap(True)
        QtWidgets.QVBoxLayout(self._group)
        self._group.layout().addWidget(self._help)
        self._group.hide()
        column.addWidget(self._group)
        column.addStretch(1)
        qSlicerSegmentEditorEffectFactory.instance().effectRegistered.connect(self.updateEffectList)

    # ---- nodes

    def setMRMLScene(self, scene):
        super().setMRMLScene(scene)
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._logic.SetMRMLScene(scene)
        self._logic.SetVerbose(True)
        if scene is not None:
            self._observe(scene, scene.EndCloseEvent, self._on_scene_closed)
            self._observe(scene, scene.EndBatchProcessEvent, self.updateWidgetFromMRML)
            interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
            if interaction is not None:
                self._observe(interaction, vtk.vtkCommand.ModifiedEvent, self._on_interaction_node)
        self.updateEffectList()

    def _observe(self, caller, event, slot):
        self._observations.append((caller, caller.AddObserver(event, lambda *_: slot())))

    def setMRMLSegmentEditorNode(self, node):
        self._node = node
        self._logic.SetSegmentEditorNode(node)
        if node is None:
            return
        self._observe(node, vtk.vtkCommand.ModifiedEvent, self.updateWidgetFromMRML)
        self._observe(node, slicer.vtkMRMLSegmentEditorNode.EffectParameterModified, self._on_parameters)
        self._initialize_effects()
        self.updateWidgetFromMRML()

    def _initialize_effects(self):
        modifying = self._node.StartModify()
        for effect in self._effects:
            effect.setParameterSetNode(self._node)
            effect.setMRMLDefaults()
        self._node.EndModify(modifying)

    def mrmlSegmentEditorNode(self):
        return self._node

    def setSegmentationNode(self, node):
        if self._logic.GetSegmentationNode() is not node:
            self._logic.SetSegmentationNode(node)
            self.setActiveEffect(None)

    def segmentationNode(self):
        return self._logic.GetSegmentationNode()

    def setSourceVolumeNode(self, node):
        self._logic.SetSourceVolumeNode(node)

    def sourceVolumeNode(self):
        return self._logic.GetSourceVolumeNode()

    def setCurrentSegmentID(self, segment_id):
        self._logic.SetCurrentSegmentID(segment_id)

    def currentSegmentID(self):
        return self._logic.GetCurrentSegmentID()

    def undo(self):
        self._logic.Undo()

    def redo(self):
        self._logic.Redo()

    def _on_scene_closed(self):
        if self._node is not None:
            self._initialize_effects()
        self.updateWidgetFromMRML()

    def _on_parameters(self):
        for effect in self._effects:
            effect.updateGUIFromMRML()

    def _on_interaction_node(self):
        if self._active is not None:
            self._active.interactionNodeModified(self._scene.GetNodeByID("vtkMRMLInteractionNodeSingleton"))

    # ---- effects

    def updateEffectList(self, *_):
        for effect in qSlicerSegmentEditorEffectFactory.instance().copyEffects(self._effects):
            self._effects.append(effect)
            effect._host(self._logic, self.setActiveEffectByName)
            if self._node is not None:
                effect.setParameterSetNode(self._node)
                effect.setMRMLDefaults()
            button = QtWidgets.QToolButton()
            button.setCheckable(True)
            button.setIcon(effect.icon())
            button.setToolTip(effect.title)
            button.setObjectName(effect.name)
            button.clicked.connect(lambda checked, name=effect.name: self.setActiveEffectByName(name))
            self._buttons_row.addWidget(button)
            self._buttons[effect.name] = button
            effect.setupOptionsFrame()
            effect.optionsFrame().setVisible(False)
            self._group.layout().addWidget(effect.optionsFrame())

    def availableEffectNames(self):
        return tuple(effect.name for effect in self._effects)

    def effectByName(self, name):
        return next((effect for effect in self._effects if effect.name == name), None)

    def activeEffect(self):
        return self._active

    def setActiveEffect(self, effect):
        if self._node is not None:
            self._node.SetActiveEffectName(effect.name if effect is not None else "")

    def setActiveEffectByName(self, name):
        self.setActiveEffect(self.effectByName(name))

    # ---- what follows the parameter node

    def updateWidgetFromMRML(self):
        if self._scene is None or self._scene.IsClosing() or self._scene.IsBatchProcessing() or self._node is None:
            return
        modifying = self._node.StartModify()
        self._follow_nodes()
        self._follow_effect()
        self._node.EndModify(modifying)

    def _follow_nodes(self):
        segmentation = self._node.GetSegmentationNode()
        if segmentation is not self._segmentation:
            self._segmentation = segmentation
            if segmentation is not None:
                role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
                reference = segmentation.GetNodeReference(role)
                if reference is not None:
                    self._node.SetAndObserveSourceVolumeNode(reference)
                segmentation.CreateDefaultDisplayNodes()
                segment_ids = segmentation.GetSegmentation().GetSegmentIDs()
                if segment_ids:
                    self._node.SetSelectedSegmentID(segment_ids[0])
            self.segmentationNodeChanged.emit(segmentation)
        source = self._node.GetSourceVolumeNode()
        if segmentation is not None and source is not self._source:
            self._source = source
            self._show_source(source)
            self.sourceVolumeNodeChanged.emit(source)
            for effect in self._effects:
                effect.sourceVolumeNodeChanged()
                effect.masterVolumeNodeChanged()

    def _show_source(self, source):
        manager = slicer.app.layoutManager()
        if source is None or manager is None:
            return
        source.CreateDefaultDisplayNodes()
        for name in manager.sliceViewNames():
            manager.sliceWidget(name).mrmlSliceCompositeNode().SetBackgroundVolumeID(source.GetID())

    def _follow_effect(self):
        enabled = self._node.GetSourceVolumeNode() is not None
        segments = self._segmentation is not None and self._segmentation.GetSegmentation().GetNumberOfSegments() > 0
        selected = bool(self._node.GetSelectedSegmentID())
        for effect in self._effects:
            usable = not effect.requireSegments or (segments and (selected or not effect.perSegment))
            self._buttons[effect.name].setEnabled(enabled and usable)
        self._group.setEnabled(enabled)
        effect = self.effectByName(self._node.GetActiveEffectName())
        if effect is self._active:
            return
        if self._active is not None:
            self._active.deactivate()
        if effect is not None:
            self.setupViewObservations()
            effect.activate()
            self._group.setTitle(effect.title)
            self._help.setText(effect.helpText())
            self._group.show()
        else:
            self._group.hide()
            self.removeViewObservations()
        for name, button in self._buttons.items():
            button.setChecked(effect is not None and name == effect.name)
        self._active = effect

    # ---- events of the views

    def setupViewObservations(self):
        self.removeViewObservations()
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames() if manager is not None else ():
            widget = manager.sliceWidget(name)
            if self._logic.IsSegmentationDisplayableInView(widget.mrmlSliceNode()):
                self._observe_view(widget)

    def _observe_view(self, widget):
        interactor = widget.sliceView().interactor()

        def on_interaction(event_name):
            tags = {}

            def call(caller, event):
                if self._active is None or self._node is None or self._scene.IsClosing():
                    return
                number = getattr(vtk.vtkCommand, event_name)
                if self._active.processInteractionEvents(interactor, number, widget):
                    interactor.GetCommand(tags["own"]).SetAbortFlag(1)

            tags["own"] = interactor.AddObserver(event_name, call, 1.0)
            return tags["own"]

        def on_view_node(caller, event):
            if self._active is not None:
                self._active.processViewNodeEvents(caller, vtk.vtkCommand.ModifiedEvent, widget)

        self._view_observations += [(interactor, on_interaction(name)) for name in _INTERACTIONS]
        node = widget.mrmlSliceNode()
        self._view_observations.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, on_view_node, 1.0)))

    def removeViewObservations(self):
        for caller, tag in self._view_observations:
            caller.RemoveObserver(tag)
        self._view_observations = []

    def deleteLater(self):
        self.destroy_effects()
        super().deleteLater()

    def destroy_effects(self):
        """What Slicer's widget does when it is destroyed."""
        if self._destroyed:
            return
        self._destroyed = True
        qSlicerSegmentEditorEffectFactory.instance().effectRegistered.disconnect(self.updateEffectList)
        self.removeViewObservations()
        for caller, tag in self._observations:
            caller.RemoveObserver(tag)
        for effect in self._effects:
            effect.cleanup()
            effect.deleteLater()
        self._effects, self._active, self._observations = [], None, []
        self._logic.SetSegmentEditorNode(None)
        self._logic.SetMRMLScene(None)


slicer.qMRMLSegmentEditorWidget = qMRMLSegmentEditorWidget
