"""Every exported metric with its unit, in one list; other parts update them, this file prints them.

In Prometheus' text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).
All numbers live on the event loop, so prometheus_client's locks, registries, other formats and HTTP
server would only slow every start.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import ClassVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Upper bounds of a histogram's buckets, in seconds.
FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DURATION_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

Labels = tuple[str, ...]  # the values of a metric's labels, in its order


class Metric:
    """A number for each combination of label values that has occurred."""

    kind: ClassVar[str]

    def __init__(self, name: str, help: str, *labels: str):
        self.name = name
        self.help = help
        self.labels = labels
        self._values: dict[Labels, float] = {}

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self.samples()

    def samples(self) -> Iterator[str]:
        for values, number in self._values.items():
            yield sample(self.name, self.labels, values, number)


class Counter(Metric):
    """Only grows."""

    kind = "counter"

    def add(self, number: float, *values: str) -> None:
        if number:
            self._values[values] = self._values.get(values, 0) + number

    def show(self, numbers: Mapping[Labels, float]) -> None:
        """Takes counts over that are kept elsewhere, without those that are 0."""
        self._values |= {values: number for values, number in numbers.items() if number}


class Gauge(Metric):
    """The value at the time of a scrape."""

    kind = "gauge"

    def show(self, numbers: Mapping[Labels, float]) -> None:
        """Replaces all values."""
        self._values = dict(numbers)


class Histogram(Metric):
    """The number of observations up to each bound, and the sum of all."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: tuple[float, ...], *labels: str):
        super().__init__(name, help, *labels)
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}  # not cumulative; the last bucket has no bound

    def observe(self, number: float, *values: str) -> None:
        counts = self._counts.setdefault(values, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, number)] += 1
        self._values[values] = self._values.get(values, 0) + number

    def samples(self) -> Iterator[str]:
        names = (*self.labels, "le")
        for values, counts in self._counts.items():
            total = 0
            for bound, count in zip((*self._bounds, "+Inf"), counts, strict=True):
                total += count
                yield sample(f"{self.name}_bucket", names, (*values, str(bound)), total)
            yield sample(f"{self.name}_sum", self.labels, values, self._values[values])
            yield sample(f"{self.name}_count", self.labels, values, total)


def sample(name: str, labels: Labels, values: Labels, number: float) -> str:
    pairs = [f'{label}="{escaped(value)}"' for label, value in zip(labels, values, strict=True)]
    return f"{name}{{{','.join(pairs)}}} {number!r}" if pairs else f"{name} {number!r}"


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Metrics:
    """The list. Models have their own names in models.toml as labels, and keys those of their
    callers (`api/http/auth.py`), so models, keys and routes bound the number of lines."""

    def __init__(self) -> None:
        self.requests = Counter(
            "localinfra_requests_total",
            "HTTP requests that have ended, by status class; none if the client left before.",
            "route", "model", "status",
        )  # fmt: skip
        self.request_seconds = Histogram(
            "localinfra_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            DURATION_S, "route", "model",
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "localinfra_time_to_first_token_seconds",
            "From a request's arrival to its first generated token.",
            FIRST_TOKEN_S, "model",
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "localinfra_prompt_tokens_total", "Tokens of prompts and texts read.", "model"
        )
        self.cached_tokens = Counter(
            "localinfra_cached_prompt_tokens_total",
            "Prompt tokens that were not computed again.",
            "model",
        )
        self.generated_tokens = Counter(
            "localinfra_generated_tokens_total", "Tokens generated.", "model"
        )
        self.drafted_tokens = Counter(
            "localinfra_drafted_tokens_total",
            "Tokens drafted for speculative decoding, since the model was loaded.",
            "model",
        )
        self.accepted_draft_tokens = Counter(
            "localinfra_accepted_draft_tokens_total",
            "Of these, the tokens that the model itself chose too.",
            "model",
        )
        self.images = Counter("localinfra_images_total", "Images made.", "model")
        self.cost = Counter(
            "localinfra_cost_usd_total",
            "Cost of requests at the prices in models.toml, in US dollars.",
            "key", "model",
        )  # fmt: skip
        self._add_models()

    def _add_models(self) -> None:
        """What is read from the models at each scrape."""
        self.sequences_running = Gauge(
            "localinfra_sequences_running", "Choices being generated.", "model"
        )
        self.sequences_waiting = Gauge(
            "localinfra_sequences_waiting", "Choices that wait for a slot.", "model"
        )
        self.kv_cells_used = Gauge(
            "localinfra_kv_cells_used",
            "Tokens in the KV cache, including those kept for later requests.",
            "model",
        )
        self.kv_cells = Gauge("localinfra_kv_cells", "Tokens that fit in the KV cache.", "model")
        self.parked_bytes = Gauge(
            "localinfra_parked_prefix_bytes",
            "Main memory that prefixes outside the KV cache take, also of unloaded models.",
            "model",
        )
        self.state_bytes = Gauge(
            "localinfra_prefix_state_bytes",
            "Of it, saved states of loaded models.",
            "model",
        )
        self.disk_cache_bytes = Gauge("localinfra_disk_cache_bytes", "Size of disk_cache's files.")
        self.disk_cache_tokens = Counter(
            "localinfra_disk_cache_read_tokens_total",
            "Prompt tokens whose cells were read from files.",
            "model",
        )
        self.disk_cache_damaged = Counter(
            "localinfra_disk_cache_damaged_total",
            "Files removed since they were damaged.",
        )
        self.requests_pending = Gauge(
            "localinfra_requests_pending",
            "Requests for vectors, scores and images that are waiting or running.",
            "model",
        )
        self.models_loaded = Gauge(
            "localinfra_model_loaded", "1 for a model in memory, else 0.", "model", "kind"
        )
        self.model_memory = Gauge(
            "localinfra_model_memory_bytes", "Memory that a model takes.", "model", "device"
        )
        self.memory_budget = Gauge(
            "localinfra_memory_budget_bytes", "Memory that all models may take.", "device"
        )

    def text(self) -> str:
        metrics = (value for value in vars(self).values() if isinstance(value, Metric))
        return "".join(f"{line}\n" for metric in metrics for line in metric.lines())
