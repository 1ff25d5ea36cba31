"""Finds calls that a model wrote without the marks of its form, as small models often do. Pure.

An answer counts as calls if it is nothing but JSON of calls of declared functions, alone, in a
fence, or in the tags of Hermes models. Of their arguments, names and types are checked.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from localinfra.chat.formats.form import NAME
from localinfra.chat.formats.patterns import JsonScanner, Pattern, match_any, skip_blanks
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Parser,
    Piece,
    Thought,
    joined,
)
from localinfra.chat.formats.values import is_json
from localinfra.chat.messages import Json
from localinfra.chat.schema.expected import Expected

MAX_HELD_CHARS = 32_768  # of an answer that may be calls
BEFORE = ("", "```json\n", "```\n", "<tool_call>\n", "```json\n<tool_call>\n")
BEGINNINGS = [
    Pattern(before + bracket + '{"name": "' + NAME + '"')
    for before in BEFORE
    for bracket in ("", "[")
]
BETWEEN = re.compile(r"(?:\s|[\[\],;]|```(?:json)?(?=\s|$)|</?tool_call>)*")
FOLLOWING = ("```", "</tool_call>", "<tool_call>", "{", "[", "]", ",", ";")


class BareCalls:
    """Passes on what a parser finds, but turns content that is calls into calls. It is held back
    while it may be."""

    def __init__(self, parser: Parser, expected: Mapping[str, Expected], max_calls: int | None):
        """`expected`: the arguments of the functions that may be called."""
        self._parser = parser
        self._expected = expected
        self._max_calls = max_calls
        self._may_be_calls = True
        self._held = ""
        self._num_scanned = 0  # characters of the held text
        self._scanner = JsonScanner()  # of the first call
        self._first_end: int | None = None

    @property
    def num_held(self) -> int:
        return len(self._held) + self._parser.num_held

    def push(self, text: str) -> list[Piece]:
        pieces = self._parser.push(text)
        return joined(self._held_back(pieces)) if self._may_be_calls else pieces

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        pieces = [*self._held_back(self._parser.finish(is_cut=is_cut))]
        calls = None if is_cut or not self._held else self._calls(self._held)
        if calls is None:
            return joined([*pieces, *self._release()])
        self._held = ""
        for name, arguments in calls:
            pieces += [CallStart(name), CallArguments(arguments), CallEnd()]
        return pieces

    def _held_back(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if not self._may_be_calls or isinstance(piece, Thought):
                yield piece
            elif isinstance(piece, Content):
                self._held += piece.text
                if not self._may_become_calls():
                    yield from self._release()
            else:
                yield from self._release()
                yield piece

    def _release(self) -> Iterator[Piece]:
        self._may_be_calls = False
        if self._held:
            yield Content(self._held)
        self._held = ""

    def _may_become_calls(self) -> bool:
        if len(self._held) > MAX_HELD_CHARS:
            return False
        if not self._num_scanned:
            found = match_any(BEGINNINGS, self._held, skip_blanks(self._held, 0))
            if found.end is None:
                return found.is_open
            if found.name not in self._expected:
                return False
            self._num_scanned = self._held.index("{")
        if self._first_end is None:
            end = self._scanner.scan(self._held[self._num_scanned :])
            if end is None:
                self._num_scanned = len(self._held)
                return True
            self._first_end = self._num_scanned + end
        rest = self._held[self._first_end :].lstrip()[: max(map(len, FOLLOWING))]
        return any(mark.startswith(rest) or rest.startswith(mark) for mark in FOLLOWING)

    def _calls(self, text: str) -> list[tuple[str, str]] | None:
        """Name and arguments of each call; None if the text is not only calls."""
        decoder, at = json.JSONDecoder(strict=False), 0
        found: list[tuple[str, str]] = []
        while at < len(text):
            between = BETWEEN.match(text, at)
            assert between
            at = between.end()
            if at == len(text):
                break
            try:
                value, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                return None
            call = self._call(value)
            if call is None:
                return None
            found.append(call)
        is_allowed = found and (self._max_calls is None or len(found) <= self._max_calls)
        return found if is_allowed else None

    def _call(self, value: Json) -> tuple[str, str] | None:
        if not isinstance(value, dict):
            return None
        name = value.get("name")
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = msgspec.json.decode(arguments)
            except (msgspec.DecodeError, RecursionError):
                return None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        if value.keys() - {"name", "arguments", "parameters", "id", "type"}:
            return None
        expected = self._expected.get(name)
        if expected is None or not expected.accepts(arguments):
            return None
        text = json.dumps(arguments, ensure_ascii=False)
        return (name, text) if is_json(text) else None  # not with NaN or half a character
