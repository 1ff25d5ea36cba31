"""Readers of the arguments of one call as they stream. Pure."""

from typing import Protocol

import msgspec

from localinfra.chat.formats.patterns import JsonScanner, skip_blanks


class ArgumentsRead(msgspec.Struct, frozen=True):
    taken: int  # characters of the text that need not be shown again
    json: str  # what they add to the arguments
    is_complete: bool = False


class ArgumentsReader(Protocol):
    def read(self, text: str, *, is_all: bool, is_cut: bool) -> ArgumentsRead:
        """`text`: all that was not taken. `is_all`: no more will come; `is_cut`: since the answer
        was cut off."""


class JsonArguments:
    """One JSON object, passed on as written."""

    def __init__(self) -> None:
        self._scanner = JsonScanner()
        self._has_begun = False

    def read(self, text: str, *, is_all: bool, is_cut: bool) -> ArgumentsRead:
        # Leading blanks are dropped, however the text is split.
        start = 0 if self._has_begun else skip_blanks(text, 0)
        self._has_begun |= start < len(text)
        end = self._scanner.scan(text[start:])
        if end is None:
            return ArgumentsRead(len(text), text[start:])
        return ArgumentsRead(start + end, text[start : start + end], is_complete=True)
