"""What the effects share that show a network one image again and again: the image, the model, and what it sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer
import vtk
from BrainSegSAMWidgets.Dependencies import ensureDependencies
from BrainSegSAMWidgets.Volumes import VolumeReader, ofOneExamination, volumesByModality
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml, wire
from BrainSegSAMLib.errors import BrainSegSAMError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.modalities import ModalityTable
from BrainSegSAMLib.models.catalogue import installed_models
from BrainSegSAMLib.models.store import load_model
from BrainSegSAMLib.view_planes import view_plane

from .EffectBase import EffectBase
from .EffectResult import Target

_REFRESH_MS = 150
_FIRST = "first"  # instead of a model's name: that which is listed first


class InteractiveEffect(EffectBase):
    """An effect whose requests name an image that the worker keeps.

    A subclass says which models it can use (`methods`), calls `addModelWidgets` first in `setupOptionsFrame`, and asks
    with `ask` instead of `startJob`.
    """

    methods: tuple[str, ...] = ()
    """Of the models that can be used."""

    def __init__(self, scriptedEffect: Any) -> None:
        EffectBase.__init__(self, scriptedEffect)
        self.modelCombo: Any = None
        self.inputsLabel: Any = None
        self._models: dict[str, Any] = {}  # that can be used, by name
        self._ready: set[str] = set()  # methods whose packages are there
        self._reading: VolumeReader | None = None
        self._refresh: Any = None
        self._marking = False

    # ---- options

    def addModelWidgets(self) -> None:
        """The first rows of the options: the model, and which volumes it sees."""
        self.modelCombo = qt.QComboBox()
        self.modelCombo.toolTip = _("The model that does the work. The Models section of BrainSegSAM has more.")
        row = qt.QHBoxLayout()  # of its own: titles are longer than what the other labels leave
        row.addWidget(qt.QLabel(_("Model:")))
        row.addWidget(self.modelCombo, 1)
        self.scriptedEffect.optionsLayout().addRow(row)
        self.inputsLabel = qt.QLabel()
        self.inputsLabel.setWordWrap(True)
        self.inputsLabel.toolTip = _("Volumes of the scene are matched to the model's MR sequences by their names.")
        self.scriptedEffect.addLabeledOptionsWidget(_("It sees:"), self.inputsLabel)
        self.connectTo(self.modelCombo, "currentIndexChanged(int)", self._onModelChosen)
        self._refresh = qt.QTimer()
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(_REFRESH_MS)
        self.connectTo(self._refresh, "timeout()", self._onRefresh)

    def setMRMLDefaults(self) -> None:
        """Values of options that were never set."""
        self.scriptedEffect.setParameterDefault("Model", _FIRST)

    def updateGUIFromMRML(self) -> None:
        """Show the options as they are stored."""
        if self.modelCombo is None or self.scriptedEffect.parameterSetNode() is None:
            return
        names = list(self._models)
        blocked = self.modelCombo.blockSignals(True)
        self.modelCombo.setCurrentIndex(names.index(self._chosen()) if self._chosen() in names else -1)
        self.modelCombo.blockSignals(blocked)
        self._showInputs()
        self.updateControls()

    def updateMRMLFromGUI(self) -> None:
        """Store the options."""
        if self.modelCombo.currentIndex >= 0:
            self.scriptedEffect.setParameter("Model", str(self.modelCombo.itemData(self.modelCombo.currentIndex)))

    def storeOptions(self) -> None:
        """Store what the user has just changed.

        The editor hears of it at the end: at every stored value it has the stored ones shown, and what was not stored
        yet would be lost.
        """
        with slicer.util.NodeModify(self.scriptedEffect.parameterSetNode()):
            self.updateMRMLFromGUI()

    def activate(self) -> None:
        """The effect was chosen: models may have come or gone."""
        self._models = self._usableModels()
        blocked = self.modelCombo.blockSignals(True)
        self.modelCombo.clear()
        for name, model in self._models.items():
            said = "demonstration" in model.title.lower()
            badge = _(" (demonstration)") if model.demonstration and not said else ""
            self.modelCombo.addItem(f"{model.title}{badge}", name)
        self.modelCombo.blockSignals(blocked)
        self.updateGUIFromMRML()
        EffectBase.activate(self)

    def _usableModels(self) -> dict[str, Any]:
        found = {}
        try:
            folders = installed_models()
        except BrainSegSAMError:
            return {}
        for name, folder in folders.items():
            try:
                model = load_model(folder, verify_hashes=False)  # the worker verifies what it loads
            except BrainSegSAMError:
                continue
            if model.method in self.methods:
                found[name] = model
        return found

    def model(self) -> Any:
        """The chosen model.

        Raises:
            InputError: where there is none.
        """
        model = self._models.get(self._chosen())
        if model is None:
            raise InputError(_("Choose a model first; the Models section of BrainSegSAM can download one."))
        if not model.folder.is_dir():
            raise InputError(_("The model '{name}' was removed; choose another one.").format(name=model.title))
        return model

    def _chosen(self) -> str:
        """Name of the chosen model; "" where there is none."""
        name = self.scriptedEffect.parameter("Model")
        return next(iter(self._models), "") if name == _FIRST else str(name)

    def volumes(self, model: Any) -> dict[str, Any]:
        """MR sequence → volume that the model is shown: all that it needs, matched by name, or the source volume alone.

        The source volume comes first: its voxels are those of the others, too.
        """
        source = self.scriptedEffect.parameterSetNode().GetSourceVolumeNode()
        table = ModalityTable.default().for_modalities(model.modalities)
        found = volumesByModality(model.modalities)
        own = table.recognise(source.GetName() or "") or ""
        others = {name: found.get(name, []) for name in model.modalities if name != own}
        known = all(len(nodes) == 1 and ofOneExamination(source, *nodes) for nodes in others.values())
        if own in model.modalities and known:
            return {own: source, **{name: nodes[0] for name, nodes in others.items()}}
        return {"image": source}

    def _onModelChosen(self, _index: int) -> None:
        self.dropResult("")
        self.storeOptions()
        self._showInputs()
        self.updateControls()

    def _showInputs(self) -> None:
        parameters = self.scriptedEffect.parameterSetNode()
        if parameters is None or parameters.GetSourceVolumeNode() is None:
            return
        try:
            model = self.model()
        except InputError as error:
            self.inputsLabel.text = str(error)
            return
        volumes = self.volumes(model)
        shown = ", ".join(f"{name}: {node.GetName()}" for name, node in volumes.items())
        if "image" in volumes:
            shown = volumes["image"].GetName()
            if len(model.modalities) > 1:
                shown = _("{volume} alone; the model knows {names} together, so expect less of it").format(
                    volume=shown, names=", ".join(model.modalities)
                )
        self.inputsLabel.text = shown

    def sourceVolumeNodeChanged(self) -> None:
        """See `EffectBase`."""
        EffectBase.sourceVolumeNodeChanged(self)
        if self.scriptedEffect.active():
            self._showInputs()

    # ---- work

    def reasonNotToApply(self) -> str:
        """See `EffectBase`."""
        return _("Wait until the volumes are read.") if self._reading is not None else super().reasonNotToApply()

    def plane(self, viewWidget: Any, volume: Geometry) -> Geometry:
        """What a slice view shows of a volume; see `view_planes.view_plane`.

        Raises:
            GeometryError: where it shows nothing of it.
        """
        matrix = viewWidget.mrmlSliceNode().GetSliceToRAS()
        rows = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        return view_plane(volume, rows)

    def isAiming(self, interactor: Any, eventId: int) -> bool:
        """Whether the mouse is moved with Shift held, on the way to a Shift-click.

        Slicer would have all other views jump to where the mouse is, unless the event is used.
        """
        return eventId == vtk.vtkCommand.MouseMoveEvent and bool(interactor.GetShiftKey())

    def ask(
        self, kind: str, arguments: Mapping[str, Any], target: Target, *, onDone: Callable[[dict[str, Any]], None],
        onPartial: Callable[[dict[str, Any]], None] | None = None, onFailed: Callable[[], None] | None = None,
    ) -> None:
        """Ask the worker about the image, which is handed over where the worker does not have it.

        Args:
            kind: "mark", "detect" or "track".
            arguments: of the request, but the image and the model.
            target: as `startJob`.
            onDone: as `startJob`.
            onPartial: as `startJob`.
            onFailed: as `startJob`.

        Raises:
            InputError: where no model is chosen, a volume cannot be used, or the worker is busy.
            DependencyError: where packages are missing and were not installed.
        """
        model = self.model()
        if model.method not in self._ready:
            ensureDependencies(model.method)
            self._ready.add(model.method)
        self._showInputs()
        volumes = self.volumes(model)
        imageID = _imageID(volumes)
        request = {"image_id": imageID, "model": model.name, **arguments}

        def send(answered: Callable[[dict[str, Any]], None]) -> None:
            self.startJob(kind, request, target, onDone=answered, onPartial=onPartial, onFailed=onFailed)
            self._marking = kind == "mark" and len(arguments["marks"]) == 1

        def answered(data: dict[str, Any]) -> None:
            if "unknown_image" in data:
                self._load(imageID, volumes, target, lambda: send(onDone), onFailed or _nothing)
            else:
                onDone(data)

        self._reading = None
        send(answered)

    def cancelJob(self, reason: str) -> None:
        """See `EffectBase`."""
        self._reading = None
        if self._marking and not reason and self.job is not None:
            # It is done in a moment, and the slice that it encodes is most likely wanted again.
            self.job.abandon()
            self.job = None
        EffectBase.cancelJob(self, reason)
        self._marking = False

    def dropResult(self, reason: str) -> None:
        """See `EffectBase`."""
        if self._refresh is not None:
            self._refresh.stop()
        EffectBase.dropResult(self, reason)

    def refreshSoon(self) -> None:
        """Have `showPreview` called in a moment, once for all that comes until then."""
        if not self._refresh.isActive():
            self._refresh.start()

    def showPreview(self) -> None:
        """Show what there is of a result; given by effects whose results come in parts."""
        raise NotImplementedError

    def _onRefresh(self) -> None:
        if self.target is not None:
            self.guarded(self.showPreview)

    def _load(
        self, imageID: str, volumes: Mapping[str, Any], target: Target, then: Callable[[], None],
        onFailed: Callable[[], None],
    ) -> None:
        """Hand the volumes over, a part at a time so that the interface stays alive, and go on."""
        reader = self._reading = VolumeReader(volumes, _("'{name}' was changed meanwhile; start again."))
        self.say(_("Reading the volumes…"))

        def loaded(_data: dict[str, Any]) -> None:
            try:
                then()
            except BrainSegSAMError:
                onFailed()
                raise

        def proceed() -> None:
            if self._reading is not reader:  # cancelled
                reader.free()
                return
            try:
                if not reader.proceed():
                    qt.QTimer.singleShot(0, proceed)
                    return
                self._reading = None
                arguments = {
                    "image_id": imageID, "name": target.sourceVolumeNode.GetName(), "channels": reader.channels,
                }  # fmt: skip
                self.startJob("load_image", arguments, target, onDone=loaded, onFailed=onFailed)
            except BrainSegSAMError as error:
                self._reading = None
                reader.free()
                self.showError(error)
                onFailed()
                self.updateControls()

        qt.QTimer.singleShot(0, proceed)


def _nothing() -> None:
    """Done where nobody has to hear of a failure."""


def _imageID(volumes: Mapping[str, Any]) -> str:
    """Another one for other voxels in other places."""
    described = [
        (modality, node.GetID(), node.GetImageData().GetMTime(), wire.geometry_data(mrml.volume_node_geometry(node)))
        for modality, node in volumes.items()
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:20]
