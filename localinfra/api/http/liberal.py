"""Reads refused values again, as clients in loosely typed languages write them."""

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from localinfra.api.http.shapes import ValueShape, shape_of, without_nulls

T = TypeVar("T", bound=msgspec.Struct)

MAX_MENDED_BYTES = 64 * 1024  # of one field: a few ms
MAX_READ_AGAIN_BYTES = 1 << 20  # of one field, decoded without a type: 10 ms
MAX_WHOLE = 2.0**63  # floats beyond it don't stand for one integer

# Lists whose items are answered by index: dropping a null would shift the others.
NUMBERED = {"prompt", "input", "inputs", "texts", "images", "tokens", "queries", "documents"}

WRONG_TYPE = re.compile(r"Expected `[^`]*`, got |Object missing |Invalid enum value ")
NOTHING_FOR_OTHER = re.compile(r"Expected `[^`]*`, got `null`|Invalid enum value ''")
FLOAT_FOR_INT = re.compile(r"Expected `[^`]*\bint\b[^`]*`, got `float`")
# A JSON string (to skip it), or a number with a point or an exponent. Reads each character at most
# twice, even in long runs of digits.
FLOATS = re.compile(
    rb'"(?:[^"\\]|\\.)*+"|(?<!\d)-?\d++(?:\.\d++(?:[eE][+-]?\d++)?|[eE][+-]?\d++)', re.DOTALL
)


def decode_liberally(
    body: bytes, fields: Mapping[str, msgspec.Raw], decoder: msgspec.json.Decoder[T], kind: type[T]
) -> T:
    """Decodes a JSON object with these `fields` as this kind of struct. If that refuses a value,

    - a float without a fraction (4.0, 1e3) is read as an integer. msgspec's lax mode does so too,
      but also reads strings as numbers;
    - an empty string, list or object, or false, counts as absent if the field is optional;
    - so do a null at any depth and an empty string in place of a choice; nulls in lists and maps
      are dropped.

    Raises the decoder's errors. Decodes the whole body at most twice: values are mended field by
    field, and only in small fields.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if not WRONG_TYPE.match(str(error)):
            raise
        mended = mended_fields(fields, kind)
        if mended == fields:
            raise
    return decoder.decode(msgspec.json.encode(mended))


def mended_fields(
    fields: Mapping[str, msgspec.Raw], kind: type[msgspec.Struct]
) -> dict[str, msgspec.Raw]:
    """The object's fields, those of a wrong type read liberally if that may help."""
    shapes, decoders = shape_of(kind).fields, field_decoders(kind)
    assert shapes is not None
    mended = dict(fields)
    for name, raw in fields.items():
        if name not in decoders:
            continue
        if name in shapes.optional and is_empty(raw):
            if problem_of(decoders[name], raw):
                del mended[name]
        else:
            mended[name] = mended_value(raw, decoders[name], shapes.all[name], name in NUMBERED)
    return mended


def mended_value(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[Any], shape: ValueShape, is_numbered: bool
) -> msgspec.Raw:
    """The value without nulls if the decoder refuses them, then with integers if it wants those."""
    num_bytes = memoryview(raw).nbytes
    if num_bytes > MAX_READ_AGAIN_BYTES:
        return raw
    problem = problem_of(decoder, raw)
    if NOTHING_FOR_OTHER.match(problem):
        raw = without_nulls(raw, shape, is_numbered=is_numbered)
        problem = problem_of(decoder, raw)
    if FLOAT_FOR_INT.match(problem) and num_bytes <= MAX_MENDED_BYTES:
        raw = with_whole_numbers(raw)
        if NOTHING_FOR_OTHER.match(problem_of(decoder, raw)):
            return mended_value(raw, decoder, shape, is_numbered)
    return raw


def problem_of(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> str:
    """The decoder's complaint about the value if it concerns types, else ""."""
    try:
        decoder.decode(raw)
    except msgspec.ValidationError as error:
        return str(error) if WRONG_TYPE.match(str(error)) else ""
    return ""


@functools.cache
def field_decoders(kind: type[msgspec.Struct]) -> dict[str, msgspec.json.Decoder[Any]]:
    """Decoders of a struct's fields, by their names on the wire."""
    fields = msgspec.structs.fields(kind)
    return {field.encode_name: msgspec.json.Decoder(field.type) for field in fields}


def is_empty(raw: msgspec.Raw) -> bool:
    """Looks at 16 bytes only: empty values with more blanks than that are refused."""
    shown = bytes(memoryview(raw)[:16]).translate(None, b" \t\r\n")
    return shown in (b'""', b"[]", b"{}", b"false", b"null")


def with_whole_numbers(raw: msgspec.Raw) -> msgspec.Raw:
    """The JSON with floats without a fraction written as integers."""
    return msgspec.Raw(FLOATS.sub(lambda match: whole_number(match[0]), bytes(raw)))


def whole_number(text: bytes) -> bytes:
    if text.startswith(b'"'):
        return text
    number = float(text)
    is_whole = number.is_integer() and abs(number) < MAX_WHOLE
    return str(int(number)).encode() if is_whole else text
