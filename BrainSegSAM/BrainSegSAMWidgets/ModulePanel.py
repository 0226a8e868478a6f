"""The module's panel: four tabs, one for each thing that can be done."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib.resources import resource_path

from .Dependencies import lookAhead
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
        shell = slicer.util.childWidgetVariables(self.widget)
        self._pages = (shell.segmentTab, shell.modelsTab, shell.trainTab, shell.evaluateTab)
        # A tab bar of our own: a QTabWidget is as high as its highest page, which leaves the others with empty space.
        self.tabBar = qt.QTabBar()
        self.tabBar.setObjectName("tabBar")
        self.tabBar.setExpanding(False)
        self.tabBar.setDrawBase(False)
        self.tabBar.toolTip = _("Segment volumes, manage models, train new ones, and measure how good they are.")
        for title in (_("Segment"), _("Models"), _("Train"), _("Evaluate")):
            self.tabBar.addTab(title)
        self.widget.layout().insertWidget(0, self.tabBar)
        for name, page in zip(("PredictPanel", "ModelPanel", "TrainPanel", "EvaluatePanel"), self._pages, strict=True):
            page.layout().addWidget(_load(name))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.ui.PredictPanel.setMRMLScene(slicer.mrmlScene)
        self.predict = PredictPanel(self.ui, logic, self.showModels)
        self.models = ModelPanel(self.ui, self._modelsChanged, self._useModel)
        self.train = TrainPanel(self.ui, self._trained)
        self.evaluate = EvaluatePanel(self.ui, logic)
        self._panels = (self.predict, self.models, self.train, self.evaluate)
        self._connections = Connections(((self.tabBar, "currentChanged(int)", self._onTab),))
        self._showPage(0)
        lookAhead()

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

    def showPage(self, page: Any) -> None:
        """Turn to one of the pages."""
        self.tabBar.setCurrentIndex(self._pages.index(page))

    def showModels(self) -> None:
        """Turn to the catalogue."""
        self.showPage(self.ui.modelsTab)

    def _useModel(self, name: str) -> None:
        self.predict.chooseModel(name)
        self.showPage(self.ui.segmentTab)

    def _modelsChanged(self) -> None:
        self.predict.fillModels()
        self.evaluate.fillLabels()

    def _trained(self, _name: str) -> None:
        self._modelsChanged()
        self.models.fill()

    def _onTab(self, index: int) -> None:
        self._showPage(index)
        self.predict.device.ask()  # the other tabs may have installed PyTorch

    def _showPage(self, index: int) -> None:
        for number, page in enumerate(self._pages):
            page.visible = number == index


def _load(name: str) -> Any:
    return slicer.util.loadUI(str(resource_path("UI", f"{name}.ui")))
