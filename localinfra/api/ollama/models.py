"""GET /api/tags, /api/ps, /api/version and /: the models in Ollama's shapes, and probes.

Models without files are not listed, nor those of kinds that Ollama's clients have no use for.
"""

import datetime
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from localinfra.api.http.errors import json_response
from localinfra.api.http.state import AppState, RequestState
from localinfra.executor import DaemonThreads
from localinfra.footprint import CPU
from localinfra.kinds import LoadedModel
from localinfra.models.details import FileDetails, file_details
from localinfra.models.entries import EmbeddingModelEntry, ModelEntry, TextModelEntry
from localinfra.models.seats import Seat

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

LISTED = (TextModelEntry, EmbeddingModelEntry)

VERSION = "0.12.11"  # of Ollama, whose API this is: clients ask for one that is new enough
RUNNING = "Ollama is running"  # clients compare it
FOREVER = datetime.timedelta(days=100 * 365)  # expiry of models that stay in memory


class OllamaDetails(msgspec.Struct, frozen=True):
    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model: str  # the same
    size: int  # bytes
    digest: str
    details: OllamaDetails


class ListedModel(OllamaModel, frozen=True, kw_only=True):
    modified_at: datetime.datetime


class RunningModel(OllamaModel, frozen=True, kw_only=True):
    """`size`: memory that it takes."""

    size_vram: int  # bytes of it on GPUs
    expires_at: datetime.datetime
    context_length: int | None  # tokens


class ListedModels(msgspec.Struct, frozen=True):
    models: list[ListedModel]


class RunningModels(msgspec.Struct, frozen=True):
    models: list[RunningModel]


class OllamaVersion(msgspec.Struct, frozen=True):
    version: str


async def get_ollama_version(request: Request) -> Response:
    """Says which version of Ollama's API this is."""
    return json_response(OllamaVersion(VERSION))


async def list_ollama_models(request: Request) -> Response:
    """Lists the models whose files are present, the newest first."""
    state = AppState.of(request.app)
    await state.runtime.refresh()
    known = RequestState.of(request.scope).models.catalog.entries
    files = await details_of(known, state.threads.files)
    listed = [
        ListedModel(
            modified_at=datetime.datetime.fromtimestamp(found.modified_s, datetime.UTC),
            **msgspec.structs.asdict(shown(name, found, found.size_bytes)),
        )
        for name, found in files.items()
    ]
    listed.sort(key=lambda model: model.modified_at, reverse=True)
    return json_response(ListedModels(listed))


async def list_running_models(request: Request) -> Response:
    """Lists the models in memory, the one that stays longest first."""
    state = AppState.of(request.app)
    known = RequestState.of(request.scope).models.catalog.entries
    ready = state.runtime.seats.ready()
    entries = {seat.name: model.entry for seat, model in ready if seat.name in known}
    files = await details_of(entries, state.threads.files)
    running = [
        running_model(seat, model, files[seat.name])
        for seat, model in state.runtime.seats.ready()
        if seat.name in files
    ]
    running.sort(key=lambda model: model.expires_at, reverse=True)
    return json_response(RunningModels(running))


def running_model(seat: Seat[LoadedModel], model: LoadedModel, found: FileDetails) -> RunningModel:
    held = seat.takes.bytes_on
    left_s = seat.left_s(model.entry.unload_after_s)
    left = FOREVER if left_s is None else datetime.timedelta(seconds=left_s)
    return RunningModel(
        size_vram=sum(size for device, size in held.items() if device != CPU),
        expires_at=datetime.datetime.now(datetime.UTC) + left,
        context_length=model.details.context_length,
        **msgspec.structs.asdict(shown(seat.name, found, sum(held.values()))),
    )


async def details_of(
    entries: Mapping[str, ModelEntry], threads: DaemonThreads
) -> dict[str, FileDetails]:
    """Of the models that are listed."""
    listed = {name: e for name, e in entries.items() if isinstance(e, LISTED)}

    def look() -> dict[str, FileDetails]:
        found = {name: details_at(entry) for name, entry in listed.items()}
        return {name: details for name, details in found.items() if details}

    return await threads.run(look)


def details_at(entry: ModelEntry) -> FileDetails | None:
    """None if the files are absent, or some of them. Blocks."""
    path = entry.source.find()
    try:
        return file_details(path) if path else None
    except OSError:  # they have just gone
        return None


def shown(name: str, found: FileDetails, size_bytes: int) -> OllamaModel:
    return OllamaModel(
        name=name,
        model=name,
        size=size_bytes,
        digest=found.digest,
        details=shown_details(found),
    )


def shown_details(found: FileDetails) -> OllamaDetails:
    return OllamaDetails(
        format=found.format,
        family=found.family,
        families=(found.family,) if found.family else (),
        parameter_size=found.parameters,
        quantization_level=found.quantization,
    )


def answering_probes(page: Handler) -> Handler:
    """GET / as Ollama's clients expect it; a browser gets the page."""

    @functools.wraps(page)
    async def answer(request: Request) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return await page(request)
        return PlainTextResponse(RUNNING, headers={"vary": "Accept"})

    return answer
