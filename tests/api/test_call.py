"""A call on any route: its body, its headers and its charge."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import pytest
from asgi import Reply, call, scope_of
from metering import written
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from localinfra.api.call import Call
from localinfra.api.http import pieces
from localinfra.api.http.errors import EXCEPTION_HANDLERS
from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.leasing import Leasing
from localinfra.api.http.pieces import PiecesResponse, fill_arrays, items_of, join_items
from localinfra.api.http.state import AppState
from localinfra.api.metrics import RequestMetrics
from localinfra.chat.encoding import all_parts
from localinfra.config.settings import ServerSettings
from localinfra.costs import Ledger, Used
from localinfra.models.catalog import Catalog
from localinfra.models.entries import Price, RerankModelEntry
from localinfra.models.sources import PackageSource
from localinfra.runtime import Runtime


class Body(msgspec.Struct, frozen=True):
    text: str


class Model:
    """A loaded model of any kind."""

    name = "org/name"
    entry = RerankModelEntry(source=PackageSource("none", "none"), price=Price(input=2.0))


class Account(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.added: list[tuple[str, str, Used]] = []

    def add(self, key: str, model: str, used: Used) -> None:
        self.added.append((key, model, used))


class Server:
    """One route with all middleware."""

    def __init__(self, answer: Callable[[Call[Body]], Awaitable[Response]]):
        async def handler(request: Request) -> Response:
            return await answer(await Call.begin(request, Body))

        self.ledger = Account()
        settings = ServerSettings(max_body_bytes=200_000, default_seed=7)
        self.state = AppState(Runtime(settings, Catalog({})), self.ledger)
        self.app = Starlette(
            routes=[Route("/", handler, methods=["POST"])],
            middleware=[
                Middleware(RequestMetrics, metrics=self.state.metrics),
                Middleware(Guard, access=Access()),
                Middleware(Leasing, runtime=self.state.runtime),
            ],
            exception_handlers=EXCEPTION_HANDLERS,
        )
        self.state.attach(self.app)

    def post(self, body: bytes) -> Reply:
        headers = [("host", "localhost"), ("content-type", "application/json")]
        return call(self.app, scope_of("POST", "/", headers), [body])


class Source:
    async def aclose(self) -> None:
        pass


async def events() -> AsyncGenerator[bytes, None]:
    yield b"1"


@pytest.mark.parametrize(
    "answered",
    [
        lambda one: one.json({}),
        lambda one: one.pieces([b"{}"]),
        lambda one: one.stream(events(), Source()),
    ],
    ids=["whole", "in pieces", "streamed"],
)
def test_every_answer_reports_what_had_no_effect(
    answered: Callable[[Call[Body]], Response],
) -> None:
    async def answer(one: Call[Body]) -> Response:
        one.report_ignored(["tools[0]"], unknown=["tools[1].x"])
        one.add_headers({"x-localinfra-truncated": "3"})
        return answered(one)

    reply = Server(answer).post(b'{"text": "a", "unheard": 1}')
    assert reply.header("x-localinfra-ignored") == "unheard, tools[0], tools[1].x"
    assert reply.header("x-localinfra-truncated") == "3"


def test_an_invalid_body_is_refused_at_once() -> None:
    async def answer(one: Call[Body]) -> Response:
        raise AssertionError

    server = Server(answer)
    assert server.post(b'{"text": 5}').error["param"] == "text"
    assert server.post(b'{"text": "%b"}' % (b"a" * 200_000)).status == 413


def test_usage_counts_for_the_caller_and_the_model() -> None:
    async def answer(one: Call[Body]) -> Response:
        return one.json(one.charge(Model()).add_input(500_000))

    server = Server(answer)
    usage = msgspec.json.decode(server.post(b'{"text": "a"}').body)
    assert usage == {"prompt_tokens": 500_000, "total_tokens": 500_000, "estimated_cost": 1.0}
    [(caller, model, used)] = server.ledger.added
    assert (caller, model, used.prompt_tokens, used.requests) == ("none", "org/name", 500_000, 1)
    metrics = written(server.state.metrics)
    assert 'localinfra_requests_total{model="org/name",route="/",status="2xx"} 1' in metrics


@pytest.mark.parametrize(("size", "is_inline"), [(1000, True), (100_000, False)])
def test_a_large_body_is_converted_in_a_thread(size: int, is_inline: bool) -> None:
    async def answer(one: Call[Body]) -> Response:
        worker = await one.convert(threading.current_thread)
        return one.json({"inline": worker is threading.current_thread()})

    server = Server(answer)
    reply = server.post(b'{"text": "%b"}' % (b"a" * size))
    server.state.threads.close()
    assert msgspec.json.decode(reply.body) == {"inline": is_inline}


class Answer(msgspec.Struct):
    before: str
    first: tuple[()] = ()
    second: tuple[()] = ()
    after: int = 1


@pytest.mark.parametrize("texts", [[], [""], ["a", "]"], ["\n" * 300_000, "["]])
def test_texts_are_repeated_in_the_place_of_an_array(texts: list[str]) -> None:
    parts = fill_arrays(Answer("a"), {"first": items_of(all_parts(texts))})
    assert msgspec.json.decode(b"".join(parts))["first"] == texts


@pytest.mark.parametrize("parts", [[b"a" * 10], [b"a"] * 10, [b"", b"ab" * 3, b"cd" * 2]])
def test_others_have_their_turn_between_the_pieces(
    parts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "SENT_AT_ONCE_BYTES", 2)
    turns = 0
    sent: list[tuple[int, bytes]] = []

    async def send(message: Message) -> None:
        sent.append((turns, message.get("body", b"")))

    async def test() -> None:
        nonlocal turns
        answering = asyncio.create_task(PiecesResponse(parts)({}, receive, send))
        while not answering.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(test())
    assert b"".join(body for _, body in sent) == b"".join(parts)
    in_turn = Counter[int]()
    for turn, body in sent:
        in_turn[turn] += len(body)
    assert max(in_turn.values()) <= 3


async def receive() -> Message:
    return {"type": "http.disconnect"}


def test_arrays_are_filled_in_whatever_the_strings_contain() -> None:
    parts = fill_arrays(
        Answer('"first":[]'), {"first": join_items([b"1", b"2"]), "second": [b'"a"']}
    )
    assert msgspec.json.decode(b"".join(parts)) == {
        "before": '"first":[]', "first": [1, 2], "second": ["a"], "after": 1,
    }  # fmt: skip
    assert msgspec.json.decode(b"".join(fill_arrays(Answer(""), {"first": []})))["first"] == []
