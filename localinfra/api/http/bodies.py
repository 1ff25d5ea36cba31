"""How many bytes requests' bodies may take: each, all that arrive, and all that have arrived.

Event loop only. Reads no body.
"""

import msgspec

from localinfra.errors import QueueFull
from localinfra.shares import Holdings

# Of each body this much is free: ordinary requests get in even when the limits are reached.
FREE_BYTES = 64 * 1024


class SharedBytes:
    """Bytes that clients share."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._held = Holdings()

    @property
    def num_bytes(self) -> int:
        return self._held.total


class UnfinishedBodies(SharedBytes):
    """Bytes held for bodies still arriving, by client."""

    def grow(self, client: str, from_bytes: int, to_bytes: int) -> None:
        """Counts a body that grew to `to_bytes`. Raises QueueFull if the total would be too large,
        unless this client then still has no more than its share."""
        more_bytes = counted(to_bytes) - counted(from_bytes)
        if more_bytes and not self._held.has_room(client, more_bytes, self.max_bytes):
            raise QueueFull(
                "Too many large request bodies are arriving at once: try again in a moment.",
                retry_after_s=1,
            )
        self._held.add(client, more_bytes)

    def done(self, client: str, size_bytes: int) -> None:
        """Releases a body of `size_bytes` that has arrived or failed."""
        self._held.add(client, -counted(size_bytes))


def counted(size_bytes: int) -> int:
    return max(0, size_bytes - FREE_BYTES)


class HeldBodies(SharedBytes):
    """What large bodies that have arrived take until their requests have ended, by client. A
    request refers to its body to its end, also while it waits for a model."""

    def add(self, client: str, num_bytes: int) -> None:
        """Below zero for what is freed. Raises QueueFull if the total would be too large, unless
        this client then still has no more than its share."""
        if num_bytes > 0 and not self._held.has_room(client, num_bytes, self.max_bytes):
            raise QueueFull(
                "The bodies of requests that wait or are being answered take all the memory that "
                "they may, and this API key has its share: try again later, send a smaller body, "
                "or raise max_held_bytes in models.toml.",
                retry_after_s=5,
            )
        self._held.add(client, num_bytes)


class HeldBody:
    """What one request's body takes."""

    def __init__(self, bodies: HeldBodies, client: str):
        self._bodies = bodies
        self._client = client
        self._num_bytes = 0

    def grow(self, to_bytes: int) -> None:
        """Counts at least so many bytes. Raises QueueFull, and then counts what it did."""
        if (more_bytes := to_bytes - self._num_bytes) > 0:
            self._bodies.add(self._client, more_bytes)
            self._num_bytes = to_bytes

    def release(self) -> None:
        """The request has ended. Once is enough; more do no harm."""
        self._bodies.add(self._client, -self._num_bytes)
        self._num_bytes = 0


class BodyLimits(msgspec.Struct, frozen=True):
    max_bytes: int
    timeout_s: float  # for the whole body, however it arrives
    # Shared with all other bodies. None: any number.
    unfinished: UnfinishedBodies | None = None
    held: HeldBodies | None = None
