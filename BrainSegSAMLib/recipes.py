"""Recipes: everything that decides what a training gives, in one JSON file, so that one command repeats a model.

A recipe of a network says what the model is (name, modalities, regions, licence), how it is trained (settings and seed)
and how references name their labels. A recipe of the method "ssnet" names the two models that it is composed of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from .errors import InputError
from .files import read_json
from .labels import LabelScheme
from .methods.nnunet.config import TrainingConfig
from .methods.ssnet.composing import METHOD as SSNET
from .methods.ssnet.composing import PRIOR_FOLDER, TRACKER_FOLDER
from .methods.ssnet.config import SSNetSettings, TrackingSettings
from .methods.ssnet.tracker import METHOD as TRACKER
from .methods.ssnet.tracker_config import TrackerTrainingConfig
from .methods.yolo_medsam.detector import METHOD as DETECTOR
from .methods.yolo_medsam.detector_config import DetectorTrainingConfig
from .methods.yolo_medsam.sam_config import SamTrainingConfig
from .methods.yolo_medsam.segmenter import METHOD as SAM
from .models.store import Model, check_described_model
from .settings import Setting, settings_of

NNUNET: Final = "nnunet"
MEDSAM: Final = "medsam"
YOLO: Final = "yolo"
METHODS: Final = (NNUNET, TRACKER, SSNET, YOLO, MEDSAM)
NetworkConfig = TrainingConfig | TrackerTrainingConfig | DetectorTrainingConfig | SamTrainingConfig
"""Settings of the training of a network."""
PARTS: Final = (PRIOR_FOLDER, TRACKER_FOLDER)
"""What an SSNet model is made of: keys of its recipe, and folders in the model."""

_CONFIGS: Final[dict[str, type[NetworkConfig]]] = {
    NNUNET: TrainingConfig,
    TRACKER: TrackerTrainingConfig,
    YOLO: DetectorTrainingConfig,
    MEDSAM: SamTrainingConfig,
}
# Where a model's method is called otherwise than the training that makes it.
_MODEL_METHODS: Final = {YOLO: DETECTOR, MEDSAM: SAM}
_SECTIONS: Final = {"method", "model", "training", "label_values"}
_NEEDED: Final = {"name", "title", "modalities", "regions", "licence"}
_FILLED_IN: Final = {"folder", "weights", "preprocessing", "results", "scheme", "method"}
_COMPOSED: Final = {"name", "title", "settings"}


@dataclass(frozen=True, eq=False)
class Recipe:
    """The recipe of a network.

    Attributes:
        model: fields of `Model`, as in model.json: name, title, modalities, regions, licence, settings, citations, …
        training: settings of the method's `NetworkConfig`; what is not named keeps its default.
        label_values: value in the references' files → value in the regions, for those that differ.
        method: of the training: "nnunet", "sam2_tracker", "yolo" or "medsam".
    """

    model: Mapping[str, Any]
    training: Mapping[str, Any]
    label_values: Mapping[int, int]
    method: str = NNUNET

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read the recipe of a network.

        Raises:
            InputError: where the file is none; the message says what is missing.
            ModelError: where its section "model" describes no model.
        """
        recipe = read_recipe(path)
        if not isinstance(recipe, Recipe):
            raise InputError(f"{path} is the recipe of a model composed of two others, not that of a network.")
        return recipe

    def config(self, overrides: Mapping[str, Any]) -> NetworkConfig:
        """The settings of the training, some of them replaced.

        Raises:
            InputError: for a name that is no setting, or a value that cannot be used.
        """
        return _CONFIGS[self.method].from_dict({**self.training, **overrides})

    def template(self, folder: Path) -> Model:
        """The model that it describes, without what training fills in."""
        values = {key: value for key, value in self.model.items() if key != "regions"}
        values |= {key: tuple(values[key]) for key in ("modalities", "citations") if key in values}
        method = _MODEL_METHODS.get(self.method, self.method)
        return Model(folder=folder, method=method, scheme=LabelScheme.from_list(self.model["regions"]), **values)


@dataclass(frozen=True, eq=False)
class SSNetRecipe:
    """The recipe of a model that is composed of a prior and a tracker.

    Attributes:
        name: of the model.
        title: shown to users; made of the two models' where "".
        settings: of `methods.ssnet.config.SSNetSettings`, in one flat table; what is not named keeps its default.
        parts: "prior" and "tracker" → the recipe that it is trained by, as a path beside this recipe (it ends in
            ".json"), or the name or folder of a model that exists.
        folder: where the recipe lies, from which such paths begin.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    parts: Mapping[str, str]
    folder: Path

    def recipe_of(self, part: str) -> Path | None:
        """The recipe by which a part is trained; None where it is a model that exists."""
        text = self.parts[part]
        return self.folder / text if text.endswith(".json") else None


def read_recipe(path: Path) -> Recipe | SSNetRecipe:
    """Read a recipe of any method.

    Raises:
        InputError: where the file is no recipe; the message says what is missing.
        ModelError: where its section "model" describes no model.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(f'{path} is not a recipe: it has no section "model". See Resources/Models/recipes.')
    method = content.get("method", NNUNET)
    if method not in METHODS:
        raise InputError(f"{path}: the method '{method}' cannot be trained; use one of: {', '.join(METHODS)}.")
    return _read_ssnet(content, path) if method == SSNET else _read_network(content, method, path)


@dataclass(frozen=True, eq=False)
class SettingsGroup:
    """Settings of a recipe that belong together, for forms.

    Attributes:
        prefix: before their names on the command line: "", or "prior." and "tracker." of a recipe of two.
        settings: what they are.
        values: name → what the recipe says, as JSON has it.
        check: some of them by name, without the prefix → raises InputError where they cannot be used.
    """

    prefix: str
    settings: tuple[Setting, ...]
    values: Mapping[str, Any]
    check: Callable[[Mapping[str, Any]], object]


def settings_groups(recipe: Recipe | SSNetRecipe) -> tuple[SettingsGroup, ...]:
    """All settings that a training by this recipe has.

    Raises:
        InputError, ModelError: where a recipe, or one that it names, cannot be used.
    """
    if isinstance(recipe, Recipe):
        config = recipe.config({})
        return (SettingsGroup("", settings_of(type(config)), config.as_dict(), recipe.config),)
    own = SSNetSettings.from_dict(recipe.settings)
    settings = (*settings_of(SSNetSettings), *settings_of(TrackingSettings))
    flat = tuple(setting for setting in settings if setting.name != "tracking")
    composed = dict(recipe.settings)
    groups = [SettingsGroup("", flat, own.as_dict(), lambda some: SSNetSettings.from_dict({**composed, **some}))]
    for part in PARTS:
        path = recipe.recipe_of(part)
        if path is not None:
            (group,) = settings_groups(Recipe.read(path))
            groups.append(SettingsGroup(f"{part}.", group.settings, group.values, group.check))
    return tuple(groups)


def _read_network(content: Mapping[str, Any], method: str, path: Path) -> Recipe:
    model, training = content["model"], content.get("training", {})
    _check_names(set(content), _SECTIONS, {"model"}, f"{path} is not a recipe:", "it")
    _check_names(set(model), set(model), _NEEDED, f"{path} is not a recipe:", "its model")
    wrong = sorted(set(model) - {f.name for f in fields(Model)} - {"regions"} | set(model) & _FILLED_IN)
    if wrong:
        raise InputError(f'{path}: the section "model" has {", ".join(wrong)}, which cannot be set there.')
    check_described_model({**model, "method": method}, path)
    if not isinstance(training, dict):
        raise InputError(f'{path}: "training" must map names of settings to values.')
    try:
        label_values = {int(key): int(value) for key, value in content.get("label_values", {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f'{path}: "label_values" must map numbers to numbers, as in {{"4": 3}}.') from error
    return Recipe(model, training, label_values, method)


def _read_ssnet(content: Mapping[str, Any], path: Path) -> SSNetRecipe:
    model = content["model"]
    _check_names(set(content), {"method", "model", *PARTS}, set(PARTS), f"{path} is no recipe of {SSNET}:", "it")
    _check_names(set(model), _COMPOSED, {"name"}, f'{path}: in the section "model",', "it")
    settings = model.get("settings", {})
    texts = {"name": model["name"], "title": model.get("title", ""), **{part: content[part] for part in PARTS}}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f'{path}: "{name}" must be a text, but is {text!r}.')
    if not isinstance(settings, dict):
        raise InputError(f'{path}: "settings" must map names of settings to values.')
    parts = {part: texts[part] for part in PARTS}
    return SSNetRecipe(texts["name"], texts["title"], settings, parts, path.parent)


def _check_names(found: set[str], known: set[str], needed: set[str], where: str, what: str) -> None:
    unknown, missing = sorted(found - known), sorted(needed - found)
    if unknown:
        raise InputError(f"{where} unknown is {', '.join(unknown)}.")
    if missing:
        raise InputError(f"{where} {what} lacks {', '.join(missing)}.")
