"""Makes structs of plain values, and reads refused ones again as clients in loosely typed languages
write them. Copies no text: an error in one of 16 MB takes no longer than in another."""

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from localinfra.api.http.shapes import Mending, ValueShape, shape_of

T = TypeVar("T", bound=msgspec.Struct)

# Lists whose items are answered by index: dropping a null would shift the others.
NUMBERED = {"prompt", "input", "inputs", "texts", "images", "tokens", "queries", "documents"}

WRONG_TYPE = re.compile(r"Expected `[^`]*`, got |Object missing |Invalid enum value ")
NOTHING_FOR_OTHER = re.compile(r"Expected `[^`]*`, got `null`|Invalid enum value ''")
FLOAT_FOR_INT = re.compile(r"Expected `[^`]*\bint\b[^`]*`, got `float`")


def converted(value: Any, kind: Any) -> Any:
    """The value as this type: what msgspec's JSON decoder makes of the same JSON, and its errors.
    A struct that is in it already stays."""
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except OverflowError:
        raise msgspec.ValidationError("Number out of range") from None


def convert_liberally(fields: Mapping[str, Any], kind: type[T]) -> T:
    """Makes this kind of struct of an object with these fields. If that refuses a value,

    - a float without a fraction (4.0, 1e3) is read as an integer. msgspec's lax mode does so too,
      but also reads strings as numbers;
    - an empty string, list or object, or false, counts as absent if the field is optional;
    - so do a null at any depth and an empty string in place of a choice; nulls in lists and maps
      are dropped.

    May change the values. Raises msgspec's errors.
    """
    try:
        return converted(fields, kind)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        if not WRONG_TYPE.match(str(error)):
            raise
        mended = mended_fields(fields, kind)
        if mended is None:
            raise
    return converted(mended, kind)  # type: ignore[no-any-return]


def mended_fields(fields: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any] | None:
    """The object's fields, those of a wrong type read liberally; None if nothing can be mended."""
    shapes, types = shape_of(kind).fields, field_types(kind)
    assert shapes is not None
    mended = dict(fields)
    mending = Mending()
    for name, value in fields.items():
        if name not in types or not (problem := problem_of(value, types[name])):
            continue
        if name in shapes.optional and is_empty(value):
            del mended[name]
            mending.num_mended += 1
        else:
            shape, is_numbered = shapes.all[name], name in NUMBERED
            mended[name] = _mended(value, types[name], problem, shape, is_numbered, mending)
    return mended if mending.num_mended else None


def _mended(
    value: Any, kind: Any, problem: str, shape: ValueShape, is_numbered: bool, mending: Mending
) -> Any:
    """The value without nulls if its type refuses them, then with integers if it wants those."""
    if NOTHING_FOR_OTHER.match(problem):
        mending.drop_nulls(value, shape, is_numbered)
        problem = problem_of(value, kind)
    if FLOAT_FOR_INT.match(problem):
        value = mending.with_whole_numbers(value)
        if NOTHING_FOR_OTHER.match(problem_of(value, kind)):
            mending.drop_nulls(value, shape, is_numbered)
            if FLOAT_FOR_INT.match(problem_of(value, kind)):
                value = mending.with_whole_numbers(value)
    return value


def problem_of(value: Any, kind: Any) -> str:
    """The complaint about the value if it concerns types, else ""."""
    try:
        converted(value, kind)
    except msgspec.ValidationError as error:
        return str(error) if WRONG_TYPE.match(str(error)) else ""
    except (ValueError, TypeError):
        return ""
    return ""


@functools.cache
def field_types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Types of a struct's fields, by their names on the wire."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}


@functools.cache
def field_decoders(kind: type[msgspec.Struct]) -> dict[str, msgspec.json.Decoder[Any]]:
    """Decoders of a struct's fields, by their names on the wire."""
    return {name: msgspec.json.Decoder(type) for name, type in field_types(kind).items()}


def is_empty(value: Any) -> bool:
    return value is None or value is False or (not value and isinstance(value, (str, list, dict)))
