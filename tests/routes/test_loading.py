"""Requests that wait for a model to be loaded: how many may, and what they may hold meanwhile."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from echo import END, EchoRuntime, EchoServer
from starlette.applications import Starlette
from starlette.types import ASGIApp
from waiting import wait_for

from localinfra.api.http.state import AppState
from localinfra.errors import ModelUnavailable
from localinfra.footprint import Footprint
from localinfra.kinds import LoadedModel
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.seats import LoadPlan

CATALOGUE = """
[server]
api_keys = ["ours", "theirs"]
max_queue = 2
max_body_bytes = 262144
max_held_bytes = 1048576

[model."echo"]
kind = "text"
source = "echo.gguf"
context_length = 512
preload = true

[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 16384

[model."vectors"]
kind = "embedding"
source = "hf:owner/vectors"

[model."ranker"]
kind = "rerank"
source = "hf:owner/ranker"

[model."flux"]
kind = "image"
source = "hf:owner/flux"
"""
SAID = "Hello"
MESSAGES = [{"role": "user", "content": SAID}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "echo", "messages": MESSAGES},
    "/v1/completions": {"model": "echo", "prompt": SAID},
    "/v1/responses": {"model": "echo", "input": SAID},
    "/v1/responses/input_tokens": {"model": "echo", "input": SAID},
    "/v1/messages": {"model": "echo", "messages": MESSAGES, "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": "echo", "messages": MESSAGES},
    "/v1/inference/echo": {"input": SAID},
    "/v1/tokenize": {"model": "echo", "prompt": SAID},
    "/api/chat": {"model": "echo", "messages": MESSAGES, "stream": False},
    "/api/generate": {"model": "echo"},  # which only loads it
    "/v1/embeddings": {"model": "vectors", "input": SAID},
    "/v1/rerank": {"model": "ranker", "query": SAID, "documents": [SAID]},
    "/v1/images/generations": {"model": "flux", "prompt": SAID},
}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
WIDE = "a" * 100_000 + "🦙"  # 400 kB in memory


class LateRuntime(EchoRuntime):
    """Loads nothing before it may."""

    may_load = threading.Event()
    fails = False

    def _plan(self, name: str, held: Footprint) -> LoadPlan:
        return LoadPlan()

    def _load_kind(self, name: str, entry: ModelEntry, plan: LoadPlan) -> LoadedModel:
        assert self.may_load.wait(600)
        if self.fails or not isinstance(entry, TextModelEntry):
            raise ModelUnavailable("It is not here.", "model")
        return super()._load_kind(name, entry, plan)


class LateServer(EchoServer):
    runtime: LateRuntime
    runtime_kind = LateRuntime

    def wrapped(self, app: ASGIApp) -> ASGIApp:
        assert isinstance(app, Starlette)
        self.state = AppState.of(app)
        return app

    @property
    def held_bytes(self) -> int:
        assert self.state.limits.held is not None
        return self.state.limits.held.num_bytes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LateServer]:
    LateRuntime.may_load.clear()
    server = LateServer(tmp_path, CATALOGUE)
    yield server
    server.runtime.may_load.set()
    server.close()


class Asking:
    """Requests with a key, of which those that aren't refused wait."""

    def __init__(self, server: LateServer, threads: ThreadPoolExecutor, key: str):
        self._server = server
        self._threads = threads
        self._headers = {"authorization": f"Bearer {key}"}

    def begin(self, path: str, body: dict[str, Any], id: str = "") -> Future[httpx2.Response]:
        headers = self._headers | ({"x-request-id": id} if id else {})
        return self._threads.submit(self._server.post, path, body, headers=headers)

    def wait(self, path: str, body: dict[str, Any], id: str = "") -> Future[httpx2.Response]:
        """Begins a request, and returns once it waits."""
        before = self.num_waiting
        answer = self.begin(path, body, id)
        wait_for(lambda: answer.done() or self.num_waiting > before)
        assert not answer.done(), answer.result().text
        return answer

    @property
    def num_waiting(self) -> int:
        """For any model."""
        pool = self._server.runtime._models
        pendings = [*(seat.pending for seat in pool.seats), *pool._pending.values()]
        return sum(pending.clients.total() for pending in list(pendings))

    def cancel(self, id: str) -> None:
        path = f"/v1/requests/{id}"
        assert self._server.client.delete(path, headers=self._headers).status_code == 200

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """Of a request that does not wait."""
        return self._server.post(path, body, headers=self._headers, timeout=60)


AskingOf = Callable[[str], Asking]


@pytest.fixture
def asking(server: LateServer) -> Iterator[AskingOf]:
    with ThreadPoolExecutor(16) as threads:
        yield lambda key: Asking(server, threads, key)
        server.runtime.may_load.set()


def check_refused(reply: httpx2.Response, says: str, path: str = CHAT) -> None:
    assert reply.status_code == (503 if path.startswith("/api/") else 429), reply.text
    assert reply.headers["retry-after"] == "5"
    assert says in reply.text


@pytest.mark.parametrize("path", ASKED)
def test_no_more_wait_than_may_and_no_key_takes_the_places_of_others(
    server: LateServer, asking: AskingOf, path: str
) -> None:
    ours, theirs, body = asking("ours"), asking("theirs"), ASKED[path]
    answers = [ours.wait(path, body) for _ in range(2)]
    check_refused(ours.post(path, body), "2 requests are waiting for this model already", path)
    answers.append(theirs.wait(path, body))
    check_refused(theirs.post(path, body), "1 of them with this API key", path)
    server.runtime.may_load.set()
    is_text = body.get("model", "echo") == "echo"
    expected = 200 if is_text else 503
    assert [answer.result().status_code for answer in answers] == [expected] * 3
    assert ours.num_waiting == 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_stream_is_refused_before_it_begins(asking: AskingOf, is_streamed: bool) -> None:
    ours, body = asking("ours"), {**ASKED[CHAT], "stream": is_streamed}
    for _ in range(2):
        ours.wait(CHAT, body)
    check_refused(ours.post(CHAT, body), "raise max_queue")


def test_answers_in_the_background_wait_in_the_same_queue(
    server: LateServer, asking: AskingOf
) -> None:
    ours, body = asking("ours"), {**ASKED[RESPONSES], "background": True}
    ids = [ours.post(RESPONSES, body).json()["id"] for _ in range(3)]
    wait_for(lambda: ours.num_waiting == 2)

    def statuses() -> list[str]:
        headers = {"authorization": "Bearer ours"}
        replies = [server.client.get(f"{RESPONSES}/{id}", headers=headers) for id in ids]
        return [reply.json()["status"] for reply in replies]

    wait_for(lambda: statuses() == ["queued", "queued", "failed"])
    server.runtime.may_load.set()
    wait_for(lambda: statuses() == ["completed", "completed", "failed"])


def chat(content: str = WIDE) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": content}]}


def test_bodies_that_wait_have_a_limit_that_is_shared_too(
    server: LateServer, asking: AskingOf
) -> None:
    ours, theirs = asking("ours"), asking("theirs")
    ours.wait(CHAT, chat())
    ours.wait("/v1/embeddings", {"model": "vectors", "input": WIDE})
    assert 2 * 400_000 < server.held_bytes < 2 * 401_000
    for _ in range(2):
        check_refused(ours.post(CHAT, chat()), "raise max_held_bytes")
    ours.wait(CHAT, chat("small"))
    theirs.wait(CHAT, chat())
    check_refused(theirs.post("/v1/rerank", {**ASKED["/v1/rerank"], "query": WIDE}), "max_held")
    assert 3 * 400_000 < server.held_bytes < 3 * 401_000
    server.runtime.may_load.set()
    wait_for(lambda: server.held_bytes == 0)


@contextlib.contextmanager
def held(server: LateServer) -> Iterator[None]:
    """Nothing is held before the block, nor soon after it."""
    assert server.held_bytes == 0
    yield
    wait_for(lambda: server.held_bytes == 0)


LARGE: dict[str, dict[str, Any]] = {
    CHAT: chat(),
    RESPONSES: {"model": "echo", "input": WIDE},
    "/v1/messages": {"model": "echo", "messages": chat()["messages"], "max_tokens": 9},
    "/api/chat": {**chat(), "stream": False},
}


@pytest.mark.parametrize("path", LARGE)
def test_what_a_request_holds_is_free_when_it_is_cancelled(
    server: LateServer, asking: AskingOf, path: str
) -> None:
    ours = asking("ours")
    with held(server):
        answer = ours.wait(path, LARGE[path], "mine")
        assert server.held_bytes > 400_000
        ours.cancel("mine")
        assert answer.result().status_code == 400
    assert ours.num_waiting == 0


@pytest.mark.parametrize("path", LARGE)
def test_what_a_request_holds_is_free_when_its_client_leaves(
    server: LateServer, asking: AskingOf, path: str
) -> None:
    ours = asking("ours")
    with held(server):
        headers = {"authorization": "Bearer ours"}
        with httpx2.Client(base_url=server.url, timeout=httpx2.Timeout(600, read=1)) as client:
            with pytest.raises(httpx2.ReadTimeout):
                client.post(path, json=LARGE[path], headers=headers)
    assert ours.num_waiting == 0


@pytest.mark.parametrize("path", LARGE)
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_request_holds_is_free_after_its_answer(
    server: LateServer, asking: AskingOf, path: str, fails: bool
) -> None:
    """Which is an error here: the prompt is too long, or the model can't be loaded."""
    server.runtime.fails = fails
    with held(server):
        answer = asking("ours").wait(path, LARGE[path])
        assert server.held_bytes > 400_000
        server.runtime.may_load.set()
        assert answer.result().status_code == (503 if fails else 400)


@pytest.mark.parametrize("field", [{"model": "none"}, {"temperature": "hot"}, {"n": 0}])
def test_what_a_refused_request_holds_is_free(server: LateServer, field: dict[str, Any]) -> None:
    headers = {"authorization": "Bearer ours"}
    with held(server):
        assert server.post(CHAT, {**chat(), **field}, headers=headers).is_client_error


def test_what_is_answered_holds_its_body_to_the_end(server: LateServer) -> None:
    """The request still refers to it."""
    server.runtime.may_load.set()
    endless = {"max_tokens": 9999, "stream": True, "logit_bias": {str(END): -100}}
    body = {**chat("x"), "model": "slow", "user": WIDE, **endless}
    headers = {"authorization": "Bearer ours"}
    with held(server):
        with server.client.stream("POST", CHAT, json=body, headers=headers) as answer:
            pieces = answer.iter_bytes()  # which closes the connection, once it is freed
            next(pieces)
            assert server.held_bytes > 400_000


@pytest.mark.parametrize("end", ["cancel", "load", "failure"])
def test_what_an_answer_in_the_background_holds_is_free_at_its_end(
    server: LateServer, asking: AskingOf, end: str
) -> None:
    ours = asking("ours")
    server.runtime.fails = end == "failure"
    with held(server):
        reply = ours.post(RESPONSES, {**LARGE[RESPONSES], "background": True})
        assert reply.json()["status"] == "queued"
        wait_for(lambda: ours.num_waiting == 1)
        assert 400_000 < server.held_bytes < 401_000  # counted once, though its client has left
        if end == "cancel":
            path = f"{RESPONSES}/{reply.json()['id']}/cancel"
            assert ours.post(path, {}).json()["status"] == "cancelled"
        else:
            server.runtime.may_load.set()
