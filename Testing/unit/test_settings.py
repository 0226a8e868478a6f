"""Settings as forms show them, and what trainings measure for curves."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from BrainSegSAMLib.console import Console
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.progress import Measured, Progress, ProgressUpdate
from BrainSegSAMLib.recipes import read_recipe, settings_groups
from BrainSegSAMLib.resources import resource_path
from BrainSegSAMLib.settings import settings_of

RECIPES = sorted(resource_path("Models", "recipes").glob("*.json"))


@dataclass(frozen=True)
class Example:
    """Some settings.

    Attributes:
        plane: on whose
            slices.
        share: of all: from 0 to 1.

    Raises:
        Nothing: ever.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"plane": ("axial", "coronal")}
    MATTER: ClassVar[tuple[str, ...]] = ("share",)

    plane: str = "axial"
    share: float = 0.5
    unexplained: int = 1


def test_settings_are_explained_by_the_docstring() -> None:
    plane, share, unexplained = settings_of(Example)
    assert (plane.text, plane.choices, plane.matters) == ("on whose slices.", ("axial", "coronal"), False)
    assert plane.kind == "str"
    assert (share.text, share.choices, share.matters) == ("of all: from 0 to 1.", (), True)
    assert unexplained.text == ""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_setting_of_every_recipe_is_explained_and_valid(path: Path) -> None:
    groups = settings_groups(read_recipe(path))
    for group in groups:
        assert [setting.name for setting in group.settings if not setting.text] == []
        assert {setting.name for setting in group.settings} == set(group.values)
        assert any(setting.matters for setting in group.settings)
        group.check({})
        for setting in group.settings:
            assert not setting.choices or group.values[setting.name] in setting.choices
            for choice in setting.choices:
                assert isinstance(choice, str)
        with pytest.raises(InputError):
            group.check({"no_such_setting": 1})


def test_a_recipe_of_two_has_three_groups() -> None:
    groups = settings_groups(read_recipe(resource_path("Models", "recipes", "glioma-ssnet.json")))
    assert [group.prefix for group in groups] == ["", "prior.", "tracker."]


def test_what_is_measured_reaches_the_listener_under_its_part() -> None:
    heard: list[ProgressUpdate] = []
    whole = Progress(heard.append)
    part = whole.part("prior", until=0.5)
    part.log("a line", measured=Measured("fold 0", 3, 10, {"loss": 0.5, "validation Dice": float("nan")}))
    part.advance()
    assert heard[0].measured == Measured("prior: fold 0", 3, 10, {"loss": 0.5})
    assert heard[1].measured is None


def test_what_is_measured_is_said_to_programs() -> None:
    out = io.StringIO()
    console = Console("json", out=out)
    progress = Progress(console.listener)
    progress.log("", measured=Measured("fold 0", 3, 10, {"loss": 0.5}))
    progress.log("nothing")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["measured"] == {"network": "fold 0", "step": 3, "of": 10, "values": {"loss": 0.5}}
    assert "measured" not in second
