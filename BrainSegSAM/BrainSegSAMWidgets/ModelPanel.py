"""The tab "Models": the catalogue and what is installed; models are downloaded, imported and removed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, ModelError
from BrainSegSAMLib.methods import OTHER_METHODS
from BrainSegSAMLib.models import catalogue
from BrainSegSAMLib.models.store import check_name, load_model

from . import Dialogs
from .Dependencies import ensureDependencies
from .Fields import Connections, PathFields, allowOrSay
from .ModelTexts import brokenPage, entryPage, methodTitle, modelPage
from .Task import CommandTask, TaskView

BUNDLED, INSTALLED, REMOTE, BROKEN = "bundled", "installed", "download", "broken"


@dataclass(frozen=True)
class Offer:
    """A model that is installed or can be.

    Attributes:
        name: by which it is found.
        title: for people.
        state: BUNDLED, INSTALLED, REMOTE or BROKEN.
        method: key in the table of methods.
        modalities: that it needs.
        page: all that there is to say, as HTML.
        demonstration: whether it is one.
    """

    name: str
    title: str
    state: str
    method: str
    modalities: tuple[str, ...]
    page: str
    demonstration: bool = False

    @property
    def segments(self) -> bool:
        """Whether it can be chosen for segmenting a volume as it is."""
        return self.state in (BUNDLED, INSTALLED) and self.method not in OTHER_METHODS

    def fits(self, words: str) -> bool:
        """Whether all words occur in what is said of it."""
        said = f"{self.name} {self.title} {methodTitle(self.method)} {' '.join(self.modalities)} {self.page}".lower()
        return all(word in said for word in words.lower().split())


def offers() -> tuple[list[Offer], list[str]]:
    """All models, the installed ones first; and what is wrong where the catalogue cannot be read."""
    try:
        entries = {entry.name: entry for entry in catalogue.load_catalogue()}
        folders = catalogue.installed_models(catalogue=tuple(entries.values()))
    except BrainSegSAMError as error:
        return [], [str(error)]
    found = []
    for name, folder in folders.items():
        bundled = name in entries and entries[name].folder is not None
        try:
            model = load_model(folder, verify_hashes=False)
        except BrainSegSAMError as error:
            found.append(Offer(name, name, BROKEN, "", (), brokenPage(name, str(error))))
            continue
        state = BUNDLED if bundled else INSTALLED
        found.append(
            Offer(name, model.title, state, model.method, model.modalities, modelPage(model), model.demonstration)
        )
    for entry in entries.values():
        if entry.name not in folders and entry.file is not None:
            found.append(
                Offer(entry.name, entry.title, REMOTE, entry.method, entry.modalities, entryPage(entry),
                      entry.demonstration)
            )  # fmt: skip
    return found, []


class ModelPanel:
    """Drives the widgets of ModelPanel.ui.

    Args:
        ui: the widgets by name.
        onChanged: told after models came or went.
        onUse: told the name of a model that shall segment.
    """

    def __init__(self, ui: Any, onChanged: Callable[[], None], onUse: Callable[[str], None]) -> None:
        self.ui = ui
        self._onChanged = onChanged
        self._onUse = onUse
        self._offers: list[Offer] = []
        self._shown: list[Offer] = []
        self._parameterNode: Any = None
        view = TaskView(ui.modelProgressBar, ui.modelStatusLabel, ui.modelLogText)
        self.task = CommandTask(view, self.check)
        kinds = _("Zips and checkpoints (*.zip *.pt *.pth *.safetensors)")
        self.paths = PathFields(
            {"importSource": ui.importSourceEdit}, self.check,
            files={"importSource": (ui.importSourceFileButton, kinds)},
        )  # fmt: skip
        header = ui.modelTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self._connections = Connections((
            (ui.modelSearchEdit, "textChanged(QString)", self.onSearch),
            (ui.modelTree, "currentItemChanged(QTreeWidgetItem*,QTreeWidgetItem*)", self.onChosen),
            (ui.useModelButton, "clicked(bool)", self.onUse),
            (ui.downloadButton, "clicked(bool)", self.onDownload),
            (ui.removeButton, "clicked(bool)", self.onRemove),
            (ui.importNameEdit, "textChanged(QString)", self.check),
            (ui.importButton, "clicked(bool)", self.onImport),
            (ui.modelStopButton, "clicked(bool)", self.onStop),
        ))
        self.fill()

    def disconnect(self) -> None:
        """Let go of the widgets, and end what runs."""
        self.task.abort()
        self.paths.disconnect()
        self._connections.end()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices that a parameter node holds; None while there is no scene to work in."""
        self._parameterNode = parameterNode
        self.paths.setParameterNode(parameterNode)
        self.check()

    # ---- list

    @property
    def chosen(self) -> Offer | None:
        """The model whose details are shown."""
        item = self.ui.modelTree.currentItem()
        index = self.ui.modelTree.indexOfTopLevelItem(item) if item is not None else -1
        return self._shown[index] if 0 <= index < len(self._shown) else None

    def fill(self) -> None:
        """Read again what there is."""
        self._offers, problems = offers()
        for problem in problems:
            self.task.view.say(problem)
        self.onSearch(self.ui.modelSearchEdit.text)

    def onSearch(self, words: str) -> None:
        """Show what fits the words; the choice stays where it still fits."""
        before = self.chosen.name if self.chosen is not None else ""
        self._shown = [offer for offer in self._offers if offer.fits(str(words))]
        tree = self.ui.modelTree
        tree.clear()
        states = {BUNDLED: _("bundled"), INSTALLED: _("installed"), REMOTE: _("to download"), BROKEN: _("broken")}
        for offer in self._shown:
            needs = " ".join(modality.upper() for modality in offer.modalities)
            item = qt.QTreeWidgetItem()
            # Not in the title, which is cut short where it is long.
            state = _("{state}, demo").format(state=states[offer.state]) if offer.demonstration else states[offer.state]
            for column, text in enumerate((offer.title, state, needs)):
                item.setText(column, text)
            item.setToolTip(0, f"{offer.title} ({offer.name})")
            if offer.demonstration:
                item.setToolTip(1, _("A demonstration: it shows how the software works, and is no tool for diagnosis."))
            item.setToolTip(2, needs)
            tree.addTopLevelItem(item)
        names = [offer.name for offer in self._shown]
        if names:
            tree.setCurrentItem(tree.topLevelItem(names.index(before) if before in names else 0))
        self.onChosen()

    def onChosen(self, *_items: Any) -> None:
        """Show the details of the chosen model."""
        chosen = self.chosen
        nothing = _("No model fits these words.") if self._offers else ""
        self.ui.modelDetails.setHtml(chosen.page if chosen is not None else nothing)
        self.check()

    # ---- what can be done

    def check(self, *_changed: Any) -> None:
        """Enable what can be done with the chosen model, or say why not."""
        ui, chosen, busy = self.ui, self.chosen, ""
        if self.task.running:
            busy = _("Something is running here already; wait for it or cancel it.")
        none = _("Choose a model in the list.") if chosen is None else ""
        allowOrSay(ui.useModelButton, none or self._reasonNotToUse(chosen), _("Choose this model for segmenting."))
        downloadReason = "" if chosen and chosen.state == REMOTE else _("This model is here already.")
        allowOrSay(ui.downloadButton, busy or none or downloadReason, _("Download the chosen model and check it."))
        allowOrSay(
            ui.removeButton, busy or none or self._reasonNotToRemove(chosen),
            _("Delete the chosen model from your models folder."),
        )  # fmt: skip
        allowOrSay(
            ui.importButton, busy or self._reasonNotToImport(), _("Make a model of it in your models folder."),
            ui.importReasonLabel,
        )  # fmt: skip
        ui.modelStopButton.visible = self.task.running

    def _reasonNotToUse(self, chosen: Any) -> str:
        if chosen.segments:
            return ""
        if chosen.state == REMOTE:
            return _("Download it first.")
        if chosen.state == BROKEN:
            return _("This model cannot be read.")
        return _("It does not segment a volume by itself; the effects of the Segment Editor use it.")

    def _reasonNotToRemove(self, chosen: Any) -> str:
        if chosen.state == BUNDLED:
            return _("It comes with BrainSegSAM and cannot be removed.")
        return _("It is not installed.") if chosen.state == REMOTE else ""

    def _reasonNotToImport(self) -> str:
        source, name = self.paths.text("importSource"), str(self.ui.importNameEdit.text).strip()
        if not source:
            return _("Choose a folder, zip or checkpoint to import.")
        if not Path(source).exists():
            return _("There is no '{path}'.").format(path=source)
        if not name:
            return _("Give the model a name.")
        try:
            check_name(name)
        except ModelError as error:
            return str(error)
        if (catalogue.models_folder() / name).exists() or any(offer.name == name for offer in self._offers):
            return _("There is a model '{name}' already; choose another name.").format(name=name)
        return ""

    def onUse(self, *_checked: Any) -> None:
        """Choose the model for segmenting."""
        if self.chosen is not None:
            self._onUse(self.chosen.name)

    def onDownload(self, *_checked: Any) -> None:
        """Fetch the chosen model."""
        if self.chosen is not None:
            name, method = self.chosen.name, self.chosen.method
            said = _("'{name}' is installed.")
            self._run(["models", "download", name], said, name, lambda: ensureDependencies(method))

    def onRemove(self, *_checked: Any) -> None:
        """Delete the chosen model, after asking."""
        chosen = self.chosen
        if chosen is None:
            return
        question = _("Delete the model '{title}' from this computer? This cannot be undone.").format(title=chosen.title)
        if Dialogs.confirm(question):
            self._run(["models", "remove", chosen.name], _("'{name}' is removed."), "")

    def onImport(self, *_checked: Any) -> None:
        """Make a model of what the user has."""
        ui, name = self.ui, str(self.ui.importNameEdit.text).strip()
        words = ["models", "import", self.paths.text("importSource"), "--name", name]
        if modalities := str(ui.importModalitiesEdit.text).replace(",", " ").split():
            words += ["--modalities", *modalities]
        if licence := str(ui.importLicenceEdit.text).strip():
            words += ["--licence", licence]
        if ui.importTrustCheckBox.checked:
            words.append("--trust")
        self._run(words, _("'{name}' is installed."), name, lambda: ensureDependencies(""))

    def onStop(self, *_checked: Any) -> None:
        """Ask what runs to end."""
        self.task.cancel()

    def _run(
        self, arguments: list[str], said: str, choose: str, prepare: Callable[[], None] = lambda: None
    ) -> None:
        """Install what a command needs, run it, then read again what there is, and choose a model."""
        name = choose or arguments[-1]

        def done(_data: dict[str, Any]) -> None:
            self.task.view.end(said.format(name=name))
            self.fill()
            self._choose(choose)
            self._onChanged()

        try:
            prepare()
            self.task.start(arguments, done, self._onFailed)
        except BrainSegSAMError as error:
            self.task.view.end(str(error))
            self._onFailed(error)

    def _choose(self, name: str) -> None:
        for index, offer in enumerate(self._shown):
            if offer.name == name:
                self.ui.modelTree.setCurrentItem(self.ui.modelTree.topLevelItem(index))

    def _onFailed(self, error: BrainSegSAMError) -> None:
        if not isinstance(error, Cancelled):
            Dialogs.showError(str(error))
