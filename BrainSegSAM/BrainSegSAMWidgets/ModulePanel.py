"""The module's panel: four tabs, one for each thing that can be done."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from BrainSegSAMLib.resources import resource_path

from .EvaluatePanel import EvaluatePanel
from .Fields import Connections
from .ModelPanel import ModelPanel
from .PredictPanel import PredictPanel
from .TrainPanel import TrainPanel


class ModulePanel:
    """Loads the .ui files and joins the panels that drive them.

    Args:
        logic: the module's logic.

    Attributes:
        widget: all of it, to put into a layout.
        ui: every widget by its name.
    """

    def __init__(self, logic: Any) -> None:
        self.widget = _load("BrainSegSAM")
        tabs = slicer.util.childWidgetVariables(self.widget)
        pages = {"PredictPanel": tabs.segmentTab, "ModelPanel": tabs.modelsTab, "TrainPanel": tabs.trainTab,
                 "EvaluatePanel": tabs.evaluateTab}  # fmt: skip
        for name, page in pages.items():
            page.layout().addWidget(_load(name))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.ui.PredictPanel.setMRMLScene(slicer.mrmlScene)
        self.predict = PredictPanel(self.ui, logic, self.showModels)
        self.models = ModelPanel(self.ui, self._modelsChanged, self._useModel)
        self.train = TrainPanel(self.ui, self._trained)
        self.evaluate = EvaluatePanel(self.ui, logic)
        self._panels = (self.predict, self.models, self.train, self.evaluate)
        self._pages = tuple(pages.values())
        self._connections = Connections(((self.ui.tabWidget, "currentChanged(int)", self._onTab),))
        self._onTab(0)

    def disconnect(self) -> None:
        """Let go of the widgets, and end what runs."""
        self._connections.end()
        for panel in self._panels:
            panel.disconnect()

    def enter(self) -> None:
        """The module is opened: models may have come or gone on disk, and what the machine has is asked for."""
        self._modelsChanged()
        self.models.fill()
        self.predict.device.ask()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices that a parameter node holds; None while there is no scene to work in."""
        for panel in self._panels:
            panel.setParameterNode(parameterNode)

    def checkCanApply(self, *_changed: Any) -> None:
        """The parameter node has changed."""
        for panel in (self.models, self.train, self.evaluate):
            panel.check()
        self.predict.checkCanApply()

    def onNodeAdded(self, caller: Any, event: Any) -> None:
        """A node has come into the scene."""
        self.predict.onNodeAdded(caller, event)

    def showModels(self) -> None:
        """Turn to the catalogue."""
        self.ui.tabWidget.setCurrentWidget(self.ui.modelsTab)

    def _useModel(self, name: str) -> None:
        self.predict.chooseModel(name)
        self.ui.tabWidget.setCurrentWidget(self.ui.segmentTab)

    def _modelsChanged(self) -> None:
        self.predict.fillModels()
        self.evaluate.fillLabels()

    def _trained(self, _name: str) -> None:
        self._modelsChanged()
        self.models.fill()

    def _onTab(self, index: int) -> None:
        """Let the page that is shown decide the height alone: a low one would else end in empty space."""
        for number, page in enumerate(self._pages):
            height = qt.QSizePolicy.Preferred if number == index else qt.QSizePolicy.Ignored
            page.setSizePolicy(qt.QSizePolicy.Preferred, height)
        self.ui.tabWidget.updateGeometry()


def _load(name: str) -> Any:
    return slicer.util.loadUI(str(resource_path("UI", f"{name}.ui")))
