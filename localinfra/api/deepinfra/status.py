"""What native answers have in common, whatever the model: how a request went and what it cost."""

import time

import msgspec

from localinfra.chance import random_hex
from localinfra.errors import UnsupportedParameter

ROUTE = "/v1/inference"


class InferenceStatus(msgspec.Struct, frozen=True):
    status: str
    runtime_ms: int
    cost: float  # USD
    tokens_input: int
    tokens_generated: int


class Timer:
    """A request's id, and what is said of it at its end."""

    def __init__(self) -> None:
        self.request_id = random_hex(32)
        self._started = time.monotonic()

    def status(self, cost: float, num_input: int, num_generated: int = 0) -> InferenceStatus:
        elapsed_ms = round(1000 * (time.monotonic() - self._started))
        return InferenceStatus("succeeded", elapsed_ms, cost, num_input, num_generated)


def refuse_webhook(webhook: str | None) -> None:
    """Who sends one waits there for a result that would never come, and a server on your own
    machine must not be sent to addresses that only it can reach. Raises UnsupportedParameter."""
    if webhook:
        raise UnsupportedParameter(
            "webhook is not supported: leave it out, and the result comes as the response.",
            "webhook",
        )
