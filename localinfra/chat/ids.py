"""The ids that a model gives its calls, kept for clients where possible.

A client sends the id back with the call and its result. If it is the model's own, the next prompt
has the call exactly as the model wrote it, so its prefix is found in the cache. Pure.
"""

import re
from collections.abc import Iterable, Iterator

import msgspec

from localinfra.chat.formats.form import ID, CallForm
from localinfra.chat.formats.pieces import CallEnd, CallStart, Piece, joined
from localinfra.chat.messages import Message

USABLE = re.compile(r"[A-Za-z0-9_-]{1,40}")  # in all APIs


def ids_in(messages: Iterable[Message]) -> frozenset[str]:
    """The ids of calls and results."""
    calls = (call.id for message in messages for call in message.tool_calls or ())
    results = (message.tool_call_id for message in messages)
    return frozenset(id for ids in (calls, results) for id in ids if id is not None)


class CallIds:
    """Sets the id of each call's start: the model's own, or "" if it wrote none, one that not all
    clients take, or one that the conversation already has.

    A call whose id the model writes last is held back until then.
    """

    def __init__(self, form: CallForm, used: frozenset[str]):
        self._is_late = ID in form.after
        self._used = {*used}
        self._held: list[Piece] = []  # of a call without its id

    def push(self, pieces: list[Piece]) -> list[Piece]:
        if not self._held and not any(isinstance(piece, CallStart) for piece in pieces):
            return pieces
        return joined(self._push(pieces))

    def finish(self) -> list[Piece]:
        """The pieces of a call that was cut off."""
        held, self._held = self._held, []
        return held

    def _push(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if isinstance(piece, CallStart) and self._is_late:
                self._held = [piece]
            elif isinstance(piece, CallStart):
                yield CallStart(piece.name, self._given(piece.id))
            elif not self._held:
                yield piece
            else:
                self._held.append(piece)
                if isinstance(piece, CallEnd):
                    start, *rest = self.finish()
                    assert isinstance(start, CallStart)
                    yield from (msgspec.structs.replace(start, id=self._given(piece.id)), *rest)

    def _given(self, id: str) -> str:
        if id in self._used or not USABLE.fullmatch(id):
            return ""
        self._used.add(id)
        return id
