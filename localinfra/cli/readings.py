"""What a running server says of itself at one moment, and what has changed since an earlier one."""

import math
import time
from collections import defaultdict

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from localinfra.cli.client import Client, ServerRefused, ServerUnreachable


class RequestRow(msgspec.Struct, frozen=True):
    """One of `GET /v1/requests`."""

    id: str
    route: str
    running_s: float
    model: str | None = None  # None until it is loaded
    prompt_tokens: int = 0
    generated_tokens: int = 0


class RequestRows(msgspec.Struct):
    data: list[RequestRow]


class Reading:
    """The numbers of `/metrics` (without buckets, and without their prefix), and the requests that
    are being answered: None if the server does not list them."""

    def __init__(self, text: str, requests: list[RequestRow] | None, at_s: float) -> None:
        """Raises ValueError if `text` is not in Prometheus' format."""
        self.at_s = at_s  # time.monotonic()
        self.requests = requests
        self._samples: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if math.isfinite(sample.value) and not sample.name.endswith("_bucket"):
                    name = sample.name.removeprefix("localinfra_")
                    self._samples[name].append((sample.labels, sample.value))

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels."""
        wanted = labels.items()
        return sum(value for given, value in self._samples[name] if wanted <= given.items())

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The sums for each value of a label."""
        found: defaultdict[str, float] = defaultdict(float)
        for given, value in self._samples[name]:
            if labels.items() <= given.items():
                found[given.get(label, "")] += value
        return found


class Reader:
    """Asks a server again and again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lists_requests = True

    def read(self) -> Reading:
        """Raises ServerUnreachable and ServerRefused."""
        requests = self._requests() if self._lists_requests else None
        text = self._client.body("GET", "/metrics").decode(errors="replace")
        try:
            return Reading(text, requests, time.monotonic())
        except ValueError:
            raise ServerUnreachable(
                f"Another program answers at {self._client.url}, not a localinfra server."
            ) from None

    def _requests(self) -> list[RequestRow] | None:
        try:
            return self._client.get("/v1/requests", RequestRows).data
        except ServerRefused as error:
            if error.status not in (403, 404):
                raise
            self._lists_requests = False  # an older server, or it tells only its own machine
            return None


class Change:
    """From one reading to the next."""

    def __init__(self, before: Reading, now: Reading) -> None:
        self.now = now
        self.seconds = now.at_s - before.at_s
        self._before = before
        self._generated = {one.id: one.generated_tokens for one in before.requests or ()}

    def grown(self, name: str, **labels: str) -> float:
        """What was counted meanwhile. A counter may have begun anew, with its model or server."""
        before, now = self._before.total(name, **labels), self.now.total(name, **labels)
        return now - before if now >= before else now

    def rate(self, name: str, **labels: str) -> float | None:
        """The same by the second; None if no time has passed."""
        return self.grown(name, **labels) / self.seconds if self.seconds else None

    def ratio(self, part: str, whole: str, **labels: str) -> float | None:
        """What two counters have grown by, as a ratio; None if there was nothing."""
        total = self.grown(whole, **labels)
        return self.grown(part, **labels) / total if total else None

    def tokens_per_s(self, request: RequestRow) -> float | None:
        """None if it is new."""
        if not self.seconds or request.id not in self._generated:
            return None
        return (request.generated_tokens - self._generated[request.id]) / self.seconds
