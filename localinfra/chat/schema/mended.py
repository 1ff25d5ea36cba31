"""Repairs the mistakes that generators of tools make in JSON Schema. Pure.

For lenient schemas only: an odd keyword is read as it is meant, or left out.
"""

import math

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import KEYWORDS, LIST_KEYS, MAP_KEYS, SCHEMA_MAP, as_map

# Names of types in languages that schemas are generated from.
SYNONYMS = {
    **dict.fromkeys(("str", "text", "char"), "string"),
    **dict.fromkeys(("int", "long", "short", "int32", "int64", "uint"), "integer"),
    **dict.fromkeys(("float", "double", "decimal", "float32", "float64"), "number"),
    **dict.fromkeys(("bool",), "boolean"),
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    **dict.fromkeys(("dict", "map", "struct", "record"), "object"),
    **dict.fromkeys(("none", "nil", "undefined"), "null"),
}
NUMBERS = frozenset(
    key for key, (is_right, _) in KEYWORDS.items() if is_right(3) and not is_right("a")
) - {"additionalProperties", "const"}


def mended(key: str, value: Json) -> Json:
    """The value, repaired if its meaning is clear."""
    if key == "type":
        return mended_type(value)
    if key == "required" and isinstance(value, str):
        return [value]
    if key in NUMBERS and isinstance(value, str):
        return as_number(value)
    return value


def mended_type(value: Json) -> Json:
    if isinstance(value, list):
        return ["null" if each is None else synonym(each) for each in value]
    return synonym(value)


def synonym(name: Json) -> Json:
    return SYNONYMS.get(name.lower(), name) if isinstance(name, str) else name


def as_number(text: str) -> Json:
    try:
        number = float(text) if len(text) < 40 else math.nan
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def is_readable(key: str, value: Json) -> bool:
    """Whether the keyword's value can be used, even if not all schemas in it can."""
    if key in LIST_KEYS:
        return isinstance(value, list) and bool(value)
    if key in MAP_KEYS or KEYWORDS.get(key) is SCHEMA_MAP:
        return isinstance(value, dict)
    if key == "items" and isinstance(value, list):
        return True
    return key not in KEYWORDS or KEYWORDS[key][0](value)


def required_by_themselves(properties: Json) -> list[Json]:
    """Names of properties that contain `required: true`, as in draft 3."""
    parts = as_map(properties).items()
    return [name for name, part in parts if as_map(part).get("required") is True]
