"""Request bytes → a validated struct and the names it does not know. All JSON bodies are read
here, and forms once form.py has converted them.

Checks size, pace, content type, JSON and the struct's annotations; later code trusts the values.
"""

import asyncio
import codecs
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from localinfra.api.http.bodies import FREE_BYTES, BodyLimits, HeldBody, UnfinishedBodies
from localinfra.api.http.liberal import (
    convert_liberally,
    converted,
    field_decoders,
    field_types,
)
from localinfra.api.http.refusals import refusing
from localinfra.api.http.shapes import MAX_NAMED, Unknown, ValueShape, described, lighten, shape_of
from localinfra.api.http.state import RequestState
from localinfra.api.http.weight import MAX_DEPTH, MAX_NESTED, MAX_VALUES, Weight
from localinfra.chat.decoding import Body, Read, values_of
from localinfra.errors import (
    BodyTooLarge,
    InvalidRequest,
    RequestTimeout,
    UnsupportedMediaType,
)
from localinfra.executor import in_turns
from localinfra.steps import Steps, done

T = TypeVar("T", bound=msgspec.Struct)
AnyBytes = TypeVar("AnyBytes", bytes, bytearray)

JSON_TYPE = re.compile(rb"application/([\w.-]+\+)?json", re.IGNORECASE)
# What curl, and fetch with a text, send where nothing is said.
UNTYPED = ("", "application/x-www-form-urlencoded", "text/plain")
READABLE_CHARSETS = ("utf-8", "ascii")  # Python's names; ASCII is valid UTF-8
MAX_PARSED_BYTES = 4096  # of a header: parsing takes 1 µs per parameter
NESTED_SIZE = 32  # a list, object or name is as much work as this many characters
NULL = msgspec.Raw(b"null")
FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
MAX_READ_AGAIN_BYTES = 1 << 20  # what may be looked through twice without a pause: 10 ms

Fields = dict[str, Any]  # plain values


class Decoded(msgspec.Struct, Generic[T], frozen=True):
    value: T
    # Top-level fields that the struct does not have, as the client wrote them.
    ignored: tuple[str, ...]
    size: int = 0  # the work of processing the body, in characters; 0 if it was not weighed
    # Paths of unknown names below the top level. A client may send one with every message, so
    # they are listed last and crowd out nothing.
    unknown: tuple[str, ...] = ()
    num_data: int = 0  # of `size`, what files in base64 have

    def ignoring(self, names: Iterable[str], unknown: Iterable[str] = ()) -> "Decoded[T]":
        """A copy that reports these as ignored too: paths into the body, as in errors."""
        return msgspec.structs.replace(
            self, ignored=(*self.ignored, *names), unknown=(*self.unknown, *unknown)
        )

    @property
    def headers(self) -> dict[str, str]:
        """`x-localinfra-ignored`, for the response; empty if nothing was ignored."""
        if not (self.ignored or self.unknown):
            return {}
        # An ignored field covers everything in it. Looks at no more names than can be listed.
        ignored = self.ignored[: MAX_NAMED + 1]
        within = tuple(f"{name}{sign}" for name in ignored for sign in ".[")
        unknown = (path for path in self.unknown if not path.startswith(within))
        return {"x-localinfra-ignored": header_list(itertools.chain(ignored, unknown))}


async def read_body(
    request: Request,
    kind: type[T],
    limits: BodyLimits,
    max_values: int = MAX_VALUES,
    *,
    max_nested: int = MAX_NESTED,
    has_type: bool = True,
) -> Decoded[T]:
    """Reads and checks the request's JSON body. Without `has_type`, its Content-Type may be absent
    or what programs send unless told otherwise; the guard has refused forms of other sites.

    A `null` counts as absent if the field has a default, so structs need no `| None` for it; so
    does an empty string if the default is a string or None. An ApiError raised in `__post_init__`
    goes to the client unchanged, a ValueError as InvalidRequest.

    Raises UnsupportedMediaType, BodyTooLarge, RequestTimeout, QueueFull, InvalidRequest with the
    field's path as `param`, or ClientDisconnect if the client has left.
    """
    given = request.headers.get("content-type", "")
    if has_type or given.partition(";")[0].strip().lower() not in UNTYPED:
        check_content_type(request)
    check_content_encoding(request)
    weight = Weight(max_values, max_nested)
    body = without_mark(await receive(request, limits, weight))
    if weight.is_too_deep:
        too_deep = f"The body is nested too deeply: at most {MAX_DEPTH} levels are allowed."
        raise InvalidRequest(too_deep, fault=too_deep)
    size = max(len(body), weight.num_nested * NESTED_SIZE)
    decoded = await in_turns(struct_of(body, kind, size))
    return msgspec.structs.replace(decoded, num_data=weight.num_data)


def check_content_type(request: Request) -> None:
    """Raises UnsupportedMediaType unless it is JSON. This also keeps out forms of other sites,
    which can't send JSON without a preflight."""
    given = request.headers.get("content-type", "")
    if not is_json_in_utf_8(given):
        raise UnsupportedMediaType(
            f"Send the body as 'Content-Type: application/json' in UTF-8, not {given[:100]!r}."
        )


def is_json_in_utf_8(content_type: str) -> bool:
    """Accepts any spelling of the charset (utf8, UTF_8) and ignores other parameters."""
    main, options = parse_options_header(content_type[:MAX_PARSED_BYTES])
    charset = options.get(b"charset", b"").decode("latin-1").strip()
    try:
        is_readable = not charset or codecs.lookup(charset).name in READABLE_CHARSETS
    except (LookupError, ValueError):  # unknown charset, or a null character in its name
        return False
    return is_readable and JSON_TYPE.fullmatch(main.strip()) is not None


def check_content_encoding(request: Request) -> None:
    if request.headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise UnsupportedMediaType(
            "This server does not read compressed bodies: send it without Content-Encoding."
        )


async def receive_body(request: Request, limits: BodyLimits) -> bytes:
    """`receive`, as bytes."""
    return bytes(await receive(request, limits))


async def receive(request: Request, limits: BodyLimits, weight: Weight | None = None) -> bytearray:
    """The whole body, of at most `max_bytes`, which counts as held until the request has ended.
    Adds it to `weight` as it arrives. Content-Length only serves to refuse early.

    Raises BodyTooLarge, RequestTimeout, QueueFull if too much is held for other requests, or
    ClientDisconnect."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.max_bytes:
        raise too_large(limits)
    unfinished = limits.unfinished or UnfinishedBodies(limits.max_bytes)
    client = RequestState.of(request.scope).caller
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                if len(body) + len(chunk) > limits.max_bytes:
                    raise too_large(limits)
                if weight is not None:
                    weight.add(chunk)
                unfinished.grow(client, len(body), len(body) + len(chunk))
                body += chunk
                if not message.get("more_body", False):
                    if weight is not None:
                        weight.finish()
                    break
    except TimeoutError:
        raise RequestTimeout(
            f"The request's body did not arrive within {limits.timeout_s:g} s."
        ) from None
    finally:
        unfinished.done(client, len(body))
    if len(body) > FREE_BYTES:
        hold(request, limits, weight.held_bytes if weight else len(body))
    return body


def hold(request: Request, limits: BodyLimits, num_bytes: int) -> None:
    """Counts at least so many bytes as held until the request has ended. Raises QueueFull."""
    if limits.held is not None:
        state = RequestState.of(request.scope)
        state.body = state.body or HeldBody(limits.held, state.caller)
        state.body.grow(num_bytes)


def too_large(limits: BodyLimits) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than this server's limit of {limits.max_bytes} bytes.")


def decode(body: bytes, kind: type[T]) -> Decoded[T]:
    """Decodes a small body, or one whose weight was checked, without a pause."""
    return done(struct_of(without_mark(body), kind))


def without_mark(body: AnyBytes) -> AnyBytes:
    """Removes the byte order mark that Windows programs put before UTF-8."""
    return body[len(codecs.BOM_UTF8) :] if body.startswith(codecs.BOM_UTF8) else body


def struct_of(body: Body, kind: type[T], size: int = 0) -> Steps[Decoded[T]]:
    """Decodes a body without a mark."""
    with refusing(body):
        fields, has_long = yield from fields_of(body, kind)
    yield
    return (yield from struct_from(fields, kind, size, has_long=has_long))


def fields_of(body: Body, kind: type[msgspec.Struct]) -> Steps[Read]:
    """A body's fields, or what else it is, as plain values. Raises msgspec's errors."""
    if msgspec.Raw in field_types(kind).values():
        return (yield from fields_apart(body, kind))
    try:
        return (yield from values_of(body))
    except msgspec.ValidationError:  # a number is beyond Python's range
        if len(body) > MAX_READ_AGAIN_BYTES:
            raise
        return (yield from fields_apart(body, kind))


def fields_apart(body: Body, kind: type[msgspec.Struct]) -> Steps[Read]:
    """The same, where some can't be plain values: those that the struct keeps as JSON, and those
    that hold a number beyond Python's range, which their types may skip."""
    types, shape = field_types(kind), shape_of(kind).fields
    assert shape is not None
    found: Fields = {}
    has_long = False
    for name, raw in FIELDS.decode(body).items():
        yield
        if types.get(name) is msgspec.Raw:
            found[name] = None if raw == NULL else raw
            continue
        value = bytes(raw)
        try:
            found[name], is_long = yield from values_of(value)
            has_long |= is_long
        except msgspec.ValidationError:
            found[name] = None
            if name in types and len(value) <= MAX_READ_AGAIN_BYTES:
                with refusing(body, shape.all[name], name):
                    found[name] = field_decoders(kind)[name].decode(value)
    return Read(found, has_long)


def struct_from(
    fields: Any, kind: type[T], size: int = 0, *, has_long: bool = True
) -> Steps[Decoded[T]]:
    """Makes the struct of a body's plain values."""
    described(kind)  # once, like its shape, in a step of its own
    yield
    shape = shape_of(kind)
    assert shape.fields is not None
    if not isinstance(fields, dict):
        with refusing(b"..."):
            converted(fields, dict)  # which raises
    yield
    known, texts = shape.fields.all, shape.fields.texts
    ignored = tuple([name for name in fields if name not in known])
    yield
    given = {
        name: value
        for name, value in fields.items()
        if name in known and value is not None and not (value == "" and name in texts)
    }
    if has_long:
        yield from lighten(given, shape)
    yield
    with refusing(b"...", shape):
        value = convert_liberally(given, kind)
    yield
    return Decoded(value, ignored, size, tuple(unknown_within(given, shape)))


def unknown_within(fields: Fields, shape: ValueShape) -> Iterator[str]:
    """Paths of unknown names below the top level of a body."""
    assert shape.fields is not None
    unknown = Unknown()
    for name, inner in shape.fields.nested.items():
        if name in fields:
            yield from unknown.paths(fields[name], inner, name)


def decode_within(path: str, value: Any, kind: type[T], unknown: list[str]) -> T:
    """Makes a struct of what the body's struct kept as a plain value, by the rules of `read_body`.
    Adds paths of unknown names to `unknown`. Raises InvalidRequest with the value's path."""
    shape = shape_of(kind)
    done(lighten(value, shape))
    with refusing(b"...", shape, path):
        found = convert_liberally(value, kind) if type(value) is dict else converted(value, kind)
        unknown += Unknown().paths(value, shape, path)
        return found


MAX_LISTED_CHARS = 1800


def header_list(names: Iterable[str], max_chars: int = 200) -> str:
    """Names as one header value: percent-encoded if not plain ASCII, cut off if too many."""
    listed: list[str] = []
    num_chars = 0
    for name in names:
        name = quote(name[:max_chars], safe="$[]{}()<>!?@*+=:;/#&|~^")[:max_chars]
        num_chars += len(name) + 2
        if len(listed) == MAX_NAMED or num_chars > MAX_LISTED_CHARS:
            return ", ".join([*listed, "..."])
        listed.append(name)
    return ", ".join(listed)


def missing(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{path} is missing: set it to {what}.", path)
