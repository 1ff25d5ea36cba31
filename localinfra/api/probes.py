"""GET /health, for those who ask whether this server is well."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra import __version__
from localinfra.api.http.errors import json_response
from localinfra.api.http.state import AppState, RequestState

UNTOLD = "a model that this request may not use is broken; the log says which"


class ServerHealth(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok", "degraded"]
    # why a model is broken; if keys are needed, told to those whose key may use it
    reason: str | UnsetType = UNSET
    version: str
    models_loaded: int
    sequences_running: int
    sequences_waiting: int
    encodings_waiting: int


async def get_health(request: Request) -> Response:
    """Says whether all is well.

    In milliseconds under any load. The status is 503 while a model is broken."""
    found = AppState.of(request.app).runtime  # only state held on the event loop
    faults, known = found.faults(), RequestState.of(request.scope).models.catalog.entries
    told = [f"{name}: {reason}" for name, reason in faults.items() if name in known]
    if len(told) < len(faults):
        told.append(UNTOLD)
    stats = [model.stats for model in found.loaded_text_models().values()]
    encoders = found.loaded_encoders().values()
    health = ServerHealth(
        status="degraded" if faults else "ok",
        reason="; ".join(told) or UNSET,
        version=__version__,
        models_loaded=len(found.loaded()),
        sequences_running=sum(stat.num_running for stat in stats),
        sequences_waiting=sum(stat.num_waiting for stat in stats),
        encodings_waiting=sum(model.worker.num_waiting for model in encoders),
    )
    return json_response(health, 503 if faults else 200)
