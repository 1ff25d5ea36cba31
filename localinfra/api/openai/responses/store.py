"""Stores responses in memory, so that requests can read and continue them."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from starlette.requests import Request

from localinfra.api.http.state import AppState, RequestState
from localinfra.api.openai.responses.items import AnyItem
from localinfra.api.openai.responses.response import NOT_ENDED, ResponseStatus
from localinfra.errors import BodyTooLarge, InvalidRequest, NotFound

# Limits over all callers. When one is exceeded, the caller with the largest share loses its least
# recently used response, so that no one can push out the responses of others.
MAX_RESPONSES = 1000
# As JSON. Each response counts its whole conversation, though they share the items.
MAX_BYTES = 64 << 20

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
    status: ResponseStatus = "completed"
    is_background: bool = False
    headers: Mapping[str, str] = {}  # of an answer with it
    body: bytes  # the response as JSON
    input: Sequence[AnyItem]  # the whole input, including earlier responses
    output: Sequence[AnyItem]
    conversation_bytes: int  # of both, as JSON
    written: dict[int, bytes] = {}  # input items already encoded as JSON, by id(item)

    @property
    def has_ended(self) -> bool:
        return self.status not in NOT_ENDED

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
        *,
        status: ResponseStatus = "completed",
        is_background: bool = False,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Stores a response, in place of an earlier state of it. `input_bytes`: the input's size as
        JSON, as encoding it here would take too long."""
        kept = KeptResponse(
            id=id,
            caller=caller,
            status=status,
            is_background=is_background,
            headers=headers,
            body=body,
            input=input,
            output=output,
            conversation_bytes=input_bytes + len(encode(output)),
        )
        with self._lock:
            if id in self._kept:
                self._drop(id)
            self._kept[id] = kept
            self._of_item |= {item.id: id for item in output}
            self._num_bytes += kept.num_bytes
            while self._is_full and len(self._kept) > 1 and (least := self._least_wanted()):
                self._drop(least)

    def _least_wanted(self) -> str | None:
        """None if all are still being answered."""
        shares: defaultdict[str, float] = defaultdict(float)
        for kept in self._kept.values():
            shares[kept.caller] += 1 / self._max_responses + kept.num_bytes / self._max_bytes
        droppable = [kept for kept in self._kept.values() if kept.has_ended]
        greediest = max((kept.caller for kept in droppable), key=shares.__getitem__, default=None)
        return next((kept.id for kept in droppable if kept.caller == greediest), None)

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
    """The response with a `previous_response_id`. Raises NotFound, InvalidRequest if it can't be
    continued, or BodyTooLarge, so that conversations can't grow without end."""
    if not id:
        return None
    kept = store_of(request).find(id, caller_of(request))
    if kept is None:
        raise PreviousResponseNotFound(
            f"Previous response with id {id[:100]!r} not found. {WHY}: send the whole conversation "
            "as input instead.",
            "previous_response_id",
        )
    if kept.status in (*NOT_ENDED, "failed"):
        what = "has failed" if kept.has_ended else f"is {kept.status}: wait for its end"
        raise InvalidRequest(
            f"Previous response with id {id[:100]!r} can't be continued, as it {what}.",
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
