"""For each list, map and text that a request struct may hold, bodies that fill it to the limit."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from inspect import get_annotations
from typing import NamedTuple

import msgspec
from msgspec import inspect

from localinfra.api.http.weight import MAX_NESTED, MAX_TOKEN_IDS, MAX_VALUES

BODY_BYTES = 16 << 20

Wrap = Callable[[bytes], bytes]  # JSON of a value → the body with the value in its place


class Place(NamedTuple):
    """A field, or what is in it, that may be of any size."""

    path: str
    owner: str  # the struct that declares it, with the field's name: shared by those that inherit
    kind: str  # list, map, text, short text (its annotation has a bound) or any
    item: bytes  # the smallest of a list's or a map's
    wrap: Wrap


class Filled(NamedTuple):
    place: Place
    how: str
    body: Callable[[], bytes]


def places(
    kind: type[msgspec.Struct], given: Mapping[str, object], around: Wrap = lambda raw: raw
) -> Iterator[Place]:
    """Those of a body, or of what stands in one with this `around`. `given` are fields of a
    request that is answered."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields = {name: msgspec.json.encode(value) for name, value in given.items()}
    yield from _of_struct(info, around, kind.__name__, fields, ())
    unknown, one = _unknown(fields), _with(fields, "unknown")
    name = kind.__name__
    yield Place(f"{name}.*", "unknown fields", "map", b"1", lambda raw: around(unknown(raw)))
    yield Place(f"{name}.unknown", "unknown", "any", b"", lambda raw: around(one(raw)))


TEXT_KINDS = ["letters", "escapes", "coded characters", "letters and emojis"]
# What makes the most values that are taken, first.
FILLINGS: dict[str, list[str]] = {
    "list": ["as many as are taken", "many", "nested lists"],
    "map": ["as many keys as are taken", "many keys", "nested maps"],
    "text": TEXT_KINDS,
    "short text": TEXT_KINDS,
    "any": [
        *("as many keys as are taken", "as many maps as are taken", "as many floats as are taken"),
        *(
            "many keys",
            "maps",
            "floats",
            "far floats",
            "texts",
            "long numbers",
            "nested lists",
            "nested maps",
        ),
        *("letters", "escapes"),
    ],
}
ITEMS = {
    "maps": b"{}",
    "floats": b"1.5",
    "far floats": b"1e300",
    "texts": b'"ab"',
    "long numbers": b"9" * 4000,
}
TEXTS = {"escapes": b"\\n", "letters": b"a", "coded characters": b"\\u00e9"}
TEXTS["letters and emojis"] = b"a" * 60 + "🦙".encode()  # four bytes for each in memory
DEPTH = 200  # deeper ones may be refused for that


def fillings(place: Place, num_bytes: int = BODY_BYTES) -> Iterator[Filled]:
    room = num_bytes - len(place.wrap(b"")) - 100
    item = place.item if place.kind in ("list", "map") else b"1"
    for how in FILLINGS[place.kind]:
        yield Filled(place, how, functools.partial(_body, place.wrap, how, item, room))


def _body(wrap: Wrap, how: str, item: bytes, room: int) -> bytes:
    return wrap(filling(how, item, room))


def filling(how: str, item: bytes, room: int) -> bytes:
    kind = how.removesuffix(" as are taken").removeprefix("as ")
    item = ITEMS.get(kind.removeprefix("many "), item)
    if how.endswith("as are taken"):
        room = min(room, _room_taken(item, with_keys=kind == "many keys"))
    if kind == "many keys":
        return b"{%b}" % _keys(item, room)
    if kind == "nested lists":
        return _repeated(b"[" * DEPTH + b"]" * DEPTH, room)
    if kind == "nested maps":
        return _repeated(b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, room)
    if kind in TEXTS:
        return b'"%b"' % (TEXTS[kind] * (room // len(TEXTS[kind])))
    return _repeated(item, room)


def _room_taken(item: bytes, with_keys: bool) -> int:
    """Bytes that the heaviest list or map has which is not refused for the number of its values."""
    num_nested = sum(map(item.count, (b"[", b"{", b":"))) + with_keys
    num_items = MAX_TOKEN_IDS if item == b"1" else MAX_VALUES
    if num_nested:
        num_items = MAX_NESTED // num_nested
    return (num_items - 100) * (len(item) + (KEY_BYTES if with_keys else 1))


def _repeated(item: bytes, room: int) -> bytes:
    many = (item + b",") * (room // (len(item) + 1))
    return b"[%b]" % many[:-1]


KEY_BYTES = 10  # with quotes, colon and comma


@functools.lru_cache(maxsize=4)
def _keys(item: bytes, room: int) -> bytes:
    numbers = range(room // (len(item) + KEY_BYTES))
    return b",".join([b'"%06x":%b' % (number, item) for number in numbers])


def _with(fields: Mapping[str, bytes], name: str) -> Wrap:
    """An object of these fields in which this one is filled."""

    def wrap(raw: bytes) -> bytes:
        members = {**fields, name: raw}
        return b"{%b}" % b",".join(b'"%b":%b' % (key.encode(), members[key]) for key in members)

    return wrap


def _unknown(fields: Mapping[str, bytes]) -> Wrap:
    """The filled map's members stand beside the fields."""

    def wrap(raw: bytes) -> bytes:
        known = b",".join(b'"%b":%b' % (key.encode(), value) for key, value in fields.items())
        return b"{%b,%b}" % (known, raw[1:-1])

    return wrap


def _around(wrap: Wrap, inner: Wrap) -> Wrap:
    return lambda raw: wrap(inner(raw))


def _of_struct(
    info: inspect.StructType,
    wrap: Wrap,
    path: str,
    given: Mapping[str, bytes],
    within: tuple[type, ...],
) -> Iterator[Place]:
    if info.cls in within:
        return  # blocks in blocks: once is enough
    required = {
        field.encode_name: sample(field.type) for field in info.fields if field.required
    } | dict(given)
    for field in info.fields:
        inner = _with(required, field.encode_name)
        owner = next(
            cls for cls in reversed(info.cls.__mro__) if field.name in get_annotations(cls)
        )
        yield from _of(
            field.type,
            _around(wrap, inner),
            f"{path}.{field.encode_name}",
            f"{owner.__module__}.{owner.__name__}.{field.encode_name}",
            (*within, info.cls),
        )


def _of(
    info: inspect.Type, wrap: Wrap, path: str, owner: str, within: tuple[type, ...]
) -> Iterator[Place]:
    """The places within a field's type."""
    match info:
        case inspect.Metadata():
            yield from _of(info.type, wrap, path, owner, within)
        case inspect.UnionType():
            for member in info.types:
                yield from _of(member, wrap, path, owner, within)
        case inspect.StructType():
            yield from _of_struct(info, wrap, path, {}, within)
        case inspect.ListType():
            yield Place(path, owner, "list", sample(info.item_type), wrap)
            yield from _of(
                info.item_type,
                lambda raw: wrap(b"[%b]" % raw),
                f"{path}[]",
                f"{owner}[]",
                within,
            )
        case inspect.DictType():
            key = b"1" if isinstance(info.key_type, inspect.IntType) else b"a"
            yield Place(path, owner, "map", sample(info.value_type), wrap)
            yield from _of(
                info.value_type,
                lambda raw: wrap(b'{"%b":%b}' % (key, raw)),
                f"{path}{{}}",
                f"{owner}{{}}",
                within,
            )
        case inspect.StrType():
            yield Place(path, owner, "short text" if info.max_length else "text", b"", wrap)
        case inspect.AnyType() | inspect.RawType():
            yield Place(path, owner, "any", b"", wrap)
        case (
            inspect.IntType()
            | inspect.FloatType()
            | inspect.BoolType()
            | inspect.NoneType()
            | inspect.LiteralType()
            | inspect.EnumType()
        ):
            return
        case _:
            raise TypeError(f"{path}: how is {info} filled?")


def sample(info: inspect.Type) -> bytes:
    """The smallest value of a type, as JSON."""
    match info:
        case inspect.Metadata():
            return sample(info.type)
        case inspect.UnionType():
            return min((sample(member) for member in info.types), key=len)
        case inspect.StructType():
            fields = [
                b'"%b":%b' % (field.encode_name.encode(), sample(field.type))
                for field in info.fields
                if field.required
            ]
            return b"{%b}" % b",".join(fields)
        case inspect.ListType():
            return b"[%b]" % (sample(info.item_type) if info.min_length else b"")
        case inspect.DictType():
            return b"{}"
        case inspect.StrType():
            return b'"a"' if info.min_length else b'""'
        case inspect.LiteralType():
            return msgspec.json.encode(info.values[0])
        case inspect.NoneType():
            return b"null"
        case inspect.BoolType():
            return b"true"
        case _:
            return b"1"


def one_of_each(all_places: Iterator[Place]) -> Iterator[Filled]:
    """For each place that a struct declares, however many inherit it, the filling that makes the
    most values of it. Texts are now and then of another kind."""
    seen: set[tuple[str, str]] = set()
    turns = itertools.count()
    for place in all_places:
        if (place.owner, place.kind) in seen:
            continue
        seen.add((place.owner, place.kind))
        first, *others = fillings(place)
        turn = next(turns) % 6
        if place.kind == "text":
            yield [first, *others][turn] if turn <= len(others) else first
        elif place.kind != "short text" or turn == 0:  # those are all refused by the decoder
            yield first
        if place.owner.startswith("unknown"):  # no way of decoding knows the field
            yield from others
