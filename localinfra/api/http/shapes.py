"""The shape of a request's struct, for what its decoder skips or does not report: unknown names,
nulls for optional values, and the choices of an enum.

Read once from a struct's annotations and compared with plain values. Pure.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from localinfra.chat.encoding import json_parts
from localinfra.chat.messages import JSON_TEXT
from localinfra.long_text import joined
from localinfra.steps import Steps

MAX_LOOKED_AT = 10_000  # objects per body, which take 10 ms
MAX_MENDED = 1 << 15  # values that may have to be mended: 15 ms
MANY = 4  # numbers in a list count as one value
MAX_WHOLE = 2.0**63  # floats beyond it don't stand for one integer
MAX_NAMED = 20
MAX_NAME_CHARS = 1000  # of a path
LIGHTENED_PER_STEP = 1 << 13  # values that are looked at
MAX_CHOICE_CHARS = 1000  # of a wrong one, which msgspec quotes: 16 MB take 150 ms
CONTAINERS = (list, dict)
NOTHING: tuple[object, ...] = (None, "", [], {})  # values that ask for nothing

STEP = re.compile(r"(?P<name>[^.\[\]]+)|\[(?P<index>[^\]]*)\]")


class ValueShape(msgspec.Struct, eq=False):
    """What one place of a body may hold: everything that the members of its union allow."""

    fields: "Fields | None" = None  # of a struct
    items: "ValueShape | None" = None  # of a list
    entries: "ValueShape | None" = None  # of a map, whose names are the client's
    choices: tuple[object, ...] = ()
    takes_null: bool = False
    takes_text: bool = False
    is_tag: bool = False  # which struct of a union it is
    is_json_text: bool = False

    @property
    def is_choice(self) -> bool:
        """Whether a string here is one of a few."""
        return (self.is_tag or self.choices != ()) and not self.takes_text

    @property
    def has_fields(self) -> bool:
        """Whether it holds a struct, at any depth."""
        if self.fields is not None:
            return True
        return any(inner.has_fields for inner in (self.items, self.entries) if inner)

    @property
    def is_heavy(self) -> bool:
        """Whether there may be something for `lighten` in it, at any depth."""
        if self.is_choice or self.is_json_text or self.has_fields:
            return True
        return any(inner.is_heavy for inner in (self.items, self.entries) if inner)

    def at(self, path: str) -> "ValueShape | None":
        """The shape at a path as msgspec writes it, such as `messages[0].role`."""
        shape: ValueShape | None = self
        for step in STEP.finditer(path):
            if shape is None:
                return None
            if step["name"]:
                shape = shape.fields.all.get(step["name"]) if shape.fields else None
            else:
                shape = shape.entries if step["index"] == "..." else shape.items
        return shape


class Fields(msgspec.Struct, eq=False):
    """A struct's fields, by their names on the wire."""

    all: dict[str, ValueShape] = {}
    nested: dict[str, ValueShape] = {}  # those that hold structs
    heavy: dict[str, ValueShape] = {}
    optional: set[str] = set()
    texts: set[str] = set()  # those with a string or None as default: "" counts as absent


@functools.cache
def described(kind: type[msgspec.Struct]) -> inspect.Type:
    """msgspec's description of a struct, which takes 10 ms for a large one."""
    return inspect.type_info(kind)


@functools.cache
def shape_of(kind: type[msgspec.Struct]) -> ValueShape:
    return _ShapeReader().shape(described(kind))


class _ShapeReader:
    """msgspec's description of a type → its shape. Reads each struct once, even a recursive one."""

    def __init__(self) -> None:
        self._known: dict[type, Fields] = {}

    def shape(self, info: inspect.Type) -> ValueShape:
        shape = ValueShape(is_json_text=_holds_json_text(info))
        for member in _members(info):
            match member:
                case inspect.StructType():
                    fields = self._fields(member)
                    shape.fields = _merge(shape.fields, fields) if shape.fields else fields
                case inspect.ListType():
                    shape.items = self.shape(member.item_type)
                case inspect.DictType():
                    shape.entries = self.shape(member.value_type)
                case inspect.LiteralType():
                    shape.choices += tuple(member.values)
                case inspect.StrType():
                    shape.takes_text = True
                case inspect.NoneType() | inspect.AnyType() | inspect.RawType():
                    shape.takes_null = True
        return shape

    def _fields(self, info: inspect.StructType) -> Fields:
        if info.cls in self._known:
            return self._known[info.cls]
        fields = self._known[info.cls] = Fields({}, {}, {}, set(), set())
        if info.tag_field:
            tag = fields.all[info.tag_field] = ValueShape(is_tag=True)
            fields.heavy[info.tag_field] = tag
        for field in info.fields:
            name, shape = field.encode_name, self.shape(field.type)
            fields.all[name] = shape
            if shape.has_fields:
                fields.nested[name] = shape
            if shape.is_heavy:
                fields.heavy[name] = shape
            if not field.required:
                fields.optional.add(name)
            if field.default is None or isinstance(field.default, str):
                fields.texts.add(name)
        return fields


def _holds_json_text(info: inspect.Type) -> bool:
    if isinstance(info, inspect.UnionType):
        return any(map(_holds_json_text, info.types))
    return isinstance(info, inspect.Metadata) and JSON_TEXT in (info.extra or {})


def _members(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        yield from _members(info.type)
    elif isinstance(info, inspect.UnionType):
        for member in info.types:
            yield from _members(member)
    else:
        yield info


def _merge(one: Fields, other: Fields) -> Fields:
    return Fields(
        one.all | other.all,
        one.nested | other.nested,
        one.heavy | other.heavy,
        one.optional & other.optional,
        one.texts & other.texts,
    )


class Unknown:
    """Finds names that a value's shape does not have, in up to MAX_LOOKED_AT objects."""

    def __init__(self) -> None:
        self._num_left = MAX_LOOKED_AT

    def paths(self, value: Any, shape: ValueShape, path: str) -> list[str]:
        """Paths of unknown names in the value at `path`; hardly more than MAX_NAMED."""
        return [path + way for way in self._ways(value, shape)]

    def _ways(self, value: Any, shape: ValueShape) -> list[str]:
        """Paths relative to `value`. Built on the way back, since there are hardly any."""
        kind = type(value)
        if kind is list and shape.items is not None:
            return self._item_ways(value, shape.items)
        if kind is dict and shape.fields is not None:
            return self._field_ways(value, shape.fields)
        if kind is dict and shape.entries is not None and shape.entries.has_fields:
            inner = shape.entries
            return [f".{name}{way}" for name in value for way in self._ways(value[name], inner)]
        return []

    def _item_ways(self, items: list[Any], shape: ValueShape) -> list[str]:
        ways: list[str] = []
        if not shape.has_fields:
            return ways
        for at, item in enumerate(items):
            if self._num_left <= 0 or len(ways) > MAX_NAMED:
                break
            if found := self._ways(item, shape):
                ways += [f"[{at}]{way}" for way in found]
        return ways

    def _field_ways(self, value: dict[str, Any], fields: Fields) -> list[str]:
        self._num_left -= 1
        ways: list[str] = []
        if not fields.all.keys() >= value.keys():
            unknown = [name for name in value if name not in fields.all]
            named = [name for name in unknown if value[name] not in NOTHING][: MAX_NAMED + 1]
            ways += [f".{name[:MAX_NAME_CHARS]}" for name in named]
        for name in fields.nested:
            if type(inner := value.get(name)) in CONTAINERS:
                ways += [f".{name}{way}" for way in self._ways(inner, fields.nested[name])]
        return ways


class Mending:
    """Changes values that their shapes refuse, MAX_MENDED of a body at most. Lists and objects are
    changed in place."""

    def __init__(self) -> None:
        self._num_left = MAX_MENDED
        self.num_mended = 0

    def drop_nulls(self, value: Any, shape: ValueShape, is_numbered: bool = False) -> None:
        """Drops nulls where the shape takes none (optional fields, items of lists, entries of
        maps), and empty strings in optional fields that list their choices. `is_numbered`: keeps
        the nulls of lists in lists, so that items keep their indices."""
        if type(value) is list and shape.items:
            if self._counts(len(value) // MANY):
                self._drop_items(value, shape.items, is_numbered)
        elif type(value) is dict and shape.fields:
            if self._counts(1):
                self._drop_fields(value, shape.fields)
        elif type(value) is dict and shape.entries and self._counts(len(value)):
            if not shape.entries.takes_null:
                self._drop(value, [name for name in value if value[name] is None])
            for inner in value.values():
                self.drop_nulls(inner, shape.entries)

    def with_whole_numbers(self, value: Any) -> Any:
        """The value with floats without a fraction as integers."""
        if type(value) is float:
            if not (value.is_integer() and abs(value) < MAX_WHOLE):
                return value
            self.num_mended += 1
            return int(value)
        if type(value) is list and self._counts(1 + len(value) // MANY):
            value[:] = map(self.with_whole_numbers, value)
        elif type(value) is dict and self._counts(1 + len(value)):
            value.update((name, self.with_whole_numbers(value[name])) for name in value)
        return value

    def _counts(self, num_values: int) -> bool:
        """Whether so many may still be looked at."""
        self._num_left -= num_values
        return self._num_left >= 0

    def _drop(self, value: dict[str, Any], names: list[str]) -> None:
        self.num_mended += len(names)
        for name in names:
            del value[name]

    def _drop_items(self, value: list[Any], shape: ValueShape, is_numbered: bool) -> None:
        if not (is_numbered or shape.takes_null):
            kept = [item for item in value if item is not None]
            self.num_mended += len(value) - len(kept)
            value[:] = kept
        if shape.fields or shape.items or shape.entries:
            for item in value:
                self.drop_nulls(item, shape, is_numbered)

    def _drop_fields(self, value: dict[str, Any], fields: Fields) -> None:
        dropped = []
        for name in fields.all.keys() & value.keys():
            field, inner = fields.all[name], value[name]
            if inner is None:
                says_nothing = not field.takes_null
            else:
                says_nothing = inner == "" and "" not in (field.choices or ("",))
                self.drop_nulls(inner, field)
            if says_nothing and name in fields.optional:
                dropped.append(name)
        self._drop(value, dropped)


def lighten(value: Any, shape: ValueShape) -> Steps[None]:
    """Changes in place what would take long while a struct is made: long strings at the places of
    choices are cut, since they are refused and errors quote them; objects at those of JSON text
    become text."""
    left: list[tuple[Any, ValueShape]] = [(value, shape)]
    num_seen = 0
    while left:
        node, shape = left.pop()
        inner: Iterable[tuple[Any, Any, ValueShape]] = ()
        if type(node) is list and shape.items and shape.items.is_heavy:
            inner = ((at, item, shape.items) for at, item in enumerate(node))
        elif type(node) is dict and shape.fields:
            heavy = shape.fields.heavy
            inner = ((name, node[name], heavy[name]) for name in heavy if name in node)
        elif type(node) is dict and shape.entries and shape.entries.is_heavy:
            inner = ((name, node[name], shape.entries) for name in node)
        for place, item, its_shape in inner:
            num_seen += 1
            if num_seen % LIGHTENED_PER_STEP == 0:
                yield
            if isinstance(item, str):
                if its_shape.is_choice and len(item) > MAX_CHOICE_CHARS:
                    node[place] = item[:MAX_CHOICE_CHARS]
            elif type(item) is dict and its_shape.is_json_text:
                parts = yield from json_parts(item)
                node[place] = yield from joined([str(part, "utf-8") for part in parts])
            elif type(item) in CONTAINERS:
                left.append((item, its_shape))
