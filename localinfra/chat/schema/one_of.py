"""Checks that the choices of a `oneOf` exclude each other, so that `anyOf` means the same.

Pure. Follows references; choices count as overlapping unless it proves that they don't.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import TYPES, as_map

MAX_STEPS = 200_000  # keywords, names and values visited in all: 0.2 s
MAX_DEPTH = 12  # of references and properties

Follow = Callable[[str], Json]  # a reference → its target, or None if it has none
Schema = dict[str, Json]


class Exclusion:
    """Compares the parts of one schema."""

    def __init__(self, follow: Follow, tags: Mapping[int, Collection[str]]):
        """`tags`: id() of a schema → properties that its objects always have."""
        self._follow = follow
        self._tags = tags
        self._num_steps = 0

    def is_proven(self, choices: Json) -> bool:
        """Whether no value can be valid for two of them."""
        every = choices if isinstance(choices, list) else []
        values = [values_of(as_map(choice)) for choice in every]
        keys = [key_of(value) for each in values if each is not None for value in each]
        if None not in values and len(set(keys)) == len(keys):
            return True  # saves comparing all pairs
        pairs = itertools.combinations(every, 2)
        return all(self._excludes(one, other, 0) for one, other in pairs)

    def _excludes(self, one: Json, other: Json, depth: int) -> bool:
        if self._num_steps > MAX_STEPS or depth > MAX_DEPTH:
            return False
        if one is False or other is False:
            return True
        ones, others = self._all_of(one, 0), self._all_of(other, 0)
        if any(self._differ(a, b, depth) for a in ones for b in others):
            return True
        return self._no_choice(ones, other, depth) or self._no_choice(others, one, depth)

    def _no_choice(self, ones: Sequence[Schema], other: Json, depth: int) -> bool:
        """Whether all choices within one of the schemas exclude the other."""
        return any(
            isinstance(choices := one.get(key), list)
            and all(self._excludes(choice, other, depth + 1) for choice in choices)
            for one in ones
            for key in ("anyOf", "oneOf")
        )

    def _all_of(self, schema: Json, depth: int) -> list[Schema]:
        """The schema, and all others that its values must also satisfy."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return []
        self._num_steps += 1 + sum(map(weight, schema.values()))
        together = schema.get("allOf")
        more = list(together) if isinstance(together, list) else []
        if isinstance(reference := schema.get("$ref"), str):
            more.append(self._follow(reference))
        return [schema, *(each for part in more for each in self._all_of(part, depth + 1))]

    def _differ(self, one: Schema, other: Schema, depth: int) -> bool:
        kinds = kinds_of(one) & kinds_of(other)
        if not kinds:
            return True
        values, others = values_of(one), values_of(other)
        if values is not None and others is not None:
            return not {key_of(value) for value in values} & {key_of(value) for value in others}
        if kinds <= {"integer", "number"} and apart(one, other):
            return True
        if kinds == {"string"} and counted_apart(one, other, "Length"):
            return True
        if kinds == {"array"} and counted_apart(one, other, "Items"):
            return True
        return kinds == {"object"} and self._have_other_members(one, other, depth)

    def _have_other_members(self, one: Schema, other: Schema, depth: int) -> bool:
        properties, others = as_map(one.get("properties")), as_map(other.get("properties"))
        needed = required_names(one).union(self._tags.get(id(one), ()))
        other_needed = required_names(other).union(self._tags.get(id(other), ()))
        if any(is_closed(other) and name not in others for name in needed):
            return True
        if any(is_closed(one) and name not in properties for name in other_needed):
            return True
        return any(
            self._excludes(properties[name], others[name], depth + 1)
            for name in needed & other_needed & properties.keys() & others.keys()
        )


def weight(value: Json) -> int:
    return len(value) if isinstance(value, dict | list) else 1


def kinds_of(schema: Schema) -> set[str]:
    """The types that its values may have."""
    kind = schema.get("type")
    found = {str(each).lower() for each in (kind if isinstance(kind, list) else [kind])}
    kinds = set(TYPES) if kind is None else found
    if "number" in kinds:
        kinds.add("integer")
    if (values := values_of(schema)) is not None:
        kinds &= {kind_of(value) for value in values}
    return kinds | ({"null"} if schema.get("nullable") is True else set())


def kind_of(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if value == value // 1 else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def values_of(schema: Schema) -> list[Json] | None:
    """All allowed values, or None if they are not listed."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def key_of(value: Json) -> object:
    """A key that is equal for equal JSON values: 1 equals 1.0, but not true."""
    if isinstance(value, list):
        return ("array", *map(key_of, value))
    if isinstance(value, dict):
        return frozenset((name, key_of(item)) for name, item in value.items())
    return ("boolean", value) if isinstance(value, bool) else value


def required_names(schema: Schema) -> set[str]:
    """Names of the properties that it requires."""
    required = schema.get("required")
    found = required if isinstance(required, list) else []
    return {name for name in found if isinstance(name, str)}


def is_closed(schema: Schema) -> bool:
    is_said = False in (schema.get("additionalProperties"), schema.get("unevaluatedProperties"))
    return is_said and not schema.keys() & {"patternProperties", "$ref", "allOf", "anyOf", "oneOf"}


def apart(one: Schema, other: Schema) -> bool:
    """Whether all numbers of one are below those of the other."""
    return below(one, other) or below(other, one)


def below(low: Schema, high: Schema) -> bool:
    tops, bottoms = list(limits(low, "aximum")), list(limits(high, "inimum"))
    return any(
        top < bottom or (top == bottom and (is_open or is_open_too))
        for top, is_open in tops
        for bottom, is_open_too in bottoms
    )


def limits(schema: Schema, name: str) -> Iterator[tuple[float, bool]]:
    """Yields each limit, and whether it is exclusive."""
    plain, exclusive = schema.get(f"m{name}"), schema.get(f"exclusiveM{name}")
    if isinstance(plain, int | float):
        yield plain, exclusive is True
    if isinstance(exclusive, int | float) and not isinstance(exclusive, bool):
        yield exclusive, True


def counted_apart(one: Schema, other: Schema, what: str) -> bool:
    """Whether all sizes of one are below those of the other."""

    def is_below(low: Schema, high: Schema) -> bool:
        most, least = low.get(f"max{what}"), high.get(f"min{what}")
        return isinstance(most, int | float) and isinstance(least, int | float) and most < least

    return is_below(one, other) or is_below(other, one)


def tagged(parts: Iterable[Json], follow: Follow) -> dict[int, set[str]]:
    """id() of each choice of a union with a `discriminator` → the property that it names.
    Parsers of such unions need the property, even if it is not among `required`."""
    tags: dict[int, set[str]] = {}
    for part in parts:
        schema = as_map(part)
        name = as_map(schema.get("discriminator")).get("propertyName")
        for key in ("oneOf", "anyOf"):
            choices = schema.get(key) if isinstance(name, str) else None
            for choice in choices if isinstance(choices, list) else ():
                for _ in range(MAX_DEPTH):
                    reference = as_map(choice).get("$ref")
                    if not isinstance(reference, str):
                        break
                    choice = follow(reference)
                if isinstance(name, str) and name in as_map(as_map(choice).get("properties")):
                    tags.setdefault(id(choice), set()).add(name)
    return tags
