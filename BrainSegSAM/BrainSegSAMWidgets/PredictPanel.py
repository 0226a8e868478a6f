"""The tab "Segment": the model and its volumes are chosen, a segmentation is started, followed and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled

from .Dependencies import ensureDependencies, ensureDetector, findsBoxes
from .DeviceNote import DeviceNote
from .Fields import Connections, allowOrSay, orderTabs
from .InputChecks import InputCheck, checkInputs, notOffered, outputProblem
from .ModelTexts import factsOf, noticeOf
from .PredictionJob import Request, Result
from .ResultView import ResultView
from .Task import TaskView
from .Volumes import volumeSelector
from .WorkerProcess import Listener

INPUT_ROLE = "Input."
"""Beginning of the node-reference roles that keep the chosen volumes in the parameter node, one per modality."""


class PredictPanel(VTKObservationMixin):
    """Drives the widgets of PredictPanel.ui.

    Args:
        ui: the widgets by name.
        logic: the module's logic.
        onMoreModels: told when the user wants other models than those that are installed.
    """

    def __init__(self, ui: Any, logic: Any, onMoreModels: Callable[[], None] = lambda: None) -> None:
        VTKObservationMixin.__init__(self)
        self.ui = ui
        self.logic = logic
        self.inputSelectors: dict[str, Any] = {}
        self.task = TaskView(ui.progressBar, ui.statusLabel, ui.logText)
        self.results = ResultView(ui)
        self.device = DeviceNote(self.checkCanApply)
        self._onMoreModels = onMoreModels
        self._rows: Any = None
        self._models: dict[str, Any] = {}
        self._parameterNode: Any = None
        self._matchPending = False
        self._checkPending = False
        self._check = InputCheck()
        self._takenOut: dict[str, str] = {}  # modality → id of the volume whose place the user has emptied
        self._filling = False
        self._connections = Connections((
            (ui.modelComboBox, "currentIndexChanged(int)", self.onModelChanged),
            (ui.moreModelsButton, "clicked(bool)", self.onMoreModels),
            (ui.deviceComboBox, "currentIndexChanged(int)", self.checkCanApply),
            (ui.applyButton, "clicked(bool)", self.onApply),
            (ui.cancelButton, "clicked(bool)", self.onCancel),
        ))
        self.fillModels()

    def disconnect(self) -> None:
        """Let go of the widgets: PythonQt would keep this object alive through them."""
        self.device.abort()
        self.removeObservers()
        self._rebuildSelectors(())
        self.results.disconnect()
        self._connections.end()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices that a parameter node holds; None while there is no scene to work in."""
        self._parameterNode = parameterNode
        self._takenOut = {}
        if parameterNode is not None:
            self._chooseAsked()

    def onNodeAdded(self, caller: Any, event: Any) -> None:
        """Offer a new volume; later, because a node that is being loaded gets its name and image after it was added."""
        if self._parameterNode is not None:
            self._matchLater()

    # ---- model and inputs

    @property
    def modelName(self) -> str:
        """Name by which the chosen model is found; "" for none."""
        index = self.ui.modelComboBox.currentIndex
        return list(self._models)[index] if 0 <= index < len(self._models) else ""

    @property
    def model(self) -> Any:
        """The chosen model's description, or None."""
        return self._models.get(self.modelName)

    def fillModels(self) -> None:
        """Offer every installed model; one that cannot be read is left out and said in the log.

        A model that was chosen stays chosen; where it has gone, that is said.
        """
        before, hadModel = self.modelName, self.model
        self._models, problems = self.logic.installedModels()
        self._filling = True
        self.ui.modelComboBox.clear()
        for name, model in self._models.items():
            self.ui.modelComboBox.addItem(model.title)
            self.ui.modelComboBox.setItemData(self.ui.modelComboBox.count - 1, name, qt.Qt.ToolTipRole)
        self._filling = False
        for problem in problems:
            self.task.log(problem)
        self._chooseAsked()
        if hadModel is not None and before not in self._models and not self.logic.running:
            self.task.say(_("The model '{title}' is not installed any more.").format(title=hadModel.title))

    def _chooseAsked(self) -> None:
        """Choose the model that the scene asks for: none where that is not installed, the first if it asks for none."""
        names, node = list(self._models), self._parameterNode
        asked = (node.model if node is not None else "") or next(iter(names), "")
        if node is not None and node.model != asked:
            node.model = asked
        self._filling = True
        self.ui.modelComboBox.currentIndex = names.index(asked) if asked in names else -1
        self._filling = False
        self._showModel()

    def chooseModel(self, name: str) -> None:
        """Choose an installed model that segments."""
        if name in self._models:
            self.ui.modelComboBox.currentIndex = list(self._models).index(name)

    def segmentsByItself(self, name: str) -> bool:
        """Whether a model can be chosen here."""
        return name in self._models

    def onMoreModels(self, *_checked: Any) -> None:
        """Show the catalogue."""
        self._onMoreModels()

    def onModelChanged(self, _index: int) -> None:
        """The user has chosen a model."""
        if self._filling or self.model is None:
            return
        if self._parameterNode is not None:
            self._parameterNode.model = self.modelName
        self._showModel()

    def _showModel(self) -> None:
        """Show what the model is, and one selector for each sequence that it needs."""
        model = self.model
        ui = self.ui
        ui.modelNoticeLabel.text = noticeOf(model) if model is not None else ""
        ui.modelDescriptionLabel.text = model.description if model is not None else ""
        ui.modelFactsLabel.text = factsOf(model) if model is not None else ""
        for label in (ui.modelNoticeLabel, ui.modelDescriptionLabel, ui.modelFactsLabel):
            label.visible = bool(label.text)
        modalities = () if model is None else model.modalities
        if tuple(self.inputSelectors) != tuple(modalities):
            self._rebuildSelectors(modalities)
        if self._parameterNode is not None:
            self.matchInputs()

    def _kept(self, modality: str) -> Any:
        """The volume that the scene's parameters say, or None."""
        return self._parameterNode.parameterNode.GetNodeReference(INPUT_ROLE + modality)

    def _keep(self, modality: str, node: Any) -> None:
        identifier = node.GetID() if node is not None else None
        self._parameterNode.parameterNode.SetNodeReferenceID(INPUT_ROLE + modality, identifier)

    def _showInputs(self) -> None:
        """Show the volumes that the scene's parameters say; what the selectors signal meanwhile is no choice."""
        self._filling = True
        for modality, selector in self.inputSelectors.items():
            selector.setCurrentNode(self._kept(modality))
        self._filling = False
        self.checkInputs()

    def _rebuildSelectors(self, modalities: Any) -> None:
        for selector in self.inputSelectors.values():
            selector.disconnect("currentNodeChanged(vtkMRMLNode*)", self.onInputChanged)
        self.inputSelectors = {}
        if self._rows is not None:
            self._rows.visible = False
            self._rows.deleteLater()
        self._rows = qt.QWidget()
        layout = qt.QFormLayout(self._rows)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)  # macOS would keep the selectors narrow
        self.ui.inputRows.layout().addRow(self._rows)
        for modality in modalities:
            selector = volumeSelector(modality)
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInputChanged)
            layout.addRow(modality.upper() + ":", selector)
            self.inputSelectors[modality] = selector
        ui = self.ui
        orderTabs((
            ui.modelCollapsibleButton, ui.modelComboBox, ui.moreModelsButton, ui.inputsCollapsibleButton,
            *self.inputSelectors.values(), ui.outputCollapsibleButton, ui.outputSelector,
            ui.deviceComboBox, ui.applyButton, ui.cancelButton, ui.resultTable, ui.lesionTable,
            ui.provenanceCollapsibleButton, ui.provenanceText, ui.logCollapsibleButton, ui.logText,
        ))  # fmt: skip

    def onInputChanged(self, *_node: Any) -> None:
        """The user has chosen a volume, or none: keep that, and later fill in what goes with it."""
        if self._parameterNode is None or self._filling:
            return
        for modality, selector in self.inputSelectors.items():
            before, node = self._kept(modality), selector.currentNode()
            if node is not None:
                self._takenOut.pop(modality, None)
            elif before is not None:
                self._takenOut[modality] = before.GetID()
            self._keep(modality, node)
        self.checkInputs()
        self._matchLater()

    def _matchLater(self) -> None:
        """Match once, when all that is under way has happened."""
        if not self._matchPending:
            self._matchPending = True
            qt.QTimer.singleShot(0, self.matchInputs)

    def matchInputs(self) -> None:
        """Fill selectors that are empty with volumes whose names say their sequence, of the examination that is chosen.

        One that the user has emptied stays so while the volume that was in it is there.
        """
        self._matchPending = False
        if self._parameterNode is None:
            return
        chosen = {modality: self._kept(modality) for modality in self.inputSelectors}
        found = self.logic.matchVolumes(tuple(chosen), beside=[node for node in chosen.values() if node is not None])
        for modality, node in found.items():
            takenOut = slicer.mrmlScene.GetNodeByID(self._takenOut.get(modality, ""))
            if chosen[modality] is None and takenOut is None:
                self._keep(modality, node)
        self._showInputs()

    # ---- checks

    def checkInputs(self) -> None:
        """Say whether the chosen volumes can be used and fit each other, and listen to what would change that."""
        self._checkPending = False
        if self._parameterNode is None:
            return
        chosen = {modality: selector.currentNode() for modality, selector in self.inputSelectors.items()}
        self.removeObservers(self.onVolumeModified)
        for node in {node for node in chosen.values() if node is not None}:
            for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
                          slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent):
                self.addObserver(node, event, self.onVolumeModified)
        self._check = checkInputs(chosen)
        notes = list(self._check.notes)
        if any(node is None for node in chosen.values()):
            notes += [_("Not offered: {reason}").format(reason=reason) for reason in notOffered()]
        self.ui.inputsCheckLabel.text = "\n".join(notes)
        self.ui.inputsCheckLabel.visible = bool(notes)
        self.checkCanApply()

    def onVolumeModified(self, caller: Any, event: Any) -> None:
        """Check again, once, when all that is under way has happened."""
        if not self._checkPending:
            self._checkPending = True
            qt.QTimer.singleShot(0, self.checkInputs)

    def reasonNotToApply(self) -> str:
        """Why Apply cannot be pressed now; "" when it can."""
        if self.logic.running:
            return _("A segmentation is running.")
        node = self._parameterNode
        if not self._models:
            return _("No model is installed.")
        if self.model is None:
            return _(
                "The scene asks for the model '{name}', which is not installed here; download or import it, or choose "
                "another."
            ).format(name=node.model)
        return self._check.problem or outputProblem(node.outputSegmentation) or self.device.problem(node.device.value)

    def checkCanApply(self, *_changed: Any) -> None:
        """Enable Apply, or say why not."""
        if self._parameterNode is None:
            return
        running = self.logic.running
        allowOrSay(self.ui.applyButton, self.reasonNotToApply(), _("Segment the chosen volumes."))
        idle = "" if running else _("Nothing is running that could be cancelled.")
        allowOrSay(self.ui.cancelButton, idle, _("End the running segmentation; nothing is changed in the scene."))
        self.ui.applyReasonLabel.text = "" if running else self.reasonNotToApply()
        self.ui.applyReasonLabel.visible = bool(self.ui.applyReasonLabel.text)
        note = self.device.text(self._parameterNode.device.value)
        self.ui.deviceNoteLabel.text = note
        self.ui.deviceNoteLabel.visible = bool(note)

    # ---- Apply

    def onApply(self, *_checked: Any) -> None:
        """Start segmenting; everything else stays usable."""
        self.checkInputs()
        if self.reasonNotToApply():  # something has changed since that was last looked at; it is said beside the button
            return
        request = Request(
            {modality: selector.currentNode() for modality, selector in self.inputSelectors.items()},
            model=self.modelName, device=self._parameterNode.device.value,
            segmentationNode=self._parameterNode.outputSegmentation,
        )
        self.results.clear()
        self.task.begin()
        try:
            ensureDependencies(self.model.method)
            if findsBoxes(self.model):
                ensureDetector()
            self.device.ask()
            listener = Listener(
                onProgress=self.onProgress, onLog=self.task.log, onDone=self.onDone, onFailed=self.onFailed
            )
            self.logic.start(request, listener)
        except BrainSegSAMError as error:
            self.onFailed(error)
            return
        self.checkCanApply()

    def onCancel(self, *_checked: Any) -> None:
        """Ask the running segmentation to end."""
        self.task.say(_("Cancelling…"))
        self.logic.cancel()

    def onProgress(self, message: dict[str, Any]) -> None:
        """Show how far the work is."""
        self.task.show(message)

    def onDone(self, result: Result) -> None:
        """Show the measures and the segments."""
        self.task.end(_("Finished: '{name}'.").format(name=result.segmentationNode.GetName()))
        self.results.show(result.segmentationNode, result.record)
        ui = self.ui
        for section in (ui.modelCollapsibleButton, ui.inputsCollapsibleButton, ui.outputCollapsibleButton):
            section.collapsed = True  # so that the result is seen without scrolling on a small screen
        self.checkCanApply()

    def onFailed(self, error: BrainSegSAMError) -> None:
        """Say what went wrong; a cancel is no error."""
        self.task.end(str(error))
        self.task.log(str(error))
        self.checkCanApply()
        if not isinstance(error, Cancelled):
            slicer.util.errorDisplay(str(error), windowTitle="BrainSegSAM")
