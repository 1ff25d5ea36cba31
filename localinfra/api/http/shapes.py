"""The shape of a request's struct, for what its decoder skips or does not report: unknown names,
nulls for optional values, and the choices of an enum.

Read once from a struct's annotations and compared with JSON. Pure.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

MAX_LOOKED_AT = 10_000  # objects per body, which take 10 ms
MAX_NAMED = 20
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

    @property
    def has_fields(self) -> bool:
        """Whether it holds a struct, at any depth."""
        if self.fields is not None:
            return True
        return any(inner.has_fields for inner in (self.items, self.entries) if inner)

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
    optional: set[str] = set()
    texts: set[str] = set()  # those with a string or None as default: "" counts as absent


@functools.cache
def shape_of(kind: type[msgspec.Struct]) -> ValueShape:
    return _ShapeReader().shape(inspect.type_info(kind))


class _ShapeReader:
    """msgspec's description of a type → its shape. Reads each struct once, even a recursive one."""

    def __init__(self) -> None:
        self._known: dict[type, Fields] = {}

    def shape(self, info: inspect.Type) -> ValueShape:
        shape = ValueShape()
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
                case inspect.NoneType() | inspect.AnyType() | inspect.RawType():
                    shape.takes_null = True
        return shape

    def _fields(self, info: inspect.StructType) -> Fields:
        if info.cls in self._known:
            return self._known[info.cls]
        fields = self._known[info.cls] = Fields({}, {}, set(), set())
        if info.tag_field:
            fields.all[info.tag_field] = ValueShape()
        for field in info.fields:
            name, shape = field.encode_name, self.shape(field.type)
            fields.all[name] = shape
            if shape.has_fields:
                fields.nested[name] = shape
            if not field.required:
                fields.optional.add(name)
            if field.default is None or isinstance(field.default, str):
                fields.texts.add(name)
        return fields


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
        one.optional & other.optional,
        one.texts & other.texts,
    )


class Unknown:
    """Finds names in JSON that its shape does not have, in up to MAX_LOOKED_AT objects."""

    def __init__(self) -> None:
        self._num_left = MAX_LOOKED_AT

    def paths(self, raw: msgspec.Raw, shape: ValueShape, path: str) -> list[str]:
        """Paths of unknown names in the value at `path`; hardly more than MAX_NAMED."""
        try:
            value = msgspec.json.decode(raw)
        except msgspec.DecodeError:  # a number is beyond Python's range
            return []
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
            ways += [f".{name}" for name in unknown if value[name] not in NOTHING][: MAX_NAMED + 1]
        for name in fields.nested:
            if type(inner := value.get(name)) in CONTAINERS:
                ways += [f".{name}{way}" for way in self._ways(inner, fields.nested[name])]
        return ways


def without_nulls(raw: msgspec.Raw, shape: ValueShape, *, is_numbered: bool = False) -> msgspec.Raw:
    """The JSON without nulls where the shape takes none (optional fields, items of lists, entries
    of maps), and without empty strings in optional fields that list their choices. `is_numbered`:
    keep the nulls among the value's own items, so that these keep their indices."""
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:  # as above
        return raw
    _drop_nulls(value, shape, is_numbered)
    return msgspec.Raw(msgspec.json.encode(value))


def _drop_nulls(value: Any, shape: ValueShape, is_numbered: bool = False) -> None:
    if type(value) is list and shape.items:
        if not (is_numbered or shape.items.takes_null):
            value[:] = [item for item in value if item is not None]
        for item in value:
            _drop_nulls(item, shape.items, is_numbered)
    elif type(value) is dict and shape.fields:
        for name in shape.fields.all.keys() & value.keys():
            field = shape.fields.all[name]
            if value[name] is None:
                says_nothing = not field.takes_null
            else:
                says_nothing = value[name] == "" and "" not in (field.choices or ("",))
                _drop_nulls(value[name], field)
            if says_nothing and name in shape.fields.optional:
                del value[name]
    elif type(value) is dict and shape.entries:
        if not shape.entries.takes_null:
            for name in [name for name in value if value[name] is None]:
                del value[name]
        for inner in value.values():
            _drop_nulls(inner, shape.entries)
