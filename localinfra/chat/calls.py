"""Calls that repeat one already made in the same answer, which small models do without end.

Pure: pieces in, pieces out.
"""

from collections.abc import Iterator

from localinfra.chat.parser import CallArguments, CallEnd, CallStart, Piece, joined


class CallFilter:
    """Passes the pieces of an answer on, up to the first call that repeats another one.

    A call after the first is held back until its arguments differ from those of all earlier calls
    of the same function: what has been streamed can't be taken back.
    """

    def __init__(self) -> None:
        self.is_repeating = False  # nothing more will pass
        self._earlier: list[tuple[str, str]] = []  # name and arguments of complete calls
        self._name = ""
        self._arguments = ""
        self._held: list[Piece] = []
        self._is_holding = False

    def passed(self, pieces: list[Piece]) -> list[Piece]:
        return joined(self._passed(pieces))

    def held(self) -> list[Piece]:
        """What is held back, once no more can come: a call that was cut off."""
        held, self._held, self._is_holding = self._held, [], False
        return [] if self.is_repeating else joined(held)

    def _passed(self, pieces: list[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if self.is_repeating:
                return
            if isinstance(piece, CallStart):
                self._name, self._arguments = piece.name, ""
                self._is_holding = True
            elif isinstance(piece, CallArguments):
                self._arguments += piece.text
            elif isinstance(piece, CallEnd):
                self.is_repeating = (self._name, self._arguments) in self._earlier
                if self.is_repeating:
                    return
                self._earlier.append((self._name, self._arguments))
            if self._is_holding:
                self._held.append(piece)
                if not isinstance(piece, CallEnd) and self._may_repeat():
                    continue
                yield from self._held
                self._held, self._is_holding = [], False
            else:
                yield piece

    def _may_repeat(self) -> bool:
        return any(
            name == self._name and arguments.startswith(self._arguments)
            for name, arguments in self._earlier
        )
