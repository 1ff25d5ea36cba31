"""What a function's schema expects of its arguments: their types and names, enough to read a call.

No validation: limits, patterns and enumerations are the grammar's.
"""

import functools
from collections.abc import Collection, Iterator, Mapping

from localinfra.chat.messages import Json
from localinfra.chat.schema.keywords import TYPES, as_map
from localinfra.chat.schema.mended import mended_type
from localinfra.chat.schema.one_of import is_closed, kind_of, kinds_of, required_names
from localinfra.chat.schema.prepared import target_of

ANY = frozenset(TYPES)
MAX_PARTS = 256  # of one value's schema that are looked at: this runs on the event loop


class Expected:
    """What is expected of one value, with references and alternatives followed."""

    def __init__(self, schema: Json = None, root: Json = None):
        """`schema`: None expects nothing. `root`: where its references point."""
        self._schema = schema
        self._root = schema if root is None else root

    @functools.cached_property
    def kinds(self) -> frozenset[str]:
        """The JSON types it may have; with `number` also `integer`."""
        return self._kinds(self._schema, set())

    def member(self, name: str) -> "Expected":
        """Of an object."""
        parts = [*self._parts()]
        found = [as_map(part.get("properties")).get(name) for part in parts]
        if not any(isinstance(schema, dict) for schema in found):
            found = [part.get("additionalProperties") for part in parts]
        return self._any_of(found)

    @functools.cached_property
    def item(self) -> "Expected":
        """Of a list."""
        return self._any_of([part.get("items") for part in self._parts()])

    def accepts(self, arguments: Mapping[str, Json]) -> bool:
        """Whether a call has the arguments it needs, with names and types that are declared."""
        must = [*self._parts(with_options=False)]
        if any(required_names(part) - arguments.keys() for part in must):
            return False
        declared = {name for part in must for name in as_map(part.get("properties"))}
        if any(is_closed(part) for part in must) and arguments.keys() - declared:
            return False
        return all(kind_of(value) in self.member(name).kinds for name, value in arguments.items())

    def _any_of(self, schemas: Collection[Json]) -> "Expected":
        said: list[Json] = [schema for schema in schemas if isinstance(schema, dict)]
        return Expected({"anyOf": said} if said else None, self._root)

    def _parts(self, *, with_options: bool = True) -> Iterator[dict[str, Json]]:
        """The schema and those within it that say something about the same value."""
        waiting, seen = [self._schema], set[int]()
        while waiting and len(seen) < MAX_PARTS:
            schema = waiting.pop(0)
            if not isinstance(schema, dict) or id(schema) in seen:
                continue
            seen.add(id(schema))
            yield schema
            waiting += self._all_of(schema)
            for key in ("anyOf", "oneOf") if with_options else ():
                options = schema.get(key)
                waiting += options[:MAX_PARTS] if isinstance(options, list) else []

    def _all_of(self, schema: Mapping[str, Json]) -> list[Json]:
        parts = schema.get("allOf")
        found = parts[:MAX_PARTS] if isinstance(parts, list) else []
        if isinstance(reference := schema.get("$ref"), str):
            found.append(target_of(self._root, reference))
        return found

    def _kinds(self, schema: Json, seen: set[int]) -> frozenset[str]:
        if not isinstance(schema, dict) or id(schema) in seen or len(seen) >= MAX_PARTS:
            return ANY
        seen.add(id(schema))
        said = {**schema, "type": mended_type(schema["type"])} if "type" in schema else schema
        kinds = ANY & kinds_of(said) or ANY  # an unknown type says nothing
        for part in self._all_of(schema):
            kinds &= self._kinds(part, seen)
        for key in ("anyOf", "oneOf"):
            options = schema.get(key)
            if isinstance(options, list) and 0 < len(options) <= MAX_PARTS:
                kinds &= frozenset[str]().union(*(self._kinds(each, seen) for each in options))
        return kinds | {"null"} if schema.get("nullable") is True else kinds
