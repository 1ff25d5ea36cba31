"""Random names and seeds without a system call for each. Not for secrets.

A system call releases the GIL, and a computing thread then keeps it for a while: in a burst of
requests that was a third of the event loop's waiting.
"""

import os
import threading

BYTES_AT_ONCE = 4096

_lock = threading.Lock()
_bytes = b""


def random_bytes(size: int) -> bytes:
    """Bytes of os.urandom, each handed out once. Any thread."""
    global _bytes
    with _lock:
        if len(_bytes) < size:
            _bytes = os.urandom(BYTES_AT_ONCE)
        taken, _bytes = _bytes[:size], _bytes[size:]
    return taken


def random_hex(num_digits: int) -> str:
    return random_bytes((num_digits + 1) // 2).hex()[:num_digits]


def random_seed(num_bits: int) -> int:
    return int.from_bytes(random_bytes((num_bits + 7) // 8)) & ((1 << num_bits) - 1)
