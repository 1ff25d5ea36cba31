"""Stored responses: who finds them, and which are dropped if there are too many."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from asgi import Reply, call, scope_of
from metering import label
from starlette.requests import Request

from localinfra.api.app import create_app
from localinfra.api.call import Call
from localinfra.api.generation.params import Defaults
from localinfra.api.http.body import Decoded, decode
from localinfra.api.http.state import AppState, RequestState
from localinfra.api.openai.responses.conversation import (
    ConversationRequest,
    conversation_request,
    read_conversation,
)
from localinfra.api.openai.responses.items import AnyItem, InputText, MessageItem, OutputText
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.openai.responses.store import (
    MAX_BYTES,
    KeptResponse,
    ResponseStore,
    encode,
    previous_response,
    referenced_item,
)
from localinfra.chat.encoding import JsonPart, all_parts
from localinfra.config.settings import ServerSettings
from localinfra.errors import BodyTooLarge, NotFound
from localinfra.leases import Leases
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

ME, OTHER = "me", "other"


def heard(id: str) -> MessageItem:
    return MessageItem(id=id, role="user", content=(InputText("Hi"),))


def said(id: str, text: str = "Hello") -> MessageItem:
    return MessageItem(id=id, role="assistant", content=(OutputText(text),))


def put(store: ResponseStore, id: str, text: str = "Hello", caller: str = ME) -> None:
    store.put(
        id, caller, b'{"id":"%b"}' % id.encode(), [heard("msg_in")], [said(f"{id}_m", text)], 99
    )


def kept(store: ResponseStore, *ids: str) -> list[str]:
    """Those that are stored, without marking them as used."""
    return [id for id in ids if id in vars(store)["_kept"]]


def test_a_response_is_found_with_its_conversation() -> None:
    store = ResponseStore()
    put(store, "r1")
    found = store.find("r1", ME)
    assert isinstance(found, KeptResponse) and found.body == b'{"id":"r1"}'
    assert [item.id for item in found.conversation] == ["msg_in", "r1_m"]
    assert store.find_item("r1_m", ME) == said("r1_m")
    assert store.find("r2", ME) is None and store.find_item("msg_in", ME) is None


def test_callers_can_not_find_or_drop_others_responses() -> None:
    store = ResponseStore()
    put(store, "r1")
    assert store.find("r1", OTHER) is None
    assert store.find_item("r1_m", OTHER) is None
    assert not store.drop("r1", OTHER)
    assert store.drop("r1", ME) and store.find("r1", ME) is None


def test_the_least_recently_used_is_dropped() -> None:
    store = ResponseStore(max_responses=2)
    put(store, "r1")
    put(store, "r2")
    assert store.find("r1", ME)
    put(store, "r3")
    assert kept(store, "r1", "r2", "r3") == ["r1", "r3"]
    assert store.find_item("r2_m", ME) is None


def test_bytes_are_limited_too() -> None:
    store = ResponseStore(max_bytes=3000)
    for at in range(9):
        put(store, f"r{at}", "x" * 1000)
    assert kept(store, *(f"r{at}" for at in range(9))) == ["r7", "r8"]
    for id in ("r7", "r8"):
        assert store.drop(id, ME)
    put(store, "small")
    assert vars(store)["_num_bytes"] < 1000 and kept(store, "small")


def test_a_caller_with_many_only_pushes_out_their_own() -> None:
    store = ResponseStore(max_responses=10)
    put(store, "other", caller=OTHER)
    for at in range(30):
        put(store, f"r{at}")
    assert store.find("other", OTHER) and kept(store, *(f"r{at}" for at in range(30))) == [
        f"r{at}" for at in range(21, 30)
    ]
    store = ResponseStore(max_bytes=20_000)
    put(store, "other", caller=OTHER)
    for at in range(30):
        put(store, f"r{at}", "x" * 1000)
    assert store.find("other", OTHER) and kept(store, "r0", "r29") == ["r29"]


def test_a_response_in_progress_is_replaced_and_never_dropped() -> None:
    store = ResponseStore(max_responses=2)
    for id in ("r1", "r2", "r3"):
        store.put(id, ME, b"{}", [], [], 0, status="in_progress", is_background=True)
    put(store, "r4")
    assert kept(store, "r1", "r2", "r3", "r4") == ["r1", "r2", "r3"]
    put(store, "r1")
    assert kept(store, "r1", "r2", "r3") == ["r2", "r3"]
    put(store, "r2")
    assert store.drop("r3", ME) and store.find("r2", ME) and store.find_item("r2_m", ME)


class Counted(list[Any]):
    """Items that must not be iterated: a conversation can be tens of megabytes."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError


def test_keeping_a_response_does_not_go_through_its_conversation() -> None:
    store = ResponseStore()
    store.put("r1", ME, b"{}", Counted([heard("m")] * 1000), [said("r1_m")], 123_456)
    found = store.find("r1", ME)
    assert found and found.conversation_bytes - 123_456 == len(encode([said("r1_m")]))
    assert found.num_bytes == found.conversation_bytes + 2


def test_what_a_conversation_weighs_is_added_up(server: "Server") -> None:
    request = request_of(server, KEYS[0])
    for store in (True, False):
        fields = {"model": "m", "input": "Hi", "previous_response_id": "resp_1", "store": store}
        decoded = Decoded(msgspec.convert(fields, ResponsesRequest), ())
        asked = asyncio.run(read_conversation(Call(request, decoded)))
        assert len(asked.items) == 7
        assert asked.num_bytes == (
            99 + len(encode([said("m")]) + encode(asked.items[6:])) if store else 0
        )


def test_the_latest_stays_however_large_it_is() -> None:
    store = ResponseStore(max_bytes=100)
    put(store, "r1", "x" * 1000)
    assert kept(store, "r1")


# Over HTTP, with keys.

KEYS = ("sk-first", "sk-second")


class Server:
    def __init__(self) -> None:
        runtime = Runtime(ServerSettings(api_keys=KEYS), Catalog({}))
        self.app = create_app(runtime)
        caller = label(KEYS[0])
        inputs = [heard(f"msg_{at}") for at in range(5)]
        store = AppState.of(self.app).store(ResponseStore)
        store.put("resp_1", caller, b'{"id":"resp_1"}', inputs, [said("m")], 99)

    def ask(self, path: str, method: str = "GET", key: str = KEYS[0]) -> Reply:
        path, _, query = path.partition("?")
        headers = [("host", "localhost"), ("authorization", f"Bearer {key}")]
        scope = scope_of(method, f"/v1/responses{path}", headers)
        return call(self.app, {**scope, "query_string": query.encode()})


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_response_is_read_and_deleted_with_the_key_that_made_it(server: Server) -> None:
    assert server.ask("/resp_1").body == b'{"id":"resp_1"}'
    reply = server.ask("/resp_1", "DELETE")
    assert reply.status == 200
    assert msgspec.json.decode(reply.body) == {
        "id": "resp_1", "object": "response", "deleted": True,
    }  # fmt: skip
    assert server.ask("/resp_1").status == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_key_gets_the_same_answer_as_for_an_unknown_id(server: Server, method: str) -> None:
    answers = [server.ask("/resp_1", method, KEYS[1]), server.ask("/resp_2", method)]
    for reply in answers:
        assert (reply.status, reply.error["code"]) == (404, "response_not_found")
        assert "restart" in (reply.error["message"] or "")
    assert server.ask("/resp_1").status == 200


@pytest.mark.parametrize("path", ["/resp_1", "/resp_1/input_items", "/resp_1?stream=true"])
def test_another_key_finds_nothing_by_any_path(server: Server, path: str) -> None:
    reply = server.ask(path, key=KEYS[1])
    assert (reply.status, reply.error["code"]) == (404, "response_not_found")


def request_of(server: Server, key: str) -> Request:
    scope = {**scope_of(), "app": server.app}
    state = RequestState.of(scope)
    state.caller, state.leases = label(key), Leases(AppState.of(server.app).runtime)
    return Request(scope)


def test_another_key_can_not_continue_it_or_refer_to_its_items(server: Server) -> None:
    own, foreign = (request_of(server, key) for key in KEYS)
    found = previous_response(own, "resp_1")
    assert found and len(found.conversation) == 6
    assert referenced_item(own, "m", "input[0]") == said("m")
    with pytest.raises(NotFound) as caught:
        previous_response(foreign, "resp_1")
    assert caught.value.code == "previous_response_not_found"
    with pytest.raises(NotFound):
        referenced_item(foreign, "m", "input[0]")


def test_references_count_with_the_size_of_their_items(server: Server) -> None:
    """As if the body held the items themselves: else 0.9 MB could become 250."""
    request = request_of(server, KEYS[0])
    AppState.of(server.app).store(ResponseStore).put(
        "resp_2", RequestState.of(request.scope).caller, b"{}", [], [said("long", "x" * 20_000)], 2
    )

    def ask(num_references: int) -> ConversationRequest:
        items = [{"type": "item_reference", "id": "long"}] * num_references
        fields = {"model": "m", "input": [*items, {"role": "user", "content": "Hi"}]}
        body = decode(msgspec.json.encode(fields), ResponsesRequest).value
        return conversation_request(request, body, None, Defaults())

    assert ask(100).num_bytes == sum(len(encode(item)) for item in ask(100).items) + 2
    with pytest.raises(BodyTooLarge, match="refer to fewer"):
        ask(9900)


def test_a_continued_conversation_has_a_size_limit(server: Server) -> None:
    request = request_of(server, KEYS[0])
    AppState.of(server.app).store(ResponseStore).put(
        "resp_2", RequestState.of(request.scope).caller, b"{}", [], [said("m2")], MAX_BYTES
    )
    with pytest.raises(BodyTooLarge, match="can be continued"):
        previous_response(request, "resp_2")


def ids(reply: Reply) -> list[str]:
    return [item["id"] for item in msgspec.json.decode(reply.body)["data"]]


def test_input_items_come_in_pages_newest_first(server: Server) -> None:
    assert ids(server.ask("/resp_1/input_items")) == [f"msg_{at}" for at in (4, 3, 2, 1, 0)]
    assert ids(server.ask("/resp_1/input_items?order=asc&limit=2")) == ["msg_0", "msg_1"]
    page: dict[str, Any] = msgspec.json.decode(
        server.ask("/resp_1/input_items?order=asc&limit=2&after=msg_1").body
    )
    assert [item["id"] for item in page["data"]] == ["msg_2", "msg_3"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("msg_2", "msg_3", True)
    assert page["data"][0]["content"] == [{"type": "input_text", "text": "Hi"}]
    assert ids(server.ask("/resp_1/input_items?after=msg_0")) == []
    empty = server.ask("/resp_1/input_items?order=&limit=&after=")
    assert ids(empty) == ids(server.ask("/resp_1/input_items"))


def test_input_items_are_encoded_once_and_in_a_thread(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, bytes]] = []

    def spy(item: AnyItem) -> list[JsonPart]:
        written.append((threading.current_thread().name, encode(item)))
        return all_parts(item)

    monkeypatch.setattr("localinfra.api.openai.responses.retrieving.all_parts", spy)
    first, second = (server.ask(f"/resp_1/input_items?order={order}") for order in ("asc", "desc"))
    assert ids(first) == ids(second)[::-1] and len(written) == 5
    assert all(thread != threading.main_thread().name for thread, _ in written)
    assert all(item in first.body for _, item in written)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"),
     ("limit=0000000019999999", "limit"), ("limit=" + "0" * 8 + "1" + "9" * 4300, "limit"),
     ("limit=%D9%A3", "limit"),
     ("order=up", "order"), ("after=msg_9", "after")],
)  # fmt: skip
def test_wrong_queries_are_refused(server: Server, query: str, param: str) -> None:
    reply = server.ask(f"/resp_1/input_items?{query}")
    assert (reply.status, reply.error["param"]) == (400, param)
    reply = server.ask("/resp_1?stream=true")
    assert (reply.status, reply.error["param"]) == (400, "stream")
