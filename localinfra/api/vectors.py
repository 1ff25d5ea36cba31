"""Rows of vectors → JSON in pieces too small to block the event loop.

Encoding a vector of 1,024 numbers takes 0.1 ms, and a request may ask for 2,048 of them.
"""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from localinfra.executor import BoundedExecutor, stop_if_abandoned

if TYPE_CHECKING:
    from localinfra.embed.encoder import Rows  # brings numpy

ROWS_AT_ONCE = 16
INLINE_NUMBERS = 8192  # take under 1 ms: not worth a thread

encode = msgspec.json.Encoder().encode


def as_floats(rows: "Rows") -> list[bytes]:
    """Each row as a JSON array of the exact float32 values."""
    return [encode(row) for row in rows.tolist()]


def as_base64(rows: "Rows") -> list[bytes]:
    """Each row as a JSON string of its little-endian float32 bytes.

    No copies: numpy releases the GIL for each and takes it back before a waiting thread gets it.
    """
    return [b'"%b"' % base64.b64encode(row.tobytes()) for row in rows.astype("<f4", copy=False)]


async def pieces(
    rows: "Rows",
    form: Callable[["Rows"], list[bytes]],
    frame: Callable[[int, bytes], bytes],
    executor: BoundedExecutor,
) -> list[bytes]:
    """Each encoded row as `frame(index, row)`, joined with commas, a few rows per piece. Many rows
    are encoded in a thread, which can yield the GIL after each piece. Raises QueueFull."""

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
    """`x-localinfra-truncated`: the indices of texts whose end was cut off."""
    listed = [*map(str, indices[:500]), *(["..."] if len(indices) > 500 else [])]
    return {"x-localinfra-truncated": ",".join(listed)} if indices else {}
