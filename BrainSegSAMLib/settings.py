"""Reading and checking the frozen dataclasses that hold a training's settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .errors import InputError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Setting:
    """One setting of a dataclass, for forms.

    Attributes:
        name: of the field.
        kind: its annotation as text, e.g. "int" or "tuple[int, ...] | None".
        text: what it does, from the docstring of the dataclass.
        choices: what it may be, where it is one of several words; else empty.
        matters: whether most users should look at it.
    """

    name: str
    kind: str
    text: str
    choices: tuple[str, ...]
    matters: bool


def settings_of(kind: type) -> tuple[Setting, ...]:
    """The settings of a dataclass in the order of their fields.

    Args:
        kind: its docstring explains the fields under "Attributes:"; its class variable `CHOICES` (name → words), where
            there is one, holds those that are one of several words, and `MATTER` names those that matter most.
    """
    texts = _explained(inspect.getdoc(kind) or "")
    choices, matter = getattr(kind, "CHOICES", {}), getattr(kind, "MATTER", ())
    return tuple(
        Setting(field.name, str(field.type), texts.get(field.name, ""), tuple(choices.get(field.name, ())),
                field.name in matter)
        for field in fields(kind)
    )  # fmt: skip


def _explained(docstring: str) -> dict[str, str]:
    """Name → explanation, of a docstring's section "Attributes:"."""
    section = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    found: dict[str, list[str]] = {}
    name = ""
    for line in (section.group(1) if section else "").splitlines():
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name = entry.group(1)
            found[name] = [entry.group(2)]
        elif name and line.strip():
            found[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}


def read_settings(kind: type[Settings], values: Mapping[str, Any], *, purpose: str) -> Settings:
    """Make a dataclass of settings from names and values, e.g. of a recipe; what is not named keeps its default.

    Args:
        kind: the dataclass; it checks its own values.
        values: as read from JSON; lists become tuples.
        purpose: what the settings are for, as messages say it: "training".

    Raises:
        InputError: for a name that is no setting, or a value that cannot be used.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"There is no setting {', '.join(unknown)} for {purpose}; there are: {', '.join(sorted(known))}."
        )
    try:
        return kind(**{key: _frozen(value) for key, value in values.items()})
    except (TypeError, AttributeError) as error:
        raise InputError(f"A setting for {purpose} is of the wrong kind: {error}.") from error


def require(fits: bool, name: str, value: object, wanted: str) -> None:
    """Refuse the value of a setting that does not fit.

    Raises:
        InputError: naming the setting, its value and what is wanted.
    """
    if not fits:
        raise InputError(f"The setting {name} is {value}; it must be {wanted}.")


def check_choices(settings: object, choices: Mapping[str, Sequence[str]]) -> None:
    """Check the settings that are one of several words.

    Args:
        settings: with an attribute for each name.
        choices: name → what it may be.

    Raises:
        InputError: naming the setting, its value and what it may be.
    """
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise InputError(f"The setting {name} is '{getattr(settings, name)}'; use one of: {', '.join(allowed)}.")


def check_ranges(settings: object, ranges: Mapping[str, tuple[float, float | None]]) -> None:
    """Check the settings that are numbers.

    Args:
        settings: with an attribute for each name.
        ranges: name → smallest and largest value; None: no limit.

    Raises:
        InputError: naming the setting, its value and what it may be.
    """
    for name, (smallest, largest) in ranges.items():
        value = getattr(settings, name)
        fits = value >= smallest and (largest is None or value <= largest)
        require(fits, name, value, f"{smallest} or more" if largest is None else f"{smallest} to {largest}")


def check_folds(folds: int, train_folds: Sequence[int], held_out: Sequence[Sequence[str]]) -> None:
    """Check that folds to train exist and that left-out cases are given for every fold or for none.

    Raises:
        InputError: where they do not fit.
    """
    if any(not 0 <= fold < folds for fold in train_folds):
        raise InputError(f"The folds to train are {train_folds}; they are counted from 0 to {folds - 1}.")
    if held_out and len(held_out) != folds:
        raise InputError(f"Left-out cases are given for {len(held_out)} folds, but there are {folds}.")


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, also inside; objects keep their names."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_frozen(item) for item in value)
    return value
