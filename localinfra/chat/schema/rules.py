"""A client's JSON Schema → a grammar rule, within the limits of what can be enforced.

Pure. Knows what llguidance does with each keyword; compiles nothing.
"""

import itertools
from collections.abc import Iterator, Mapping

import msgspec

from localinfra.chat.encoding import json_of
from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import BOUNDS, inside
from localinfra.chat.schema.prepared import STRICT, Hard, Leniency, Waiver, prepared, target_of
from localinfra.errors import InvalidRequest

# llguidance ends the process on a chain of 2,000 references.
MAX_SCHEMA_BYTES = 512 * 1024
MAX_CHAIN = 200  # levels, including those behind references
MAX_VALUES = 3000  # names in `required`, and values inside `const` and `enum`
MAX_CHOICES = 20_000  # plain values in `enum`
MAX_COMBINED = 8  # patterns and formats on one value: llguidance tries all subsets
MAX_PATTERN_CHARS = 2000
MAX_PATTERNS_CHARS = 20_000  # all together
MAX_VISITS = 200_000  # parts visited to count patterns: 0.2 s
MAX_PLAIN_CHARS = 32 * 1024  # of a schema without patterns: compiles in 0.2 s at most
MAX_PLAIN_ITEMS = 10_000

SCHEMA_MAPS = frozenset(["properties", "patternProperties", "$defs"])
SCHEMA_LISTS = frozenset(["anyOf", "allOf", "oneOf", "prefixItems"])
SCHEMAS = frozenset(["items", "additionalProperties"])

# One way to write a value: small models can't get lost in whitespace, and more tokens are forced.
WRITING: dict[str, Json] = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    # No \\u: a property's name could be written so that its schema does not apply.
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": True,  # exclusion has been checked before
}


class Rule(msgspec.Struct, frozen=True):
    """The right side of a rule in llguidance's Lark."""

    text: str
    left_out: tuple[str, ...] = ()  # paths that it does not enforce
    is_plain: bool = False  # sure to compile in milliseconds
    hard: tuple[Hard, ...] = ()  # keywords that may keep it from compiling


class Enforceable(msgspec.Struct, frozen=True):
    """A schema within the limits, of which llguidance can enforce every part."""

    schema: dict[str, Json]
    left_out: tuple[str, ...] = ()
    is_plain: bool = False
    hard: tuple[Hard, ...] = ()


def json_rule(schema: Json, path: str, waiver: Waiver = STRICT) -> Rule:
    """Raises the same errors as `enforceable`."""
    found = enforceable(schema, path, waiver)
    return Rule(json_text(found.schema), found.left_out, found.is_plain, found.hard)


def json_text(schema: Mapping[str, Json], writing: Mapping[str, Json] = WRITING) -> str:
    return f"%json {msgspec.json.encode({**schema, 'x-guidance': writing}).decode()}"


def enforceable(schema: Json, path: str, waiver: Waiver) -> Enforceable:
    """Raises UnsupportedParameter naming the path of a part that can't be enforced, InvalidRequest
    if it is not a schema or too large.
    """
    if waiver.level is Leniency.ALL:
        schema = {}  # it may be invalid
    try:
        num_bytes = len(json_of(schema))
    except RecursionError:
        raise InvalidRequest("The schema is nested too deeply.", path) from None
    if num_bytes > MAX_SCHEMA_BYTES:
        raise InvalidRequest(
            f"The schema has {num_bytes} bytes; at most {MAX_SCHEMA_BYTES} can be enforced.", path
        )
    found = prepared(schema, path, waiver)
    check_size(found.schema, path)
    known = list(objects(found.schema))
    is_simple = not any(combines(part) for part in known)
    plain = closed(found.schema) if is_simple else found.schema
    assert isinstance(plain, dict)
    size = len(msgspec.json.encode(plain))
    is_plain = is_simple and size <= MAX_PLAIN_CHARS and not any(map(is_hard, known))
    return Enforceable(plain, found.left_out, is_plain, found.hard)


def is_hard(schema: dict[str, Json]) -> bool:
    """Whether llguidance may take longer over it than its size suggests."""
    numbers = [schema[key] for key in BOUNDS if key in schema]
    counts = [schema[key] for key in ("minItems", "maxItems") if key in schema]
    return (
        bool(schema.keys() & {"pattern", "patternProperties", "multipleOf"})
        or any(isinstance(each, float) and each and abs(each) < 1e-9 for each in numbers)
        or any(isinstance(each, int | float) and each > MAX_PLAIN_ITEMS for each in counts)
    )


def check_size(schema: dict[str, Json], path: str) -> None:
    """Raises InvalidRequest if llguidance would take too long or recurse too deeply."""
    known = list(objects(schema))
    patterns = [part["pattern"] for part in known if isinstance(part.get("pattern"), str)]
    for part in known:
        named = part.get("patternProperties")
        patterns += named if isinstance(named, dict) else ()
    num_formats = sum("format" in part for part in known)
    lengths = [len(str(pattern)) for pattern in patterns]
    if max(lengths, default=0) > MAX_PATTERN_CHARS or sum(lengths) > MAX_PATTERNS_CHARS:
        raise InvalidRequest(
            f"A pattern can have at most {MAX_PATTERN_CHARS} characters, all patterns together "
            f"{MAX_PATTERNS_CHARS}.",
            path,
        )
    check_values(known, path)
    try:
        levels = longest_chain(schema)
    except RecursionError:
        levels = MAX_CHAIN + 1
    if levels > MAX_CHAIN:
        raise InvalidRequest(
            f"The schema has more than {MAX_CHAIN} levels, including those behind references.", path
        )
    visits = itertools.count()
    for part in known if len(patterns) + num_formats > MAX_COMBINED else ():
        if intersects(part) and num_patterns(schema, part, visits) > MAX_COMBINED:
            raise InvalidRequest(
                f"A value would have to satisfy more than {MAX_COMBINED} patterns and formats at "
                "once (allOf, or keywords beside $ref); combine some of them.",
                path,
            )


def check_values(known: list[dict[str, Json]], path: str) -> None:
    num_values = num_choices = 0
    for part in known:
        required = part.get("required")
        num_values += len(required) if isinstance(required, list) else 0
        num_values += count(part.get("const"))
        choices = part.get("enum")
        for choice in choices if isinstance(choices, list) else ():
            num_choices += 1
            num_values += count(choice) if isinstance(choice, dict | list) else 0
    if num_values > MAX_VALUES or num_choices > MAX_CHOICES:
        raise InvalidRequest(
            f"The schema has {num_values} names in required and values inside const and enum (at "
            f"most {MAX_VALUES} can be enforced), and {num_choices} choices (at most "
            f"{MAX_CHOICES}).",
            path,
        )


def count(value: Json) -> int:
    """Number of values and names inside."""
    found = list(inside(value))
    return len(found) + sum(len(item) for item in found if isinstance(item, dict))


def intersects(schema: dict[str, Json]) -> bool:
    """Whether a value has to satisfy two schemas at once."""
    together = schema.get("allOf")
    count = len(together) if isinstance(together, list) else 0
    others = schema.keys() - {"$defs", "allOf"}
    return count + len(others) > 1 and (count > 0 or bool(others & {"anyOf", "oneOf", "$ref"}))


def num_patterns(root: dict[str, Json], schema: Json, visits: Iterator[int]) -> int:
    """Number of patterns and formats in a schema and behind its references. `visits` counts the
    parts visited; after too many, the result exceeds MAX_COMBINED."""
    seen: set[int] = set()

    def below(part: Json) -> int:
        if not isinstance(part, dict) or id(part) in seen:
            return 0
        seen.add(id(part))
        if next(visits) > MAX_VISITS:
            return MAX_COMBINED + 1
        named = part.get("patternProperties")
        own = ("pattern" in part) + ("format" in part)
        own += len(named) if isinstance(named, dict) else 0
        inner = list(parts(part))
        if isinstance(reference := part.get("$ref"), str):
            inner.append(target_of(root, reference))
        return own + sum(map(below, inner))

    return below(schema)


def longest_chain(root: dict[str, Json]) -> int:
    """Levels of nested schemas; a schema that refers back to itself counts once."""
    levels: dict[int, int] = {}

    def below(schema: Json) -> int:
        if not isinstance(schema, dict):
            return 0
        if id(schema) not in levels:
            levels[id(schema)] = 0  # for references back to it
            inner = list(parts(schema))
            if isinstance(reference := schema.get("$ref"), str):
                inner.append(target_of(root, reference))
            levels[id(schema)] = 1 + max(map(below, inner), default=0)
        return levels[id(schema)]

    return below(root)


def parts(schema: dict[str, Json]) -> Iterator[Json]:
    """Yields the schemas directly inside it."""
    for key, value in schema.items():
        if key in SCHEMA_MAPS and isinstance(value, dict):
            yield from value.values()
        elif key in SCHEMA_LISTS and isinstance(value, list):
            yield from value
        elif key in SCHEMAS:
            yield value


def combines(schema: dict[str, Json]) -> bool:
    """Whether a value must satisfy several schemas at once, each covering a part of it."""
    says = schema.keys() - {"$defs"}
    return "allOf" in says or (len(says) > 1 and bool(says & {"anyOf", "oneOf", "$ref"}))


def objects(schema: Json) -> Iterator[dict[str, Json]]:
    """Yields the schema and all schemas in it, except booleans."""
    if isinstance(schema, dict):
        yield schema
        for part in parts(schema):
            yield from objects(part)


def closed(schema: Json) -> Json:
    """The schema, with no other properties in objects that name some and don't mention others: that
    is what clients mean, and small models would keep inventing more. Only for schemas of which no
    part `combines`."""
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Json] = {}
    for key, value in schema.items():
        if key in SCHEMA_MAPS and isinstance(value, dict):
            result[key] = {name: closed(part) for name, part in value.items()}
        elif key in SCHEMA_LISTS and isinstance(value, list):
            result[key] = [closed(part) for part in value]
        elif key in SCHEMAS:
            result[key] = closed(value)
        else:
            result[key] = value
    properties = result.get("properties")
    mentions_others = any(key in result for key in ("additionalProperties", "patternProperties"))
    if isinstance(properties, dict) and properties and not mentions_others:
        required = result.get("required", [])
        counts = result.get("minProperties", 0)
        is_enough = isinstance(counts, int | float) and counts <= len(properties)
        if isinstance(required, list) and is_enough and all(n in properties for n in required):
            result["additionalProperties"] = False
    return result
