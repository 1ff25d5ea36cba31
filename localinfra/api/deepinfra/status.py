"""Shared by native responses of all kinds of model: the request's status and cost."""

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
    """A request's id, and its status at the end."""

    def __init__(self) -> None:
        self.request_id = random_hex(32)
        self._started = time.monotonic()

    def status(self, cost: float, num_input: int, num_generated: int = 0) -> InferenceStatus:
        elapsed_ms = round(1000 * (time.monotonic() - self._started))
        return InferenceStatus("succeeded", elapsed_ms, cost, num_input, num_generated)


def refuse_webhook(webhook: str | None) -> None:
    """Raises UnsupportedParameter if set: no callback is ever made, and calling a URL of the
    client's choice would be SSRF."""
    if webhook:
        raise UnsupportedParameter(
            "webhook is not supported: leave it out, the result is in the response.",
            "webhook",
        )
