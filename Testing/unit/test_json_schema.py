"""Our check of JSON schemas, against the package jsonschema, on what ships and on what becomes of it when it breaks."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from BrainSegSAMLib.json_schema import first_fault
from BrainSegSAMLib.resources import resource_path

LIBRARY = Path(__file__).resolve().parents[2] / "BrainSegSAMLib"
SCHEMAS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in LIBRARY.rglob("*.schema.json")}
MODELS = sorted(path.parent.name for path in resource_path("Models").glob("*/model.json"))
DOCUMENTS = [("catalogue.schema.json", "catalogue.json")] + [("model.schema.json", f"{m}/model.json") for m in MODELS]
VALUES = [None, True, False, 0, 1, 1.0, 1.5, -1, 10**9, "", "x", "a b", "ab" * 40, "0" * 64, "bundled", "download",
          "https://e.org", "LPS", [], [1, 1], [1, True], ["t1"], ["t1", "t1"], {}, {"x": 1}]  # fmt: skip


def holders(value: Any) -> Iterator[Any]:
    """All objects and lists in some data, itself included."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from holders(inner)


def broken(data: Any, chance: random.Random) -> Any:
    """A copy in which one place was changed, taken out or added."""
    data = copy.deepcopy(data)
    holder = chance.choice(list(holders(data)))
    places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    what = chance.choice(["replace", "remove", "add"])
    if what == "add" or not places:
        value = copy.deepcopy(chance.choice(VALUES))
        if isinstance(holder, dict):
            holder[chance.choice(["surprise", "file", "path", "size"])] = value
        else:
            holder.append(chance.choice([value, *holder]))
    elif what == "remove":
        del holder[chance.choice(places)]
    else:
        holder[chance.choice(places)] = copy.deepcopy(chance.choice(VALUES))
    return data


@pytest.mark.parametrize(("schema", "document"), DOCUMENTS)
def test_the_verdict_is_that_of_jsonschema(schema: str, document: str) -> None:
    data = json.loads(resource_path("Models", *document.split("/")).read_text(encoding="utf-8"))
    oracle = jsonschema.Draft202012Validator(SCHEMAS[schema])
    assert first_fault(data, SCHEMAS[schema]) == ""
    chance, refused = random.Random(0), 0
    for _round in range(400):
        changed = broken(data, chance)
        fault = first_fault(changed, SCHEMAS[schema])
        refused += bool(fault)
        assert oracle.is_valid(changed) == (fault == ""), (fault, changed)
    assert 100 < refused < 400  # both verdicts were asked for


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": [1, "a", None]}, True), ({"enum": [1]}, 1.0), ({"const": 0}, False), ({"type": "integer"}, 2.0),
        ({"type": "integer"}, True), ({"type": "number"}, False), ({"uniqueItems": True}, [0, False, 1, True]),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1}]), ({"minimum": 1, "maximum": 3}, "5"), ({"maximum": 3}, 4),
        ({"minItems": 2, "maxItems": 3}, [1]), ({"minItems": 2, "maxItems": 3}, [1, 2, 3, 4]),
        ({"minLength": 2, "maxLength": 3}, "abcd"), ({"minLength": 2}, [1]), ({"required": ["a"]}, ["b"]),
        ({"additionalProperties": {"type": "string"}}, {"a": 1}), ({"additionalProperties": True}, {"a": 1}),
        ({"not": {"required": ["a"]}}, {"a": 1}), ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 1),
        ({"$defs": {"a": {"type": "null"}}, "items": {"$ref": "#/$defs/a"}}, [None, 1]),
    ],
)  # fmt: skip
def test_each_rule_as_jsonschema_has_it(schema: dict[str, Any], value: Any) -> None:
    assert jsonschema.Draft202012Validator(schema).is_valid(value) == (first_fault(value, schema) == "")


def test_a_fault_is_said_in_words() -> None:
    schema = {
        "required": ["name", "size"],
        "properties": {"name": {"enum": ["a", None]}, "size": {"type": ["integer", "null"]}, "all": {
            "items": {"minimum": 1}}},
    }  # fmt: skip
    assert first_fault({}, schema) == "the file lacks 'name', 'size'."
    assert first_fault({"name": "b", "size": 1}, schema) == (
        'the field \'name\' is not valid: it must be "a" or null, but is "b".'
    )
    assert first_fault({"name": "a", "size": "1"}, schema) == (
        "the field 'size' must be of type integer or null, but is string."
    )
    assert "the field 'all[1]' is not valid: it must be 1 or more" in (
        first_fault({"name": "a", "size": 1, "all": [1, 0]}, schema)
    )


@pytest.mark.parametrize("schema", [{"format": "date"}, {"items": {"allOf": []}}, {"$ref": "other.json#/a/b"}])
def test_a_rule_that_is_not_known_is_not_passed_over(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        first_fault([1], schema)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_our_schemas_are_schemas(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
