"""Stored responses: GET, DELETE and POST .../cancel of /v1/responses/{id}, and its input items."""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from localinfra.api.http.background import BackgroundAnswer, BackgroundAnswers, follow
from localinfra.api.http.errors import json_response
from localinfra.api.http.pieces import PiecesResponse, fill_arrays, join_items
from localinfra.api.http.state import AppState
from localinfra.api.openai.responses.items import AnyItem
from localinfra.api.openai.responses.response import ResponseDeleted
from localinfra.api.openai.responses.store import KeptResponse, kept_response, store_of
from localinfra.chat.encoding import all_parts
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.long_text import join_bytes

ITEMS_PER_PAGE, MAX_ITEMS_PER_PAGE = 20, 100
LIMIT = re.compile(r"0{,20}\d{1,3}", re.ASCII)


async def get_response(request: Request) -> HttpResponse:
    """Fetches a stored response.

    With `stream`, the events of one with `background: true`: those so far and those to come. Any
    number of clients may read them, again and again, for `events_kept_s` after the end."""
    kept = kept_response(request)
    if request.query_params.get("stream") != "true":
        return as_json(kept)
    if not kept.is_background:
        raise UnsupportedParameter(
            "Only a response created with background: true can be streamed again: leave stream "
            "out.",
            "stream",
        )
    if (background := background_of(request, kept)) is None:
        raise InvalidRequest(
            "This response can no longer be streamed, as its events are gone: leave stream out.",
            "stream",
        )
    return follow(request, background, request.query_params.get("starting_after"))


async def cancel_response(request: Request) -> HttpResponse:
    """Cancels a response with `background: true`. One that has ended stays as it is."""
    kept = kept_response(request)
    if not kept.is_background:
        raise InvalidRequest(
            "Cannot cancel a synchronous response: only one created with background: true.",
            "response_id",
        )
    if background := background_of(request, kept):
        await background.cancel()
    return as_json(kept_response(request))


async def delete_response(request: Request) -> HttpResponse:
    """Deletes a stored response, and cancels it if it is still being answered."""
    kept = kept_response(request)
    if background := background_of(request, kept):
        await AppState.of(request.app).store(BackgroundAnswers).remove(background)
    store_of(request).drop(kept.id, kept.caller)
    return json_response(ResponseDeleted(kept.id))


def background_of(request: Request, kept: KeptResponse) -> BackgroundAnswer | None:
    """The work at the response and its events; None if they are no longer kept."""
    return AppState.of(request.app).store(BackgroundAnswers).find(kept.id, kept.caller)


def as_json(kept: KeptResponse) -> HttpResponse:
    return HttpResponse(kept.body, 200, kept.headers, "application/json")


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of items."""

    object: Literal["list"] = "list"
    data: Sequence[AnyItem] = ()
    first_id: str | None
    last_id: str | None
    has_more: bool


async def list_input_items(request: Request) -> HttpResponse:
    """Lists the items of a response's whole input, including earlier responses."""
    kept = kept_response(request)
    query = request.query_params
    limit, order = query.get("limit") or str(ITEMS_PER_PAGE), query.get("order") or "desc"
    if not (LIMIT.fullmatch(limit) and 1 <= int(limit) <= MAX_ITEMS_PER_PAGE):
        raise InvalidRequest(f"limit must be from 1 to {MAX_ITEMS_PER_PAGE}.", "limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc.", "order")
    items = list(kept.input) if order == "asc" else list(reversed(kept.input))
    items = items_after(items, query.get("after") or None)
    page = items[: int(limit)]
    answer = ItemList(
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(items) > len(page),
    )
    threads = AppState.of(request.app).threads
    written = await threads.conversions.run(encode_items, kept, page, size=kept.conversation_bytes)
    return PiecesResponse(fill_arrays(answer, {"data": join_items(written)}))


def encode_items(kept: KeptResponse, items: Sequence[AnyItem]) -> list[bytes]:
    """The items as JSON, encoded once for all readers. Run it in a thread: an item may be as long
    as a body."""
    for item in items:
        if id(item) not in kept.written:
            kept.written[id(item)] = join_bytes(all_parts(item))
    return [kept.written[id(item)] for item in items]


def items_after(items: list[AnyItem], id: str | None) -> list[AnyItem]:
    if id is None:
        return items
    at = next((at for at, item in enumerate(items) if item.id == id), None)
    if at is None:
        raise InvalidRequest(f"No input item has the id {id[:100]!r}.", "after")
    return items[at + 1 :]
