"""GET /metrics, and the middleware that counts and times requests."""

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra.api.http.request_log import log_request
from localinfra.api.http.state import AppState, RequestState
from localinfra.errors import Forbidden
from localinfra.metrics import Metrics
from localinfra.runtime import Runtime

# A route → OpenTelemetry's name of what it does; `rerank` is ours.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/engines/{id:path}/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/engines/{id:path}/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/engines/{id:path}/embeddings": "embeddings",
    "/v1/embed": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/images/generations": "generate_content",
    "/v1/images/edits": "generate_content",
    "/v1/inference/{id:path}": "generate_content",
    "/api/chat": "chat",
    "/api/generate": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
}


class RequestMetrics:
    """ASGI middleware around `Guard`, so that requests it refuses are counted and logged too.

    Sets `started_s` in the request's state, and reads from it the model that is charged.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        state = RequestState.of(scope)
        state.started_s = time.perf_counter()
        try:
            await self.app(scope, receive, reply)
        finally:
            seconds = time.perf_counter() - state.started_s
            if not state.goes_on:
                self.count(scope, status, seconds)
            log_request(scope, status, seconds)

    def count(self, scope: Scope, status: int | None, seconds: float) -> None:
        route = route_of(scope)
        model = RequestState.of(scope).model
        status_class = "none" if status is None else f"{status // 100}xx"
        self.metrics.requests.add(1, route, model, status_class)
        self.metrics.request_seconds.observe(seconds, route, model)
        if route in OPERATIONS:
            self.observe(RequestState.of(scope), OPERATIONS[route], status, seconds)

    def observe(
        self, state: RequestState, operation: str, status: int | None, seconds: float
    ) -> None:
        """OpenTelemetry's view of it."""
        labels = (operation, "localinfra", state.model)
        error = "client_disconnected" if status is None else ""
        if state.error is not None:
            error = state.error.code or state.error.type
        self.metrics.otel_request_seconds.observe(seconds, *labels, error)
        used = state.progress
        if error or not used.generated_tokens:
            return
        self.metrics.otel_first_token_seconds.observe(used.first_token_s, *labels)
        if used.generated_tokens > 1:
            per_token = (seconds - used.first_token_s) / (used.generated_tokens - 1)
            self.metrics.otel_token_seconds.observe(per_token, *labels)


def route_of(scope: Scope) -> str:
    """The first path of the handler that answered, whichever prefix was used. Empty if none did:
    clients may send any number of paths, and each would become a label."""
    for route in scope["app"].routes if "endpoint" in scope else ():
        if isinstance(route, Route) and route.endpoint is scope["endpoint"]:
            return route.path
    return ""


async def get_metrics(request: Request) -> Response:
    """Counts and measures what happens.

    In Prometheus' text format, or in OpenMetrics' if the client asks for it."""
    if not RequestState.of(request.scope).may_manage:
        raise Forbidden(
            "This API key may not read the metrics, which are those of all keys: use one that was "
            "made with --manage, by `localinfra key new NAME --manage`."
        )
    state = AppState.of(request.app)
    update_gauges(state.metrics, state.runtime)
    text, kind = await state.exposition.text(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": kind})


def update_gauges(metrics: Metrics, runtime: Runtime) -> None:
    """Brings the gauges up to date."""
    stats = {name: model.stats for name, model in runtime.loaded_text_models().items()}
    metrics.sequences_running.show({(name,): stat.num_running for name, stat in stats.items()})
    metrics.sequences_waiting.show({(name,): stat.num_waiting for name, stat in stats.items()})
    metrics.kv_cells_used.show({(name,): stat.kv_used for name, stat in stats.items()})
    metrics.kv_cells_shared.show({(name,): stat.kv_shared for name, stat in stats.items()})
    metrics.kv_cells.show({(name,): stat.kv_total for name, stat in stats.items()})
    metrics.steps.show({(name,): stat.num_steps for name, stat in stats.items()})
    metrics.step_seconds.show({(name,): stat.step_s for name, stat in stats.items()})
    metrics.step_tokens.show({(name,): stat.num_step_tokens for name, stat in stats.items()})
    metrics.drafted_tokens.show({(name,): stat.num_drafted for name, stat in stats.items()})
    metrics.accepted_draft_tokens.show({(name,): stat.num_accepted for name, stat in stats.items()})
    prefixes = runtime.prefixes
    metrics.parked_bytes.show({(name,): n for name, n in runtime.prefix_bytes().items()})
    metrics.state_bytes.show({(name,): stat.state_bytes for name, stat in stats.items()})
    metrics.disk_cache_bytes.show({(): prefixes.num_disk_bytes})
    read = prefixes.num_read_tokens.items()
    metrics.disk_cache_tokens.show({(name,): number for name, number in read})
    metrics.disk_cache_damaged.show({(): prefixes.num_damaged})
    loaded = runtime.loaded()
    metrics.requests_pending.show(
        {(name,): model.worker.num_waiting for name, model in loaded.items() if name not in stats}
    )
    metrics.models_loaded.show(
        {(name, entry.kind): int(name in loaded) for name, entry in runtime.catalog.entries.items()}
    )
    metrics.model_memory.show(
        {
            (name, device): size
            for name, held in runtime.seats.footprints.items()
            for device, size in held.bytes_on.items()
        }
    )
    metrics.memory_budget.show({(device,): size for device, size in runtime.room().items()})
