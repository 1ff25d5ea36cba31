"""JSON bytes → plain values, in steps of a few milliseconds.

A decoder works through a body in one call, which holds the interpreter: 45 ms for 16 MB of escapes,
50 ms for a million numbers. So a large body is cut at commas. Each piece is decoded with the
brackets that are open before and after it, and its values are added to those of the pieces before.
Long strings are taken out of the pieces and decoded in parts. Pure.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from localinfra.long_text import joined
from localinfra.steps import Steps

Body: TypeAlias = bytes | bytearray
Container: TypeAlias = list[Any] | dict[str, Any]

AT_ONCE_BYTES = 128 * 1024  # of a body: 10 ms if it is all brackets, else 2 ms
PIECE_BYTES = 32 * 1024  # one takes 3 ms at most. Some are a few times as long
MAX_PIECE_BYTES = 8 * PIECE_BYTES  # from here on, the next string that reaches so far is taken out
VALUES_PER_STEP = 1 << 15  # that are looked at

NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
CLOSED_BY = {ord("]"): ord("["), ord("}"): ord("{")}
BYTE = re.compile(r" \(byte (\d{1,18})\)$")  # where msgspec gave up
PLACE = re.compile(r" - at .*\Z", re.DOTALL)
# What must not be cut off from what follows: half of an escape, or the first of two surrogates.
UNFINISHED = re.compile(rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
MAX_UNFINISHED = 12  # bytes


class Read(NamedTuple):
    """What a body holds."""

    whole: Any
    has_long: bool = False  # there are long strings in it


def values_of(body: Body) -> Steps[Read]:
    """The values, as `msgspec.json.decode` makes them. Raises its errors; positions in them are
    those in the body."""
    if len(body) <= AT_ONCE_BYTES:
        return Read(msgspec.json.decode(body))
    view = memoryview(body)
    pieces = _Joined(secrets.token_hex(16))  # which no client can know
    texts: dict[str, str] = {}
    for piece in cut(view):
        if piece is None:
            yield
            continue
        for start, end in piece.long_strings:
            texts[pieces.new_name()] = yield from _text(view, start, end)
        pieces.add(piece, view)
        yield
    if not texts:
        return Read(pieces.whole)
    root = [pieces.whole]  # which may be a long string itself
    yield from _fill(root, texts)
    return Read(root[0], has_long=True)


# --- cutting --------------------------------------------------------------------------------------


class BodySpan(NamedTuple):
    """A part of the body."""

    start: int
    end: int
    is_cut: bool = False  # a long string was taken out behind it; it ends with its quote


class BodyPiece(NamedTuple):
    spans: list[BodySpan]
    before: bytes  # the brackets that are open before it, the outermost first
    after: bytes

    @property
    def long_strings(self) -> list[tuple[int, int]]:
        """Places of what stands between the quotes."""
        pairs = zip(self.spans, self.spans[1:], strict=False)
        return [(one.end, other.start) for one, other in pairs if one.is_cut]


def cut(body: memoryview) -> Iterator[BodyPiece | None]:
    """Pieces of JSON, all but the first of which begin with a comma; None while one grows. Those of
    what is no JSON are none either."""
    brackets, before = bytearray(), b""
    spans: list[BodySpan] = []
    start = at = 0  # of the span that is being made, and of what is looked at
    opened = 0  # where the string that is not closed yet begins, behind its quote
    is_in_string = is_long = is_wrong = False
    while at < len(body) and not is_wrong:
        shown = _without_escapes(body, at)
        if shown.isspace() and not is_in_string:
            spans.append(BodySpan(start, at + 1))
            start = at + len(shown)
        parts = shown.split(b'"')
        if is_in_string and len(parts) == 1:
            is_long = True
        elif is_long:
            spans.append(BodySpan(start, opened, is_cut=True))
            start, is_long = at + len(parts[0]), False
        outside = slice(int(is_in_string), None, 2)
        comma = _last_comma(parts, is_in_string)
        is_wrong = _lacks_signs(parts[outside])
        is_wrong = is_wrong or not _track(brackets, b"".join(_head(parts, comma)[outside]))
        if comma and brackets and not is_wrong:
            end = at + comma.offset
            yield BodyPiece([*spans, BodySpan(start, end)], before, bytes(brackets))
            start, before, spans = end, bytes(brackets), []
        else:
            yield None
        is_wrong = is_wrong or not _track(brackets, b"".join(_tail(parts, comma)[outside]))
        at += len(shown)
        if len(parts) > 1:
            is_in_string ^= len(parts) % 2 == 0
            opened = at - len(parts[-1])
            is_long = is_in_string and at - start > MAX_PIECE_BYTES
    # A string that nothing ends is an error, whatever is in it.
    yield BodyPiece([*spans, BodySpan(start, opened if is_in_string else len(body))], before, b"")


def _without_escapes(body: memoryview, at: int) -> bytes:
    """The next bytes, of which quotes that are escaped are dots."""
    shown = bytes(body[at : at + PIECE_BYTES])
    if b"\\" in shown:
        if b'"' in shown:
            shown = shown.replace(b"\\\\", b"..")
        if _ends_in_escape(shown) and at + len(shown) < len(body):
            shown = shown[:-1]
        shown = shown.replace(b'\\"', b"..")
    return shown


def _ends_in_escape(part: bytes) -> bool:
    """Whether the last backslash begins an escape, if the part begins with none's rest."""
    return (len(part) - len(part.rstrip(b"\\"))) % 2 == 1


class _Comma(NamedTuple):
    part: int  # by quotes
    at: int  # within it
    offset: int


def _last_comma(parts: list[bytes], is_in_string: bool) -> _Comma | None:
    """The last one outside of strings."""
    end = sum(map(len, parts)) + len(parts) - 1
    for number in range(len(parts) - 1, -1, -1):
        start = end - len(parts[number])
        if (number % 2 == 1) == is_in_string and (at := parts[number].rfind(b",")) >= 0:
            return _Comma(number, at, start + at)
        end = start - 1
    return None


def _head(parts: list[bytes], comma: _Comma | None) -> list[bytes]:
    """What is before the comma; all, if there is none."""
    return [*parts[: comma.part], parts[comma.part][: comma.at]] if comma else parts


def _tail(parts: list[bytes], comma: _Comma | None) -> list[bytes]:
    """The rest, at the places of `parts`."""
    if not comma:
        return []
    return [*[b""] * comma.part, parts[comma.part][comma.at :], *parts[comma.part + 1 :]]


def _lacks_signs(outside: list[bytes]) -> bool:
    """Whether there are strings without a comma or a colon between them. To look at 16 MB of quotes
    would take two seconds."""
    between = b"".join(outside[1:-1])
    return between.count(b",") + between.count(b":") < len(outside) - 2


def _track(brackets: bytearray, outside: bytes) -> bool:
    """Opens and closes brackets. False: one is closed that is not open."""
    for sign in outside.translate(None, NO_BRACKETS):
        if (opening := CLOSED_BY.get(sign)) is None:
            brackets.append(sign)
        elif brackets and brackets[-1] == opening:
            brackets.pop()
        else:
            return False
    return True


# --- decoding -------------------------------------------------------------------------------------


class _Joined:
    """The values of the pieces so far. What is added to a piece, so that it is JSON by itself, is
    marked by names that are not the client's."""

    def __init__(self, mark: str):
        self.whole: Any = None
        self._mark = mark
        self._first, self._last = f"{mark}<", f"{mark}>"
        self._open: list[Container] = []  # that the next piece goes on with, the outermost first
        self._num_texts = self._num_named = 0

    def new_name(self) -> str:
        """The name of the next long string that was taken out."""
        self._num_named += 1
        return self._name(self._num_named)

    def add(self, piece: BodyPiece, body: memoryview) -> None:
        """Decodes the piece. Raises msgspec's errors."""
        value = self._decoded(piece, body)
        begun = self._begun(value, len(piece.before))
        left = self._left_open(value, len(piece.after)) or []
        if left:
            _pop(left[-1], self._last)
        if not begun:
            self.whole = value
        known = {id(new): old for old, new in zip(self._open, begun, strict=True)}
        for new in reversed(begun):
            old = known[id(new)]
            if isinstance(old, list):
                old += new[1:]
            else:
                del new[self._first]
                old.update(new)
        self._open = [known.get(id(one), one) for one in left]

    def _name(self, number: int) -> str:
        return f"{self._mark}{number:08x}"

    def _decoded(self, piece: BodyPiece, body: memoryview) -> Any:
        text = bytearray(self._opening(piece.before))
        places = [(0, piece.spans[0].start)]  # in the text and in the body
        for start, end, is_cut in piece.spans:
            places.append((len(text), start))
            text += body[start:end]
            places.append((len(text), end))
            if is_cut:
                self._num_texts += 1
                text += self._name(self._num_texts).encode()
        text += self._closing(piece.after)
        try:
            return msgspec.json.decode(text)
        except msgspec.ValidationError as error:  # a number, at a place in this piece
            raise msgspec.ValidationError(PLACE.sub("", str(error))) from None
        except msgspec.DecodeError as error:
            raise moved(error, places) from None

    def _opening(self, before: bytes) -> bytes:
        named = b'{"%b":' % self._first.encode()
        opening = b"".join(b"[" if sign == ord("[") else named for sign in before)
        return opening + b"null" if before else b""

    def _closing(self, after: bytes) -> bytes:
        if not after:
            return b""
        closing = b"".join(b"]" if sign == ord("[") else b"}" for sign in reversed(after))
        return b',"%b"%b%b' % (self._last.encode(), b":0" * (after[-1:] == b"{"), closing)

    def _begun(self, value: Any, depth: int) -> list[Any]:
        """The containers that were open before the piece."""
        found = []
        for _ in range(depth):
            found.append(value)
            value = value[0] if isinstance(value, list) else value[self._first]
        return found

    def _left_open(self, value: Any, depth: int) -> list[Any] | None:
        """The containers from `value` on that are open after the piece. It is mostly the last
        value, but for a name that was there before."""
        if depth == 0 or not isinstance(value, (list, dict)):
            return None
        inner = value[-1:] if isinstance(value, list) else reversed(value.values())
        if depth == 1:
            is_last = self._last in (value if isinstance(value, dict) else inner)
            return [value] if is_last else None
        found = (self._left_open(one, depth - 1) for one in inner)
        way = next(filter(None, found), None)
        return [value, *way] if way else None


def _pop(container: Any, name: str) -> None:
    container.pop(-1 if isinstance(container, list) else name)


def moved(error: Exception, places: list[tuple[int, int]]) -> msgspec.DecodeError:
    """The error with the position in the body. `places`: positions in what was decoded, and in the
    body."""
    problem = str(error)
    if found := BYTE.search(problem):
        given = int(found[1])
        here, there = max((place for place in places if place[0] <= given), default=places[0])
        end = places[-1]
        byte = min(there + given - here, end[1]) if given >= end[0] else there + given - here
        problem = f"{problem[: found.start()]} (byte {byte})"
    return msgspec.DecodeError(problem)


def _text(body: memoryview, start: int, end: int) -> Steps[str]:
    """A string, from what stands between its quotes."""
    parts: list[str] = []
    at = start
    while at < end:
        stop = end if at + PIECE_BYTES >= end else _end_of_part(body, at, at + PIECE_BYTES)
        try:
            parts.append(msgspec.json.decode(b'"%b"' % bytes(body[at:stop]), type=str))
        except msgspec.DecodeError as error:
            raise moved(error, [(0, at - 1), (stop - at + 1, stop)]) from None
        at = stop
        yield
    return (yield from joined(parts))


def _end_of_part(body: memoryview, start: int, end: int) -> int:
    """Where a string may be cut, at `end` or a little earlier."""
    for _ in range(3):  # more are no UTF-8
        end -= body[end] & 0xC0 == 0x80
    rest = end - MAX_UNFINISHED
    rest -= _ends_in_escape(bytes(body[start:rest]))
    if unfinished := UNFINISHED.search(bytes(body[rest:end]).replace(b"\\\\", b"..")):
        end -= len(unfinished[0])
    return end


def _fill(root: list[Any], texts: dict[str, str]) -> Steps[None]:
    """Puts the long strings where their names are."""
    left: list[Any] = [root]
    num_seen = 0
    while left:
        node = left.pop()
        if num_seen + len(node) > VALUES_PER_STEP:
            num_seen = 0
            yield
        num_seen += len(node)
        places: Any = enumerate(node)
        if isinstance(node, dict):
            if not texts.keys().isdisjoint(node):  # anew, for their order
                items = [(texts.get(name, name), value) for name, value in node.items()]
                node.clear()
                node.update(items)
            places = node.items()
        for place, value in places:
            if isinstance(value, str):
                if value in texts:
                    node[place] = texts[value]
            elif isinstance(value, (list, dict)) and value:
                left.append(value)
