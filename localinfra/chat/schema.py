"""JSON Schemas of clients: what can be enforced, and where one asks for more.

Pure. Knows what llguidance does with each keyword; compiles nothing.
"""

from collections.abc import Iterator
from urllib.parse import unquote

import msgspec

from localinfra.chat.messages import Json
from localinfra.errors import InvalidRequest, UnsupportedParameter

# llguidance compiles schemas within these bounds in two seconds, and in a thread's stack: it ends
# the process on a chain of 2,000 references.
MAX_SCHEMA_BYTES = 512 * 1024
MAX_SCHEMA_DEPTH = 100
MAX_CHAIN = 200  # levels, with those behind references
MAX_PARTS = 4000  # schemas in a schema
MAX_VALUES = 3000  # names in `required`, and what stands inside `const` and `enum`
MAX_CHOICES = 20_000  # plain values in `enum`
MAX_COMBINED = 8  # patterns and formats that one value may have to satisfy: it tries all subsets
MAX_PATTERN_CHARS = 2000
MAX_PATTERNS_CHARS = 20_000  # together
MAX_EXACT = 2**53  # llguidance's numbers are doubles

# Keywords that say nothing about which values are valid.
ANNOTATIONS = frozenset(
    [
        *("$schema", "$id", "id", "$comment", "$anchor", "title", "description", "default"),
        *("example", "examples", "readOnly", "writeOnly", "deprecated", "markdownDescription"),
        *("contentMediaType", "contentEncoding", "strict", "discriminator", "nullable"),
    ]
)
SCHEMA_MAPS = frozenset(["properties", "patternProperties", "$defs", "definitions"])
SCHEMA_LISTS = frozenset(["anyOf", "allOf", "oneOf", "prefixItems"])
SCHEMAS = frozenset(["items", "additionalProperties", "additionalItems"])
VALUES = frozenset(
    [
        *("type", "const", "enum", "$ref", "required", "minItems", "maxItems"),
        *("minProperties", "maxProperties", "minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    ]
)
FORMATS = frozenset(
    [
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
        *("uri", "unknown"),
    ]
)
KNOWN = ANNOTATIONS | SCHEMA_MAPS | SCHEMA_LISTS | SCHEMAS | VALUES

# One way to write a value: a small model can't lose itself in blanks, and more tokens are certain.
WRITING: dict[str, Json] = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    # No \\u: a name could be written so that it escapes what is said of it.
    "json_allowed_escapes": 'nrbtf\\"',
}


def json_rule(schema: dict[str, Json], path: str) -> str:
    """A schema → the right side of a rule in llguidance's Lark.

    Raises UnsupportedParameter naming the path of what can't be enforced, InvalidRequest where it
    is no schema or too large.
    """
    text = msgspec.json.encode(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(
            f"The schema has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} can be enforced.", path
        )
    check(schema, path)
    check_size(schema, path)
    is_simple = not any(combines(part) for part in objects(schema))
    plain = closed(schema) if is_simple else schema
    assert isinstance(plain, dict)
    plain = {**plain, "x-guidance": WRITING}
    return f"%json {msgspec.json.encode(plain).decode()}"


def check(schema: Json, path: str, depth: int = 0) -> None:
    """Looks for what would not be enforced. Raises as `json_rule`."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path} must be a schema: an object or a boolean.", path)
    if depth > MAX_SCHEMA_DEPTH:
        raise InvalidRequest(f"The schema is nested more than {MAX_SCHEMA_DEPTH} deep.", path)
    for key, value in schema.items():
        at = f"{path}.{key}"
        if key not in KNOWN:
            raise UnsupportedParameter(
                f"The schema's keyword {key!r} can't be enforced here; leave it out, or say the "
                "same with others.",
                at,
            )
        for place, part in parts(key, value, at):
            check(part, place, depth + 1)
        check_value(key, value, at)
    properties, least = schema.get("properties"), schema.get("minProperties", 0)
    num_named = len(properties) if isinstance(properties, dict) else 0
    if isinstance(least, int | float) and least > max(num_named, 1):
        raise UnsupportedParameter(
            "More minProperties than named properties can't be enforced: the same name could come "
            "twice.",
            f"{path}.minProperties",
        )


def check_size(schema: dict[str, Json], path: str) -> None:
    """Refuses what would take llguidance too long or too deep; after `check`."""
    known = list(objects(schema))
    patterns = [part["pattern"] for part in known if isinstance(part.get("pattern"), str)]
    for part in known:
        named = part.get("patternProperties")
        patterns += named if isinstance(named, dict) else ()
    lengths = [len(str(pattern)) for pattern in patterns]
    if max(lengths, default=0) > MAX_PATTERN_CHARS or sum(lengths) > MAX_PATTERNS_CHARS:
        raise InvalidRequest(
            f"A pattern can have {MAX_PATTERN_CHARS} characters, all together "
            f"{MAX_PATTERNS_CHARS}.",
            path,
        )
    if len(known) > MAX_PARTS:
        raise InvalidRequest(f"The schema has more than {MAX_PARTS} parts.", path)
    check_values(known, path)
    check_references(schema, known, path)
    try:
        levels = longest_chain(schema)
    except RecursionError:
        levels = MAX_CHAIN + 1
    if levels > MAX_CHAIN:
        raise InvalidRequest(
            f"The schema has more than {MAX_CHAIN} levels, with those behind references.", path
        )
    for part in known:
        if intersects(part) and num_patterns(schema, part) > MAX_COMBINED:
            raise InvalidRequest(
                f"A value would have to satisfy more than {MAX_COMBINED} patterns and formats at "
                "once (allOf, or others beside $ref); join them into fewer.",
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
            f"The schema has {num_values} names in required and values inside const and enum, of "
            f"which {MAX_VALUES} can be enforced, and {num_choices} choices, of {MAX_CHOICES}.",
            path,
        )


def count(value: Json) -> int:
    """Values and names inside."""
    found = list(inside(value))
    return len(found) + sum(len(item) for item in found if isinstance(item, dict))


def check_references(schema: dict[str, Json], known: list[dict[str, Json]], path: str) -> None:
    """Each must point at a schema that was checked, not into values or annotations."""
    checked = {id(part) for part in known}
    for part in known:
        reference = part.get("$ref")
        if isinstance(reference, str):
            target = referred(schema, reference)
            if not isinstance(target, bool) and id(target) not in checked:
                raise InvalidRequest(
                    f"The reference {reference[:200]!r} points at no schema; put what it refers to "
                    "under $defs.",
                    path,
                )


def intersects(schema: dict[str, Json]) -> bool:
    """Whether a value has to satisfy two schemas at once."""
    together = schema.get("allOf")
    count = len(together) if isinstance(together, list) else 0
    others = schema.keys() - ANNOTATIONS - {"$defs", "definitions", "allOf"}
    return count + len(others) > 1 and (count > 0 or bool(others & {"anyOf", "oneOf", "$ref"}))


def num_patterns(root: dict[str, Json], schema: Json) -> int:
    """Patterns and formats in a schema and behind its references, each as often as it is said."""
    seen: set[int] = set()

    def below(part: Json) -> int:
        if not isinstance(part, dict) or id(part) in seen:
            return 0
        seen.add(id(part))
        named = part.get("patternProperties")
        own = ("pattern" in part) + ("format" in part)
        own += len(named) if isinstance(named, dict) else 0
        inner = [each for key, value in part.items() for _, each in parts(key, value, "")]
        if isinstance(reference := part.get("$ref"), str):
            inner.append(referred(root, reference))
        return own + sum(map(below, inner))

    return below(schema)


def longest_chain(root: dict[str, Json]) -> int:
    """Levels of schemas below each other; what refers back to itself counts once."""
    levels: dict[int, int] = {}

    def below(schema: Json) -> int:
        if not isinstance(schema, dict):
            return 0
        if id(schema) not in levels:
            levels[id(schema)] = 0  # for who refers back to it
            inner = [part for key, value in schema.items() for _, part in parts(key, value, "")]
            if isinstance(reference := schema.get("$ref"), str):
                inner.append(referred(root, reference))
            levels[id(schema)] = 1 + max(map(below, inner), default=0)
        return levels[id(schema)]

    return below(root)


def referred(root: dict[str, Json], reference: str) -> Json:
    """What a JSON pointer points at; None where it is nothing, which llguidance will say."""
    value: Json = root
    if not reference.startswith("#/"):
        return root if reference == "#" else None
    for step in reference.removeprefix("#/").split("/"):
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdecimal():
            value = value[int(step)] if len(step) < 6 and int(step) < len(value) else None
        else:
            value = None
    return value


def check_value(key: str, value: Json, path: str) -> None:
    if key == "format" and value not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise UnsupportedParameter(f"The format {value!r} is not among {known}.", path)
    if key == "$ref" and not (isinstance(value, str) and value.startswith("#")):
        raise UnsupportedParameter(
            "Only references inside the schema (#/…) can be followed; put what it refers to under "
            "$defs.",
            path,
        )
    if key in VALUES and any(
        abs(item) > MAX_EXACT for item in inside(value) if isinstance(item, int | float)
    ):
        raise UnsupportedParameter(
            f"Numbers beyond ±{MAX_EXACT} (2^53) can't be compared exactly; write them as strings.",
            path,
        )
    if key == "nullable" and value:
        raise UnsupportedParameter('Use "type": [..., "null"] instead of nullable.', path)


def inside(value: Json) -> Iterator[Json]:
    """A JSON value and all in it, however deep."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, list | dict):
            waiting += item.values() if isinstance(item, dict) else item


def parts(key: str, value: Json, path: str) -> Iterator[tuple[str, Json]]:
    """The schemas in a keyword's value, and where they are. Raises InvalidRequest."""
    if key in SCHEMA_MAPS:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path} must be an object of schemas.", path)
        yield from ((f"{path}.{name}", part) for name, part in value.items())
    elif key in SCHEMA_LISTS:
        if not isinstance(value, list):
            raise InvalidRequest(f"{path} must be a list of schemas.", path)
        yield from ((f"{path}[{at}]", part) for at, part in enumerate(value))
    elif key in SCHEMAS:
        yield path, value


def combines(schema: dict[str, Json]) -> bool:
    """Whether a value has to satisfy several schemas at once, each of which says a part."""
    says = schema.keys() - ANNOTATIONS - {"$defs", "definitions"}
    return "allOf" in says or (len(says) > 1 and bool(says & {"anyOf", "oneOf", "$ref"}))


def objects(schema: Json) -> Iterator[dict[str, Json]]:
    """The schema and all in it that have keywords."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            for _, part in parts(key, value, ""):
                yield from objects(part)


def closed(schema: Json) -> Json:
    """The same, where objects that name their properties and don't mention others have no others:
    what everyone means, and a small model would go on inventing some. Only for schemas of which no
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
