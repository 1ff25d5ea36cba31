"""Stores finished responses in memory, so that requests can continue them: GET and DELETE
/v1/responses/{id}."""

import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from localinfra.api.http.errors import json_response
from localinfra.api.http.pieces import PiecesResponse, fill_arrays, join_items
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.openai.responses.items import AnyItem
from localinfra.api.openai.responses.response import ResponseDeleted
from localinfra.errors import BodyTooLarge, InvalidRequest, NotFound, UnsupportedParameter

# Limits over all callers. When one is exceeded, the caller with the largest share loses its least
# recently used response, so that no one can push out the responses of others.
MAX_RESPONSES = 1000
# As JSON. Each response counts its whole conversation, though they share the items.
MAX_BYTES = 64 << 20

ITEMS_PER_PAGE, MAX_ITEMS_PER_PAGE = 20, 100
LIMIT = re.compile(r"0{,20}\d{1,3}", re.ASCII)

encode = msgspec.json.Encoder().encode


class ResponseNotFound(NotFound):
    code = "response_not_found"


class PreviousResponseNotFound(NotFound):
    code = "previous_response_not_found"
    quotes_body = True


class ItemNotFound(NotFound):
    quotes_body = True


class KeptResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    caller: str  # see `RequestState.caller`
    body: bytes  # the response as JSON
    input: Sequence[AnyItem]  # the whole input, including earlier responses
    output: Sequence[AnyItem]
    conversation_bytes: int  # of both, as JSON
    written: dict[int, bytes] = {}  # input items already encoded as JSON, by id(item)

    @property
    def num_bytes(self) -> int:
        return len(self.body) + self.conversation_bytes

    @property
    def conversation(self) -> list[AnyItem]:
        return [*self.input, *self.output]


class ResponseStore:
    """The stored responses. Any thread. Callers find only responses of their own API key."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES):
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()  # most recently used last
        self._of_item: dict[str, str] = {}  # output item's id → response's id
        self._num_bytes = 0
        self._lock = threading.RLock()

    def put(
        self,
        id: str,
        caller: str,
        body: bytes,
        input: Sequence[AnyItem],
        output: Sequence[AnyItem],
        input_bytes: int,
    ) -> None:
        """`input_bytes`: the input's size as JSON, as encoding it here would take too long."""
        kept = KeptResponse(
            id=id,
            caller=caller,
            body=body,
            input=input,
            output=output,
            conversation_bytes=input_bytes + len(encode(output)),
        )
        with self._lock:
            self._kept[id] = kept
            self._of_item |= {item.id: id for item in output}
            self._num_bytes += kept.num_bytes
            while self._is_full and len(self._kept) > 1:
                self._drop(self._least_wanted())

    def _least_wanted(self) -> str:
        shares: defaultdict[str, float] = defaultdict(float)
        for kept in self._kept.values():
            shares[kept.caller] += 1 / self._max_responses + kept.num_bytes / self._max_bytes
        greediest = max(shares, key=shares.__getitem__)
        return next(kept.id for kept in self._kept.values() if kept.caller == greediest)

    @property
    def _is_full(self) -> bool:
        return len(self._kept) > self._max_responses or self._num_bytes > self._max_bytes

    def find(self, id: str, caller: str) -> KeptResponse | None:
        """None also for another caller's response, so that ids can't be probed."""
        with self._lock:
            kept = self._kept.get(id)
            if kept is None or kept.caller != caller:
                return None
            self._kept.move_to_end(id)
            return kept

    def find_item(self, id: str, caller: str) -> AnyItem | None:
        """An output item of a stored response."""
        kept = self.find(self._of_item.get(id, ""), caller)
        return next((item for item in kept.output if item.id == id), None) if kept else None

    def drop(self, id: str, caller: str) -> bool:
        """Drops a response. Returns whether it was there."""
        with self._lock:
            is_there = self.find(id, caller) is not None
            if is_there:
                self._drop(id)
            return is_there

    def _drop(self, id: str) -> None:
        kept = self._kept.pop(id)
        self._num_bytes -= kept.num_bytes
        for item in kept.output:
            del self._of_item[item.id]


WHY = (
    f"It was dropped for newer ones ({MAX_RESPONSES} are kept in memory) or by a restart of the "
    "server, was created with store: false, or belongs to another API key"
)


def kept_response(request: Request) -> KeptResponse:
    """The response in the path. Raises NotFound."""
    id = request.path_params["id"]
    kept = store_of(request).find(id, caller_of(request))
    if kept is None:
        raise ResponseNotFound(f"There is no response {id[:100]!r}. {WHY}.", "response_id")
    return kept


def previous_response(request: Request, id: str | None) -> KeptResponse | None:
    """The response with a `previous_response_id`. Raises NotFound, or BodyTooLarge, so that
    conversations can't grow without end."""
    if not id:
        return None
    kept = store_of(request).find(id, caller_of(request))
    if kept is None:
        raise PreviousResponseNotFound(
            f"Previous response with id {id[:100]!r} not found. {WHY}: send the whole conversation "
            "as input instead.",
            "previous_response_id",
        )
    if kept.conversation_bytes > MAX_BYTES:
        raise BodyTooLarge(
            f"The conversation of this response has {kept.conversation_bytes} bytes, more than the "
            f"{MAX_BYTES} that can be continued: send the important parts as input instead."
        )
    return kept


def referenced_item(request: Request, id: str, path: str) -> AnyItem:
    """The item of an item_reference. Raises NotFound."""
    item = store_of(request).find_item(id, caller_of(request))
    if item is None:
        raise ItemNotFound(
            f"Item with id {id[:100]!r} not found in the output of a stored response. {WHY}: send "
            "the item itself instead.",
            f"{path}.id",
        )
    return item


class References:
    """The items that a request refers to: at most as many bytes as a body may have."""

    def __init__(self, request: Request):
        self._request = request
        self._found: dict[str, tuple[AnyItem, int]] = {}  # id → item and its size
        self.num_bytes = 0  # as JSON, counted for each reference
        self.paths: set[str] = set()

    def find(self, id: str, path: str) -> AnyItem:
        """Raises NotFound or BodyTooLarge."""
        if id not in self._found:
            item = referenced_item(self._request, id, path)
            self._found[id] = item, len(encode(item))
        item, num_bytes = self._found[id]
        self.num_bytes += num_bytes
        self.paths.add(path)
        most = AppState.of(self._request.app).limits.max_bytes
        if self.num_bytes > most:
            raise BodyTooLarge(
                f"The items that input refers to exceed this server's limit of {most} bytes for a "
                "body: refer to fewer."
            )
        return item


def store_of(request: Request) -> ResponseStore:
    return AppState.of(request.app).store(ResponseStore)


def caller_of(request: Request) -> str:
    return RequestState.of(request.scope).caller


async def get_response(request: Request) -> HttpResponse:
    """Fetches a stored response."""
    kept = kept_response(request)
    if request.query_params.get("stream") == "true":
        raise UnsupportedParameter(
            "A stored response can't be streamed: leave stream out.", "stream"
        )
    return HttpResponse(kept.body, media_type="application/json")


async def delete_response(request: Request) -> HttpResponse:
    """Deletes a stored response."""
    kept = kept_response(request)
    store_of(request).drop(kept.id, kept.caller)
    return json_response(ResponseDeleted(kept.id))


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
            kept.written[id(item)] = encode(item)
    return [kept.written[id(item)] for item in items]


def items_after(items: list[AnyItem], id: str | None) -> list[AnyItem]:
    if id is None:
        return items
    at = next((at for at, item in enumerate(items) if item.id == id), None)
    if at is None:
        raise InvalidRequest(f"No input item has the id {id[:100]!r}.", "after")
    return items[at + 1 :]
