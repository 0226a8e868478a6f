"""The panel's inside: the model and its volumes are chosen, a segmentation is started, followed and shown."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled

from .Dependencies import ensureDependencies
from .PredictionJob import Request, Result
from .WorkerProcess import Listener

INPUT_ROLE = "Input."
"""Beginning of the node-reference roles that keep the chosen volumes in the parameter node, one per modality."""


class PredictPanel:
    """Drives the widgets of BrainSegSAM.ui.

    Args:
        ui: the widgets by name.
        logic: the module's logic.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        self.ui = ui
        self.logic = logic
        self.inputSelectors: dict[str, Any] = {}
        self._inputRows: Any = None
        self._models: dict[str, Any] = {}
        self._parameterNode: Any = None
        self._matchPending = False
        header = ui.resultTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.resultTable.visible = False
        self._showProgress(None)
        self._connections = (
            (ui.modelComboBox, "currentIndexChanged(int)", self.onModelChanged),
            (ui.applyButton, "clicked(bool)", self.onApply),
            (ui.cancelButton, "clicked(bool)", self.onCancel),
        )
        for widget, signal, slot in self._connections:
            widget.connect(signal, slot)
        self.fillModels()

    def disconnect(self) -> None:
        """Let go of the widgets: PythonQt would keep this object alive through them."""
        self._rebuildSelectors(())
        for widget, signal, slot in self._connections:
            widget.disconnect(signal, slot)
        self._connections = ()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices that a parameter node holds; None while there is no scene to work in."""
        self._parameterNode = parameterNode
        if parameterNode is None:
            return
        names = list(self._models)
        if parameterNode.model in names:
            self.ui.modelComboBox.currentIndex = names.index(parameterNode.model)
        self.onModelChanged(self.ui.modelComboBox.currentIndex)

    def onNodeAdded(self, caller: Any, event: Any) -> None:
        """Offer a new volume; later, because a node that is being loaded gets its name and image after it was added."""
        if self._parameterNode is not None and not self._matchPending:
            self._matchPending = True
            qt.QTimer.singleShot(0, self.matchInputs)

    # ---- model and inputs

    @property
    def model(self) -> Any:
        """The chosen model's description, or None."""
        index = self.ui.modelComboBox.currentIndex
        return list(self._models.values())[index] if 0 <= index < len(self._models) else None

    def fillModels(self) -> None:
        """Offer every installed model; one that cannot be read is left out and said in the log."""
        self._models, problems = self.logic.installedModels()
        self.ui.modelComboBox.clear()
        for model in self._models.values():
            self.ui.modelComboBox.addItem(model.title)
        for problem in problems:
            self.log(problem)

    def onModelChanged(self, index: int) -> None:
        """Show what the model is and one selector for each sequence that it needs."""
        model = self.model
        if self._parameterNode is not None and model is not None:
            self._parameterNode.model = model.name
        self.ui.modelNoticeLabel.visible = model is not None
        self.ui.modelDescriptionLabel.visible = model is not None
        if model is not None:
            notice = _("Demonstration model.") + " " if model.demonstration else ""
            self.ui.modelNoticeLabel.text = notice + model.intended_use
            self.ui.modelDescriptionLabel.text = model.description
        modalities = () if model is None else model.modalities
        if tuple(self.inputSelectors) != tuple(modalities):
            self._rebuildSelectors(modalities)
        if self._parameterNode is not None:
            for modality, selector in self.inputSelectors.items():
                selector.setCurrentNode(self._parameterNode.parameterNode.GetNodeReference(INPUT_ROLE + modality))
            self.matchInputs()
        self.checkCanApply()

    def _rebuildSelectors(self, modalities: Any) -> None:
        for selector in self.inputSelectors.values():
            selector.disconnect("currentNodeChanged(vtkMRMLNode*)", self.onInputChanged)
        self.inputSelectors = {}
        if self._inputRows is not None:
            self._inputRows.visible = False
            self._inputRows.deleteLater()
        self._inputRows = qt.QWidget()
        layout = qt.QFormLayout(self._inputRows)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)  # macOS would keep the selectors narrow
        self.ui.inputsCollapsibleButton.layout().addWidget(self._inputRows)
        for modality in modalities:
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.showChildNodeTypes = False
            selector.noneEnabled = True
            selector.addEnabled = False
            selector.removeEnabled = False
            selector.setMRMLScene(slicer.mrmlScene)
            selector.toolTip = _("The volume with the {modality} sequence.").format(modality=modality)
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInputChanged)
            layout.addRow(modality.upper() + ":", selector)
            self.inputSelectors[modality] = selector

    def onInputChanged(self, *_node: Any) -> None:
        """Keep the chosen volumes in the parameter node."""
        if self._parameterNode is None:
            return
        for modality, selector in self.inputSelectors.items():
            node = selector.currentNode()
            identifier = node.GetID() if node is not None else None
            self._parameterNode.parameterNode.SetNodeReferenceID(INPUT_ROLE + modality, identifier)
        self.checkCanApply()

    def matchInputs(self) -> None:
        """Fill selectors that are empty with volumes whose names say their sequence."""
        self._matchPending = False
        if self._parameterNode is None:
            return
        found = self.logic.matchVolumes(tuple(self.inputSelectors))
        for modality, selector in self.inputSelectors.items():
            if selector.currentNode() is None and modality in found:
                selector.setCurrentNode(found[modality])

    # ---- Apply

    def reasonNotToApply(self) -> str:
        """Why Apply cannot be pressed now; "" when it can."""
        if self.logic.running:
            return _("A segmentation is running.")
        if self.model is None:
            return _("No model is installed.")
        chosen = {modality: selector.currentNode() for modality, selector in self.inputSelectors.items()}
        missing = [modality.upper() for modality, node in chosen.items() if node is None]
        if missing:
            return _("Choose a volume for {modalities}.").format(modalities=", ".join(missing))
        for node in chosen.values():
            same = [other.upper() for other, otherNode in chosen.items() if otherNode is node]
            if len(same) > 1:
                return _("'{name}' is chosen for {modalities}; each needs its own volume.").format(
                    name=node.GetName(), modalities=", ".join(same)
                )
        return ""

    def checkCanApply(self, caller: Any = None, event: Any = None) -> None:
        """Enable Apply, or say why not."""
        if self._parameterNode is None:
            return
        reason = self.reasonNotToApply()
        self.ui.applyButton.enabled = not reason
        self.ui.applyButton.toolTip = reason or _("Segment the chosen volumes.")
        self.ui.cancelButton.enabled = self.logic.running
        running = self.logic.running
        self.ui.applyReasonLabel.text = "" if running else reason
        self.ui.applyReasonLabel.visible = bool(reason) and not running

    def onApply(self, *_checked: Any) -> None:
        """Start segmenting; everything else stays usable."""
        request = Request(
            {modality: selector.currentNode() for modality, selector in self.inputSelectors.items()},
            model=self.model.name, device=self._parameterNode.device.value,
            segmentationNode=self._parameterNode.outputSegmentation,
        )
        self.ui.logText.clear()
        self.ui.resultTable.visible = False
        self.ui.statusLabel.text = _("Starting…")
        try:
            ensureDependencies(self.model.method)
            listener = Listener(
                onProgress=self.onProgress, onLog=self.log, onDone=self.onDone, onFailed=self.onFailed
            )
            self.logic.start(request, listener)
        except BrainSegSAMError as error:
            self.onFailed(error)
            return
        self._showProgress(0.0)
        self.checkCanApply()

    def onCancel(self, *_checked: Any) -> None:
        """Ask the running segmentation to end."""
        self.ui.statusLabel.text = _("Cancelling…")
        self.logic.cancel()

    def onProgress(self, message: dict[str, Any]) -> None:
        """Show how far the work is."""
        fraction = float(message.get("fraction") or 0.0)
        self._showProgress(fraction)
        stage = str(message.get("stage") or "").removeprefix("case: ")
        # Earlier, starting and loading count for too much of the estimate.
        left = timeLeft(message.get("remaining_s")) if fraction >= 0.05 else ""
        self.ui.statusLabel.text = f"{stage} – {left}" if left else stage
        if message.get("message"):
            self.log(str(message["message"]))

    def onDone(self, result: Result) -> None:
        """Show the measures and the segments."""
        self._showProgress(None)
        self.ui.statusLabel.text = _("Finished: '{name}'.").format(name=result.segmentationNode.GetName())
        self._showResult(result)
        self.checkCanApply()

    def onFailed(self, error: BrainSegSAMError) -> None:
        """Say what went wrong; a cancel is no error."""
        self._showProgress(None)
        self.ui.statusLabel.text = str(error)
        self.log(str(error))
        self.checkCanApply()
        if not isinstance(error, Cancelled):
            slicer.util.errorDisplay(str(error), windowTitle="BrainSegSAM")

    def log(self, line: str) -> None:
        """Add a line to the log."""
        self.ui.logText.appendPlainText(line)

    def _showProgress(self, fraction: float | None) -> None:
        self.ui.progressBar.visible = fraction is not None
        self.ui.progressBar.value = round(100 * (fraction or 0.0))

    def _showResult(self, result: Result) -> None:
        table = self.ui.resultTable
        table.setRowCount(len(result.regions))
        segmentation = result.segmentationNode.GetSegmentation()
        for row, region in enumerate(result.regions):
            texts = [
                str(region["region"]), f"{region['volume_ml']:.1f}", str(region["components"]),
                f"{region['largest_diameter_mm']:.1f}",
            ]
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(row, column, item)
            segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(region["region"]))
            if segment is not None:
                table.item(row, 0).setData(qt.Qt.DecorationRole, qt.QColor.fromRgbF(*segment.GetColor()))
        table.resizeRowsToContents()
        table.visible = True


def timeLeft(seconds: float | None) -> str:
    """A duration for people: "about 2 min left"; "" where it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
