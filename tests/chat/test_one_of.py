"""`oneOf` is enforced if its choices exclude each other; if not, it is listed as left out."""

import pytest

from localinfra.chat.messages import Json
from localinfra.chat.schema.prepared import Leniency, Waiver, prepared
from localinfra.errors import UnsupportedParameter


def tagged(tag: Json, **others: Json) -> dict[str, Json]:
    properties: dict[str, Json] = {"kind": tag, "x": {"type": "integer"}}
    return {"type": "object", "properties": properties, "required": ["kind"], **others}


CAT = tagged({"const": "cat"})
DOG = tagged({"type": "string", "enum": ["dog", "wolf"]})
NODE: dict[str, Json] = {
    "type": "object",
    "properties": {"kind": {"const": "node"}, "next": {"oneOf": [{"$ref": "#/$defs/Node"}, CAT]}},
    "required": ["kind", "next"],
}
CLOSED: dict[str, Json] = {"type": "object", "additionalProperties": False}
BY_KIND: Json = {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}}
REFERENCES: list[Json] = [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
DEFINITIONS: Json = {
    "Cat": CAT,
    "Dog": DOG,
    "Node": NODE,
    "Chain": {"$ref": "#/$defs/Link"},
    "Link": {"$ref": "#/$defs/Cat", "description": "a cat"},
    "Pet": {"oneOf": REFERENCES, "discriminator": BY_KIND},
    "Both": {"allOf": [{"$ref": "#/$defs/Dog"}, {"properties": {"y": {}}}]},
    "Loop": {"$ref": "#/$defs/Loop"},
    "Bare": {"type": "object", "properties": {"kind": {"const": "bare"}}},
    "Naked": {"type": "object", "properties": {"kind": {"const": "naked"}}},
}


OPTIONS: list[Json] = [{"const": f"option {n}", "title": f"{n}"} for n in range(2000)]


def union(*choices: Json, **others: Json) -> dict[str, Json]:
    return {"oneOf": list(choices), "$defs": DEFINITIONS, **others}


def ref(name: str) -> dict[str, Json]:
    return {"$ref": f"#/$defs/{name}"}


EXCLUSIVE = [
    union(CAT, DOG),
    union(*REFERENCES),
    union(*REFERENCES, discriminator=BY_KIND),
    union({**ref("Cat"), "description": "a cat"}, {**ref("Dog"), "title": "Dog"}),
    union(ref("Chain"), ref("Dog")),
    union(ref("Pet"), ref("Node")),
    union(ref("Cat"), ref("Both")),
    union(ref("Node"), ref("Cat"), ref("Dog")),
    union(ref("Cat"), {"type": "null"}),
    union({"type": "string"}, {"type": ["integer", "null"]}, {"type": "array"}),
    union({"const": 1}, {"const": True}, {"const": "1"}, {"const": [1]}, {"const": {"a": 1}}),
    union({"enum": ["a", "b"]}, {"enum": ["c"]}, {"type": "number"}),
    union(*OPTIONS),
    union({"type": "number", "maximum": 0}, {"type": "integer", "exclusiveMinimum": 0}),
    union({"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}),
    union({"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}),
    union({**CLOSED, "properties": {"a": {}}, "required": ["a"]},
          {**CLOSED, "properties": {"b": {}}}),
    union({"properties": {"p": ref("Cat")}, "required": ["p"], "type": "object"},
          {"properties": {"p": ref("Dog")}, "required": ["p"], "type": "object"}),
    union(ref("Bare"), ref("Naked"), discriminator={"propertyName": "kind"}),
    union({"type": "integer"}, False),
    union({"const": 1.5}, {"type": "integer"}),
]  # fmt: skip

BOTH_MAY_BE_VALID = [
    union({"type": "number"}, {"type": "integer"}),
    union({"const": 1}, {"const": 1.0}),
    union({"type": "string"}, {"enum": ["a"]}),
    union({"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}),
    union(ref("Bare"), ref("Naked")),
    union({"type": "object", "properties": {"a": {}}, "required": ["a"]},
          {"type": "object", "properties": {"b": {}}, "required": ["b"]}),
    union(ref("Loop"), ref("Cat")),
    union(True, {"type": "integer"}),
    union({"type": "integer", "maximum": 1}, {"type": "integer", "minimum": 1}),
    union({"type": "string", "nullable": True}, {"type": "null"}),
]  # fmt: skip


@pytest.mark.parametrize("schema", EXCLUSIVE, ids=range(len(EXCLUSIVE)))
def test_choices_that_exclude_each_other_are_enforced(schema: Json) -> None:
    found = prepared(schema, "s", Waiver(Leniency.NOTHING))
    assert not found.left_out and "oneOf" in found.schema


@pytest.mark.parametrize("schema", BOTH_MAY_BE_VALID, ids=range(len(BOTH_MAY_BE_VALID)))
def test_oneOf_is_left_out_if_two_choices_may_be_valid(schema: Json) -> None:
    assert prepared(schema, "s", Waiver(Leniency.ONE_OF)).left_out == ("s.oneOf",)
    with pytest.raises(UnsupportedParameter, match="oneOf") as caught:
        prepared(schema, "s", Waiver(Leniency.NOTHING))
    assert caught.value.param == "s.oneOf"


def test_the_property_of_a_discriminator_becomes_required() -> None:
    schema = union(ref("Bare"), ref("Naked"), discriminator={"propertyName": "kind"})
    found = prepared(schema, "s", Waiver(Leniency.NOTHING)).schema
    definitions = found["$defs"]
    assert isinstance(definitions, dict)
    for name in ("bare", "naked"):
        properties: Json = {"kind": {"const": name}}
        part: Json = {"type": "object", "properties": properties, "required": ["kind"]}
        assert part in definitions.values()


def test_comparing_many_choices_is_bounded() -> None:
    deep: Json = {"type": "object"}
    for _ in range(40):
        deep = {"anyOf": [deep, {"type": "object", "minProperties": 0}]}
    definitions: Json = {"deep": deep}
    choices: list[Json] = [{"anyOf": [ref("deep"), {"const": n}]} for n in range(300)]
    many: Json = {"oneOf": choices, "$defs": definitions}
    assert "s.oneOf" in prepared(many, "s", Waiver(Leniency.ONE_OF)).left_out
