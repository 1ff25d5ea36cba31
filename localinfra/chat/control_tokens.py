"""Tells a template's control tokens from the same spellings typed into a message.

Text only: before the template runs, wraps control tokens in its inputs in brackets, characters
that occur nowhere else; afterwards finds these brackets in the output.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import msgspec

from localinfra.chat.messages import Json
from localinfra.errors import InvalidRequest

LOOKED_AT = 1 << 17  # characters at once, in 1 ms: one call holds the interpreter
ESCAPE, ESCAPE_CHARS = re.compile(r"\\u([0-9a-f]{4})"), 6


class Segment(msgspec.Struct, frozen=True):
    """A part of a prompt. Control tokens are recognized in it only if `is_template`."""

    text: str
    is_template: bool


class Span(NamedTuple):
    start: int
    end: int


class Brackets(NamedTuple):
    """Three characters that occur in no input, neither literally nor as a JSON escape.

    Printable, from large scripts: `{{ tools }}` writes Python's repr, which would escape
    private-use characters.
    """

    opening: str
    closing: str
    end: str  # marks the end of the message to be continued

    @classmethod
    def absent_from(cls, texts: Iterable[str]) -> "Brackets":
        """Raises InvalidRequest if the texts leave none, as a listing of Unicode would."""
        known: set[str] = set()
        for text in texts:
            for at in range(0, len(text), LOOKED_AT):
                part = text[at : at + LOOKED_AT + ESCAPE_CHARS - 1]
                if not part.isascii():
                    known.update(part)
                if "\\u" in part:
                    known.update(chr(int(found[1], 16)) for found in ESCAPE.finditer(part))
        absent = (mark for mark in map(chr, range(0xA000, 0xD7A0)) if mark not in known)
        try:
            return cls(next(absent), next(absent), next(absent))
        except StopIteration:
            raise InvalidRequest(
                "The messages use too many different characters; send fewer at once.", "messages"
            ) from None


class ControlTokens:
    """Finds a vocabulary's control tokens in text, preferring longer ones."""

    def __init__(self, tokens: Collection[str]):
        spellings = sorted({token for token in tokens if token})
        self._pattern = _alternation(spellings) if spellings else "(?!)"
        self._regex = re.compile(self._pattern)

    def occur_in(self, texts: Iterable[str]) -> bool:
        return any(map(self._regex.search, texts))

    def wrap(self, text: str, brackets: Brackets) -> str:
        return self._regex.sub(
            lambda match: f"{brackets.opening}{match[0]}{brackets.closing}", text
        )

    def segments(self, marked: str, plain: str, brackets: Brackets) -> tuple[Segment, ...]:
        """Separates control tokens typed in messages from what the template wrote.

        `marked` was rendered from wrapped inputs, `plain` from the inputs themselves. They
        differ in more than brackets if the template cuts or trims right beside a control token;
        the result is then `plain`, provided both contain the same tokens in the same order.
        """
        text, typed = self._unwrap(marked, brackets)
        if text == plain:
            return _cut(text, typed)
        in_text, in_plain = self._spans(text), self._spans(plain)
        if [text[a:b] for a, b in in_text] != [plain[a:b] for a, b in in_plain]:
            return _cut(text, typed)
        starts = [span.start for span in typed]

        def is_typed(span: Span) -> bool:
            before = bisect_left(starts, span.end)  # spans are in order and don't overlap
            return before > 0 and typed[before - 1].end > span.start

        pairs = zip(in_text, in_plain, strict=True)
        return _cut(plain, [there for here, there in pairs if is_typed(here)])

    def _spans(self, text: str) -> list[Span]:
        return [Span(*match.span()) for match in self._regex.finditer(text)]

    def _unwrap(self, marked: str, brackets: Brackets) -> tuple[str, list[Span]]:
        """The text without brackets, and the spans they enclosed: typed in messages.

        A template that cuts its input may leave one bracket of a pair: a token beside it still
        counts as typed. A lone bracket beside anything else is dropped.
        """
        opening, closing, token = brackets.opening, brackets.closing, self._pattern
        regex = re.compile(
            f"{opening}(?P<pair>[^{opening}{closing}]*){closing}"
            f"|{opening}(?P<opened>{token})|(?P<closed>{token}){closing}|[{opening}{closing}]"
        )
        pieces: list[str] = []
        typed: list[Span] = []
        length = at = 0
        for match in regex.finditer(marked):
            inside = match[match.lastgroup] if match.lastgroup else ""
            start = length + match.start() - at
            length = start + len(inside)
            pieces += marked[at : match.start()], inside
            typed.append(Span(start, length))
            at = match.end()
        pieces.append(marked[at:])
        return "".join(pieces), typed


def strings(value: Json) -> Iterator[str]:
    """Every string inside, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from strings(item)


def mapped(value: Json, change: Callable[[str], str]) -> Json:
    """A copy with every string changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): mapped(item, change) for key, item in value.items()}
    return value


def _alternation(spellings: list[str]) -> str:
    """Sorted spellings → a regex that shares common prefixes and prefers longer spellings.

    A flat alternation would try thousands of `<unused…>` tokens one by one at every `<`.
    """
    beginning = os.path.commonprefix(spellings)  # noqa: RUF071  # characters are meant
    rests = [spelling[len(beginning) :] for spelling in spellings]
    groups = [list(group) for _, group in groupby(filter(None, rests), lambda rest: rest[0])]
    branches = "|".join(map(_alternation, groups))
    optional = "?" if "" in rests else ""
    return re.escape(beginning) + (f"(?:{branches}){optional}" if branches else "")


def _cut(text: str, typed: Iterable[Span]) -> tuple[Segment, ...]:
    """The text in segments; neighbours of one kind are merged, empty ones left out."""
    pieces: list[Segment] = []
    at = 0
    for span in typed:
        pieces += Segment(text[at : span.start], True), Segment(text[span.start : span.end], False)
        at = span.end
    pieces.append(Segment(text[at:], True))
    kinds = groupby((piece for piece in pieces if piece.text), lambda piece: piece.is_template)
    return tuple(Segment("".join(piece.text for piece in group), kind) for kind, group in kinds)
