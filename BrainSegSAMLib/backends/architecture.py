"""What descriptions of networks have in common: plain numbers, to JSON and back, of which a network can be built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from ..errors import ModelError

Kind = TypeVar("Kind", bound="Architecture")


@dataclass(frozen=True)
class Architecture(ABC):
    """The numbers that tell one network of a family from another; each family adds its own.

    Raises:
        ModelError: numbers of which no network can be built.
    """

    FAMILY: ClassVar[str]
    """What its makers call it, for messages."""

    def __post_init__(self) -> None:
        fault = self.fault()
        if fault is not None:
            raise ModelError(f"This {self.FAMILY} architecture cannot be built: {fault}.")

    @property
    def title(self) -> str:
        """Family, and version where there are several, for messages."""
        return self.FAMILY

    @abstractmethod
    def fault(self) -> str | None:
        """Why a network of these numbers cannot be built, or None."""

    @classmethod
    def official(cls: type[Kind]) -> Mapping[str, Kind]:
        """The published networks by name; none where a family has none that could be recognised."""
        return {}

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]]) -> str | None:  # noqa: ARG003  (families look at them)
        """Which of `official` has parameters of these names (→ shapes); None: none of them, or another family."""
        return None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: tuples as lists."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls: type[Kind], data: Mapping[str, Any]) -> Kind:
        """From what `as_dict` gives; what is left out takes its default.

        Raises:
            ModelError: an unknown field, a value of the wrong kind, or a network that cannot be built.
        """
        known = {field.name: field.default for field in fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ModelError(f"A {cls.FAMILY} architecture has no field '{unknown[0]}'; it has: {', '.join(known)}.")
        return cls(**{name: cls._like(known[name], value, name) for name, value in data.items()})

    @classmethod
    def _like(cls, default: Any, value: Any, name: str) -> Any:
        """`value` with the default's type; lists become tuples."""
        what = f"The field '{name}' of a {cls.FAMILY} architecture must be"
        if isinstance(default, tuple):
            if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
                return tuple(value)
            raise ModelError(f"{what} a list of whole numbers, not {value!r}.")
        if type(value) is not type(default):
            raise ModelError(f"{what} of type {type(default).__name__}, not {value!r}.")
        return value
