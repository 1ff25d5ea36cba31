"""A client's JSON Schema → one that llguidance can enforce.

Pure. Follows references, rewrites keywords where it can, and lists the paths it leaves out.
"""

import functools
from collections import deque
from enum import IntEnum
from urllib.parse import unquote

import msgspec

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import (
    ANNOTATIONS,
    ENFORCED,
    FORMATS,
    HINTS,
    IN_PLACE,
    LIST_KEYS,
    MAP_KEYS,
    MOST,
    SIZES,
    WITHOUT_EFFECT,
    as_map,
    check_type,
    inside,
    is_schema,
)
from localinfra.chat.schema.mended import is_readable, mended, required_by_themselves
from localinfra.chat.schema.one_of import Exclusion, tagged
from localinfra.chat.schema.rewording import MAX_EXACT, as_draft_2020, clamped, num_states, or_null
from localinfra.errors import InvalidRequest, UnsupportedParameter

MAX_SCHEMA_DEPTH = 100
MAX_PARTS = 4000  # schemas in a schema
# A path contains all names above it: one of 100 kB around 4,000 parts would be in all their paths.
MAX_PATH_CHARS = 500
MAX_MULTIPLE = 10_000  # states of its automaton: 40 ms to build, and minutes for 10 million

# Keywords that llguidance may refuse or take long to compile.
HARD = ("pattern", "patternProperties", "format", "multipleOf")


class Leniency(IntEnum):
    """How much of a schema may be left out; each level includes those before it."""

    NOTHING = 0  # that affects which values are valid
    ONE_OF = 1  # that choices of `oneOf` exclude each other, where that can't be proven
    UNKNOWN = 2  # keywords that llguidance does not know, and invalid ones
    HARD = 3  # patterns, formats and multiples
    ALL = 4  # any object will do


class Waiver(msgspec.Struct, frozen=True):
    """The parts of a schema that need not be enforced."""

    level: Leniency = Leniency.NOTHING
    paths: frozenset[str] = frozenset()  # of keywords, and of schemas


STRICT = Waiver()


class Hard(msgspec.Struct, frozen=True):
    """A keyword that llguidance may refuse."""

    path: str
    key: str
    value: Json


class Prepared(msgspec.Struct, frozen=True):
    """A schema that llguidance can enforce, and the paths of the parts left out."""

    schema: dict[str, Json]
    left_out: tuple[str, ...] = ()
    hard: tuple[Hard, ...] = ()


def prepared(schema: Json, path: str, waiver: Waiver) -> Prepared:
    """Leaves out hints, such as the format of a number, and what the waiver allows.

    Raises UnsupportedParameter naming the path if more would have to be left out, InvalidRequest if
    it is not a schema or too large.
    """
    if waiver.level is Leniency.ALL:
        return Prepared({"type": "object"}, (path,))
    return SchemaReader(schema, path, waiver).read()


class SchemaReader:
    """Rewrites one schema. In the result, the targets of references are in `$defs`."""

    def __init__(self, root: Json, path: str, waiver: Waiver):
        self._root = root
        self._path = path
        self._waiver = waiver
        self._is_strict = waiver.level < Leniency.UNKNOWN
        self._targets: dict[str, Json] = {}  # by reference
        self._tags = tagged(inside(root), self._follow)
        self._exclusion = Exclusion(self._follow, self._tags)
        self._hard: list[Hard] = []
        self._num_parts = 0
        self._left_out: list[str] = []
        self._names: dict[int, str] = {}  # id() of a schema → the name of its definition
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
        return Prepared(result, tuple(dict.fromkeys(self._left_out)), tuple(self._hard))

    def _leave_out(self, path: str, problem: str) -> None:
        if self._is_strict:
            raise UnsupportedParameter(problem, path)
        self._left_out.append(path)

    def _schema(self, schema: Json, path: str, depth: int) -> Json:
        if isinstance(schema, bool):
            return schema
        if len(path) > MAX_PATH_CHARS:
            path = f"{path[:MAX_PATH_CHARS]}..."
        is_waived = path in self._waiver.paths
        if is_waived or (not self._is_strict and not isinstance(schema, dict)):
            self._left_out.append(path)
            return True
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
            if (value is None and key != "const") or key in ANNOTATIONS:
                continue  # no effect
            self._keyword(said, schema, key, value, f"{path}.{key}")
        more: list[Json] = [*self._tags.get(id(schema), ())]
        more += [] if self._is_strict else required_by_themselves(said.get("properties"))
        if more:
            required = said.get("required")
            more = [*required, *more] if isinstance(required, list) else more
            said["required"] = list(dict.fromkeys(map(str, more)))
        return self._rewritten(said, path, depth)

    def _keyword(
        self, said: dict[str, Json], schema: dict[str, Json], key: str, value: Json, at: str
    ) -> None:
        if self._is_strict and not is_extension(key):
            check_type(key, value, at, self._path)
        elif key == "required" and isinstance(value, bool):
            return  # draft 3: belongs to the object around it
        else:
            value = mended(key, value)
        is_hard = key in HARD
        if (
            is_extension(key)  # vendor-specific
            or at in self._waiver.paths
            or (is_hard and self._waiver.level >= Leniency.HARD)
            or (not self._is_strict and not is_readable(key, value))
        ):
            self._left_out.append(at)
        elif key in ENFORCED:
            said[key] = value
            if key == "oneOf" and not self._exclusion.is_proven(value):
                self._one_of(at)
            if is_hard:
                self._hard.append(Hard(at, key, value))
        else:
            self._other(said, schema, key, value, at)

    def _one_of(self, at: str) -> None:
        if self._waiver.level < Leniency.ONE_OF:
            raise UnsupportedParameter(
                "The choices of this oneOf may overlap, so it can't be enforced: give each choice "
                "a required property with a const of its own, or use anyOf.",
                at,
            )
        self._left_out.append(at)

    def _other(
        self, said: dict[str, Json], schema: dict[str, Json], key: str, value: Json, at: str
    ) -> None:
        """Handles a keyword that llguidance does not know."""
        is_alone = not any(other in schema for other in (*IN_PLACE, "if", "dependentSchemas"))
        if value in WITHOUT_EFFECT.get(key, ()):
            self._left_out += [at] if key == "propertyNames" else []
        elif key == "unevaluatedProperties" and is_alone:
            if schema.get("additionalProperties") is None:
                said["additionalProperties"] = value
        else:
            self._leave_out(
                at,
                f"The schema's keyword {key[:100]!r} can't be enforced here; remove it, or replace "
                "it with other keywords.",
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
            elif key in MOST and isinstance(value, int | float) and value > MAX_EXACT:
                pass  # no answer is that large
            elif self._is_exact(key, value, at):
                if key in SIZES and isinstance(value, float):
                    value = int(value)
                result[key] = clamped(key, value)
        self._count_properties(result, path)
        return or_null(result) if is_nullable else result

    def _format(self, name: Json, at: str) -> None:
        if isinstance(name, str) and name.lower() in HINTS:
            self._left_out.append(at)
        else:
            known = ", ".join(sorted(FORMATS))
            self._leave_out(at, f"The format {str(name)[:100]!r} is not one of {known}.")

    def _is_exact(self, key: str, value: Json, at: str) -> bool:
        if key == "multipleOf" and num_states(value) > MAX_MULTIPLE:
            self._leave_out(
                at,
                f"multipleOf can be enforced up to {MAX_MULTIPLE}, counted without the decimal "
                "point.",
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

    def _count_properties(self, result: dict[str, Json], path: str) -> None:
        """llguidance counts properties only if all named ones are required, and lets the names of
        others repeat."""
        properties, required = as_map(result.get("properties")), result.get("required")
        needed = {str(name) for name in required} if isinstance(required, list) else set()
        is_closed = result.get("additionalProperties") is False
        is_closed = is_closed and not as_map(result.get("patternProperties"))
        optional = properties.keys() - needed
        least, most = result.get("minProperties", 0), result.get("maxProperties")
        assert isinstance(least, int)
        if least <= len(needed):
            result.pop("minProperties", None)
        elif optional and least == len(needed) + len(optional):
            result["required"] = [*sorted(needed - properties.keys()), *properties]
            optional = set()
            del result["minProperties"]
        elif optional or least > 1:
            self._leave_out(
                f"{path}.minProperties",
                "minProperties can be enforced only up to the number of required properties, or if "
                "it is the number of all named ones; list the properties you need in required.",
            )
            del result["minProperties"]
        if isinstance(most, int) and is_closed and most >= len(properties):
            del result["maxProperties"]
        elif most is not None and optional:
            self._leave_out(
                f"{path}.maxProperties",
                "maxProperties can be enforced only if all named properties are required; remove "
                "it, or list the objects you want in anyOf.",
            )
            del result["maxProperties"]

    # References.

    @functools.cached_property
    def _anchors(self) -> dict[str, Json]:
        """$anchor → the schema it names."""
        anchored = [part for part in inside(self._root) if isinstance(part, dict)]
        return {str(part["$anchor"]): part for part in anchored if "$anchor" in part}

    def _follow(self, reference: str) -> Json:
        """The target of a reference, or None if it has none."""
        if reference not in self._targets:
            self._targets[reference] = self._target(reference)
        return self._targets[reference]

    def _target(self, reference: str) -> Json:
        own = self._root.get("$id") if isinstance(self._root, dict) else None
        if isinstance(own, str) and own and reference.startswith(own.rstrip("#")):
            reference = reference.removeprefix(own.rstrip("#")) or "#"
        if not reference.startswith("#"):
            return None
        return self._anchors.get(reference[1:]) or target_of(self._root, reference)

    def _reference(self, reference: str, at: str) -> str | None:
        """The reference to write in the result, or None if it is left out."""
        target = self._follow(reference)
        if target is None and not reference.startswith("#"):
            self._leave_out(
                at,
                "Only references inside the schema (#/…) can be followed; put the target under "
                "$defs.",
            )
            return None
        if not is_schema(target):
            if self._is_strict:
                raise InvalidRequest(
                    f"The reference {reference[:200]!r} does not point to a schema; put its target "
                    "under $defs.",
                    self._path,
                )
            self._left_out.append(at)
            return None
        _, _, pointer = reference.rpartition("#/")
        pointed = ".".join(unquote(step) for step in pointer.split("/"))
        is_root = target is self._root
        name = self._definition(target, self._path if is_root else f"{self._path}.{pointed}")
        self._used.add(name)
        return f"#/$defs/{name}"

    def _definition(self, schema: Json, path: str) -> str:
        # All equal booleans are one object.
        key = id(schema) if isinstance(schema, dict) else -1 - int(bool(schema))
        if key not in self._names:
            self._names[key] = f"d{len(self._names)}"
            self._waiting.append((self._names[key], schema, path))
        return self._names[key]


def is_extension(key: str) -> bool:
    return key.startswith("x-") or ":" in key


def target_of(root: Json, reference: str) -> Json:
    """The target of a JSON pointer; None if there is none or it is inside a plain value."""
    if reference in ("#", "#/"):
        return root
    if not reference.startswith("#/"):
        return None
    value = root
    is_keyword = True  # whether the next step is one; inside `properties` it is a name
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
