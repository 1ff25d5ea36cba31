"""GET, PUT and DELETE /v1/chats: the conversations that the server keeps for its page, for each key
its own (`keep_chats`).

Whoever may not manage models without a key may not read conversations either.
"""

import codecs
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.http.errors import json_response
from localinfra.api.http.managing import check_has_own
from localinfra.api.http.state import AppState, RequestState
from localinfra.conversations.store import ChatHead, ChatStore
from localinfra.errors import Forbidden, InvalidRequest, NotFound
from localinfra.executor import in_turns
from localinfra.steps import Steps

PER_PAGE, MAX_PER_PAGE = 50, 100
MAX_SEARCH = 1000  # characters
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LIMIT = re.compile(r"0{,20}\d{1,3}", re.ASCII)
# Scores of tokens are many small values, which are skipped here and never made.
MAX_CHAT_VALUES = 1 << 20
SLICE_BYTES = 1 << 18  # of text, read in half a millisecond


class ChatsNotKept(NotFound):
    code = "chats_not_kept"


class ChatBody(msgspec.Struct, frozen=True):
    """A conversation to keep."""

    title: Annotated[str, Meta(max_length=200)]
    # an object of the client's own; a search looks through `turns[].content` in it, if it has that
    data: msgspec.Raw
    revision: Annotated[int, Meta(ge=0)] = 0  # the one that this changes; 0: it is new
    # when it was last changed, in Unix seconds, if it comes from elsewhere; default: now
    updated_at: Annotated[float, Meta(ge=0, le=1e12)] | None = None


class ChatList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of conversations, the last changed first."""

    object: Literal["list"] = "list"
    kept: bool  # whether the server keeps conversations for this client
    data: list[ChatHead] = []
    next: str | None = None  # `after` of the next page; null: this is the last one


class ChatsDeleted(msgspec.Struct, frozen=True):
    deleted: int  # conversations


async def list_chats(request: Request) -> Response:
    """Lists conversations, and says whether the server keeps them.

    Without their content. `kept` is false without `keep_chats`, and for those who would need a key
    on a server that has none."""
    query = request.query_params
    limit = query.get("limit") or str(PER_PAGE)
    search = query.get("search") or ""
    if not (LIMIT.fullmatch(limit) and 1 <= int(limit) <= MAX_PER_PAGE):
        raise InvalidRequest(f"limit must be from 1 to {MAX_PER_PAGE}.", "limit")
    if len(search) > MAX_SEARCH:
        raise InvalidRequest(f"search may have {MAX_SEARCH} characters at most.", "search")
    try:
        check_kept(request)
    except (ChatsNotKept, Forbidden):
        return json_response(ChatList(kept=False))
    after = query.get("after") or None
    try:
        page = await store_of(request).page(owner_of(request), search, int(limit), after)
    except ValueError:
        raise InvalidRequest("after must be the `next` of a page.", "after") from None
    return json_response(ChatList(kept=True, data=page.heads, next=page.next))


async def get_chat(request: Request) -> Response:
    """Fetches a conversation with its content."""
    check_kept(request)
    return json_response(await store_of(request).get(owner_of(request), request.path_params["id"]))


async def put_chat(request: Request) -> Response:
    """Keeps a conversation, new or changed.

    `revision` is the one that was read before: if it is not the newest, the answer is a 409, and
    nothing is overwritten."""
    check_kept(request)
    id = request.path_params["id"]
    if not ID.fullmatch(id):
        raise InvalidRequest("An id has 1 to 64 letters, digits, - or _.", "id")
    call = await Call.begin(request, ChatBody, MAX_CHAT_VALUES, max_nested=MAX_CHAT_VALUES)
    body, store = call.body, store_of(request)
    store.check_size(len(memoryview(body.data)))
    data = bytes(body.data)
    if not (data.startswith(b"{") and await in_turns(is_utf_8(data))):
        raise InvalidRequest("data must be an object, in UTF-8.", "data")
    head = await store.put(owner_of(request), id, body.title, data, body.revision, body.updated_at)
    return call.json(head)


async def delete_chat(request: Request) -> Response:
    """Deletes a conversation for good."""
    check_kept(request)
    number = await store_of(request).delete(owner_of(request), request.path_params["id"])
    return json_response(ChatsDeleted(number))


async def delete_chats(request: Request) -> Response:
    """Deletes all conversations of the key for good."""
    check_kept(request)
    return json_response(ChatsDeleted(await store_of(request).delete(owner_of(request))))


def check_kept(request: Request) -> None:
    """Raises ChatsNotKept or Forbidden."""
    if not AppState.of(request.app).runtime.settings.keep_chats:
        raise ChatsNotKept(
            "This server keeps no conversations: set keep_chats = true in [server] of models.toml."
        )
    check_has_own(request, "conversations")


def is_utf_8(data: bytes) -> Steps[bool]:
    """Texts of what stays raw have not been read."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), SLICE_BYTES):
            decoder.decode(data[start : start + SLICE_BYTES])
            yield
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def store_of(request: Request) -> ChatStore:
    return AppState.of(request.app).store(ChatStore)


def owner_of(request: Request) -> str:
    return RequestState.of(request.scope).caller
