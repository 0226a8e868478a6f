"""The tab "Train": a recipe and labelled cases make a model, by the same command as without Slicer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from BrainSegSAMLib.errors import BrainSegSAMError, Cancelled, ModelError
from BrainSegSAMLib.files import read_json
from BrainSegSAMLib.models.catalogue import models_folder
from BrainSegSAMLib.models.store import MODEL_FILE, check_name
from BrainSegSAMLib.recipes import YOLO, Recipe, read_recipe, settings_groups
from BrainSegSAMLib.resources import resource_path
from BrainSegSAMLib.runs import RUN_FILE

from . import Dialogs
from .ConfigForm import ConfigForm
from .Dependencies import ensureDependencies, ensureDetector
from .Fields import Connections, PathFields, allowOrSay, isUrl, orderTabs
from .LossCurve import LossCurve
from .ModelTexts import methodTitle
from .Task import CommandTask, TaskView

WORK_FOLDER = ".training"
"""In the models folder, where trainings keep what they need to go on; no model's name begins with a dot."""

_COMPOSED = "ssnet"
_FIRST = "glioma-nnunet-tiny.json"


class TrainPanel:
    """Drives the widgets of TrainPanel.ui.

    Args:
        ui: the widgets by name.
        onTrained: told the name of a model that was trained.
    """

    def __init__(self, ui: Any, onTrained: Callable[[str], None]) -> None:
        self.ui = ui
        self._onTrained = onTrained
        self._parameterNode: Any = None
        self._recipes: list[Path] = []
        self._recipe: Any = None
        self._recipeProblem = ""
        self.curve = LossCurve(ui.trainCurve)
        self.form = ConfigForm(
            ui.trainSettingsForm.layout(), ui.trainAllSettingsForm.layout(), self.onSettingsChanged
        )
        self.task = CommandTask(
            TaskView(ui.trainProgressBar, ui.trainStatusLabel, ui.trainLogText), self.check, self._onProgress
        )
        self.paths = PathFields(
            {"trainData": ui.trainDataEdit, "trainWork": ui.trainWorkEdit}, self.check,
            files={"trainData": (ui.trainDataFileButton, _("Manifests (*.csv)"))},
        )  # fmt: skip
        self._filling = False
        self._fillRecipes()
        self._connections = Connections((
            (ui.trainRecipeComboBox, "currentIndexChanged(int)", self.onRecipeChosen),
            (ui.trainNameEdit, "textChanged(QString)", self.check),
            (ui.trainSettingsSearchEdit, "textChanged(QString)", self.form.search),
            (ui.trainResetButton, "clicked(bool)", self.onReset),
            (ui.trainStartButton, "clicked(bool)", self.onStart),
            (ui.trainStopButton, "clicked(bool)", self.onStop),
        ))

    def disconnect(self) -> None:
        """Let go of the widgets, and end what runs."""
        self.task.abort()
        self.form.clear()
        self.paths.disconnect()
        self._connections.end()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices that a parameter node holds; None while there is no scene to work in."""
        self._parameterNode = parameterNode
        self.paths.setParameterNode(parameterNode)
        if parameterNode is not None:
            self._showRecipe(parameterNode.trainRecipe)

    # ---- recipe and settings

    def _fillRecipes(self, extra: Path | None = None) -> None:
        recipes = resource_path("Models", "recipes").glob("*.json")
        shipped = sorted(recipes, key=lambda path: (path.name != _FIRST, path))
        self._recipes = [*shipped, *([extra] if extra is not None and extra not in shipped else [])]
        self._filling = True
        combo = self.ui.trainRecipeComboBox
        combo.clear()
        for path in self._recipes:
            combo.addItem(_recipeTitle(path))
        combo.addItem(_("Open a recipe…"))
        combo.currentIndex = 0
        self._filling = False

    def _showRecipe(self, text: str) -> None:
        """Show the recipe of a name that ships, or of a path; none where there is no such recipe."""
        wanted = Path(text) if text else self._recipes[0]
        found = [path for path in self._recipes if path == wanted or path.name == text]
        if not found and wanted.is_file():
            self._fillRecipes(wanted)
            found = [wanted]
        self._filling = True
        self.ui.trainRecipeComboBox.currentIndex = self._recipes.index(found[0]) if found else -1
        self._filling = False
        if found:
            self._load(found[0], keepSettings=True)
            return
        sentence = _("The scene asks for the recipe '{name}', which is not there; choose another.")
        self._showSettings(None, (), sentence.format(name=text), {})

    def onRecipeChosen(self, index: int) -> None:
        """Take another recipe; the last entry asks for a file."""
        if self._filling or self._parameterNode is None or index < 0:
            return
        if index >= len(self._recipes):
            path = Dialogs.openFile(_("Open a recipe"), _("Recipes (*.json)"))
            if path:
                self._fillRecipes(Path(path))
            self._showRecipe(path or self._parameterNode.trainRecipe)
            if path:
                self._load(Path(path), keepSettings=False)
            return
        self._load(self._recipes[index], keepSettings=False)

    def _load(self, path: Path, *, keepSettings: bool) -> None:
        shipped = path.parent == resource_path("Models", "recipes")
        self._parameterNode.trainRecipe = path.name if shipped else str(path)
        try:
            recipe = read_recipe(path)
            groups, problem = settings_groups(recipe), ""
        except BrainSegSAMError as error:
            recipe, groups, problem = None, (), str(error)
        self._showSettings(recipe, groups, problem, self._savedSettings() if keepSettings else {})

    def _showSettings(self, recipe: Any, groups: Sequence[Any], problem: str, overrides: Mapping[str, Any]) -> None:
        self._recipe, self._recipeProblem = recipe, problem
        self.form.setGroups(groups, overrides)
        self._orderTabs()
        self.ui.trainRecipeNote.text = problem or _recipeText(recipe)
        self.onSettingsChanged()

    def _savedSettings(self) -> dict[str, Any]:
        """What the scene's parameters say; a scene may come from anybody."""
        try:
            saved = json.loads(self._parameterNode.trainSettings or "{}")
        except ValueError:
            return {}
        return saved if isinstance(saved, dict) else {}

    def _orderTabs(self) -> None:
        ui, editors = self.ui, self.form.editors
        main, other = self.form.names(matters=True), self.form.names(matters=False)
        orderTabs((
            ui.trainDataCollapsibleButton, ui.trainRecipeComboBox, ui.trainDataEdit, ui.trainDataFileButton,
            ui.trainNameEdit, ui.trainWorkEdit, ui.trainDeviceComboBox, ui.trainSettingsCollapsibleButton,
            *(editors[name] for name in main), ui.trainAllSettingsCollapsibleButton, ui.trainSettingsSearchEdit,
            *(editors[name] for name in other), ui.trainResetButton, ui.trainStartButton, ui.trainStopButton,
            ui.trainLogCollapsibleButton, ui.trainLogText,
        ))  # fmt: skip

    def onSettingsChanged(self) -> None:
        """Keep what differs from the recipe in the parameter node, and say what is wrong."""
        overrides = self.form.overrides()
        if self._parameterNode is not None and self._recipe is not None:
            self._parameterNode.trainSettings = json.dumps(overrides) if overrides else ""
        problem = self.form.problem()
        self.ui.trainSettingsProblem.text = problem
        self.ui.trainSettingsProblem.visible = bool(problem)
        nothing = "" if overrides else _("No setting was changed.")
        allowOrSay(self.ui.trainResetButton, nothing, _("Undo every change that was made to the settings."))
        self.check()

    def onReset(self, *_checked: Any) -> None:
        """Back to what the recipe says."""
        self.form.reset()

    # ---- run

    @property
    def output(self) -> Path:
        """The model folder to make."""
        return models_folder() / self._name()

    @property
    def work(self) -> Path:
        """Where the training keeps what it needs to go on."""
        text = self.paths.text("trainWork")
        return Path(text) if text else models_folder() / WORK_FOLDER / self._name()

    def reasonNotToTrain(self) -> str:
        """Why training cannot be started now; "" when it can."""
        data = self.paths.text("trainData")
        if self.task.running:
            return _("A training is running.")
        if self._recipe is None:
            return self._recipeProblem or _("Choose a recipe.")
        if not data:
            return _("Choose the folder with the labelled cases.")
        if not isUrl(data) and not Path(data).exists():
            return _("There is no '{path}'; choose where the labelled cases lie.").format(path=data)
        if not self._name():
            return _("Give the new model a name.")
        try:
            check_name(self._name())
        except ModelError as error:
            return str(error)
        if (self.output / MODEL_FILE).exists():
            return _("There is a model '{name}' already; choose another name.").format(name=self._name())
        return self.form.problem()

    def check(self, *_changed: Any) -> None:
        """Enable what can be done, or say why not."""
        if self._parameterNode is None:
            return
        running, reason, state = self.task.running, self.reasonNotToTrain(), self._earlier()
        button = self.ui.trainStartButton
        button.text = _("Go on") if state and not running else _("Train")
        allowOrSay(button, reason, state or _("Train the model."))
        self.ui.trainReasonLabel.text = "" if running else reason or state
        self.ui.trainReasonLabel.visible = bool(self.ui.trainReasonLabel.text)
        idle = "" if running else _("No training is running.")
        tip = _("Stop the training; what it has learned is kept, and it can be gone on with later.")
        allowOrSay(self.ui.trainStopButton, idle, tip)

    def _earlier(self) -> str:
        """What is said of an unfinished training in the work folder; "" where there is none."""
        if not self._name() or not (self.work / RUN_FILE).is_file():
            return ""
        try:
            record = read_json(self.work / RUN_FILE)
        except BrainSegSAMError:
            return ""
        if not isinstance(record, dict) or record.get("status") == "finished":
            return ""
        return _("A training of this name was begun on {date} and is gone on with.").format(
            date=str(record.get("started", ""))[:10]
        )

    def arguments(self) -> list[str]:
        """The command that Train runs."""
        recipe, name = self._recipes[self.ui.trainRecipeComboBox.currentIndex], self._name()
        sets = [f"{name}={json.dumps(value)}" for name, value in self.form.overrides().items()]
        return [
            "train", "--recipe", str(recipe), "--input", self.paths.text("trainData"), "--output", str(self.output),
            "--work", str(self.work), "--name", name, "--title", f"{_recipeTitle(recipe)}: {name}",
            "--device", self._parameterNode.trainDevice.value, "--workers", "1",
            *(word for text in sets for word in ("--set", text)),
        ]  # fmt: skip

    def onStart(self, *_checked: Any) -> None:
        """Train, or go on; everything else stays usable."""
        name = self._name()
        self.curve.clear()
        try:
            method = self._recipe.method if isinstance(self._recipe, Recipe) else _COMPOSED
            ensureDependencies(method)
            if method == YOLO:
                ensureDetector()
            self.task.start(self.arguments(), lambda data: self._onDone(name, data), self._onFailed)
        except BrainSegSAMError as error:
            self.task.view.end(str(error))
            self._onFailed(error)

    def onStop(self, *_checked: Any) -> None:
        """Stop; the state that was reached stays in the work folder."""
        self.task.cancel()

    def _onProgress(self, message: dict[str, Any]) -> None:
        if message.get("measured"):
            self.curve.add(message["measured"])

    def _onDone(self, name: str, data: dict[str, Any]) -> None:
        lines = [str(line) for line in data.get("lines", [])]
        self.task.view.end("\n".join((_("The model '{name}' is trained.").format(name=name), *lines)))
        self._onTrained(name)

    def _onFailed(self, error: BrainSegSAMError) -> None:
        if isinstance(error, Cancelled):
            self.task.view.end(_("The training was stopped. Go on with it whenever you like."))
        else:
            Dialogs.showError(str(error))

    def _name(self) -> str:
        return str(self.ui.trainNameEdit.text).strip()


def _recipeTitle(path: Path) -> str:
    try:
        content = read_json(path)
        return str(content["model"].get("title") or content["model"].get("name") or path.stem)
    except (BrainSegSAMError, AttributeError, KeyError, TypeError):
        return path.name


def _recipeText(recipe: Any) -> str:
    """What a recipe makes, and of what."""
    if isinstance(recipe, Recipe):
        needs = ", ".join(str(name).upper() for name in recipe.model["modalities"])
        gives = ", ".join(str(region["name"]) for region in recipe.model["regions"])
        return _("{method}; needs {needs}; learns {gives}.").format(
            method=methodTitle(recipe.method), needs=needs, gives=gives
        )
    return _("Two trainings, one after the other, and their model: {method}.").format(method=methodTitle(_COMPOSED))
