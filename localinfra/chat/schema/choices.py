"""The kinds of values a prepared schema allows, one by one, for spellings other than JSON. Pure."""

from collections.abc import Callable

import msgspec

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import BOUNDS, IN_PLACE, TYPES, as_map
from localinfra.chat.schema.prepared import target_of

MAX_CHOICES = 64  # of one value; beyond, any value will do

# Keywords about one kind only: a schema without `type` means that kind.
TELLING = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": (*BOUNDS, "multipleOf"),
}

LeaveOut = Callable[[str], None]  # takes the path of what is not enforced


class Choice(msgspec.Struct, frozen=True):
    """Values of one kind. `schema` has `$ref` and the like inside only."""

    kind: str  # a JSON type, or "any"
    schema: dict[str, Json]
    path: str

    @property
    def values(self) -> list[Json] | None:
        """The only ones, or None."""
        found = self.schema.get("enum")
        return found if isinstance(found, list) else None


class Field(msgspec.Struct, frozen=True):
    """A property of an object."""

    name: str
    schema: Json
    path: str
    is_required: bool


class SchemaChoices:
    """Reads the schemas inside `root`, to whose `$defs` they refer."""

    def __init__(self, root: dict[str, Json], leave_out: LeaveOut):
        self._root = root
        self._leave_out = leave_out
        self._reduced: dict[int, dict[str, Json]] = {}  # by the id of a schema in the root

    def of(self, schema: Json, path: str) -> list[Choice]:
        """At least one. Schemas that a value has to satisfy at once are left out."""
        found = []
        for part in self._parts(schema):
            for key in sorted(part.keys() & set(IN_PLACE)):
                self._leave_out(f"{path}.{key}")
            found += self._split(part, path)
        if any(each.kind == "any" for each in found):
            return [Choice("any", {}, path)]
        if not found or len(found) > MAX_CHOICES:
            self._leave_out(path)
            return [Choice("any", {}, path)]
        return found

    def fields(self, choice: Choice) -> tuple[list[Field], Json]:
        """The named properties of an object, and the schema of all others (False: none)."""
        schema, path = choice.schema, choice.path
        for key in ("patternProperties", "minProperties", "maxProperties"):
            if key in schema:
                self._leave_out(f"{path}.{key}")
        others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        named, required = as_map(schema.get("properties")), schema.get("required")
        needed = dict.fromkeys(map(str, required)) if isinstance(required, list) else {}
        parts = {**named, **{name: others for name in needed if name not in named}}
        found = [
            Field(name, part, f"{path}.properties.{name}", name in needed)
            for name, part in parts.items()
            if part is not False or name in needed
        ]
        return found, others

    def kinds(self, schema: Json) -> frozenset[str]:
        """The JSON types that values may have; all if it does not say."""
        kinds = {each.kind for part in self._parts(schema) for each in self._split(part, "")}
        return frozenset(TYPES if "any" in kinds else kinds)

    def _parts(self, schema: Json) -> list[dict[str, Json]]:
        """The schemas behind references and choices that stand alone."""
        found: list[dict[str, Json]] = []
        waiting, seen = [schema], set[int]()
        while waiting and len(found) <= MAX_CHOICES:
            part = waiting.pop()
            if part is False or id(part) in seen:
                continue
            seen.add(id(part))
            part = part if isinstance(part, dict) else {}
            said = part.keys() - {"$defs"}
            [key] = said if len(said) == 1 else ["type"]
            value = part.get(key)
            if key == "$ref" and isinstance(value, str):
                waiting.append(target_of(self._root, value))
            elif isinstance(value, list) and (
                key in ("anyOf", "oneOf") or (key == "allOf" and len(value) == 1)
            ):
                waiting += reversed(value)
            else:
                found.append(part)
        return found

    def _split(self, schema: dict[str, Json], path: str) -> list[Choice]:
        kinds = schema.get("type", self._told(schema))
        names = [str(kind) for kind in (kinds if isinstance(kinds, list) else [kinds])]
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            allowed = {*names, *(["integer"] if "number" in names else [])}
            return by_kind([v for v in values if "any" in names or kind_of(v) in allowed], path)
        own = schema  # the same object each time, since recursion is noticed by it
        if schema.keys() & set(IN_PLACE):
            kept = {key: value for key, value in schema.items() if key not in IN_PLACE}
            own = self._reduced.setdefault(id(schema), kept)
        return [Choice(name, own, path) for name in names]

    def _told(self, schema: dict[str, Json]) -> Json:
        """The type that a schema without `type` means."""
        together = schema.get("allOf")
        for part in together if isinstance(together, list) else [schema]:
            target = part
            if isinstance(part, dict) and isinstance(reference := part.get("$ref"), str):
                target = target_of(self._root, reference)
            if isinstance(target, dict) and "type" in target:
                return target["type"]
        return next((kind for kind, keys in TELLING.items() if schema.keys() & set(keys)), "any")


def by_kind(values: list[Json], path: str) -> list[Choice]:
    kinds: dict[str, list[Json]] = {}
    for value in values:
        kinds.setdefault(kind_of(value), []).append(value)
    return [Choice(kind, {"enum": each}, path) for kind, each in kinds.items()]


def kind_of(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
