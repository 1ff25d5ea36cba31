"""Which schemas are accepted, and how the others are refused."""

import pytest

from localinfra.chat.messages import Json
from localinfra.chat.schema.prepared import Leniency, Waiver
from localinfra.chat.schema.rules import closed, json_rule
from localinfra.errors import InvalidRequest, UnsupportedParameter


def test_deep_and_large_schemas_are_refused() -> None:
    deep: Json = {}
    for _ in range(200):
        deep = {"items": deep}
    assert isinstance(deep, dict)
    with pytest.raises(InvalidRequest, match="100 deep"):
        json_rule(deep, "s")
    with pytest.raises(InvalidRequest, match="bytes"):
        json_rule({"enum": ["x" * 1_000_000]}, "s")


def test_property_names_are_no_keywords() -> None:
    schema: Json = {"properties": {"not": {"type": "string"}, "if": True}, "enum": [{"not": 1}]}
    assert not json_rule(schema, "s").left_out


def test_objects_that_name_their_properties_get_no_others() -> None:
    assert closed({"properties": {"a": {}}}) == {
        "properties": {"a": {}},
        "additionalProperties": False,
    }
    schemas: list[Json] = [
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "minProperties": 2},
    ]
    for schema in schemas:
        assert closed(schema) == schema


def test_objects_that_are_combined_with_others_stay_open() -> None:
    part: Json = {"properties": {"a": {}}}
    schemas: list[Json] = [
        {"allOf": [part, {"properties": {"b": {}}}]},
        {"properties": {"b": {}}, "anyOf": [part]},
        {"$ref": "#/$defs/part", "properties": {"b": {}}, "$defs": {"part": part}},
    ]
    for schema in schemas:
        assert "additionalProperties" not in json_rule(schema, "s").text
    alone: Json = {"$ref": "#/$defs/p", "$defs": {"p": part}}
    assert "additionalProperties" in json_rule(alone, "s").text


def chained(size: int, key: str) -> dict[str, Json]:
    links: list[Json] = [{"$ref": f"#/{key}/{at + 1}"} for at in range(size)]
    return {key: [*links, {"type": "integer"}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/examples/0", **chained(3000, "examples")},
        chained(3000, "anyOf"),
        {
            "$ref": "#/default/a0",
            "default": {f"a{n}": {"$ref": f"#/default/a{n + 1}"} for n in range(3000)},
        },
        {"$ref": "#/const/a", "const": {"a": {}}},
        {"$ref": "#nowhere"},
        {"type": "object", "required": [f"p{n}" for n in range(30_000)]},
        {"const": {f"p{n}": 1 for n in range(30_000)}},
        {"const": list(range(60_000))},
        {"enum": list(range(30_000))},
        {"allOf": [{"type": "string", "pattern": f"a{n}"} for n in range(25)]},
        {
            "allOf": [
                {"properties": {"x": {"type": "string", "pattern": f"a{n}"}}} for n in range(25)
            ]
        },
    ],
    ids=range(11),
)  # fmt: skip
def test_schemas_that_would_crash_or_stall_the_compiler_are_refused(
    schema: dict[str, Json],
) -> None:
    with pytest.raises(InvalidRequest):
        json_rule(schema, "s")


def test_similar_but_harmless_schemas_are_accepted() -> None:
    many: list[Json] = [f"word {n}" for n in range(5000)]
    text: dict[str, Json] = {"type": "string", "pattern": "^a"}
    schemas: list[Json] = [
        {"enum": many},
        {"properties": {f"p{n}": text for n in range(50)}},
        {"allOf": [{"$ref": "#/$defs/a"}], "description": "one", "$defs": {"a": text}},
        {"properties": {"a": {"anyOf": [text] * 20}}},
    ]
    for schema in schemas:
        assert json_rule(schema, "s").text.startswith("%json")


def test_more_properties_than_are_named_can_not_be_enforced() -> None:
    with pytest.raises(UnsupportedParameter, match="minProperties"):
        json_rule({"type": "object", "minProperties": 2}, "s")
    assert json_rule({"properties": {"a": {}, "b": {}}, "minProperties": 2}, "s").text
    lenient = json_rule({"type": "object", "minProperties": 2}, "s", Waiver(Leniency.UNKNOWN))
    assert lenient.left_out == ("s.minProperties",) and "minProperties" not in lenient.text


def test_counting_patterns_is_bounded() -> None:
    """Two thousand parts, each with two thousand others to visit."""
    large: Json = {"anyOf": [{"pattern": f"a{n}"} for n in range(1500)]}
    schema: Json = {
        "anyOf": [{"$ref": "#/$defs/l", "minLength": n} for n in range(1500)],
        "$defs": {"l": large},
    }
    with pytest.raises(InvalidRequest):
        json_rule(schema, "s")


def test_only_schemas_that_may_compile_slowly_are_not_plain() -> None:
    plain: list[Json] = [
        {"properties": {"a": {"type": "string", "format": "date"}, "b": {"enum": [1, 2]}}},
        {"type": "array", "items": {"anyOf": [{"type": "null"}, {"maximum": 1.5}]}},
    ]
    for schema in plain:
        assert json_rule(schema, "s").is_plain
    hard_ones: list[Json] = [
        {"type": "string", "pattern": "a"},
        {"multipleOf": 3},
        {"minimum": 1e-300},
        {"type": "array", "minItems": 100_000},
        {"allOf": [{"type": "integer"}]},
        {"const": "x" * 100_000},
    ]
    for hard in hard_ones:
        assert not json_rule({"properties": {"a": hard}}, "s").is_plain


def test_paths_of_parts_left_out_are_short() -> None:
    """A name of 50 kB would be in the path of every part below it: 90 MB per list of paths."""
    odd: dict[str, Json] = {f"p{at}": {"contains": {}} for at in range(1900)}
    schema: Json = {"properties": {"n" * 50_000: {"properties": odd}, "a": {"contains": {}}}}
    found = json_rule(schema, "s", Waiver(Leniency.UNKNOWN))
    assert sum(map(len, found.left_out)) < 1000
    assert "s.properties.a.contains" in found.left_out
