"""Limits on waiting requests for a model, in total and per client. Pure."""

from collections import Counter
from collections.abc import Iterable

from localinfra.engine.generation import Generation
from localinfra.errors import QueueFull
from localinfra.shares import check_place, has_room

MAX_CHOICES = 4096  # waiting choices: as in four requests of the maximum size


def check_room(generations: Iterable[Generation], client: str, most: int) -> None:
    """Raises QueueFull if this client may not queue another request. A request of many choices
    counts once, so that it does not keep others out."""
    requests, choices = Counter[str](), Counter[str]()
    for generation in generations:
        if num_waiting := generation.num_waiting:
            choices[generation.group.client] += num_waiting
            requests[generation.group.client] += not generation.group.num_started
    check_place(requests, client, most)
    if not has_room(choices, client, MAX_CHOICES):
        raise QueueFull(
            f"{choices.total()} choices are waiting for this model already; try again later, or "
            "ask for fewer at once (n, best_of, prompts).",
            retry_after_s=5,
        )
