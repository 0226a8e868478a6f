"""Segments whole structures with an nnU-Net model: into the selected segment, or as new segments."""

from __future__ import annotations

from typing import Any

import qt
import vtk
from BrainSegSAMWidgets.Dependencies import ensureDependencies
from BrainSegSAMWidgets.ModelTexts import noticeOf
from BrainSegSAMWidgets.PredictionJob import PredictionJob, Request
from BrainSegSAMWidgets.Volumes import volumeSelector
from BrainSegSAMWidgets.WorkerProcess import Listener, Worker
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml, wire
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.labels import Region

from .EffectBase import EffectBase
from .EffectResult import Target, addSegments, fillSegment

METHOD = "nnunet"


class SegmentEditorNNUNetEffect(EffectBase):
    """The effect "nnU-Net auto-segmentation".

    Parameters: Model (name), Region ("" for all as new segments), Add (1: what is in the segment stays). References:
    Input.<modality>.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "BrainSegSAM nnU-Net"
        scriptedEffect.title = _("nnU-Net auto-segmentation")
        scriptedEffect.requireSegments = False
        EffectBase.__init__(self, scriptedEffect)
        self.models: dict[str, Any] = {}
        self.inputSelectors: dict[str, Any] = {}
        self.results: list[tuple[Region, Any]] = []
        self._updating = False
        self._editor: tuple[Any, int] | None = None  # the observed parameter node, while the effect is active

    def helpText(self) -> str:
        """Shown above the options."""
        return _(
            "Segments whole structures with an nnU-Net model. Choose a volume for each sequence that the model needs "
            "and press Segment; the result is shown as an outline first. Apply fills the selected segment with the "
            "chosen region, or adds all regions as new segments. Masking and overwriting are as set below."
        )

    # ---- options

    def setupOptionsFrame(self) -> None:
        """Make the options."""
        self.modelComboBox = qt.QComboBox()
        self.modelComboBox.toolTip = _("The model that segments; more can be added in the module BrainSegSAM.")
        self.scriptedEffect.addLabeledOptionsWidget(_("Model:"), self.modelComboBox)
        self.noticeLabel = qt.QLabel()
        self.noticeLabel.setWordWrap(True)
        self.scriptedEffect.addOptionsWidget(self.noticeLabel)
        self.inputsFrame = qt.QFrame()
        qt.QFormLayout(self.inputsFrame).setContentsMargins(0, 0, 0, 0)
        self.scriptedEffect.addOptionsWidget(self.inputsFrame)
        self.regionComboBox = qt.QComboBox()
        self.regionComboBox.toolTip = _("What Apply writes: all regions as new segments, or one into the selected one.")
        self.scriptedEffect.addLabeledOptionsWidget(_("Result:"), self.regionComboBox)
        self.addCheckBox = qt.QCheckBox(_("Keep what is in the segment"))
        self.addCheckBox.toolTip = _("Add the region to the selected segment instead of replacing what is in it.")
        self.scriptedEffect.addOptionsWidget(self.addCheckBox)
        self.segmentButton = qt.QPushButton(_("Segment"))
        self.scriptedEffect.addOptionsWidget(self.segmentButton)
        self.addRunWidgets()
        self.connectTo(self.modelComboBox, "currentIndexChanged(int)", self.onModelChosen)
        self.connectTo(self.regionComboBox, "currentIndexChanged(int)", self.onRegionChosen)
        self.connectTo(self.addCheckBox, "toggled(bool)", self.onAddToggled)
        self.connectTo(self.segmentButton, "clicked(bool)", self.onSegment)

    def setMRMLDefaults(self) -> None:
        """Of the parameters."""
        self.scriptedEffect.setParameterDefault("Model", "")
        self.scriptedEffect.setParameterDefault("Region", "")
        self.scriptedEffect.setParameterDefault("Add", 0)

    def activate(self) -> None:
        """The effect was chosen: see what models there are now."""
        from BrainSegSAM import BrainSegSAMLogic

        models, problems = BrainSegSAMLogic().installedModels()
        self.models = {name: model for name, model in models.items() if model.method == METHOD}
        for problem in problems:
            self.say(problem)
        self._fill(self.modelComboBox, [(model.title, name) for name, model in self.models.items()])
        self.updateGUIFromMRML()
        self._unwatchEditor()
        node = self.scriptedEffect.parameterSetNode()
        self._editor = node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onEditorModified)
        EffectBase.activate(self)

    def deactivate(self) -> None:
        """See `EffectBase`."""
        self._unwatchEditor()
        EffectBase.deactivate(self)

    def cleanup(self) -> None:
        """See `EffectBase`."""
        self._unwatchEditor()
        EffectBase.cleanup(self)

    def _onEditorModified(self, _caller: Any, _event: str) -> None:
        """Perhaps another segment was selected, of which Slicer does not tell effects."""
        self.updateControls()

    def _unwatchEditor(self) -> None:
        if self._editor is not None:
            node, tag = self._editor
            node.RemoveObserver(tag)
            self._editor = None

    def updateGUIFromMRML(self) -> None:
        """Show the parameters."""
        if self._updating:
            return
        chosen = self.text("Model")
        if not chosen and self.models:
            self.scriptedEffect.setParameter("Model", next(iter(self.models)))  # comes back here
            return
        self._updating = True
        try:
            self._select(self.modelComboBox, chosen)
            self.noticeLabel.text = noticeOf(self.model) if self.model is not None else self._reasonWithoutModel()
            self._showInputs()
            everything = (_("All regions, as new segments"), "")
            names = [region.name for region in self.model.scheme.regions] if self.model is not None else []
            only = [(_("Only {region}, into the selected segment").format(region=name), name) for name in names]
            self._fill(self.regionComboBox, [everything, *only])
            self._select(self.regionComboBox, self.region)
            self.addCheckBox.checked = self.text("Add") == "1"
            self.addCheckBox.visible = bool(self.region)
        finally:
            self._updating = False
        self.updateControls()

    @property
    def model(self) -> Any:
        """The chosen model, or None."""
        return self.models.get(self.text("Model"))

    @property
    def region(self) -> str:
        """The region that goes into the selected segment; "" where all become new segments."""
        name = self.text("Region")
        known = self.model is not None and name in self.model.scheme.names
        return name if known else ""

    def text(self, name: str) -> str:
        """A parameter; "" where it was not set yet."""
        defined = self.scriptedEffect.parameterDefined(name)
        return str(self.scriptedEffect.parameter(name)) if defined else ""

    def onModelChosen(self, _index: int) -> None:
        """Another model: its inputs and regions are others."""
        if not self._updating:
            self.onCancel()
            self.say("")
            self.scriptedEffect.setParameter("Model", str(self.modelComboBox.currentData or ""))
            self.updateGUIFromMRML()

    def onRegionChosen(self, _index: int) -> None:
        """Another region of the same result."""
        if not self._updating:
            self.scriptedEffect.setParameter("Region", str(self.regionComboBox.currentData or ""))
            self.updateGUIFromMRML()
            self.showPreview()

    def onAddToggled(self, checked: bool) -> None:
        """Keep it in the parameters."""
        if not self._updating:
            self.scriptedEffect.setParameter("Add", int(checked))

    def _fill(self, comboBox: Any, items: list[tuple[str, str]]) -> None:
        if [(comboBox.itemText(i), comboBox.itemData(i)) for i in range(comboBox.count)] == items:
            return
        blocked = comboBox.blockSignals(True)
        comboBox.clear()
        for text, data in items:
            comboBox.addItem(text, data)
        comboBox.blockSignals(blocked)

    def _select(self, comboBox: Any, data: str) -> None:
        blocked = comboBox.blockSignals(True)
        comboBox.currentIndex = comboBox.findData(data)
        comboBox.blockSignals(blocked)

    # ---- inputs

    def _showInputs(self) -> None:
        modalities = self.model.modalities if self.model is not None else ()
        if tuple(self.inputSelectors) != tuple(modalities):
            self._makeSelectors(modalities)
        matched = self._matches(modalities)
        for modality, selector in self.inputSelectors.items():
            node = self.scriptedEffect.nodeReference(f"Input.{modality}") or matched.get(modality)
            if selector.currentNode() is not node:
                blocked = selector.blockSignals(True)
                selector.setCurrentNode(node)
                selector.blockSignals(blocked)

    def _makeSelectors(self, modalities: tuple[str, ...]) -> None:
        layout = self.inputsFrame.layout()
        for selector in self.inputSelectors.values():
            self.disconnectFrom(selector)
            layout.removeRow(selector)
        self.inputSelectors = {}
        for modality in modalities:
            selector = volumeSelector(modality)
            layout.addRow(modality.upper() + ":", selector)
            self.connectTo(selector, "currentNodeChanged(vtkMRMLNode*)", self.onInputChosen)
            self.inputSelectors[modality] = selector

    def _matches(self, modalities: tuple[str, ...]) -> dict[str, Any]:
        from BrainSegSAM import BrainSegSAMLogic

        if len(modalities) == 1:
            return {modalities[0]: self.scriptedEffect.parameterSetNode().GetSourceVolumeNode()}
        return dict(BrainSegSAMLogic().matchVolumes(tuple(modalities)))

    def onInputChosen(self, _node: Any) -> None:
        """Keep the chosen volumes; a result of others is of no use."""
        if self._updating:
            return
        if self.job is not None or self.results:
            self.dropResult(_("Another volume was chosen, so the result was taken away."))
        self._updating = True
        for modality, selector in self.inputSelectors.items():
            self.scriptedEffect.setNodeReference(f"Input.{modality}", selector.currentNode())
        self._updating = False
        self.updateControls()

    def reasonNotToSegment(self) -> str:
        """Why Segment cannot be pressed now; "" when it can."""
        if self.job is not None:
            return _("A segmentation is running.")
        if self.model is None:
            return self._reasonWithoutModel()
        nodes = {modality: selector.currentNode() for modality, selector in self.inputSelectors.items()}
        missing = [modality.upper() for modality, node in nodes.items() if node is None]
        if missing:
            return _("Choose a volume for {modalities}.").format(modalities=", ".join(missing))
        if len({node.GetID() for node in nodes.values()}) < len(nodes):
            return _("Each sequence needs a volume of its own.")
        return ""

    def _reasonWithoutModel(self) -> str:
        if not self.models:
            return _("No nnU-Net model is installed; add one in the module BrainSegSAM.")
        return _("The model '{name}' is not there any more; choose another one.").format(name=self.text("Model"))

    def reasonNotToApply(self) -> str:
        """Why Apply cannot be pressed now."""
        reason = EffectBase.reasonNotToApply(self)
        if not reason and self.region and not self._selectedSegmentID():
            return _("Select the segment that shall be filled.")
        return reason

    def updateControls(self) -> None:
        """Enable what can be pressed now, and say why the rest cannot."""
        EffectBase.updateControls(self)
        reason = self.reasonNotToSegment()
        self.segmentButton.enabled = not reason
        self.segmentButton.toolTip = reason or _("Segment the chosen volumes; the segments stay as they are.")
        for widget in (self.modelComboBox, self.inputsFrame):
            widget.enabled = self.job is None
        self.applyButton.text = _("Apply to selected segment") if self.region else _("Add as new segments")

    def _selectedSegmentID(self) -> str:
        return str(self.scriptedEffect.parameterSetNode().GetSelectedSegmentID() or "")

    # ---- work

    def onSegment(self, _checked: bool) -> None:
        """Segment the chosen volumes in the background."""
        self.dropResult("")
        self.guarded(self._start)
        self.updateControls()

    def _start(self) -> None:
        reason = self.reasonNotToSegment()
        if reason:
            raise InputError(reason)
        volumes = {modality: selector.currentNode() for modality, selector in self.inputSelectors.items()}
        target = Target.of(self.scriptedEffect, perSegment=False, volumeNode=next(iter(volumes.values())))
        ensureDependencies(self.model.method)

        def begin(listener: Listener) -> PredictionJob:
            job = _Prediction(Request(volumes, self.model.name), self.worker, listener, target)
            job.start()
            return job

        self.startWork(begin, target, onDone=self.onResult)

    def onResult(self, results: list[tuple[Region, Any]]) -> None:
        """Show what the model found: regions and their labelmaps."""
        self.results = results
        self.showPreview()
        empty = [region.name for region, labelmap in results if labelmap.IsEmpty()]
        self.say(_("Not found: {names}.").format(names=", ".join(empty)) if empty else "")

    def showPreview(self) -> None:
        """Outlines of what Apply would write."""
        if self.target is not None and self.results:
            outlines = [(region.colour_rgb, labelmap) for region, labelmap in self._wanted()]
            self.preview.show(self.target.segmentationNode, outlines)
        self.updateControls()

    def _wanted(self) -> list[tuple[Region, Any]]:
        return [entry for entry in self.results if self.region in ("", entry[0].name)]

    def onApply(self) -> None:
        """Write what is previewed."""
        if not self.region:
            addSegments(self.scriptedEffect, self.target, self.results)
            return
        target = self.target.intoSegment(self._selectedSegmentID())
        labelmap = self._wanted()[0][1]
        fillSegment(self.scriptedEffect, target, labelmap, add=self.addCheckBox.checked)

    def dropResult(self, reason: str) -> None:
        """End the work and take the result away."""
        self.results = []
        EffectBase.dropResult(self, reason)


class _Prediction(PredictionJob):
    """A prediction whose result is not put into the scene, but onto the voxels of a target."""

    def __init__(self, request: Request, worker: Worker, listener: Listener, target: Target) -> None:
        PredictionJob.__init__(self, request, worker, listener)
        self._target = target

    def _conclude(self, data: dict[str, Any]) -> mrml.Steps[list[tuple[Region, Any]]]:
        segmentation, found = wire.segmentation_from(data["segmentation"]), []
        for region in segmentation.scheme.regions:
            z, y, x = (slice(*bounds) for bounds in data["boxes"][region.name])
            found.append((region, (yield from self._target.labelmapInParts(segmentation, region, (z, y, x)))))
        return found
