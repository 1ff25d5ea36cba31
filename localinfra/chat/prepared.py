"""A client's JSON Schema → one of which llguidance knows every word.

Pure. Follows references, says the same in other words where it can, and names what it leaves out.
"""

import functools
from collections import deque
from decimal import Decimal
from enum import IntEnum
from urllib.parse import unquote

import msgspec

from localinfra.chat.keywords import (
    ANNOTATIONS,
    BOUNDS,
    ENFORCED,
    FORMATS,
    HINTS,
    IN_PLACE,
    LIST_KEYS,
    MAP_KEYS,
    WITHOUT_EFFECT,
    as_map,
    check_type,
    inside,
    is_schema,
)
from localinfra.chat.messages import Json
from localinfra.errors import InvalidRequest, UnsupportedParameter

MAX_SCHEMA_DEPTH = 100
MAX_PARTS = 4000  # schemas in a schema
MAX_EXACT = 2**53  # llguidance's numbers are doubles
MAX_MULTIPLE = 10_000  # it makes an automaton of as many states: 40 ms, and minutes for 10 million

# What makes a schema one that llguidance may refuse or be long about.
HARD = ("pattern", "patternProperties", "format", "multipleOf")


class Leniency(IntEnum):
    """How much of a schema may be left out; each level leaves out what those before it do."""

    NOTHING = 0  # that decides about a value
    UNKNOWN = 1  # what llguidance does not know
    ONE_OF = 2  # that no two of `oneOf` are valid at once, which it can't always see
    HARD = 3  # patterns, formats and multiples
    ALL = 4  # any object will do


class Prepared(msgspec.Struct, frozen=True):
    """A schema of which llguidance knows every word, and the paths of what is not in it."""

    schema: dict[str, Json]
    left_out: tuple[str, ...] = ()


def prepared(schema: Json, path: str, leniency: Leniency) -> Prepared:
    """Raises UnsupportedParameter, naming the path, for what would have to be left out beyond
    `leniency`; hints such as the format of a number always are. Raises InvalidRequest where it is
    no schema or too large.
    """
    found = Reader(schema, path, leniency).read()
    if leniency is Leniency.ALL:
        return Prepared({"type": "object"}, (path,))
    return found


class Reader:
    """One schema on its way. References lead to `$defs` of the result, whatever they pointed at."""

    def __init__(self, root: Json, path: str, leniency: Leniency):
        self._root = root
        self._path = path
        self._leniency = leniency
        self._is_strict = leniency is Leniency.NOTHING
        self._num_parts = 0
        self._left_out: list[str] = []
        self._names: dict[int, str] = {}  # of definitions, by the identity of what they define
        self._waiting: deque[tuple[str, Json, str]] = deque()  # definitions: name, schema, path
        self._used: set[str] = set()

    def read(self) -> Prepared:
        result = self._schema(self._root, self._path, 0)
        definitions: dict[str, Json] = {}
        while self._waiting:
            name, schema, path = self._waiting.popleft()
            definitions[name] = self._schema(schema, path, 0)
        if not isinstance(result, dict):
            result = {} if result else {"enum": []}
        used = {name: part for name, part in definitions.items() if name in self._used}
        if used:
            result = {**result, "$defs": used}
        return Prepared(result, tuple(dict.fromkeys(self._left_out)))

    def _leave_out(self, path: str, problem: str) -> None:
        if self._is_strict:
            raise UnsupportedParameter(problem, path)
        self._left_out.append(path)

    def _schema(self, schema: Json, path: str, depth: int) -> Json:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise InvalidRequest(f"{path[:200]} must be a schema: an object or a boolean.", path)
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise InvalidRequest(f"The schema has more than {MAX_PARTS} parts.", self._path)
        if depth > MAX_SCHEMA_DEPTH:
            raise InvalidRequest(
                f"The schema is nested more than {MAX_SCHEMA_DEPTH} deep.", self._path
            )
        said: dict[str, Json] = {}
        for key, value in schema.items():
            at = f"{path}.{key}"
            if value is None and key != "const":
                continue  # as good as nothing
            if key in ANNOTATIONS:
                continue
            if key.startswith("x-") or ":" in key:
                self._left_out.append(at)  # extensions: everyone's own
                continue
            check_type(key, value, at, self._path)
            if key in HARD and self._leniency >= Leniency.HARD:
                self._left_out.append(at)
            elif key in ENFORCED:
                said[key] = value
                if key == "oneOf" and self._leniency >= Leniency.ONE_OF:
                    self._left_out.append(at)
            else:
                self._other(said, schema, key, at)
        return self._rewritten(said, path, depth)

    def _other(self, said: dict[str, Json], schema: dict[str, Json], key: str, at: str) -> None:
        """A keyword that llguidance does not know."""
        value = schema[key]
        is_alone = not any(other in schema for other in (*IN_PLACE, "if", "dependentSchemas"))
        if value in WITHOUT_EFFECT.get(key, ()):
            self._left_out += [at] if key == "propertyNames" else []
        elif key == "unevaluatedProperties" and is_alone:
            if schema.get("additionalProperties") is None:
                said["additionalProperties"] = value
        else:
            self._leave_out(
                at,
                f"The schema's keyword {key[:100]!r} can't be enforced here; leave it out, or say "
                "the same with others.",
            )

    def _rewritten(self, said: dict[str, Json], path: str, depth: int) -> Json:
        for key in ("$defs", "definitions"):
            for name, part in as_map(said.pop(key, None)).items():
                self._definition(part, f"{path}.{key}.{name}")
        written = as_draft_2020(said)
        is_nullable = bool(said.pop("nullable", False))
        result: dict[str, Json] = {}
        for key, value in said.items():
            at = f"{path}.{written.get(key, key)}"
            if key in MAP_KEYS:
                result[key] = {
                    name: self._schema(part, f"{at}.{name}", depth + 1)
                    for name, part in as_map(value).items()
                }
            elif key in LIST_KEYS and isinstance(value, list):
                result[key] = [
                    self._schema(part, f"{at}[{index}]", depth + 1)
                    for index, part in enumerate(value)
                ]
            elif key in ("items", "additionalProperties"):
                result[key] = self._schema(value, at, depth + 1)
            elif key == "$ref" and isinstance(value, str):
                if (reference := self._reference(value, at)) is not None:
                    result[key] = reference
            elif key == "type":
                names = value if isinstance(value, list) else [value]
                lower: list[Json] = list(dict.fromkeys(str(name).lower() for name in names))
                result[key] = lower if isinstance(value, list) else lower[0]
            elif key == "format" and value not in FORMATS:
                self._format(value, at)
            elif self._is_exact(key, value, at):
                result[key] = clamped(key, value)
        self._least(result, path)
        return or_null(result) if is_nullable else result

    def _format(self, name: Json, at: str) -> None:
        if isinstance(name, str) and name.lower() in HINTS:
            self._left_out.append(at)
        else:
            known = ", ".join(sorted(FORMATS))
            self._leave_out(at, f"The format {str(name)[:100]!r} is not among {known}.")

    def _is_exact(self, key: str, value: Json, at: str) -> bool:
        if key == "multipleOf" and num_states(value) > MAX_MULTIPLE:
            self._leave_out(
                at, f"Multiples can be enforced of numbers with up to {MAX_MULTIPLE} as digits."
            )
            return False
        if clamped(key, value) != value:
            return True
        if all(abs(n) <= MAX_EXACT for n in inside(value) if isinstance(n, int | float)):
            return True
        self._leave_out(
            at,
            f"Numbers beyond ±{MAX_EXACT} (2^53) can't be compared exactly; write them as strings.",
        )
        return False

    def _least(self, result: dict[str, Json], path: str) -> None:
        least = result.get("minProperties", 0)
        if isinstance(least, int | float) and least > max(len(as_map(result.get("properties"))), 1):
            self._leave_out(
                f"{path}.minProperties",
                "More minProperties than named properties can't be enforced: the same name could "
                "come twice.",
            )
            del result["minProperties"]

    # References.

    @functools.cached_property
    def _anchors(self) -> dict[str, Json]:
        """What they name."""
        anchored = [part for part in inside(self._root) if isinstance(part, dict)]
        return {str(part["$anchor"]): part for part in anchored if "$anchor" in part}

    def _reference(self, reference: str, at: str) -> str | None:
        """Where it leads in the result; None where it is left out."""
        own = self._root.get("$id") if isinstance(self._root, dict) else None
        if isinstance(own, str) and own and reference.startswith(own.rstrip("#")):
            reference = reference.removeprefix(own.rstrip("#")) or "#"
        if not reference.startswith("#"):
            self._leave_out(
                at,
                "Only references inside the schema (#/…) can be followed; put what it refers to "
                "under $defs.",
            )
            return None
        target = self._anchors.get(reference[1:]) or referred(self._root, reference)
        if not is_schema(target):
            if self._is_strict:
                raise InvalidRequest(
                    f"The reference {reference[:200]!r} points at no schema; put what it refers to "
                    "under $defs.",
                    self._path,
                )
            self._left_out.append(at)
            return None
        if target is self._root:
            return "#"
        pointed = ".".join(unquote(step) for step in reference.removeprefix("#/").split("/"))
        name = self._definition(target, f"{self._path}.{pointed}")
        self._used.add(name)
        return f"#/$defs/{name}"

    def _definition(self, schema: Json, path: str) -> str:
        # Booleans have no identity of their own.
        key = id(schema) if isinstance(schema, dict) else -1 - int(bool(schema))
        if key not in self._names:
            self._names[key] = f"d{len(self._names)}"
            self._waiting.append((self._names[key], schema, path))
        return self._names[key]


def as_draft_2020(said: dict[str, Json]) -> dict[str, str]:
    """Earlier drafts' ways, in place: tuples in `items`, and exclusive limits as flags. Returns
    what new names were written as."""
    written = {}
    items, others = said.get("items"), said.pop("additionalItems", None)
    if isinstance(items, list):
        del said["items"]
        if items:
            said["prefixItems"], written["prefixItems"] = items, "items"
        if others is not None:
            said["items"], written["items"] = others, "additionalItems"
    for flag, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        is_exclusive = said.get(flag)
        if isinstance(is_exclusive, bool):
            del said[flag]
            if is_exclusive and limit in said:
                said[flag] = said.pop(limit)
    return written


def num_states(multiple: Json) -> int:
    """Of an automaton that knows the multiples: the number without its decimal point."""
    digits = Decimal(str(multiple)).as_tuple()
    exponent = digits.exponent if isinstance(digits.exponent, int) else 0
    shift: int = 10 ** min(max(exponent, 0), 9)
    return int("".join(map(str, digits.digits))) * shift


def clamped(key: str, value: Json) -> Json:
    """A limit beyond what doubles tell apart, as those of 64-bit integers, at their border: what
    lies within is within the client's too."""
    if key not in BOUNDS or not isinstance(value, int | float) or isinstance(value, bool):
        return value
    if key in ("minimum", "exclusiveMinimum"):
        return -MAX_EXACT if value < -MAX_EXACT else value
    return MAX_EXACT if value > MAX_EXACT else value


def or_null(schema: dict[str, Json]) -> dict[str, Json]:
    """OpenAPI's `nullable: true`."""
    kind = schema.get("type")
    values = schema.get("enum")
    if kind is not None and "const" not in schema and not schema.keys() & set(IN_PLACE):
        kinds = kind if isinstance(kind, list) else [kind]
        wider = {**schema, "type": [*kinds, *([] if "null" in kinds else ["null"])]}
        if isinstance(values, list) and None not in values:
            wider["enum"] = [*values, None]
        return wider
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def referred(root: Json, reference: str) -> Json:
    """What a JSON pointer points at; None where that is nothing, or a mere value."""
    if reference in ("#", "#/"):
        return root
    if not reference.startswith("#/"):
        return None
    value = root
    is_keyword = True  # a step into a schema is; one into its properties is a name
    for step in reference.removeprefix("#/").split("/"):
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if is_keyword and step in ("const", "enum", "default", "example", "examples"):
            return None
        is_keyword = not (is_keyword and step in (*MAP_KEYS, "$defs", "definitions"))
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdecimal():
            value = value[int(step)] if len(step) < 6 and int(step) < len(value) else None
        else:
            value = None
    return value
