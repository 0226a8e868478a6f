"""The BrainSegSAM module of 3D Slicer: several MR volumes in; named, coloured and measured segments out.

This file is what Slicer loads: the module's description, its parameters, its panel and its logic. The work is done by
`BrainSegSAMLib` in a process of its own; see `BrainSegSAMWidgets.WorkerProcess`.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from slicer import vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


def libraryFolder() -> Path:
    """The folder that holds BrainSegSAMLib: this file's own once installed, the one above in a source tree."""
    here = Path(__file__).resolve().parent
    return here if (here / "BrainSegSAMLib").is_dir() else here.parent


for _folder in (str(libraryFolder()), str(Path(__file__).resolve().parent)):
    if _folder not in sys.path:
        sys.path.append(_folder)

if TYPE_CHECKING:
    from BrainSegSAMWidgets.ModulePanel import ModulePanel
    from BrainSegSAMWidgets.PredictionJob import PredictionJob, Request
    from BrainSegSAMWidgets.WorkerProcess import Listener, Worker

# What the panel and its work need is imported when they are first used: Slicer imports this file at each start.
from BrainSegSAMLib.errors import BrainSegSAMError, InputError  # noqa: E402
from BrainSegSAMLib.resources import resource_path  # noqa: E402

OLDEST_PYTHON = (3, 10)
"""That the library and nnU-Net run on; Slicer 5.8 has an older one."""


class BrainSegSAM(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "BrainSegSAM"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["BrainSegSAM contributors"]
        parent.helpText = _(
            "Segments brain MRI. Choose a model and one volume for each MR sequence that it needs, then press Apply. "
            "The result is a segmentation with one named segment per region, where the regions may overlap, and a "
            "table of volumes. For research, not for clinical use."
        )
        parent.acknowledgementText = _(
            "Segmentation by nnU-Net v2 (Isensee et al., Nature Methods 18, 2021). The bundled demonstration model was "
            "trained on cases of BraTS 2021 (CC BY 4.0; Baid et al., arXiv:2107.02314)."
        )
        parent.icon = qt.QIcon(str(resource_path("Icons", "BrainSegSAM.png")))
        slicer.app.connect("startupCompleted()", registerWithSlicer)


def reasonNotToRun() -> str:
    """Why this Slicer cannot run the module, as a sentence; "" where it can."""
    if sys.version_info >= OLDEST_PYTHON:
        return ""
    return _(
        "BrainSegSAM needs Slicer 5.10 or later, which brings Python 3.12; this Slicer has Python {version}. Install a "
        "newer Slicer."
    ).format(version=".".join(str(part) for part in sys.version_info[:2]))


def registerWithSlicer() -> None:
    """Make our effects known to the Segment Editor and our case to Sample Data, once Slicer has loaded both."""
    if reasonNotToRun():
        return  # the module's panel says why
    from BrainSegSAMEffects import registerEffects
    from BrainSegSAMWidgets.SampleDataSources import registerSampleData

    registerEffects()
    registerSampleData()


class Device(enum.Enum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self) -> str:
        """Name in the panel."""
        names = {
            Device.AUTO: _("Automatic"), Device.CPU: _("Processor (CPU)"), Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS)"),
        }
        return names[self]


@parameterNodeWrapper
class BrainSegSAMParameterNode:
    """The panel's choices, saved with the scene; the input volumes are kept as references "Input.<modality>".

    model - name of the chosen model.
    device - where it runs.
    outputSegmentation - segmentation that segments are added to; none for a new one.
    importSource - what is imported as a model.
    train… - recipe (name of one that ships, or path), cases, name of the model, work folder, device, and as JSON the
        settings that differ from the recipe's.
    evaluate… - folders, the model that says what labels mean, and what the report shall be.
    """

    model: str
    device: Device = Device.AUTO
    outputSegmentation: vtkMRMLSegmentationNode
    importSource: str
    trainRecipe: str
    trainData: str
    trainName: str
    trainWork: str
    trainDevice: Device = Device.AUTO
    trainSettings: str
    evaluatePredictions: str
    evaluateOther: str
    evaluateReference: str
    evaluateImages: str
    evaluateOutput: str
    evaluateLabels: str
    evaluatePictures: bool = True
    evaluateResample: bool = False
    evaluateResume: bool = False
    evaluateOpen: bool = True


class BrainSegSAMWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel as Slicer knows it: its life, its scene and its parameter node."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: BrainSegSAMLogic | None = None
        self.panel: ModulePanel | None = None
        self._parameterNode: BrainSegSAMParameterNode | None = None
        self._parameterNodeGuiTag: Any = None

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        reason = reasonNotToRun()
        if reason:
            label = qt.QLabel(reason)
            label.setWordWrap(True)
            self.layout.addWidget(label)
            return
        self.logic = BrainSegSAMLogic()
        from BrainSegSAMWidgets.ModulePanel import ModulePanel

        self.panel = ModulePanel(self.logic)
        self.layout.addWidget(self.panel.widget)
        self.ui = self.panel.ui
        scene, events = slicer.mrmlScene, slicer.vtkMRMLScene
        # While a scene is closed or loaded, nothing that happens on the way may write into its parameters.
        for event in (events.StartCloseEvent, events.StartImportEvent):
            self.addObserver(scene, event, self.onSceneStartsChanging)
        for event in (events.EndCloseEvent, events.EndImportEvent):
            self.addObserver(scene, event, self.onSceneHasChanged)
        self.addObserver(scene, events.NodeAddedEvent, self.panel.onNodeAdded)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Let go of everything; Slicer calls this twice when it ends, the second time when the widgets are gone."""
        if self.panel is None:
            return
        self.logic.abort()
        self.setParameterNode(None)
        self.removeObservers()
        self.panel.disconnect()
        self.panel = None

    def enter(self) -> None:
        if self.panel is not None:
            self.panel.enter()
            self.initializeParameterNode()

    def exit(self) -> None:
        if self.panel is not None:
            self.setParameterNode(None)

    def onSceneStartsChanging(self, caller: Any, event: Any) -> None:
        self.setParameterNode(None)

    def onSceneHasChanged(self, caller: Any, event: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take up the scene's parameters."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode: BrainSegSAMParameterNode | None) -> None:
        """Show and observe a parameter node, or none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.checkCanApply)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.checkCanApply)
        self.panel.setParameterNode(parameterNode)


class BrainSegSAMLogic(ScriptedLoadableModuleLogic):
    """What the module does, for the panel and for scripts."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.worker: Worker | None = None  # None: the module's shared one
        self._job: PredictionJob | None = None

    def getParameterNode(self) -> BrainSegSAMParameterNode:
        """The module's parameters in the current scene."""
        return BrainSegSAMParameterNode(super().getParameterNode())

    def installedModels(self) -> tuple[dict[str, Any], list[str]]:
        """Name → model for all that segment and can be used now, and what is wrong with those that cannot."""
        from BrainSegSAMLib.methods import OTHER_METHODS
        from BrainSegSAMLib.models.catalogue import installed_models
        from BrainSegSAMLib.models.store import load_model

        models, problems = {}, []
        try:
            folders = installed_models()
        except BrainSegSAMError as error:
            return {}, [str(error)]
        for name, folder in folders.items():
            try:
                model = load_model(folder, verify_hashes=False)  # the child verifies what it loads
            except BrainSegSAMError as error:
                problems.append(str(error))
                continue
            if model.method not in OTHER_METHODS:
                models[name] = model
        return models, problems

    def matchVolumes(self, modalities: tuple[str, ...], beside: Sequence[Any] = ()) -> dict[str, Any]:
        """Modality → the scene's only volume whose name says that modality; where there are several, none.

        All of them seem to be of one examination: that of the volumes `beside`, where there are such; otherwise the
        only one, or the only one that has every modality.
        """
        from BrainSegSAMWidgets.Volumes import ofOneExamination, volumesByModality

        found = volumesByModality(modalities)
        candidates = [node for modality in modalities for node in found.get(modality, [])]
        sets: list[dict[str, Any]] = []
        for anchor in list(beside[:1]) or candidates:
            fitting = {
                modality: [node for node in found.get(modality, []) if ofOneExamination(anchor, *beside, node)]
                for modality in modalities
            }
            one = {modality: nodes[0] for modality, nodes in fitting.items() if len(nodes) == 1}
            if ofOneExamination(*one.values()) and one not in sets:
                sets.append(one)
        best = sets if len(sets) == 1 else [one for one in sets if len(one) == len(modalities)]
        return best[0] if len(best) == 1 else {}

    @property
    def running(self) -> bool:
        """Whether a segmentation is running."""
        return self._job is not None and self._job.running

    def start(self, request: Request, listener: Listener) -> PredictionJob:
        """Segment in the background; the listener's `onDone` gets a `PredictionJob.Result`.

        Raises:
            InputError: where a segmentation is running already, or a volume cannot be used.
        """
        from BrainSegSAMWidgets.PredictionJob import PredictionJob
        from BrainSegSAMWidgets.WorkerProcess import sharedWorker

        if self.running:
            raise InputError(_("A segmentation is running already; wait for it or cancel it."))
        job = PredictionJob(request, self.worker or sharedWorker(), listener)
        job.start()
        self._job = job
        return job

    def cancel(self) -> None:
        """Ask the running segmentation to end."""
        if self._job is not None:
            self._job.cancel()

    def abort(self) -> None:
        """End the running segmentation, whose listener hears no more, for when the module is closed."""
        if self._job is not None:
            self._job.abort()

    def predict(
        self, volumes: dict[str, Any], *, model: str, segmentationNode: Any = None, device: str = "auto",
        listener: Listener | None = None,
    ) -> Any:
        """Segment from a script.

        Args:
            volumes: modality → volume node, e.g. `{"flair": node, …}`; the first of the model's modalities is the
                reference, under whose parent transform the result is put.
            model: name or folder of a model.
            segmentationNode: node to add the segments to; None makes a new one.
            device: "auto", "cpu", "cuda" or "mps".
            listener: hears of it in the background while Slicer goes on; None blocks until it is done.

        Returns:
            The segmentation node; with a listener the `PredictionJob`, and the listener's `onDone` gets a result with
            the node.

        Raises:
            BrainSegSAMError: a sentence that says what is wrong; the scene is as it was.
        """
        from BrainSegSAMWidgets.PredictionJob import Request
        from BrainSegSAMWidgets.WorkerProcess import Listener

        from BrainSegSAMLib.models.catalogue import find_model
        from BrainSegSAMLib.models.store import load_model

        modalities = load_model(find_model(model), verify_hashes=False).modalities
        missing = [modality for modality in modalities if volumes.get(modality) is None]
        if missing:
            raise InputError(_("The model needs a volume for {names}.").format(names=", ".join(missing)))
        ordered = {modality: volumes[modality] for modality in modalities}
        request = Request(ordered, str(model), device, segmentationNode)
        if listener is not None:
            return self.start(request, listener)
        results: list[Any] = []
        errors: list[BrainSegSAMError] = []
        self.start(request, Listener(onDone=results.append, onFailed=errors.append)).wait()
        if errors:
            raise errors[0]
        return results[0].segmentationNode


class BrainSegSAMTest(ScriptedLoadableModuleTest):
    """Self-test for Slicer's own test runner: the panel opens and the logic finds its models; needs no package."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_models_and_matching()

    def test_models_and_matching(self) -> None:
        """Every bundled model is readable, and volumes are matched to modalities by name."""
        logic = BrainSegSAMLogic()
        models, problems = logic.installedModels()
        self.assertEqual(problems, [])
        for name in ("case7 FLAIR", "case7 t1ce"):
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        matched = logic.matchVolumes(("flair", "t1", "t1ce", "t2"))
        self.assertEqual({m: n.GetName() for m, n in matched.items()}, {"flair": "case7 FLAIR", "t1ce": "case7 t1ce"})
        self.assertTrue(all(model.modalities for model in models.values()))
        self.delayDisplay("Test passed")
