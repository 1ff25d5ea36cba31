"""The keywords of JSON Schema, in all drafts and OpenAPI: their valid values, and which of them
llguidance knows. Pure data, and the check of one keyword's value.
"""

from collections.abc import Callable, Iterator

from localinfra.chat.messages import Json
from localinfra.errors import InvalidRequest

TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")

# Keywords that don't affect which values are valid, in addition to those that begin with x-.
ANNOTATIONS = frozenset(
    [
        *("$schema", "$id", "id", "$comment", "$anchor", "$dynamicAnchor", "$vocabulary"),
        *("title", "description", "default", "example", "examples", "readOnly", "writeOnly"),
        *("deprecated", "markdownDescription", "contentMediaType", "contentEncoding", "strict"),
        *("contentSchema", "discriminator", "externalDocs", "xml", "propertyOrdering"),
        *("enumNames", "enumDescriptions", "errorMessage", "$recursiveAnchor", "components"),
    ]
)
FORMATS = frozenset(
    [
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
        *("uri", "unknown"),
    ]
)
# Formats that describe how a number is stored or a text is displayed.
HINTS = frozenset(
    [
        *("int", "integer", "long", "short", "number", "float", "double", "decimal", "password"),
        *("int8", "int16", "int32", "int64", "int128", "uint", "uint8", "uint16", "uint32"),
        *("uint64", "uint128", "float16", "float32", "float64", "decimal128"),
    ]
)


# --- checks of a keyword's value ------------------------------------------------------------------


def is_text(value: Json) -> bool:
    return isinstance(value, str)


def is_flag(value: Json) -> bool:
    return isinstance(value, bool)


def is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Json) -> bool:
    return (
        isinstance(value, int | float) and is_number(value) and value >= 0 and value == value // 1
    )


def is_schema(value: Json) -> bool:
    return isinstance(value, dict | bool)


def is_schema_map(value: Json) -> bool:
    return isinstance(value, dict) and all(map(is_schema, value.values()))


def is_schema_list(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_schema, value))


def is_names(value: Json) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_type(value: Json) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name.lower() in TYPES for name in names)


Check = Callable[[Json], bool]
SCHEMA: tuple[Check, str] = (is_schema, "a schema: an object or a boolean")
SCHEMAS: tuple[Check, str] = (is_schema_list, "a list of at least one schema")
SCHEMA_MAP: tuple[Check, str] = (is_schema_map, "an object of schemas")
COUNT: tuple[Check, str] = (is_count, "a whole number, 0 or more")
NUMBER: tuple[Check, str] = (is_number, "a number")
TEXT: tuple[Check, str] = (is_text, "a string")
FLAG: tuple[Check, str] = (is_flag, "true or false")
LIMIT: tuple[Check, str] = (lambda v: is_number(v) or is_flag(v), "a number (draft 4: a boolean)")
NAMES: tuple[Check, str] = (is_names, "a list of strings")

ENFORCED: dict[str, tuple[Check, str]] = {
    "type": (is_type, f"one of {', '.join(TYPES)}, or a list of some"),
    "enum": (lambda v: isinstance(v, list) and bool(v), "a list of at least one value"),
    "const": (lambda v: True, "any value"),
    "$ref": TEXT,
    "properties": SCHEMA_MAP,
    "patternProperties": SCHEMA_MAP,
    "additionalProperties": SCHEMA,
    "required": NAMES,
    "minProperties": COUNT,
    "maxProperties": COUNT,
    "items": (
        lambda v: is_schema(v) or (isinstance(v, list) and all(map(is_schema, v))),
        "a schema, or a list of schemas",
    ),
    "prefixItems": SCHEMAS,
    "additionalItems": SCHEMA,
    "minItems": COUNT,
    "maxItems": COUNT,
    "minLength": COUNT,
    "maxLength": COUNT,
    "pattern": TEXT,
    "format": TEXT,
    "minimum": NUMBER,
    "maximum": NUMBER,
    "exclusiveMinimum": LIMIT,
    "exclusiveMaximum": LIMIT,
    "multipleOf": (lambda v: isinstance(v, int | float) and is_number(v) and v > 0, "above 0"),
    "anyOf": SCHEMAS,
    "allOf": SCHEMAS,
    "oneOf": SCHEMAS,
    "nullable": FLAG,
    "$defs": SCHEMA_MAP,
    "definitions": SCHEMA_MAP,
}
# In the drafts, but unknown to llguidance.
OTHERS: dict[str, tuple[Check, str]] = {
    "not": SCHEMA,
    "if": SCHEMA,
    "then": SCHEMA,
    "else": SCHEMA,
    "propertyNames": SCHEMA,
    "contains": SCHEMA,
    "minContains": COUNT,
    "maxContains": COUNT,
    "uniqueItems": FLAG,
    "unevaluatedProperties": SCHEMA,
    "unevaluatedItems": SCHEMA,
    "dependentSchemas": SCHEMA_MAP,
    "dependentRequired": (
        lambda v: isinstance(v, dict) and all(map(is_names, v.values())),
        "an object of lists of strings",
    ),
    "dependencies": (lambda v: isinstance(v, dict), "an object"),
    "$dynamicRef": TEXT,
    "$recursiveRef": TEXT,
}
KEYWORDS = {**ENFORCED, **OTHERS}
WITHOUT_EFFECT: dict[str, tuple[Json, ...]] = {
    "uniqueItems": (False,),
    "not": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentSchemas": ({},),
    "dependentRequired": ({},),
    "dependencies": ({},),
}
LIST_KEYS = ("anyOf", "allOf", "oneOf", "prefixItems")
MAP_KEYS = ("properties", "patternProperties")
SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MOST = ("maxLength", "maxItems", "maxProperties")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
IN_PLACE = ("anyOf", "allOf", "oneOf", "$ref")


def check_type(key: str, value: Json, path: str, schema: str) -> None:
    """Raises InvalidRequest naming `path`, or the path of the `schema` for an unknown type."""
    if key in KEYWORDS:
        is_right, what = KEYWORDS[key]
        if not is_right(value):
            is_name = key == "type" and isinstance(value, str)
            raise InvalidRequest(f"{path[:200]} must be {what}.", schema if is_name else path)


def as_map(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def inside(value: Json) -> Iterator[Json]:
    """Yields a JSON value and all values nested in it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, list | dict):
            waiting += item.values() if isinstance(item, dict) else item
