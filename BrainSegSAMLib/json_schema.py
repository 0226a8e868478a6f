"""Whether JSON data keeps to a JSON schema (draft 2020-12), for the keywords that our schemas use.

By ourselves because Slicer does not bring the package jsonschema, and models are to be seen there before anything is
installed. A schema with a keyword that is not known here is refused, so that no rule is passed over in silence; tests
compare every verdict with that of jsonschema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: _TYPES["number"](value) and (isinstance(value, int) or value.is_integer()),
}
_NOTES = {"$schema", "$defs", "title", "description"}
_SHOWN = 120  # characters of a value in a message


def first_fault(data: Any, schema: Mapping[str, Any]) -> str:
    """What breaks the schema, as the rest of a sentence: "the field 'weights[0].size' is not valid: …"; "" for nothing.

    Of several faults the one nearest to the top is told.

    Raises:
        ValueError: the schema has a keyword that is not known here.
    """
    return next(_faults(data, schema, "", schema), "")


def _faults(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    unknown = schema.keys() - _RULES.keys() - _INSIDE.keys() - _NOTES
    if unknown:
        raise ValueError(f"The schema has the keyword {min(unknown)!r}, which is not known here.")
    for keyword, rule in _RULES.items():
        if keyword in schema and (fault := rule(value, schema)):
            yield f"{_where(place)} {fault}."
    for keyword, inside in _INSIDE.items():
        if keyword in schema:
            yield from inside(value, schema, place, root)


# ---- what a value is by itself


def _type(value: Any, schema: Mapping[str, Any]) -> str:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if any(_TYPES[kind](value) for kind in kinds):
        return ""
    found = next(kind for kind, holds in _TYPES.items() if holds(value))
    return f"must be of type {' or '.join(kinds)}, but is {found}"


def _value(value: Any, schema: Mapping[str, Any]) -> str:
    allowed = schema["enum"] if "enum" in schema else [schema["const"]]
    if _key(value) in [_key(one) for one in allowed]:
        return ""
    names = " or ".join(_shown(one) for one in allowed)
    return f"is not valid: it must be {names}, but is {_shown(value)}"


def _required(value: Any, schema: Mapping[str, Any]) -> str:
    missing = [name for name in schema["required"] if name not in value] if isinstance(value, dict) else []
    return f"lacks {', '.join(repr(name) for name in missing)}" if missing else ""


def _range(value: Any, schema: Mapping[str, Any]) -> str:
    if _TYPES["number"](value) and value < schema.get("minimum", value):
        return f"is not valid: it must be {schema['minimum']} or more, but is {value}"
    if _TYPES["number"](value) and value > schema.get("maximum", value):
        return f"is not valid: it must be {schema['maximum']} or less, but is {value}"
    return ""


def _length(value: Any, schema: Mapping[str, Any]) -> str:
    kinds = ((str, "characters", "minLength", "maxLength"), (list, "items", "minItems", "maxItems"))
    for kind, noun, least, most in kinds:
        if isinstance(value, kind) and len(value) < schema.get(least, 0):
            return f"is not valid: it must have {schema[least]} {noun} or more, but has {len(value)}"
        if isinstance(value, kind) and len(value) > schema.get(most, len(value)):
            return f"is not valid: it must have {schema[most]} {noun} or fewer, but has {len(value)}"
    return ""


def _pattern(value: Any, schema: Mapping[str, Any]) -> str:
    if isinstance(value, str) and not re.search(schema["pattern"], value):
        return f"is not valid: {_shown(value)} does not have the form {schema['pattern']}"
    return ""


def _unique(value: Any, schema: Mapping[str, Any]) -> str:
    twice = schema["uniqueItems"] and isinstance(value, list) and len({_key(item) for item in value}) < len(value)
    return "is not valid: something is in it twice" if twice else ""


# ---- what is inside it, or looked at by another schema


def _additional(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    rule = schema["additionalProperties"]
    for name in [] if not isinstance(value, dict) else sorted(value.keys() - schema.get("properties", {}).keys()):
        if rule is False:
            yield f"{_where(place)} is not valid: {_shown(name)} is not known in it."
        elif rule is not True:
            yield from _faults(value[name], rule, _join(place, name), root)


def _properties(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    for name, rule in schema["properties"].items() if isinstance(value, dict) else ():
        if name in value:
            yield from _faults(value[name], rule, _join(place, name), root)


def _items(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        yield from _faults(item, schema["items"], f"{place}[{index}]", root)


def _reference(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    start, _, name = schema["$ref"].rpartition("/")
    if start != "#/$defs":
        raise ValueError(f"The schema refers to {schema['$ref']!r}; only '#/$defs/…' is known here.")
    yield from _faults(value, root["$defs"][name], place, root)


def _not(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    if next(_faults(value, schema["not"], place, root), None) is None:
        yield f"{_where(place)} is not valid: it has what must not be there."


def _one_of(value: Any, schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Iterator[str]:
    forms = schema["oneOf"]
    fitting = sum(next(_faults(value, form, place, root), None) is None for form in forms)
    if fitting != 1:
        yield f"{_where(place)} is not valid: it fits {fitting or 'none'} of the {len(forms)} forms that it can have."


_RULES: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "type": _type, "const": _value, "enum": _value, "required": _required, "minimum": _range, "maximum": _range,
    "minLength": _length, "maxLength": _length, "minItems": _length, "maxItems": _length, "pattern": _pattern,
    "uniqueItems": _unique,
}  # fmt: skip
_INSIDE: dict[str, Callable[[Any, Mapping[str, Any], str, Mapping[str, Any]], Iterator[str]]] = {
    "additionalProperties": _additional, "properties": _properties, "items": _items, "$ref": _reference, "not": _not,
    "oneOf": _one_of,
}  # fmt: skip


def _key(value: Any) -> Any:
    """Equal for what JSON calls equal: 1 and 1.0, but not 1 and true."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else (isinstance(value, bool), value)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _where(place: str) -> str:
    return f"the field '{place[:_SHOWN]}'" if place else "the file"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
