"""Request bytes → a validated struct and the names it does not know. The one door for JSON bodies;
form.py brings forms to it.

Judges size, pace, content type, JSON and the struct's annotations; past it values are trusted.
"""

import asyncio
import codecs
import contextlib
import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from localinfra.api.http.liberal import MAX_READ_AGAIN_BYTES, decode_liberally
from localinfra.api.http.shapes import MAX_NAMED, Unknown, ValueShape, shape_of
from localinfra.api.http.surrogates import lone_surrogate
from localinfra.api.http.weight import MAX_DEPTH, MAX_VALUES, Weight
from localinfra.errors import (
    BodyTooLarge,
    InvalidRequest,
    QueueFull,
    RequestTimeout,
    UnsupportedMediaType,
)
from localinfra.executor import give_way

T = TypeVar("T", bound=msgspec.Struct)

JSON_TYPE = re.compile(rb"application/([\w.-]+\+)?json", re.IGNORECASE)
READABLE_CHARSETS = ("utf-8", "ascii")  # as Python calls them; ASCII is UTF-8 as well
MAX_PARSED_BYTES = 4096  # of a header: parameters take a microsecond for each
NESTED_SIZE = 32  # a list, object or name is as much work as so many characters
NULL = msgspec.Raw(b"null")
NO_TEXT = msgspec.Raw(b'""')
FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class UnfinishedBodies:
    """The bytes held of bodies that are still arriving, all together. Event loop only.

    The first 64 kB of each are free, so that who fills this up keeps out no ordinary request.
    """

    FREE_BYTES = 64 * 1024

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def grow(self, from_bytes: int, to_bytes: int) -> None:
        """One of them now has `to_bytes`. Raises QueueFull if that is too much in all."""
        more_bytes = self._counted(to_bytes) - self._counted(from_bytes)
        if more_bytes and self.held_bytes + more_bytes > self.max_bytes:
            raise QueueFull(
                "Too many large bodies are arriving at once: send this one again in a moment.",
                retry_after_s=1,
            )
        self.held_bytes += more_bytes

    def done(self, size_bytes: int) -> None:
        """One of `size_bytes` arrived, or was given up."""
        self.held_bytes -= self._counted(size_bytes)

    def _counted(self, size_bytes: int) -> int:
        return max(0, size_bytes - self.FREE_BYTES)


class BodyLimits(msgspec.Struct, frozen=True):
    max_bytes: int
    timeout_s: float  # for the whole body, however it arrives
    unfinished: UnfinishedBodies | None = None  # what it shares with the others


class Decoded(msgspec.Struct, Generic[T], frozen=True):
    value: T
    # Top-level fields that the struct does not have, as the client wrote them.
    ignored: tuple[str, ...]
    size: int = 0  # of a body that was weighed: what it takes to go through it
    # The paths of names further down that nobody knows: of each message, where a client is
    # generous. They come last, so that they crowd out nothing.
    unknown: tuple[str, ...] = ()

    def ignoring(self, names: Iterable[str], unknown: Iterable[str] = ()) -> "Decoded[T]":
        """The same, where these were left out as well: paths into the body, as errors name them."""
        return msgspec.structs.replace(
            self, ignored=(*self.ignored, *names), unknown=(*self.unknown, *unknown)
        )

    @property
    def headers(self) -> dict[str, str]:
        """`x-localinfra-ignored`, for the response; empty if nothing was ignored."""
        if not (self.ignored or self.unknown):
            return {}
        # What is left out goes with all that is in it. No more is looked at than can be listed.
        ignored = self.ignored[: MAX_NAMED + 1]
        within = tuple(f"{name}{sign}" for name in ignored for sign in ".[")
        unknown = (path for path in self.unknown if not path.startswith(within))
        return {"x-localinfra-ignored": header_list(itertools.chain(ignored, unknown))}


async def read_body(
    request: Request,
    kind: type[T],
    limits: BodyLimits,
    max_values: int = MAX_VALUES,
) -> Decoded[T]:
    """Reads and checks the request's JSON body.

    A `null` counts as not given wherever a field has a default, so that defaults are written
    without `| None`, and so does an empty text where the default is a text or None. An ApiError
    raised in `__post_init__` goes to the client as it is, a ValueError as InvalidRequest.

    Raises UnsupportedMediaType, BodyTooLarge, RequestTimeout, InvalidRequest with the field's path
    as `param`, and ClientDisconnect when the client left.
    """
    check_content_type(request)
    weight = Weight(max_values)
    body = without_mark(await receive_body(request, limits, weight))
    if weight.is_too_deep:
        too_deep = f"The body is nested too deeply: lists and objects can have {MAX_DEPTH} levels."
        raise InvalidRequest(too_deep, fault=too_deep)
    fields = fields_of(body)
    await give_way()  # each half takes its time where the body is large
    return struct_of(body, fields, kind, max(len(body), weight.num_nested * NESTED_SIZE))


def check_content_type(request: Request) -> None:
    """Insisting on JSON also keeps other sites' forms out: they can't send it unasked."""
    given = request.headers.get("content-type", "")
    if not is_json_in_utf_8(given):
        raise UnsupportedMediaType(
            f"Send the body as 'Content-Type: application/json' in UTF-8, not {given[:100]!r}."
        )
    check_content_encoding(request)


def is_json_in_utf_8(content_type: str) -> bool:
    """However the charset is spelled: utf8, UTF_8. Other parameters mean nothing to JSON."""
    main, options = parse_options_header(content_type[:MAX_PARSED_BYTES])
    charset = options.get(b"charset", b"").decode("latin-1").strip()
    try:
        is_readable = not charset or codecs.lookup(charset).name in READABLE_CHARSETS
    except (LookupError, ValueError):  # no such charset, or a null character in it
        return False
    return is_readable and JSON_TYPE.fullmatch(main.strip()) is not None


def check_content_encoding(request: Request) -> None:
    if request.headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body uncompressed: this server decodes none.")


async def receive_body(request: Request, limits: BodyLimits, weight: Weight | None = None) -> bytes:
    """The whole body, at most `max_bytes` of it held, and its `weight` as JSON counted on the way.
    Content-Length only helps to refuse early.

    Raises BodyTooLarge, RequestTimeout, QueueFull where too much is held for others already, and
    ClientDisconnect."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.max_bytes:
        raise too_large(limits)
    unfinished = limits.unfinished or UnfinishedBodies(limits.max_bytes)
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
                unfinished.grow(len(body), len(body) + len(chunk))
                body += chunk
                if not message.get("more_body", False):
                    if weight is not None:
                        weight.finish()
                    return bytes(body)
    except TimeoutError:
        raise RequestTimeout(
            f"The request's body did not arrive within {limits.timeout_s:g} s."
        ) from None
    finally:
        unfinished.done(len(body))


def too_large(limits: BodyLimits) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than this server's limit of {limits.max_bytes} bytes.")


def decode(body: bytes, kind: type[T]) -> Decoded[T]:
    """Of a body whose weight was counted: msgspec holds the GIL, so a thread would stall the event
    loop no less. What takes longest takes 60 ms."""
    body = without_mark(body)
    return struct_of(body, fields_of(body), kind)


def without_mark(body: bytes) -> bytes:
    """Windows' programs put a byte order mark before UTF-8."""
    return body.removeprefix(codecs.BOM_UTF8)


Fields = dict[str, msgspec.Raw]


def fields_of(body: bytes) -> Fields:
    with refusing(body):
        return FIELDS.decode(body)


def struct_of(body: bytes, fields: Fields, kind: type[T], size: int = 0) -> Decoded[T]:
    decoder, shape = decoder_of(kind)
    assert shape.fields is not None
    known, texts = shape.fields.all, shape.fields.texts
    ignored = tuple(name for name in fields if name not in known)
    given = {
        name: raw
        for name, raw in fields.items()
        if name in known and raw != NULL and not (raw == NO_TEXT and name in texts)
    }
    with refusing(body, shape):
        if len(given) + len(ignored) < len(fields):  # without those that say nothing
            body = msgspec.json.encode(given)
        value = decode_liberally(body, given, decoder)
        return Decoded(value, ignored, size, tuple(unknown_within(given, shape)))


def unknown_within(fields: Fields, shape: ValueShape) -> Iterator[str]:
    """The paths of names that nobody knows, below the top level of a body."""
    assert shape.fields is not None
    unknown = Unknown()
    for name, inner in shape.fields.nested.items():
        raw = fields.get(name)
        if raw is not None and memoryview(raw).nbytes <= MAX_READ_AGAIN_BYTES:
            yield from unknown.paths(raw, inner, name)


@contextlib.contextmanager
def refusing(body: bytes, shape: ValueShape | None = None, within: str = "") -> Iterator[None]:
    """What a decoder raises → InvalidRequest."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise invalid_value(str(error), shape, within) from None
    except RecursionError:  # not a DecodeError, and also raised while skipping an unknown field
        too_deep = "The body is nested too deeply."
        raise InvalidRequest(too_deep, fault=too_deep) from None
    except ValueError as error:  # DecodeError and UnicodeDecodeError
        raise not_json(body, str(error)) from None


def not_json(body: bytes, problem: str) -> InvalidRequest:
    """`problem`: what a decoder says, which quotes nothing of the body."""
    told, param = "it is empty" if not body.strip() else problem[:200], None
    fault = NOT_JSON.format(told)
    place = BYTE.search(problem)
    if half := lone_surrogate(body, int(place[1]) if place else len(body)):
        text, param = half
        told = f"{text} is half a character (a lone surrogate): send whole ones"
    return InvalidRequest(NOT_JSON.format(told), param, fault=fault)


@functools.cache
def decoder_of(kind: type[T]) -> tuple[msgspec.json.Decoder[T], ValueShape]:
    """A struct's decoder, and what it lets stand where."""
    return msgspec.json.Decoder(kind), shape_of(kind)


NOT_JSON = "The body is not valid JSON in UTF-8: {}."
BYTE = re.compile(r" \(byte (\d{1,18})\)$")  # where msgspec has given up
MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
WRONG_CHOICE = re.compile(r"invalid (?:enum )?value (?P<value>.+)", re.DOTALL)
MAX_PROBLEM = 1000  # characters
LOCATION = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")


def invalid_value(
    problem: str, shape: ValueShape | None = None, within: str = ""
) -> InvalidRequest:
    """msgspec's "Expected `int`, got `str` - at `$.messages[0].content`", as message and param.

    `within` is the path of a value that was decoded by itself, `shape` that of its struct.
    """
    if len(problem) > MAX_PROBLEM:  # it quotes the value
        problem = f"{problem[: MAX_PROBLEM // 2]}...{problem[-MAX_PROBLEM // 2 :]}"
    location = LOCATION.search(problem)
    place = location["path"] if location else ""
    path = ".".join(part for part in (within, place) if part)
    what = LOCATION.sub("", problem)[:500]
    if missing := MISSING.fullmatch(what):
        path = f"{path}.{missing['name']}".lstrip(".")
        return InvalidRequest(f"`{path}` is required.", path, fault="it is required")
    found = shape.at(place) if shape else None
    what = fault = f"{what[:1].lower()}{what[1:]}"
    if wrong := WRONG_CHOICE.fullmatch(what):
        fault = "no such choice"
        if found and found.choices:
            what = f"{wrong['value']} is {choices_text(wrong['value'], found.choices)}"
    return InvalidRequest(
        f"Invalid `{path or 'body'}`: {what}{'' if what.endswith('?') else '.'}",
        path or None,
        fault=fault,
    )


def choices_text(value: str, choices: Iterable[object]) -> str:
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(value.strip("'\"").lower(), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"none of {', '.join(names)}{hint}"


def decode_within(path: str, raw: msgspec.Raw, kind: type[T], unknown: list[str]) -> T:
    """A value that the body's struct left undecoded, as `read_body` reads it. Adds the paths of
    names that nobody knows. Raises InvalidRequest naming its path."""
    decoder, shape = decoder_of(kind)
    with refusing(b"...", shape, path):
        value: T
        try:
            value = decoder.decode(raw)
        except msgspec.ValidationError:
            value = decode_liberally(bytes(raw), FIELDS.decode(raw), decoder)
        if memoryview(raw).nbytes <= MAX_READ_AGAIN_BYTES:
            unknown += Unknown().paths(raw, shape, path)
        return value


MAX_LISTED_CHARS = 1800


def header_list(names: Iterable[str], max_chars: int = 200) -> str:
    """Names as one header value: percent-encoded where not plain ASCII, cut where too many."""
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
    return InvalidRequest(f"{path} is missing: put {what} there.", path)
