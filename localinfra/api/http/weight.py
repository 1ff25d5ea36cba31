"""Counts the values of a JSON body and their depth, at memory speed, while the body arrives.

To create values takes long, if not at once: a body of 16 MB takes 20 ms as one string and two
seconds as lists in a list. The size in bytes can't tell these apart, and a maximum length in an
annotation is checked only after the list was created.
"""

import itertools
import re
import sys

from localinfra.errors import BodyTooLarge

PIECE_BYTES = 64 * 1024  # counting one takes at most 1 ms
MAX_VALUES = 1 << 18  # decoded in 25 ms
MAX_TOKEN_IDS = 1 << 20  # for routes that take lists of token ids; decoded in 40 ms
MAX_NESTED = 1 << 17  # lists, objects and their keys: each costs as much as eight numbers

# Recursive code needs up to three stack frames per level, and Python allows a thousand. No real
# client comes near.
MAX_DEPTH = 256
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NO_BRACKETS = bytes(set(range(256)) - STEPS.keys())

# The time for a number with more digits than a float holds grows with the square of its length:
# 0.3 µs for 100 digits, 70 µs for 4,000. Each LONG_RUN of digits counts as LONG_RUN_VALUES.
LONG_RUN, LONG_RUN_VALUES = b"0" * 24, 8
AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)

# A float takes up to 2.4 µs if its exponent has two digits, 30 µs if it has three.
FAR_EXPONENT = re.compile(rb"[eE][+-]?0*+[1-9]\d(\d?)")
FAR_VALUES, VERY_FAR_VALUES = 30, 300

# In memory, a text takes as many bytes for each character as its widest one needs.
UP_TO_THREE = bytes(range(0xF0))  # all but those that begin a character of four bytes in UTF-8
WIDEST = 4
VALUE_BYTES, NESTED_BYTES = 72, 96  # of a value beside its text; of a list, an object or a name

ESCAPED = b"__"  # stands for a backslash or a quote

DATA_RUN = 512  # characters of a string without a space: a file in base64, and no text


class Weight:
    """Counts values outside of strings, in valid JSON. Counts after the first syntax error may be
    wrong: no decoder gets there."""

    def __init__(self, max_values: int = MAX_VALUES, max_nested: int = MAX_NESTED):
        self._max_values = max_values
        self._max_nested = max_nested
        self.num_values = 1
        self.num_nested = 0
        self.num_data = 0  # characters of files in strings, more or less
        self._num_held = 0  # bytes that all but the open string take
        # Of the string that is open: its bytes here, and those of a character in memory.
        self._num_bytes, self._width = 0, 1
        self._depth = self._max_depth = 0
        self._is_in_string = False
        self._escape = b""  # a backslash whose character is in the next piece
        self._uncounted = bytearray()

    def add(self, data: bytes) -> None:
        """Counts the next chunk of the body, of any size: the result does not depend on how the
        body is split. Raises BodyTooLarge."""
        self._uncounted += data
        self._count_pieces(PIECE_BYTES)

    def finish(self) -> None:
        """Call at the end of a body; another may follow. Raises BodyTooLarge."""
        self._count_pieces(1)
        self._end_text()
        self._is_in_string, self._escape, self._depth = False, b"", 0

    @property
    def is_too_deep(self) -> bool:
        return self._max_depth > MAX_DEPTH

    @property
    def held_bytes(self) -> int:
        """About what the body's values take in memory, or more: texts without a wide character may
        take less."""
        values = VALUE_BYTES * self.num_values + NESTED_BYTES * self.num_nested
        return self._num_held + self._width * self._num_bytes + values

    def _count_pieces(self, min_bytes: int) -> None:
        while len(self._uncounted) >= min_bytes:
            self._count(bytes(self._uncounted[:PIECE_BYTES]))
            del self._uncounted[:PIECE_BYTES]
            if self.num_values > self._max_values or self.num_nested > self._max_nested:
                raise BodyTooLarge(
                    f"The body holds too many values: at most {self._max_values} values and "
                    f"{self._max_nested} lists, objects and names are allowed. Send fewer at once."
                )

    def _count(self, piece: bytes) -> None:
        if self._escape or b"\\" in piece:
            piece = (self._escape + piece).replace(b"\\\\", ESCAPED)
            self._escape = piece[-1:] if piece.endswith(b"\\") else b""
            piece = piece.replace(b'\\"', ESCAPED)
        parts = piece.split(b'"')
        outside = b"".join(parts[self._is_in_string :: 2])
        self._num_held += len(outside)
        texts = parts[not self._is_in_string :: 2]
        self.num_data += sum(len(text) for text in texts if len(text) >= DATA_RUN and is_data(text))
        self._count_texts(texts, num_quotes=len(parts) - 1)
        self.num_values += outside.count(b",")
        runs = outside.translate(AS_ZEROS).count(LONG_RUN)
        self.num_values += LONG_RUN_VALUES * runs
        if outside.count(b"e") + outside.count(b"E") > outside.count(b"ue") + outside.count(b"se"):
            far = FAR_EXPONENT.findall(outside)
            self.num_values += sum(VERY_FAR_VALUES if third else FAR_VALUES for third in far)
        self.num_nested += sum(map(outside.count, (b"[", b"{", b":")))
        self._count_depth(outside)

    def _count_texts(self, texts: list[bytes], num_quotes: int) -> None:
        """Counts what strings have of a piece. The open one's width is its own: a picture takes no
        more beside an emoji."""
        if self._is_in_string:
            self._grow_text(texts.pop(0))
        if num_quotes:
            if self._is_in_string:
                self._end_text()
            self._is_in_string ^= num_quotes % 2 == 1
            last = texts.pop() if self._is_in_string else b""
            whole = b"".join(texts)
            self._num_held += width_of(whole) * len(whole)
            self._grow_text(last)

    def _grow_text(self, text: bytes) -> None:
        self._num_bytes += len(text)
        if self._width < WIDEST:
            self._width = max(self._width, width_of(text))

    def _end_text(self) -> None:
        self._num_held += self._width * self._num_bytes
        self._num_bytes, self._width = 0, 1

    def _count_depth(self, outside: bytes) -> None:
        num_opened = outside.count(b"[") + outside.count(b"{")
        if self._depth + num_opened <= MAX_DEPTH:
            self._depth += num_opened - outside.count(b"]") - outside.count(b"}")
        elif self._max_depth <= MAX_DEPTH:
            steps = map(STEPS.__getitem__, outside.translate(None, NO_BRACKETS))
            depths = list(itertools.accumulate(steps, initial=self._depth))
            self._max_depth = max(depths)
            self._depth = depths[-1]


def width_of(text: bytes) -> int:
    """How many bytes a character of such a text takes in memory. Its escapes may be cut."""
    has_codes = b"\\" in text and b"\\u" in text  # looking for one byte is much faster
    if has_codes and (b"\\ud" in text or b"\\uD" in text or text.endswith(b"\\u")):
        return WIDEST  # surrogates, or the piece ends before them
    if not text.isascii():
        return WIDEST if text.translate(None, UP_TO_THREE) else 2
    return 2 if has_codes else 1


def is_data(text: bytes) -> bool:
    """Whether a long one can only be a part of a file in base64."""
    return text.isascii() and b" " not in text and b"\\" not in text


def is_too_deep(json: bytes) -> bool:
    weight = Weight(sys.maxsize, sys.maxsize)
    weight.add(json)
    weight.finish()
    return weight.is_too_deep
