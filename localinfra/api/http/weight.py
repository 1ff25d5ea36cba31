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
        self._num_bytes = 0
        self._width = 1  # bytes of a character
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
        self._is_in_string, self._escape, self._depth = False, b"", 0

    @property
    def is_too_deep(self) -> bool:
        return self._max_depth > MAX_DEPTH

    @property
    def held_bytes(self) -> int:
        """About what the body's values take in memory, or more: texts without a wide character may
        take less."""
        values = VALUE_BYTES * self.num_values + NESTED_BYTES * self.num_nested
        return self._width * self._num_bytes + values

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
        self._num_bytes += len(piece)
        if self._escape or b"\\" in piece:
            piece = (self._escape + piece).replace(b"\\\\", b"")
            self._escape = piece[-1:] if piece.endswith(b"\\") else b""
            self._widen_by_codes(piece)
            piece = piece.replace(b'\\"', b"")
        if self._width < WIDEST and not piece.isascii():
            self._width = WIDEST if piece.translate(None, UP_TO_THREE) else 2
        parts = piece.split(b'"')
        outside = b"".join(parts[self._is_in_string :: 2])
        texts = [text for text in parts[not self._is_in_string :: 2] if len(text) >= DATA_RUN]
        self.num_data += sum(map(len, filter(is_data, texts)))
        self._is_in_string ^= len(parts) % 2 == 0
        self.num_values += outside.count(b",")
        runs = outside.translate(AS_ZEROS).count(LONG_RUN)
        self.num_values += LONG_RUN_VALUES * runs
        if outside.count(b"e") + outside.count(b"E") > outside.count(b"ue") + outside.count(b"se"):
            far = FAR_EXPONENT.findall(outside)
            self.num_values += sum(VERY_FAR_VALUES if third else FAR_VALUES for third in far)
        self.num_nested += sum(map(outside.count, (b"[", b"{", b":")))
        self._count_depth(outside)

    def _widen_by_codes(self, piece: bytes) -> None:
        if self._width < WIDEST and b"\\u" in piece:
            is_wide = b"\\ud" in piece or b"\\uD" in piece or piece.endswith(b"\\u")
            self._width = WIDEST if is_wide else 2  # surrogates, or the piece ends before them

    def _count_depth(self, outside: bytes) -> None:
        num_opened = outside.count(b"[") + outside.count(b"{")
        if self._depth + num_opened <= MAX_DEPTH:
            self._depth += num_opened - outside.count(b"]") - outside.count(b"}")
        elif self._max_depth <= MAX_DEPTH:
            steps = map(STEPS.__getitem__, outside.translate(None, NO_BRACKETS))
            depths = list(itertools.accumulate(steps, initial=self._depth))
            self._max_depth = max(depths)
            self._depth = depths[-1]


def is_data(text: bytes) -> bool:
    """Whether a long one can only be a part of a file in base64."""
    return text.isascii() and b" " not in text and b"\\" not in text


def is_too_deep(json: bytes) -> bool:
    weight = Weight(sys.maxsize, sys.maxsize)
    weight.add(json)
    weight.finish()
    return weight.is_too_deep
