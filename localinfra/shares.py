"""How the places of a queue are shared among clients."""

from collections import Counter
from contextvars import ContextVar

# The holder of the key of the request that this task works for; set where the key is checked.
current_client: ContextVar[str] = ContextVar("current_client", default="")


def has_room(waiting: Counter[str], client: str, most: int) -> bool:
    """Whether fewer than `most` requests wait, or the client has fewer than its share: one that
    fills the queue keeps no other out. `waiting`: the number of each client's."""
    share = most / len({other for other in waiting if waiting[other]} | {client})
    return waiting.total() < most or waiting[client] < share


def fullness(waiting: Counter[str], client: str) -> str:
    """Whose queue is full, in words for that client, who learns nothing else of others."""
    total, own = waiting.total(), waiting[client]
    if own == total:
        return f"{total} requests are waiting for this model already, all with this API key"
    return f"{total} requests are waiting for this model already, {own} of them with this API key"
