"""Values that a struct refuses, read again as languages with fewer types write them."""

import functools
import re
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

MAX_MENDED_BYTES = 64 * 1024  # of one field: 1 ms
MAX_LOCATION = 1000  # characters, at the end of a problem, which may quote a long value

TOP_LEVEL = re.compile(r" - at (?:`key` in )?`\$\.(?P<name>[^`.\[]+)[^`]*`$")
WRONG_TYPE = re.compile(r"Expected `[^`]*`, got |Object missing |Invalid enum value ")
FLOAT_FOR_INT = re.compile(r"Expected `[^`]*\bint\b[^`]*`, got `float`")
# A JSON string, to be passed over, or a number with a point or an exponent.
FLOATS = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)', re.DOTALL)
FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_liberally(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decodes a JSON object. Where the struct takes no such value,

    - a float without a fraction (4.0, 1e3) is an integer. msgspec's lax mode does that as well, but
      takes texts for numbers besides;
    - an empty text, list or object, or false, is a field not given, if it may be left out.

    Raises what the decoder does.
    """
    mended: set[str] = set()
    while True:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            problem = str(error)
            location = TOP_LEVEL.search(problem, max(0, len(problem) - MAX_LOCATION))
            if location is None or location["name"] in mended or not WRONG_TYPE.match(problem):
                raise
            mended.add(location["name"])
            fields = mended_fields(FIELDS.decode(body), location["name"], problem, decoder.type)
            if fields is None:
                raise
            body = msgspec.json.encode(fields)


def mended_fields(
    fields: dict[str, msgspec.Raw], wrong: str, problem: str, kind: type[msgspec.Struct]
) -> dict[str, msgspec.Raw] | None:
    """The object's fields where the wrong one is read liberally; None where that is no help."""
    if wrong in optional_names(kind) and is_empty(fields[wrong]):
        return {name: raw for name, raw in fields.items() if name != wrong}
    if not FLOAT_FOR_INT.match(problem) or memoryview(fields[wrong]).nbytes > MAX_MENDED_BYTES:
        return None
    return {
        name: with_whole_numbers(raw) if name == wrong or is_number(raw) else raw
        for name, raw in fields.items()
    }


@functools.cache
def optional_names(kind: type[msgspec.Struct]) -> frozenset[str]:
    fields = msgspec.structs.fields(kind)
    return frozenset(field.encode_name for field in fields if not field.required)


def is_empty(raw: msgspec.Raw) -> bool:
    """Sixteen bytes tell: who writes more blanks than that into nothing is refused."""
    shown = bytes(memoryview(raw)[:16]).translate(None, b" \t\r\n")
    return shown in (b'""', b"[]", b"{}", b"false")


def is_number(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) in b"-0123456789"


def with_whole_numbers(raw: msgspec.Raw) -> msgspec.Raw:
    """The JSON with integers for its floats without a fraction."""
    return msgspec.Raw(FLOATS.sub(lambda match: whole_number(match[0]), bytes(raw)))


def whole_number(text: bytes) -> bytes:
    if text.startswith(b'"') or not (number := float(text)).is_integer():
        return text
    return str(int(number)).encode()
