"""Schemas as generators write them: what is kept, what is said in other words, what is left out."""

import random
from typing import Any

import pytest

from localinfra.chat.keywords import KEYWORDS
from localinfra.chat.messages import Json
from localinfra.chat.prepared import Leniency, prepared
from localinfra.chat.schema import json_rule
from localinfra.errors import InvalidRequest, UnsupportedParameter

TEXT: Json = {"type": "string"}

# A schema of one property x, and the path of what can't be enforced of it.
UNENFORCEABLE: list[tuple[dict[str, Json], str]] = [
    ({"type": "array", "items": TEXT, "uniqueItems": True}, "uniqueItems"),
    ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
    ({"not": {}}, "not"),
    ({"not": {"const": 1}}, "not"),
    ({"type": "string", "format": "uri-reference"}, "format"),
    ({"type": "string", "format": "iban"}, "format"),
    ({"format": "regex"}, "format"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "object", "dependentSchemas": {"a": {"minProperties": 1}}}, "dependentSchemas"),
    ({"type": "object", "dependencies": {"a": ["b"]}}, "dependencies"),
    ({"if": {"const": 1}, "then": False}, "if"),
    ({"type": "array", "contains": {"const": 1}}, "contains"),
    ({"type": "array", "minContains": 2}, "minContains"),
    ({"anyOf": [TEXT], "unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"unevaluatedItems": False}, "unevaluatedItems"),
    ({"$ref": "https://example.com/schema"}, "$ref"),
    ({"$ref": "other.json#/$defs/a"}, "$ref"),
    ({"$dynamicRef": "#node"}, "$dynamicRef"),
    ({"enum": [2**60, 1]}, "enum"),
    ({"const": -(2**60)}, "const"),
    ({"minimum": 2**60}, "minimum"),
    ({"type": "object", "minProperties": 3}, "minProperties"),
    ({"madeUp": True}, "madeUp"),
    ({"items": {"anyOf": [{}, {"uniqueItems": True}]}}, "items.anyOf[1].uniqueItems"),
    ({"additionalProperties": {"not": {}}}, "additionalProperties.not"),
    ({"items": [{}, {"not": {}}]}, "items[1].not"),
    ({"items": [{}], "additionalItems": {"not": {}}}, "additionalItems.not"),
]


@pytest.mark.parametrize(("x", "path"), UNENFORCEABLE, ids=[path for _, path in UNENFORCEABLE])
def test_what_can_not_be_enforced_is_named_or_refused_by_its_path(x: Json, path: str) -> None:
    schema: Json = {"type": "object", "properties": {"x": x, "y": TEXT}}
    rule = json_rule(schema, "tools[0].function.parameters", Leniency.UNKNOWN)
    where = f"tools[0].function.parameters.properties.x.{path}"
    assert where in rule.left_out
    assert f'"{path.rpartition(".")[2]}"' not in rule.text
    with pytest.raises(UnsupportedParameter) as caught:
        json_rule(schema, "tools[0].function.parameters")
    assert caught.value.param == where


@pytest.mark.parametrize(
    ("schema", "same"),
    [
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        (
            {"type": "string", "enum": ["a"], "nullable": True},
            {"type": ["string", "null"], "enum": ["a", None]},
        ),
        (
            {"anyOf": [TEXT], "nullable": True},
            {"anyOf": [{"anyOf": [TEXT]}, {"type": "null"}]},
        ),
        ({"type": "string", "nullable": False}, TEXT),
        ({"nullable": True}, {}),
        (
            {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
            {"type": "integer", "exclusiveMinimum": 0},
        ),
        ({"maximum": 5, "exclusiveMaximum": False}, {"maximum": 5}),
        (
            {"items": [TEXT], "additionalItems": False},
            {"prefixItems": [TEXT], "items": False},
        ),
        ({"items": TEXT, "additionalItems": False}, {"items": TEXT}),
        (
            {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
            {"type": "integer", "minimum": -(2**53), "maximum": 2**53},
        ),
        (
            {"type": "object", "unevaluatedProperties": False},
            {"type": "object", "additionalProperties": False},
        ),
        ({"type": "OBJECT"}, {"type": "object"}),
        ({"type": "string", "pattern": None, "description": None, "default": None}, TEXT),
        ({"title": 3, "description": {}, "examples": 1, "$schema": "x"}, {}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"const": None}, {"const": None}),
        (
            {"definitions": {"a": TEXT, "b": {}}, "$ref": "#/definitions/a"},
            {"$ref": "#/$defs/d0", "$defs": {"d0": TEXT}},
        ),
        (
            {"components": {"schemas": {"A": TEXT}}, "items": {"$ref": "#/components/schemas/A"}},
            {"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": TEXT}},
        ),
        (
            {
                "$id": "https://a.b",
                "items": {"$ref": "https://a.b#/$defs/x"},
                "$defs": {"x": {}},
            },
            {"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": {}}},
        ),
        (
            {"items": {"$ref": "#x"}, "$defs": {"x": {"$anchor": "x", "type": "string"}}},
            {"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": TEXT}},
        ),
        (
            {"properties": {"a": TEXT, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#"}}},
            {
                "properties": {"a": TEXT, "b": {"$ref": "#/$defs/d0"}, "c": {"$ref": "#"}},
                "$defs": {"d0": TEXT},
            },
        ),
    ],
)
def test_other_drafts_and_openapi_say_the_same_in_other_words(schema: Json, same: Json) -> None:
    found = prepared(schema, "s", Leniency.NOTHING)
    assert found.schema == same and not found.left_out


@pytest.mark.parametrize(
    "name", ["int32", "int64", "uint32", "uint64", "double", "float", "decimal", "password"]
)
def test_formats_that_are_mere_hints_are_named_and_never_refused(name: str) -> None:
    for leniency in (Leniency.NOTHING, Leniency.UNKNOWN):
        found = prepared({"type": "integer", "format": name}, "s", leniency)
        assert found.schema == {"type": "integer"} and found.left_out == ("s.format",)


def test_extensions_are_named_and_never_refused() -> None:
    found = prepared({"type": "string", "x-order": 3}, "s", Leniency.NOTHING)
    assert found.schema == TEXT and found.left_out == ("s.x-order",)


WRONG: list[Json] = [3, -1, 1.5, True, "a", "", [], {}, [["a"]], {"a": 3}, [3], {"a": []}]


def test_keywords_of_a_wrong_type_are_refused_with_their_path() -> None:
    num_refused = 0
    for leniency in Leniency:
        for key, (is_right, _) in KEYWORDS.items():
            for value in WRONG:
                if is_right(value):
                    continue
                num_refused += 1
                with pytest.raises(InvalidRequest) as caught:
                    json_rule({"properties": {"x": {key: value}}}, "s", leniency)
                is_name = key == "type" and isinstance(value, str)
                assert caught.value.param == ("s" if is_name else f"s.properties.x.{key}")
    assert num_refused > 1000


@pytest.mark.parametrize("schema", [7, {"properties": []}, {"anyOf": {}}, {"items": 1}, [], "x"])
def test_what_is_no_schema_is_refused(schema: Json) -> None:
    with pytest.raises(InvalidRequest):
        prepared(schema, "s", Leniency.UNKNOWN)


def a_schema(rng: random.Random, depth: int) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([*WRONG, None, "object", "#", "#/$defs/a", "date", 2**70, ["a", "b"]])
    if rng.random() < 0.2:
        return [a_schema(rng, depth - 1) for _ in range(rng.randrange(3))]
    keys = rng.choices([*KEYWORDS, "a", "title", "x-y", "$id", "$anchor"], k=rng.randrange(4))
    return {key: a_schema(rng, depth - 1) for key in keys}


def test_any_json_is_taken_or_refused_and_never_fails() -> None:
    rng = random.Random(1)
    num_taken = 0
    for _ in range(6000):
        schema = a_schema(rng, 4)
        for leniency in (Leniency.NOTHING, Leniency.UNKNOWN, Leniency.HARD):
            try:
                json_rule(schema, "s", leniency)
                num_taken += 1
            except InvalidRequest as error:
                assert error.param and error.param.startswith("s")
    assert num_taken > 500


def test_each_level_of_leniency_leaves_out_more() -> None:
    schema: Json = {
        "properties": {
            "a": {"oneOf": [TEXT, {"type": "string", "pattern": "^(?!x)"}]},
            "b": {"type": "string", "format": "date", "uniqueItems": True},
        }
    }
    left_out = [set(prepared(schema, "s", level).left_out) for level in list(Leniency)[1:]]
    assert left_out[0] == {"s.properties.b.uniqueItems"}
    assert left_out[1] - left_out[0] == {"s.properties.a.oneOf"}
    assert left_out[2] - left_out[1] == {
        "s.properties.a.oneOf[1].pattern",
        "s.properties.b.format",
    }
    assert left_out[3] == {"s"}
    assert prepared(schema, "s", Leniency.ALL).schema == {"type": "object"}


def test_what_is_in_no_definition_is_no_part_of_the_answer() -> None:
    schema: Json = {"$ref": "#/const/a", "const": {"a": {}}}
    with pytest.raises(InvalidRequest, match="points at no schema"):
        prepared(schema, "s", Leniency.NOTHING)
    assert prepared(schema, "s", Leniency.UNKNOWN).left_out == ("s.$ref",)
