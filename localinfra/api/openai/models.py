"""GET /v1/models and /v1/models/{id}: the catalogue in the shapes of OpenAI and Anthropic at once,
with more fields. POST /v1/models/{id}/load and /unload.

Chat applications offer every model listed, so models without files are listed only on request.
"""

import datetime
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.http.errors import json_response
from localinfra.api.http.managing import check_may_manage
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.pictures import senses
from localinfra.deaths import History, Safety
from localinfra.errors import InvalidRequest
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry, Price, TextModelEntry
from localinfra.models.histories import history_of
from localinfra.models.looks import recommended_by
from localinfra.models.pool import LoadState
from localinfra.models.sampling import SamplingSettings
from localinfra.models.senses import Sense, senses_of
from localinfra.runtime import Runtime

BOOLEANS = {"true": True, "1": True, "": True, "false": False, "0": False}


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model: OpenAI's four fields, Anthropic's, then details that help clients to choose."""

    id: str
    object: str
    created: int
    owned_by: str
    type: str
    display_name: str
    created_at: datetime.datetime
    lifecycle: str
    kind: str  # "text", "embedding", "rerank" or "image"
    vision: bool | None  # whether a text model reads pictures
    hearing: bool | None  # whether it reads sounds
    aliases: tuple[str, ...]
    price: Price
    # "loaded", "loading", "failed" or "quarantined"; else, or if files are missing, their state
    state: str
    memory: Mapping[str, int] | None = None  # bytes by device, if it is in memory
    # bytes of main memory that earlier prompts take outside of its KV cache, also while it is
    # unloaded
    prefix_memory: int | None = None
    remedy: str | None = None  # what to do if files are missing
    trouble: str | None = None  # why it is loaded with safer settings, or not any more
    optimize: str | None = None  # what was decided on its weights, or how far the search is
    version: str | None = None
    versions: tuple[str, ...] = ()  # each can be requested as NAME:VERSION
    deploy_id: str | None = None
    description: str | None = None
    context_length: int | None = None  # tokens
    default_max_tokens: int | None = None
    max_output_tokens: int | None = None
    dimensions: int | None = None
    recommended: SamplingSettings | None = None  # sampling parameters to send
    max_model_len: int | None = None  # vLLM's name for the context length, and Anthropic's
    max_input_tokens: int | None = None


class ModelList(msgspec.Struct, frozen=True):
    """All of them on one page, as Anthropic's clients read it."""

    data: list[ModelCard]
    first_id: str | None
    last_id: str | None
    object: str = "list"
    has_more: bool = False


class OnDisk(NamedTuple):
    """What a model's files say, and what is noted about it."""

    state: str  # present, or in what way they are missing
    recommended: SamplingSettings | None
    history: History
    senses: frozenset[Sense] | None = None  # of a text model


async def model_cards(state: AppState, catalog: Catalog, names: Iterable[str]) -> list[ModelCard]:
    """Also what the files recommend of models that are not loaded yet: a conversation's first
    message is sent before."""
    runtime = state.runtime
    loaded = frozenset(runtime.loaded())  # which may change meanwhile
    entries = {name: catalog.entries[name] for name in names}

    def look() -> dict[str, OnDisk]:
        return {name: on_disk(entry, name in loaded) for name, entry in entries.items()}

    files = await state.threads.files.run(look)
    return [model_card(runtime, catalog, name, files[name]) for name in entries]


def on_disk(entry: ModelEntry, is_loaded: bool) -> OnDisk:
    is_asked = isinstance(entry, TextModelEntry) and not (entry.recommended or is_loaded)
    path = entry.source.find()
    state = entry.source.absent if path is None else "present"
    recommended = recommended_by(path) if path and is_asked else None
    history, reads = history_of(entry), None
    if isinstance(entry, TextModelEntry):
        served = entry if history.safety is Safety.NORMAL else entry.safer
        reads = senses_of(served.projector) if served.projector else frozenset()
    return OnDisk(state, recommended, history, reads)


async def card_of(request: Request) -> Response:
    """Raises ModelNotFound, also if a reload has just removed the model."""
    catalog = RequestState.of(request.scope).models.catalog
    name, _ = catalog.resolve(request.path_params["id"])
    return json_response((await model_cards(AppState.of(request.app), catalog, [name]))[0])


def model_card(runtime: Runtime, catalog: Catalog, name: str, found: OnDisk) -> ModelCard:
    entry, load, files = catalog.entries[name], runtime.state(name), found.state
    is_failed_for_files = load is LoadState.FAILED and files != "present"
    state = files if load is LoadState.ABSENT or is_failed_for_files else load.value
    is_quarantined = found.history.safety is Safety.QUARANTINED and load is not LoadState.LOADED
    held = runtime.seats.footprints.get(name)
    reads = senses_now(runtime, name, found)
    details = runtime.loaded().get(name, entry).details
    if found.recommended:
        details = msgspec.structs.replace(details, recommended=found.recommended)
    return ModelCard(
        id=name,
        object="model",
        created=runtime.started_at,
        owned_by=name.split("/")[0] if "/" in name else "localinfra",
        type="model",
        display_name=name,
        created_at=datetime.datetime.fromtimestamp(runtime.started_at, datetime.UTC),
        lifecycle="active",
        kind=entry.kind,
        vision=None if reads is None else Sense.SIGHT in reads,
        hearing=None if reads is None else Sense.HEARING in reads,
        aliases=entry.aliases,
        price=entry.price,
        state="quarantined" if is_quarantined else state,
        memory=held.bytes_on if held else None,
        prefix_memory=runtime.prefix_bytes().get(name) or None,
        remedy=None if files == "present" else entry.source.remedy(name),
        trouble=found.history.words,
        optimize=runtime.optimize_state(name),
        version=entry.version,
        versions=catalog.versions(name),
        deploy_id=entry.deploy_id,
        description=entry.description,
        **msgspec.structs.asdict(details),
        max_model_len=details.context_length,
        max_input_tokens=details.context_length,
    )


def senses_now(runtime: Runtime, name: str, found: OnDisk) -> Collection[Sense] | None:
    """A loaded model may do without a projector that lies beside it."""
    model = runtime.loaded_text_models().get(name)
    return found.senses if model is None else senses(model)


async def list_models(request: Request) -> Response:
    """Lists the models whose files are present."""
    state = AppState.of(request.app)
    await state.runtime.refresh()
    catalog = RequestState.of(request.scope).models.catalog
    cards = await model_cards(state, catalog, catalog.names)
    if not wants_all(request):
        cards = [card for card in cards if card.remedy is None]
    first, last = (cards[0].id, cards[-1].id) if cards else (None, None)
    return json_response(ModelList(cards, first, last))


def wants_all(request: Request) -> bool:
    """Raises InvalidRequest if `all` is neither true nor false."""
    given = request.query_params.get("all", "false")
    if given.lower() not in BOOLEANS:
        raise InvalidRequest(f"all must be true or false, not {given[:50]!r}.", "all")
    return BOOLEANS[given.lower()]


async def get_model(request: Request) -> Response:
    """Describes a model, by any of its names."""
    await AppState.of(request.app).runtime.refresh()
    return await card_of(request)


async def load_model(request: Request) -> Response:
    """Loads a model, and answers with its card once it is there."""
    check_may_manage(request)
    await AppState.of(request.app).runtime.load(await named_model(request))
    return await card_of(request)


async def unload_model(request: Request) -> Response:
    """Unloads a model, and answers with its card.

    That is once its requests have ended and its memory is free."""
    check_may_manage(request)
    await AppState.of(request.app).runtime.unload(await named_model(request))
    return await card_of(request)


async def named_model(request: Request) -> str:
    """The own name of the model in the path. Raises ModelNotFound."""
    id, models = request.path_params["id"], RequestState.of(request.scope).models
    await models.seek(id)
    return models.catalog.find(id)[0]
