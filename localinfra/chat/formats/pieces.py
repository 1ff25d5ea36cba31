"""What an answer's text is made of, as it becomes certain: content, reasoning, tool calls. Pure.

`Parser` is what brings it out of the text, whatever the format.
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


class CallArguments(msgspec.Struct, frozen=True):
    """A part of the last call's arguments; all parts together are its JSON."""

    text: str


class CallEnd(msgspec.Struct, frozen=True):
    """The last call's arguments are complete."""


Piece: TypeAlias = Content | Thought | CallStart | CallArguments | CallEnd


class Parser(Protocol):
    """One choice's text on its way."""

    @property
    def num_held(self) -> int:
        """Characters at the end of what came that are no part of a piece, or not yet."""

    def push(self, text: str) -> list[Piece]: ...

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """What was held back, once no more can come. Where the answer `is_cut`, the beginning of a
        mark at its end is taken for that; where it has ended by itself, for text."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of a kind as one."""
    result: list[Piece] = []
    for piece in pieces:
        last = result[-1] if result else None
        if isinstance(piece, CallStart | CallEnd) or type(piece) is not type(last):
            result.append(piece)
        else:
            assert isinstance(last, Content | Thought | CallArguments)
            result[-1] = type(last)(last.text + piece.text)
    return result
