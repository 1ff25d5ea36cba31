"""Finished responses, kept in memory to be gone on from: GET and DELETE /v1/responses/{id}."""

import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from localinfra.api.http.errors import json_response
from localinfra.api.http.pieces import PiecesResponse, filled, listed
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.openai.responses.items import AnyItem
from localinfra.errors import BodyTooLarge, InvalidRequest, NotFound, UnsupportedParameter

# Of all callers together. Who has most makes room, with what he has not used for longest: nobody's
# responses go because another one has many.
MAX_RESPONSES = 1000
# As JSON. A conversation counts in full with each of its responses, though they share its items.
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
    caller: str  # as `Guard` knows him
    body: bytes  # the response as JSON
    input: Sequence[AnyItem]  # all that it was made from, earlier responses included
    output: Sequence[AnyItem]
    conversation_bytes: int  # of both, as JSON
    written: dict[int, bytes] = {}  # input items that were asked for, by id(item), as JSON

    @property
    def num_bytes(self) -> int:
        return len(self.body) + self.conversation_bytes

    @property
    def conversation(self) -> list[AnyItem]:
        return [*self.input, *self.output]


class ResponseStore:
    """Any thread. A caller finds his own responses alone: those of the same API key."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES):
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()  # the latest used is last
        self._of_item: dict[str, str] = {}  # an output item's id → its response's
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
        """`input_bytes`: of the input as JSON, which is too much to be written here each time."""
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
        """None also for the response of somebody else, of whom nothing is told."""
        with self._lock:
            kept = self._kept.get(id)
            if kept is None or kept.caller != caller:
                return None
            self._kept.move_to_end(id)
            return kept

    def find_item(self, id: str, caller: str) -> AnyItem | None:
        """An item that a kept response has put out."""
        kept = self.find(self._of_item.get(id, ""), caller)
        return next((item for item in kept.output if item.id == id), None) if kept else None

    def drop(self, id: str, caller: str) -> bool:
        """Whether it was there."""
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
    f"It has made room for newer ones ({MAX_RESPONSES} are kept, in memory), went with a restart "
    "of the server, was asked for with store: false, or belongs to another API key"
)


def kept_response(request: Request) -> KeptResponse:
    """Raises NotFound for what is not or no longer there."""
    id = request.path_params["id"]
    kept = store_of(request).find(id, caller_of(request))
    if kept is None:
        raise ResponseNotFound(f"There is no response {id[:100]!r}. {WHY}.", "response_id")
    return kept


def previous_response(request: Request, id: str | None) -> KeptResponse | None:
    """What a `previous_response_id` stands for. Raises NotFound, and BodyTooLarge for what would
    grow without end."""
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
            f"The conversation of this response has {kept.conversation_bytes} bytes; no more than "
            f"{MAX_BYTES} are gone on from. Send what matters of it as input instead."
        )
    return kept


def referenced_item(request: Request, id: str, path: str) -> AnyItem:
    """What an item_reference stands for. Raises NotFound."""
    item = store_of(request).find_item(id, caller_of(request))
    if item is None:
        raise ItemNotFound(
            f"Item with id {id[:100]!r} not found in the output of a kept response. {WHY}: send "
            "the item itself instead.",
            f"{path}.id",
        )
    return item


class References:
    """The items that one request refers to: no more of them than its body could hold, had it sent
    them itself."""

    def __init__(self, request: Request):
        self._request = request
        self._found: dict[str, tuple[AnyItem, int]] = {}  # by their ids, with their bytes
        self.num_bytes = 0  # as JSON, each as often as it is referred to
        self.paths: set[str] = set()

    def find(self, id: str, path: str) -> AnyItem:
        """Raises NotFound and BodyTooLarge."""
        if id not in self._found:
            item = referenced_item(self._request, id, path)
            self._found[id] = item, len(encode(item))
        item, num_bytes = self._found[id]
        self.num_bytes += num_bytes
        self.paths.add(path)
        most = AppState.of(self._request.app).limits.max_bytes
        if self.num_bytes > most:
            raise BodyTooLarge(
                f"The items that input refers to are larger together than this server's limit of "
                f"{most} bytes for a body: refer to fewer."
            )
        return item


def store_of(request: Request) -> ResponseStore:
    return AppState.of(request.app).store(ResponseStore)


def caller_of(request: Request) -> str:
    return RequestState.of(request.scope).caller


async def get_response(request: Request) -> HttpResponse:
    kept = kept_response(request)
    if request.query_params.get("stream") == "true":
        raise UnsupportedParameter("A kept response can't be streamed; leave it out.", "stream")
    return HttpResponse(kept.body, media_type="application/json")


async def delete_response(request: Request) -> HttpResponse:
    kept = kept_response(request)
    store_of(request).drop(kept.id, kept.caller)
    return json_response({"id": kept.id, "object": "response", "deleted": True})


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, into which its items are filled."""

    object: Literal["list"] = "list"
    data: tuple[()] = ()
    first_id: str | None
    last_id: str | None
    has_more: bool


async def list_input_items(request: Request) -> HttpResponse:
    """All items that the response was made from, those of earlier responses included."""
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
    written = await threads.conversions.run(encoded, kept, page, size=kept.conversation_bytes)
    return PiecesResponse(filled(answer, {"data": listed(written)}))


def encoded(kept: KeptResponse, items: Sequence[AnyItem]) -> list[bytes]:
    """In a thread, and once, so that many who read share it: a text that is no prompt, such as
    reasoning, may be as long as a body."""
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
