"""How many values a JSON body holds, counted at the speed of memory while it arrives.

Decoding holds the interpreter for as long as there are values to make: 16 MB take 15 ms as one
text and two seconds as lists in a list. The size in bytes can't tell these apart, and a length in
an annotation is checked when the list is there.
"""

from localinfra.errors import BodyTooLarge

PIECE_BYTES = 64 * 1024  # take at most a millisecond
MAX_VALUES = 1 << 18  # decoded in 25 ms
MAX_TOKEN_IDS = 1 << 20  # the same for routes that take lists of them: 40 ms
MAX_NESTED = 1 << 17  # lists, objects and their keys, of which each costs as much as eight numbers

# Numbers take time by the square of their length, 4,000 digits 70 µs: so many digits in a row
# count as so many values.
DIGITS, DIGITS_VALUES = 128, 100


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

    def add(self, data: bytes) -> None:
        """Counts the next part of the body. Raises BodyTooLarge."""
        for at in range(0, len(data), PIECE_BYTES):
            self._count(data[at : at + PIECE_BYTES])
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
        self.num_nested += sum(map(outside.count, (b"[", b"{", b":")))
