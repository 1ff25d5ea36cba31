"""Every exported metric with its unit, in one list; other parts update them, and
`api/exposition.py` writes them out with prometheus-client.

The numbers themselves are plain, and change on the event loop alone: a counter of prometheus-client
takes a lock for each token (three times as long), and importing it takes 10 ms of each start.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

# Upper bounds of a histogram's buckets, in seconds.
FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DURATION_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Those of OpenTelemetry's conventions:
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
OTEL_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
)  # fmt: skip
OTEL_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
OTEL_DURATION_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
OTEL_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

Labels = tuple[str, ...]  # the values of a metric's labels, in its order


class Metric:
    """A number for each combination of label values that has occurred."""

    def __init__(self, name: str, help: str, *labels: str):
        self.name = name
        self.help = help
        self.labels = labels
        self.values: dict[Labels, float] = {}


class Counter(Metric):
    """Only grows."""

    def add(self, number: float, *values: str) -> None:
        if number:
            self.values[values] = self.values.get(values, 0) + number

    def show(self, numbers: Mapping[Labels, float]) -> None:
        """Takes counts over that are kept elsewhere, without those that are 0."""
        self.values |= {values: number for values, number in numbers.items() if number}


class Gauge(Metric):
    """The value at the time of a scrape."""

    def show(self, numbers: Mapping[Labels, float]) -> None:
        """Replaces all values."""
        self.values = dict(numbers)


class Histogram(Metric):
    """The number of observations up to each bound; its values are the sums of all."""

    def __init__(self, name: str, help: str, bounds: tuple[float, ...], *labels: str):
        super().__init__(name, help, *labels)
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}  # not cumulative; the last bucket has no bound

    def observe(self, number: float, *values: str) -> None:
        counts = self._counts.setdefault(values, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, number)] += 1
        self.values[values] = self.values.get(values, 0) + number

    def buckets(self, values: Labels) -> list[tuple[str, float]]:
        """Each bound as a label (OpenMetrics wants "1.0"), and how many were at most that."""
        bounds = (*(str(float(bound)) for bound in self._bounds), "+Inf")
        return list(zip(bounds, accumulate(self._counts[values]), strict=True))


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
        self.images = Counter("localinfra_images_total", "Images made.", "model")
        self.cost = Counter(
            "localinfra_cost_usd_total",
            "Cost of requests at the prices in models.toml, in US dollars.",
            "key", "model",
        )  # fmt: skip
        self._add_otel()
        self._add_models()
        self._add_engines()

    def _add_otel(self) -> None:
        """OpenTelemetry's metrics of model servers, as Prometheus spells their names."""
        self.otel_request_seconds = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to the end of its answer; by error, if it ended in one.",
            OTEL_DURATION_S, *OTEL_LABELS, "error_type",
        )  # fmt: skip
        self.otel_first_token_seconds = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to its first generated token, of complete answers.",
            OTEL_FIRST_TOKEN_S, *OTEL_LABELS,
        )  # fmt: skip
        self.otel_token_seconds = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time after the first token by the number of tokens after it, of complete answers.",
            OTEL_TOKEN_S, *OTEL_LABELS,
        )  # fmt: skip

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
        self.kv_cells_shared = Gauge(
            "localinfra_kv_cells_shared",
            "Of the used ones, tokens in the prefix cache: all of them while nothing runs.",
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

    def _add_engines(self) -> None:
        """Counted by the engines of text models, from zero whenever one is loaded."""
        self.steps = Counter(
            "localinfra_steps_total", "Steps of the engine: batches decoded.", "model"
        )
        self.step_seconds = Counter(
            "localinfra_step_seconds_total", "Time that decoding them took.", "model"
        )
        self.step_tokens = Counter(
            "localinfra_step_tokens_total",
            "Tokens in these batches: of prompts, of answers, and drafted.",
            "model",
        )
        self.drafted_tokens = Counter(
            "localinfra_drafted_tokens_total",
            "Tokens drafted for speculative decoding.",
            "model",
        )
        self.accepted_draft_tokens = Counter(
            "localinfra_accepted_draft_tokens_total",
            "Of these, the tokens that the model itself chose too.",
            "model",
        )

    def __iter__(self) -> Iterator[Metric]:
        return (value for value in vars(self).values() if isinstance(value, Metric))
