"""Rows of vectors → JSON in pieces, of which none keeps the event loop waiting.

A vector of 1,024 numbers takes 0.1 ms, and a request may have 2,048 of them.
"""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from localinfra.executor import BoundedExecutor, stop_if_abandoned

if TYPE_CHECKING:
    from localinfra.embed.encoder import Rows  # brings numpy

ROWS_AT_ONCE = 16
INLINE_NUMBERS = 8192  # take under a millisecond: not worth another thread

encode = msgspec.json.Encoder().encode


def as_floats(rows: "Rows") -> list[bytes]:
    """Each row as a JSON array. The numbers are exactly the float32 ones."""
    return [encode(row) for row in rows.tolist()]


def as_base64(rows: "Rows") -> list[bytes]:
    """Each row as a JSON string of its little-endian float32 bytes.

    Without copies: numpy lets go of the interpreter for each, and takes it back before a thread
    that waits can have it.
    """
    return [b'"%b"' % base64.b64encode(row.tobytes()) for row in rows.astype("<f4", copy=False)]


async def pieces(
    rows: "Rows",
    form: Callable[["Rows"], list[bytes]],
    frame: Callable[[int, bytes], bytes],
    executor: BoundedExecutor,
) -> list[bytes]:
    """`frame(index, row)` around each encoded row, with commas between, a few rows in each piece.
    Computed in a thread, if they are many; it gives the interpreter back after each piece. Raises
    QueueFull."""

    def all_pieces() -> list[bytes]:
        found = []
        for at in range(0, len(rows), ROWS_AT_ONCE):
            stop_if_abandoned()
            encoded = form(rows[at : at + ROWS_AT_ONCE])
            framed = b",".join([frame(at + offset, row) for offset, row in enumerate(encoded)])
            found.append(b"," + framed if at else framed)
        return found

    return all_pieces() if rows.size <= INLINE_NUMBERS else await executor.run(all_pieces)


def truncated_header(indices: list[int]) -> dict[str, str]:
    """`x-localinfra-truncated`: of which texts the end was not read."""
    listed = [*map(str, indices[:500]), *(["..."] if len(indices) > 500 else [])]
    return {"x-localinfra-truncated": ",".join(listed)} if indices else {}
