"""What msgspec says of a body → InvalidRequest, with the field's path and the choices there are.
Quotes a thousand characters of a body at most."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

import msgspec

from localinfra.api.http.shapes import ValueShape
from localinfra.api.http.surrogates import lone_surrogate
from localinfra.chat.decoding import BYTE, Body
from localinfra.errors import InvalidRequest


@contextlib.contextmanager
def refusing(body: Body, shape: ValueShape | None = None, within: str = "") -> Iterator[None]:
    """Turns a decoder's errors into InvalidRequest."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise invalid_value(str(error), shape, within) from None
    except RecursionError:  # not a DecodeError, and also raised while skipping an unknown field
        too_deep = "The body is nested too deeply."
        raise InvalidRequest(too_deep, fault=too_deep) from None
    except ValueError as error:  # DecodeError and UnicodeDecodeError
        raise not_json(body, str(error)) from None


def not_json(body: Body, problem: str) -> InvalidRequest:
    """`problem`: the decoder's message, which quotes nothing of the body."""
    reason, param = "it is empty" if not body.strip() else problem[:200], None
    fault = NOT_JSON.format(reason)
    place = BYTE.search(problem)
    if half := lone_surrogate(body, int(place[1]) if place else len(body)):
        text, param = half
        reason = f"{text} is half a character (a lone surrogate): send both halves or neither"
    return InvalidRequest(NOT_JSON.format(reason), param, fault=fault)


NOT_JSON = "The body is not valid JSON in UTF-8: {}."
MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
WRONG_CHOICE = re.compile(r"invalid (?:enum )?value (?P<value>.+)", re.DOTALL)
MAX_PROBLEM = 1000  # characters
LOCATION = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")


def invalid_value(
    problem: str, shape: ValueShape | None = None, within: str = ""
) -> InvalidRequest:
    """msgspec's "Expected `int`, got `str` - at `$.messages[0].content`" as message and param.

    `within` is the path of a value that was decoded separately, `shape` is that value's shape.
    """
    if len(problem) > MAX_PROBLEM:  # it quotes the value
        problem = f"{problem[: MAX_PROBLEM // 2]}...{problem[-MAX_PROBLEM // 2 :]}"
    location = LOCATION.search(problem)
    place = location["path"] if location else ""
    path = within + place if place.startswith("[") else ".".join(filter(None, (within, place)))
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
