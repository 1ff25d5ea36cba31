"""Stops an answer at a tool call that repeats an earlier one, as small models do endlessly: the
same function with the same arguments, in any order.

Pure: pieces in, pieces out.
"""

import re
from collections import Counter
from collections.abc import Iterator

from localinfra.chat.formats.pieces import CallArguments, CallEnd, CallStart, Piece, joined

PARTS = re.compile(r"""[\\"{}\[\],]|\s+|[^\s\\"{}\[\],]+""")  # of JSON: signs, blanks and words


class Arguments:
    """The members of a JSON object as they stream in, as written but without whitespace."""

    def __init__(self) -> None:
        self.members: Counter[str] = Counter()
        self._parts: list[str] = []  # of the incomplete member; one text would be copied each time
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def begun(self) -> str:
        """The incomplete member."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def add(self, text: str) -> None:
        for found in PARTS.finditer(text):
            part = found[0]
            if self._in_string:
                self._parts.append(part)
                self._in_string = self._is_escaped or part != '"'
                self._is_escaped = part == "\\" and not self._is_escaped
            elif not part.isspace():
                self._add_outside(part)

    def _add_outside(self, part: str) -> None:
        self._in_string = part == '"'
        self._depth -= part in "}]"
        if (self._depth == 1 and part == ",") or (not self._depth and part in "}]"):
            self.members.update([self.begun] if self.begun else ())
            self._parts = []
        elif self._depth or part not in "{[":
            self._parts.append(part)
        self._depth += part in "{["

    def may_become(self, other: "Arguments") -> bool:
        """Whether more text could make it equal to `other`, which is complete."""
        if not self.members <= other.members:
            return False
        left = [*(other.members - self.members), other.begun]
        return any(member.startswith(self.begun) for member in left)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Arguments):
            return NotImplemented
        return (self.members, self.begun) == (other.members, other.begun)


class CallFilter:
    """Passes on the pieces of an answer, up to the first call that repeats another one.

    A call is held back until its arguments differ from those of all earlier calls of the same
    function: streamed text can't be taken back.
    """

    def __init__(self) -> None:
        self.is_repeating = False  # no more pieces will pass
        self._earlier: list[tuple[str, Arguments]] = []  # complete calls: name, arguments
        self._name = ""
        self._arguments = Arguments()
        self._held: list[Piece] = []
        self._is_holding = False

    def push(self, pieces: list[Piece]) -> list[Piece]:
        return joined(self._push(pieces))

    def finish(self) -> list[Piece]:
        """The pieces still held back at the end, of a call that was cut off."""
        held, self._held, self._is_holding = self._held, [], False
        return [] if self.is_repeating else joined(held)

    def _push(self, pieces: list[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if self.is_repeating:
                return
            if isinstance(piece, CallStart):
                self._name, self._arguments = piece.name, Arguments()
                self._is_holding = True
            elif isinstance(piece, CallArguments):
                self._arguments.add(piece.text)
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
            name == self._name and self._arguments.may_become(arguments)
            for name, arguments in self._earlier
        )
