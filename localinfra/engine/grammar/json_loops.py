"""What a grammar can't express of free JSON: unique names in an object, and that the text ends.

Small models repeat a name, an item or a phrase until the token limit. `JsonLoops` follows the text
of one value and reports which tokens would continue such a loop. Data may repeat legitimately
(zeros, table rows, base64 padding), so it may do so for longer than prose. Pure.
"""

from collections.abc import Sequence

import msgspec

MAX_DEPTH = 64
MAX_MEMBERS = 4096  # of an object, or items of an array
MAX_PERIOD = 6  # items in the longest cycle that counts as a loop
MIN_REPEATED = 48  # items in a row that make a loop
MIN_REPEATED_DATA = 1024  # the same for items with fewer letters than a sentence
MIN_LETTERS = 16
MIN_VALUE = 16  # bytes; shorter values of an object never count as repeated
MAX_PHRASE = 80  # bytes
MIN_PHRASE = 8  # bytes; shorter repetitions are data, as are those without blanks
MIN_PHRASES = 1024  # bytes of a repeated phrase that make a loop
MIN_PHRASES_DATA = 16 * 1024

# In ASCII; all other bytes count as letters.
NO_LETTERS = bytes(byte for byte in range(0x80) if not chr(byte).isalpha())
QUOTE, BACKSLASH, COMMA, COLON = b'"\\,:'
OPENING, CLOSED = b"{[", b"}]"


# Whether inside a string, and whether right after a backslash.
Place = tuple[bool, bool]
PLACES: tuple[Place, ...] = ((False, False), (True, False), (True, True))


class LoopEvent(msgspec.Struct, frozen=True):
    """A container is opened, or an item ended, after `num_closed` containers are closed."""

    num_closed: int
    opens: bool


class Container(msgspec.Struct):
    """An open object or array."""

    is_object: bool
    start: int = 0  # of the current item, in the text
    names: set[bytes] = msgspec.field(default_factory=set)
    items: list[bytes] = msgspec.field(default_factory=list)  # the last ones; an object's values
    num_items: int = 0
    is_full: bool = False  # no more items allowed

    def end_item(self, item: bytes) -> None:
        self.num_items += 1
        if self.is_object and len(item) < MIN_VALUE:
            item = b"%d" % self.num_items  # unique: many equal flags are fine
        self.items.append(item)
        del self.items[:-MIN_REPEATED_DATA]
        self.is_full = self.num_items >= MAX_MEMBERS or repeats(self.items)


def repeats(items: list[bytes]) -> bool:
    if len(items) < MIN_REPEATED:
        return False
    is_prose = any(num_letters(item) >= MIN_LETTERS for item in items[-MAX_PERIOD:])
    size = MIN_REPEATED if is_prose else MIN_REPEATED_DATA
    return len(items) >= size and is_periodic(items[-size:], 1, MAX_PERIOD)


def num_letters(item: bytes) -> int:
    text = item.replace(b"true", b"").replace(b"false", b"").replace(b"null", b"")
    return len(text.translate(None, NO_LETTERS))


def is_periodic(items: Sequence[object], shortest: int, longest: int) -> bool:
    return any(items[size:] == items[:-size] for size in range(shortest, longest + 1))


class JsonLoops:
    """The position of one text in its JSON value."""

    def __init__(self, after: bytes = b""):
        """`after`: a mark that precedes the value, unless the text begins with `{`."""
        self._after = after
        self._before = bytearray()  # text before the value
        self._has_begun = False
        self._text = bytearray()
        self._open: list[Container] = []
        self._string: int | None = None  # start of the current string
        self._is_escaped = False
        self._is_name = False  # the current or next string is a name

    def push(self, data: bytes) -> None:
        """Adds more of the text."""
        if not self._has_begun:
            self._before += data
            begun = bytes(self._before).lstrip()
            if self._after and not begun.startswith(b"{"):
                at = self._before.find(self._after)
                if at < 0:
                    return
                begun = bytes(self._before[at + len(self._after) :])
            if not begun:
                return
            self._has_begun, data = True, begun
        for byte in data:
            self._step(byte)

    def _step(self, byte: int) -> None:
        at = len(self._text)
        self._text.append(byte)
        if self._string is not None:
            if self._is_escaped:
                self._is_escaped = False
            elif byte == BACKSLASH:
                self._is_escaped = True
            elif byte == QUOTE:
                if self._is_name and self._open:
                    self._open[-1].names.add(bytes(self._text[self._string : at]))
                self._string, self._is_name = None, False
        elif byte == QUOTE:
            self._string = at + 1
        elif byte in OPENING:
            self._open.append(Container(byte == OPENING[0], at + 1))
            self._is_name = byte == OPENING[0]
        elif byte in CLOSED and self._open:
            self._open.pop()
            self._is_name = False
        elif byte == COMMA and self._open:
            container = self._open[-1]
            container.end_item(bytes(self._text[container.start : at]).strip())
            container.start = at + 1
            self._is_name = container.is_object
        elif byte == COLON and self._open:
            self._open[-1].start = at + 1

    @property
    def name_endings(self) -> list[bytes]:
        """The endings that would turn the current name into one its object already has."""
        if self._string is None or not self._is_name or self._is_escaped or not self._open:
            return []
        begun = bytes(self._text[self._string :])
        names = self._open[-1].names
        return [name[len(begun) :] for name in names if name.startswith(begun)]

    @property
    def has_phrase(self) -> bool:
        """Whether the current string loops, so that it should end."""
        if self._string is None or self._is_escaped or len(self._text) < MIN_PHRASES + self._string:
            return False
        last = bytes(self._text[-MIN_PHRASES:])
        if not is_periodic(last, 1, MAX_PHRASE):
            return False
        is_word = b" " not in last and last.isascii()
        if not is_word and not is_periodic(last, 1, MIN_PHRASE - 1):
            return True
        last = bytes(self._text[self._string :][-MIN_PHRASES_DATA:])
        return len(last) == MIN_PHRASES_DATA and is_periodic(last, 1, MAX_PHRASE)

    @property
    def is_filled(self) -> bool:
        """Whether a container should end: see `goes_on`."""
        is_deep = len(self._open) >= MAX_DEPTH and self._string is None
        return is_deep or any(one.is_full for one in self._open[-3:])

    def goes_on(self, data: bytes) -> bool:
        """Whether a token of these bytes would add an item to a container that should end, or open
        one beyond the maximum depth."""
        turn = turn_of(data, self.place)
        return turn is not None and self.is_too_much(turn)

    @property
    def place(self) -> Place:
        """The state in which the next token begins."""
        return (self._string is not None, self._is_escaped)

    def is_too_much(self, turn: LoopEvent) -> bool:
        """Like `goes_on`, for all tokens with this event at the current place."""
        level = len(self._open) - 1 - turn.num_closed
        if turn.opens:
            return level + 1 >= MAX_DEPTH
        return level >= 0 and self._open[level].is_full


def turn_of(data: bytes, place: Place) -> LoopEvent | None:
    """The first container event in a token of these bytes; None if there is none."""
    is_string, is_escaped = place
    at = closing_quote(data, is_escaped) + 1 if is_string else 0
    num_closed = 0
    for byte in data[at:] if at or not is_string else b"":
        if byte in CLOSED:
            num_closed += 1
        elif byte == COMMA or byte in OPENING:
            return LoopEvent(num_closed, byte in OPENING)
        elif byte == QUOTE:
            break
    return None


def closing_quote(data: bytes, is_escaped: bool) -> int:
    """The index of the quote that closes the current string; -1 if there is none."""
    for at, byte in enumerate(data):
        if is_escaped:
            is_escaped = False
        elif byte == BACKSLASH:
            is_escaped = True
        elif byte == QUOTE:
            return at
    return -1
