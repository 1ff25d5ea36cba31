"""The pieces that a streamed answer is parsed into: content, reasoning, tool calls. Pure.

Every format has a `Parser`.
"""

from collections.abc import Iterable
from typing import Protocol, TypeAlias

import msgspec


class Content(msgspec.Struct, frozen=True):
    text: str


class Thought(msgspec.Struct, frozen=True):
    text: str


class CallStart(msgspec.Struct, frozen=True):
    name: str
    id: str = ""  # as the model wrote it, if it wrote one before the arguments


class CallArguments(msgspec.Struct, frozen=True):
    """A part of the last call's arguments; all parts joined are its JSON."""

    text: str


class CallEnd(msgspec.Struct, frozen=True):
    """The last call's arguments are complete."""

    id: str = ""  # as the model wrote it, if it wrote one after the arguments


Piece: TypeAlias = Content | Thought | CallStart | CallArguments | CallEnd


class Parser(Protocol):
    """Parses the text of one choice as it streams."""

    @property
    def num_held(self) -> int:
        """Characters at the end of the text that are in no piece, or not yet."""

    def push(self, text: str) -> list[Piece]: ...

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """The pieces held back until the end of the text. An incomplete mark at its end is dropped
        if the answer `is_cut` off, and is text if it ended by itself."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Merges neighbours of one kind."""
    result: list[Piece] = []
    for piece in pieces:
        last = result[-1] if result else None
        if isinstance(piece, CallStart | CallEnd) or type(piece) is not type(last):
            result.append(piece)
        else:
            assert isinstance(last, Content | Thought | CallArguments)
            result[-1] = type(last)(last.text + piece.text)
    return result
