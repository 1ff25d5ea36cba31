"""What random logits write by a JSON schema conforms to it."""

import functools
import json
import random
from typing import Any

import jsonschema
import pytest
from grammar_writer import RECORD, Writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localinfra.errors import InvalidRequest

INTEGERS = st.integers(-(2**53), 2**53)
NAMES = st.sampled_from(["a", "b", "c d", 'q"x', "é", "not"])
STRINGS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 3), "maxLength": st.integers(3, 12)},
    ),
    st.builds(
        lambda pattern: {"type": "string", "pattern": pattern},
        st.sampled_from(["^[a-z]{2,4}$", r"^\d+$", "x|yz", r"^\w+@\w+\.com$", "^(é|漢){1,3}$"]),
    ),
    st.builds(
        lambda name: {"type": "string", "format": name},
        st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"]),
    ),
)
NUMBERS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": st.integers(-100, 5), "maximum": st.integers(5, 2000)},
    ),
    st.builds(lambda n: {"type": "integer", "multipleOf": n}, st.integers(1, 12)),
    st.just({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
)
VALUES = st.one_of(
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.one_of(NAMES, INTEGERS, st.none()), min_size=1, max_size=4, unique=True),
    ),
    st.builds(
        lambda value: {"const": value},
        st.one_of(NAMES, INTEGERS, st.booleans(), st.just([1, {"x": "y"}])),
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]),
)


def containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def as_object(properties: dict[str, Any], num_required: int, others: Any) -> dict[str, Any]:
        required = list(properties)[:num_required]
        return {"type": "object", "properties": properties, "required": required, **others}

    return st.one_of(
        st.builds(
            as_object,
            st.dictionaries(NAMES, parts, max_size=4),
            st.integers(0, 4),
            st.sampled_from([{}, {"additionalProperties": False}]),
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": parts},
            optional={"minItems": st.integers(0, 2), "maxItems": st.integers(2, 4)},
        ),
        st.builds(
            lambda items: {
                "type": "array",
                "prefixItems": items,
                "items": False,
                "minItems": len(items),
            },
            st.lists(parts, min_size=1, max_size=3),
        ),
        st.builds(lambda schemas: {"anyOf": schemas}, st.lists(parts, min_size=1, max_size=3)),
        st.just(
            {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}
        ),
        st.just(
            {
                "type": "object",
                "patternProperties": {"^x": {"type": "null"}},
                "additionalProperties": False,
            }
        ),
    )


def references(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda part: {"$ref": "#/$defs/part", "$defs": {"part": part}}, parts),
        st.builds(
            lambda part: {
                "type": "object",
                "properties": {"value": part, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
                "required": ["value", "next"],
            },
            parts,
        ),
    )


LEAVES = st.one_of(STRINGS, NUMBERS, VALUES)
NESTED = st.one_of(LEAVES, containers(LEAVES), containers(containers(LEAVES)))
SCHEMAS = st.one_of(NESTED, NESTED, references(NESTED))

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
CHECKER = jsonschema.FormatChecker(FORMATS.checkers)


def is_time(value: object, name: str) -> bool:
    """Leap seconds included, which llguidance writes and this library does not know."""
    return not isinstance(value, str) or FORMATS.conforms(value.replace(":60", ":59"), name)


for name in ("time", "date-time"):
    CHECKER.checks(name)(functools.partial(is_time, name=name))


def conforms(writer: Writer, schema: Any, seed: int) -> bool:
    """False where it found no end."""
    try:
        text = writer.json(schema, seed)
    except InvalidRequest as error:
        assert "nsatisfiable" in error.message, (schema, error.message)
        return False
    if text is None:
        return False
    jsonschema.validate(
        json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=CHECKER
    )
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, st.integers(0, 2**32))
def test_what_is_written_by_a_schema_conforms_to_it(writer: Writer, schema: Any, seed: int) -> None:
    conforms(writer, schema, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, st.integers(0, 2**32))
def test_a_thousand_schemas(writer: Writer, schema: Any, seed: int) -> None:
    conforms(writer, schema, seed)


def test_hundreds_of_runs_of_one_schema_all_conform(writer: Writer) -> None:
    assert all(conforms(writer, RECORD, seed) for seed in range(300))


def test_random_is_reproducible(writer: Writer) -> None:
    seed = random.randrange(2**32)
    assert writer.json(RECORD, seed) == writer.json(RECORD, seed)
