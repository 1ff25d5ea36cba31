"""The filters a chat template may use, and the cost of string methods. Runs no template.

Every filter checks the deadline before it runs and is charged for its result; the few that can make
a large result from a small input are written here and charged in advance.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from html import escape
from sys import getsizeof
from typing import Any, Protocol

from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from localinfra.chat.sandbox.meter import LimitExceeded, Meter, written

# Jinja's own, without those that only HTML pages use and those that are slow by design.
PLAIN = (
    "abs capitalize count d default dictsort first float groupby items last length lower map "
    "max min reject rejectattr reverse select selectattr sort title trim truncate unique upper "
    "wordcount"
).split()
MAX_INDENT = 16

LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
WIDE_FORMAT = re.compile(r"%[-+ #0\d.]*\*|\d{4,}[.diouxXeEfFgGcrsahlL]")


class Metered(Protocol):
    @property
    def meter(self) -> Meter: ...
    @property
    def passthrough(self) -> str: ...


def metered(owner: Metered, function: Callable[..., Any]) -> Callable[..., Any]:
    """Meters the function's time and result. Keeps Jinja's marks, such as `pass_environment`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> object:
        meter = owner.meter
        meter.tick()
        return meter.charge(function(*args, **kwargs))

    return run


class Filters:
    """Replacements for Jinja's filters that are unsafe or can't be metered."""

    def __init__(self, owner: Metered):
        self._owner = owner

    def join(self, value: Iterable[object], d: object = "", attribute: str | None = None) -> str:
        meter = self._owner.meter
        if attribute is not None:
            value = [item[attribute] for item in value]  # type: ignore[index]  # as the template says
        pieces = [meter.text(item) for item in value]
        meter.spend(_join_bytes(str(d), pieces))
        return str(d).join(pieces)

    def replace(self, value: object, old: object, new: object, count: int | None = None) -> str:
        text = str(value)
        self._owner.meter.spend(_replace_bytes(text, str(old), str(new)))
        return text.replace(str(old), str(new), -1 if count is None else count)

    def to_list(self, value: Iterable[object]) -> list[object]:
        if isinstance(value, str | range):
            self._owner.meter.spend(80 * len(value))
        return list(value)

    def percent_format(self, value: object, *args: object, **kwargs: object) -> str:
        text = str(value)
        self._owner.meter.spend(percent_bytes(self._owner.meter, text, kwargs or args))
        return text % (kwargs or args)

    def tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Like transformers' `tojson`: no HTML escapes, keys in their own order."""
        if max(map(len, [*(separators or ()), _spaces(indent)])) > MAX_INDENT:
            raise ValueError("the indent or separators of tojson are too long")
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        pieces = []
        for piece in encoder.iterencode(value):
            self._owner.meter.spend(getsizeof(piece))
            pieces.append(piece)
        text = "".join(pieces)
        for mark in self._owner.passthrough if ensure_ascii else "":
            text = text.replace(f"\\u{ord(mark):04x}", mark)
        return text

    def indent(
        self, value: object, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        text, margin = str(value), _spaces(width)
        if len(margin) > MAX_INDENT:
            raise ValueError("the width of indent is too large")
        lines = (text + "\n").splitlines()  # like Jinja: keeps a final line break
        self._owner.meter.spend(getsizeof(text) + len(lines) * (64 + len(margin)))
        rest = [margin + line if line or blank else line for line in lines[1:]]
        return (margin if first else "") + "\n".join([lines[0], *rest])


def table(owner: Metered) -> dict[str, Callable[..., Any]]:
    """Name → filter, for the environment's `filters`."""
    filters = Filters(owner)
    own = {
        "e": lambda value: escape(str(value)),
        "escape": lambda value: escape(str(value)),
        "format": filters.percent_format,
        "indent": filters.indent,
        "int": _to_int,
        "join": filters.join,
        "list": filters.to_list,
        "replace": filters.replace,
        "round": _round,
        "safe": str,
        "string": str,
        "sum": _sum,
        "tojson": filters.tojson,
    }
    chosen = {name: FILTERS[name] for name in PLAIN} | own
    return {name: metered(owner, function) for name, function in chosen.items()}


def tests(owner: Metered) -> dict[str, Any]:
    """All of Jinja's tests, such as `is mapping`, metered: they may compare large values."""
    functions: dict[str, Any] = {**TESTS}
    return {name: metered(owner, function) for name, function in functions.items()}


def percent_bytes(meter: Meter, text: str, values: object) -> int:
    """The most bytes that `text % values` makes. Raises LimitExceeded for an enormous width."""
    if WIDE_FORMAT.search(text):
        raise LimitExceeded("it formats too wide a field")
    return getsizeof(text) + text.count("%") * (meter.size(values) + 1000)


def _spaces(indent: int | str | None) -> str:
    return indent if isinstance(indent, str) else " " * min(indent or 0, MAX_INDENT + 1)


def _to_int(value: Any, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str) and len(value) > 300:
        return default
    function: Callable[..., int] = FILTERS["int"]
    return function(value, default, base)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > 300:
        raise ValueError("the precision of round is out of range")
    function: Callable[..., float] = FILTERS["round"]
    return function(value, precision, method)


def _sum(values: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    numbers = [value[attribute] if attribute is not None else value for value in values]
    if not all(isinstance(number, int | float) for number in [*numbers, start]):
        raise TypeError("sum takes numbers only")
    return sum(numbers, start)


def _join_bytes(separator: str, items: Iterable[Any], **_: object) -> int:
    sizes = [written(item) for item in items if isinstance(item, str)]
    return sum(sizes) + written(separator) * len(sizes)


def _replace_bytes(text: str, old: str, new: str, *_: object, **__: object) -> int:
    return getsizeof(text) + text.count(old) * written(new)


def _split_bytes(text: str, sep: str | None = None, *_: object, **__: object) -> int:
    return getsizeof(text) + 64 * (text.count(sep) if sep else len(text) // 2)


def _splitlines_bytes(text: str, *_: object, **__: object) -> int:
    return getsizeof(text) + 64 * sum(map(text.count, LINE_BREAKS))


# String methods whose result may exceed their input → bytes of the result, known before they run.
METHOD_BYTES: dict[str, Callable[..., int]] = {
    "join": _join_bytes,
    "replace": _replace_bytes,
    "split": _split_bytes,
    "rsplit": _split_bytes,
    "splitlines": _splitlines_bytes,
}
