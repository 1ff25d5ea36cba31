"""How many values a JSON body holds, counted at the speed of memory while it arrives.

Decoding holds the interpreter for as long as there are values to make: 16 MB take 15 ms as one
text and two seconds as lists in a list. The size in bytes can't tell these apart, and a length in
an annotation is checked when the list is there.
"""

import re

from localinfra.errors import BodyTooLarge

PIECE_BYTES = 64 * 1024  # take at most a millisecond
MAX_VALUES = 1 << 18  # decoded in 25 ms
MAX_TOKEN_IDS = 1 << 20  # the same for routes that take lists of them: 40 ms
MAX_NESTED = 1 << 17  # lists, objects and their keys, of which each costs as much as eight numbers

# Numbers take time by the square of their length, 4,000 digits 70 µs: so many digits in a row
# count as so many values.
DIGITS, DIGITS_VALUES = 128, 100

# Floats near the ends of their range take 30 µs, the others a hundredth of one.
FAR_EXPONENT, EXPONENT_VALUES = re.compile(rb"[eE][+-]?\d{3}"), 300


class Weight:
    """What stands outside of strings, in valid JSON. What follows the first mistake may be counted
    wrong: no decoder gets there."""

    def __init__(self, max_values: int = MAX_VALUES, max_nested: int = MAX_NESTED):
        self._max_values = max_values
        self._max_nested = max_nested
        self.num_values = 1
        self.num_nested = 0
        self._is_in_string = False
        self._escape = b""  # a backslash whose character comes with the next piece
        self._uncounted = bytearray()

    def add(self, data: bytes) -> None:
        """The next part of the body, of any size: what is counted together does not depend on how
        it arrives. Raises BodyTooLarge."""
        self._uncounted += data
        self._count_pieces(PIECE_BYTES)

    def finish(self) -> None:
        """At the end of the body; another may follow. Raises BodyTooLarge."""
        self._count_pieces(1)
        self._is_in_string, self._escape = False, b""

    def _count_pieces(self, min_bytes: int) -> None:
        while len(self._uncounted) >= min_bytes:
            self._count(bytes(self._uncounted[:PIECE_BYTES]))
            del self._uncounted[:PIECE_BYTES]
            if self.num_values > self._max_values or self.num_nested > self._max_nested:
                raise BodyTooLarge(
                    f"The body holds too many values: at most {self._max_values} are taken, and "
                    f"{self._max_nested} lists, objects and names in objects. Send fewer at once."
                )

    def _count(self, piece: bytes) -> None:
        if self._escape or b"\\" in piece:
            piece = (self._escape + piece).replace(b"\\\\", b"")
            self._escape = piece[-1:] if piece.endswith(b"\\") else b""
            piece = piece.replace(b'\\"', b"")
        parts = piece.split(b'"')
        outside = b"".join(parts[self._is_in_string :: 2])
        self._is_in_string ^= len(parts) % 2 == 0
        self.num_values += outside.count(b",")
        blocks = (outside[at : at + DIGITS] for at in range(0, len(outside) - DIGITS, DIGITS))
        self.num_values += DIGITS_VALUES * sum(block.isdigit() for block in blocks)
        if outside.count(b"e") + outside.count(b"E") > outside.count(b"ue") + outside.count(b"se"):
            self.num_values += EXPONENT_VALUES * len(FAR_EXPONENT.findall(outside))
        self.num_nested += sum(map(outside.count, (b"[", b"{", b":")))
