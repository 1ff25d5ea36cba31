"""Schemas as generators write them: which parts are kept, rewritten or left out."""

import random
from typing import Any

import pytest

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import ANNOTATIONS, ENFORCED, KEYWORDS, MOST, OTHERS, SIZES
from localinfra.chat.schema.prepared import Leniency, Waiver, prepared
from localinfra.chat.schema.rules import json_rule
from localinfra.errors import InvalidRequest, UnsupportedParameter

TEXT: Json = {"type": "string"}
USUAL = Waiver(Leniency.UNKNOWN)

# A schema of one property x, and the path of the part that can't be enforced.
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
def test_a_keyword_that_can_not_be_enforced_is_left_out_or_refused_by_its_path(
    x: Json, path: str
) -> None:
    schema: Json = {"type": "object", "properties": {"x": x, "y": TEXT}}
    rule = json_rule(schema, "tools[0].function.parameters", Waiver(Leniency.UNKNOWN))
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
                "properties": (
                    named := {"a": TEXT, "b": {"$ref": "#/$defs/d0"}, "c": {"$ref": "#/$defs/d1"}}
                ),
                "$defs": {"d0": TEXT, "d1": {"properties": named}},
            },
        ),
    ],
)
def test_keywords_of_other_drafts_and_openapi_are_rewritten(schema: Json, same: Json) -> None:
    found = prepared(schema, "s", Waiver(Leniency.NOTHING))
    assert found.schema == same and not found.left_out


@pytest.mark.parametrize(
    "name", ["int32", "int64", "uint32", "uint64", "double", "float", "decimal", "password"]
)
def test_formats_that_are_hints_are_left_out_and_never_refused(name: str) -> None:
    for level in (Leniency.NOTHING, Leniency.UNKNOWN):
        found = prepared({"type": "integer", "format": name}, "s", Waiver(level))
        assert found.schema == {"type": "integer"} and found.left_out == ("s.format",)


def test_extensions_are_left_out_and_never_refused() -> None:
    found = prepared({"type": "string", "x-order": 3}, "s", Waiver(Leniency.NOTHING))
    assert found.schema == TEXT and found.left_out == ("s.x-order",)


# In all drafts and OpenAPI.
EVERY_KEYWORD = """$anchor $comment $defs $dynamicAnchor $dynamicRef $id $recursiveAnchor
    $recursiveRef $ref $schema $vocabulary additionalItems additionalProperties allOf anyOf const
    contains contentEncoding contentMediaType contentSchema default definitions dependencies
    dependentRequired dependentSchemas deprecated description discriminator else enum example
    examples exclusiveMaximum exclusiveMinimum externalDocs format id if items maxContains maxItems
    maxLength maxProperties maximum minContains minItems minLength minProperties minimum multipleOf
    not nullable oneOf pattern patternProperties prefixItems properties propertyNames readOnly
    required then title type unevaluatedItems unevaluatedProperties uniqueItems writeOnly xml
    """.split()


def test_every_keyword_is_of_one_known_sort() -> None:
    for key in EVERY_KEYWORD:
        assert (key in ENFORCED) + (key in OTHERS) + (key in ANNOTATIONS) == 1, key


WRONG: list[Json] = [3, -1, 1.5, True, "a", "", [], {}, [["a"]], {"a": 3}, [3], {"a": []}]


def test_keywords_of_a_wrong_type_are_refused_with_their_path_if_strict() -> None:
    num_refused = 0
    for level in (Leniency.NOTHING, Leniency.ONE_OF):
        for key, (is_right, _) in KEYWORDS.items():
            for value in WRONG:
                if is_right(value):
                    continue
                num_refused += 1
                with pytest.raises(InvalidRequest) as caught:
                    json_rule({"properties": {"x": {key: value}}}, "s", Waiver(level))
                is_name = key == "type" and isinstance(value, str)
                assert caught.value.param == ("s" if is_name else f"s.properties.x.{key}")
    assert num_refused > 500


def test_keywords_of_a_wrong_type_are_left_out_or_mended_if_lenient() -> None:
    for key, (is_right, _) in KEYWORDS.items():
        for value in WRONG:
            if not is_right(value):
                schema: Json = {"properties": {"x": {key: value}, "y": {"type": "integer"}}}
                rule = json_rule(schema, "s", USUAL)
                at = f"s.properties.x.{key}"
                is_mended = key == "required" and value in ("a", "", True)
                assert is_mended or any(path.startswith(at) for path in rule.left_out), (key, value)
                assert '"y":{"type":"integer"}' in rule.text


@pytest.mark.parametrize("schema", [7, {"properties": []}, {"anyOf": {}}, {"items": 1}, [], "x"])
def test_invalid_schemas_are_refused(schema: Json) -> None:
    with pytest.raises(InvalidRequest):
        prepared(schema, "s", Waiver(Leniency.ONE_OF))


# A property of a tool as declared, as enforced, and the paths left out.
ODD: list[tuple[dict[str, Json], Json, tuple[str, ...]]] = [
    ({"type": "any"}, {}, ("type",)),
    ({"type": "float"}, {"type": "number"}, ()),
    ({"type": "Int"}, {"type": "integer"}, ()),
    ({"type": "str"}, {"type": "string"}, ()),
    ({"type": ["string", None]}, {"type": ["string", "null"]}, ()),
    ({"type": ["string", "file"]}, {}, ("type",)),
    ({"type": {"name": "string"}}, {}, ("type",)),
    ({"type": []}, {}, ("type",)),
    ({"type": "string", "enum": []}, TEXT, ("enum",)),
    ({"type": "string", "enum": "a"}, TEXT, ("enum",)),
    ({"type": "string", "required": False}, TEXT, ()),
    ({"type": "integer", "minimum": "0"}, {"type": "integer", "minimum": 0}, ()),
    ({"type": "integer", "minimum": "low"}, {"type": "integer"}, ("minimum",)),
    ({"type": "integer", "minimum": "nan"}, {"type": "integer"}, ("minimum",)),
    ({"type": "string", "minLength": "3"}, {"type": "string", "minLength": 3}, ()),
    ({"type": "string", "minLength": -1}, TEXT, ("minLength",)),
    ({"type": "string", "maxLength": 1.5}, TEXT, ("maxLength",)),
    ({"type": "number", "multipleOf": 0}, {"type": "number"}, ("multipleOf",)),
    ({"type": "object", "properties": []}, {"type": "object"}, ("properties",)),
    ({"type": "object", "required": "a"}, {"type": "object", "required": ["a"]}, ()),
    ({"type": "object", "required": ["a", 1]}, {"type": "object"}, ("required",)),
    ({"type": "array", "items": "string"}, {"type": "array"}, ("items",)),
    ({"type": "array", "items": {"type": "any"}}, {"type": "array", "items": {}}, ("items.type",)),
    ({"anyOf": []}, {}, ("anyOf",)),
    ({"anyOf": [TEXT, None]}, {"anyOf": [TEXT, True]}, ("anyOf[1]",)),
    ({"pattern": ["a"]}, {}, ("pattern",)),
    ({"$ref": 5}, {}, ("$ref",)),
    ({"nullable": "yes"}, {}, ("nullable",)),
    ({"additionalProperties": "no"}, {}, ("additionalProperties",)),
]


@pytest.mark.parametrize(("x", "same", "named"), ODD, ids=range(len(ODD)))
def test_odd_parts_of_a_tool_are_read_as_meant_or_left_out(
    x: Json, same: Json, named: tuple[str, ...]
) -> None:
    found = prepared({"properties": {"x": x}}, "s", USUAL)
    assert found.schema == {"properties": {"x": same}}
    assert found.left_out == tuple(f"s.properties.x.{path}" for path in named)


def test_a_property_without_a_schema_may_be_anything() -> None:
    found = prepared({"properties": {"a": None, "b": "string", "c": TEXT}}, "s", USUAL)
    assert found.schema == {"properties": {"a": True, "b": True, "c": TEXT}}
    assert found.left_out == ("s.properties.a", "s.properties.b")


def test_draft_3_requires_a_property_within_it() -> None:
    x: Json = {"type": "string", "required": True}
    found = prepared({"properties": {"x": x, "y": TEXT}, "required": ["y"]}, "s", USUAL)
    assert found.schema == {"properties": {"x": TEXT, "y": TEXT}, "required": ["y", "x"]}
    assert not found.left_out


@pytest.mark.parametrize("key", SIZES)
def test_sizes_may_be_written_as_floats(key: str) -> None:
    rule = json_rule({"type": "array", "prefixItems": [{key: 3.0, "required": ["a"]}]}, "s", USUAL)
    assert f'"{key}":3' in rule.text or key == "minProperties"
    assert "3.0" not in rule.text


def test_limits_beyond_any_answer_are_dropped() -> None:
    for key in MOST:
        found = prepared({key: 2**63 - 1}, "s", Waiver(Leniency.NOTHING))
        assert found.schema == {} and not found.left_out


# Keywords of an object with properties a and b, as enforced, and the one left out.
COUNTED: list[tuple[dict[str, Json], dict[str, Json], str | None]] = [
    ({"minProperties": 1, "required": ["a"]}, {"required": ["a"]}, None),
    ({"minProperties": 0}, {}, None),
    ({"minProperties": 2}, {"required": ["a", "b"]}, None),
    ({"minProperties": 1}, {}, "minProperties"),
    ({"minProperties": 3}, {}, "minProperties"),
    ({"maxProperties": 1}, {}, "maxProperties"),
    ({"maxProperties": 1, "required": ["a"]}, {"required": ["a"]}, "maxProperties"),
    ({"maxProperties": 2, "additionalProperties": False}, {"additionalProperties": False}, None),
    (
        {"maxProperties": 3, "required": ["a", "b"]},
        {"maxProperties": 3, "required": ["a", "b"]},
        None,
    ),
]


@pytest.mark.parametrize(("says", "same", "named"), COUNTED, ids=range(len(COUNTED)))
def test_only_counts_of_properties_that_can_not_be_enforced_are_left_out(
    says: dict[str, Json], same: dict[str, Json], named: str | None
) -> None:
    properties: Json = {"a": {"type": "string", "minLength": 1}, "b": TEXT}
    schema: Json = {"type": "object", "properties": properties, **says}
    found = prepared(schema, "s", USUAL)
    assert found.schema == {"type": "object", "properties": properties, **same}
    assert found.left_out == ((f"s.{named}",) if named else ())
    if named:
        with pytest.raises(UnsupportedParameter) as caught:
            prepared(schema, "s", Waiver(Leniency.ONE_OF))
        assert caught.value.param == f"s.{named}"


def a_schema(rng: random.Random, depth: int) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([*WRONG, None, "object", "#", "#/$defs/a", "date", 2**70, ["a", "b"]])
    if rng.random() < 0.2:
        return [a_schema(rng, depth - 1) for _ in range(rng.randrange(3))]
    keys = rng.choices([*KEYWORDS, "a", "title", "x-y", "$id", "$anchor"], k=rng.randrange(4))
    return {key: a_schema(rng, depth - 1) for key in keys}


def test_any_json_is_accepted_or_refused_and_never_fails() -> None:
    rng = random.Random(1)
    num_taken = 0
    for _ in range(6000):
        schema = a_schema(rng, 4)
        for level in Leniency:
            try:
                json_rule(schema, "s", Waiver(level))
                num_taken += 1
            except InvalidRequest as error:
                assert error.param and error.param.startswith("s")
                assert level < Leniency.UNKNOWN
    assert num_taken > 500


def test_each_level_of_leniency_leaves_out_more() -> None:
    one_of: Json = {"oneOf": [TEXT, {"type": "string", "pattern": "^(?!x)"}]}
    b: dict[str, Json] = {"type": "string", "format": "date"}
    with pytest.raises(UnsupportedParameter):
        prepared(one_of, "s", Waiver(Leniency.NOTHING))
    assert prepared(one_of, "s", Waiver(Leniency.ONE_OF)).left_out == ("s.oneOf",)
    schema: Json = {"properties": {"a": one_of, "b": {**b, "uniqueItems": True}}}
    with pytest.raises(UnsupportedParameter):
        prepared(schema, "s", Waiver(Leniency.ONE_OF))
    left_out = [set(prepared(schema, "s", Waiver(level)).left_out) for level in list(Leniency)[2:]]
    assert left_out[0] == {"s.properties.b.uniqueItems", "s.properties.a.oneOf"}
    assert left_out[1] - left_out[0] == {
        "s.properties.a.oneOf[1].pattern",
        "s.properties.b.format",
    }
    assert left_out[2] == {"s"}
    assert prepared(schema, "s", Waiver(Leniency.ALL)).schema == {"type": "object"}


def test_a_reference_into_a_plain_value_is_refused() -> None:
    schema: Json = {"$ref": "#/const/a", "const": {"a": {}}}
    with pytest.raises(InvalidRequest, match="does not point to a schema"):
        prepared(schema, "s", Waiver(Leniency.NOTHING))
    assert prepared(schema, "s", Waiver(Leniency.UNKNOWN)).left_out == ("s.$ref",)
