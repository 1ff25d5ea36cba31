"""A request's body is freed with its answer, however that ends: what is left to a collection of
garbage may be many bodies of megabytes, and to free them there stops whatever thread begins one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from echo import EchoBackend, EchoRuntime, EchoServer
from msgspec import ValidationError
from outliving import all_freed
from waiting import wait_for

from localinfra.api.anthropic.input import PromptFields
from localinfra.api.call import Call
from localinfra.api.generation.params import SamplingFields
from localinfra.engine.backend import Batch, DecodeFailed

CATALOGUE = """
[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 16384

[model."fragile"]
kind = "text"
source = "fragile.gguf"
context_length = 16384
"""
TEXT = "word " * 1000  # said in half a minute, if nobody ends it
MESSAGES = [{"role": "user", "content": TEXT}]
LONG: dict[str, Any] = {"model": "slow", "temperature": 0}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 5000}),
    "completions": ("/v1/completions", {"prompt": "a", "max_tokens": 5000}),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5000}),
    "responses": ("/v1/responses", {"input": TEXT, "max_output_tokens": 5000}),
    "native": ("/v1/inference/slow", {"input": TEXT, "max_new_tokens": 5000}),
    "ollama": (
        "/api/chat",
        {"messages": MESSAGES, "options": {"num_predict": 5000}},
    ),
}
BODIES = (Call, SamplingFields, PromptFields)


class FragileBackend(EchoBackend):
    is_broken = False

    def decode(self, batch: Batch) -> None:
        if FragileBackend.is_broken:
            raise DecodeFailed("it is broken")
        super().decode(batch)


class FragileRuntime(EchoRuntime):
    def backend_of(self, file: str) -> type[EchoBackend]:
        return FragileBackend if file == "fragile.gguf" else EchoBackend


class FragileServer(EchoServer):
    runtime_kind = FragileRuntime


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = FragileServer(tmp_path_factory.mktemp("fragile"), CATALOGUE)
    for model in ("slow", "fragile"):
        asked = {"model": model, "prompt": "a", "max_tokens": 1}
        assert server.post("/v1/completions", asked).status_code == 200
    yield server
    server.close()


def phases(server: EchoServer) -> list[str]:
    return [one["phase"] for one in server.client.get("/v1/requests").json()["data"]]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("api", FORMS)
def test_a_client_leaves(fragile: EchoServer, api: str, is_streamed: bool) -> None:
    path, asked = FORMS[api]
    asked = {**LONG, **asked, "stream": is_streamed}
    with all_freed(*BODIES):
        if is_streamed:
            with fragile.client.stream("POST", path, json=asked) as answer:
                next(answer.iter_bytes())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                fragile.client.post(path, json=asked, timeout=httpx2.Timeout(600, read=0.2))
        wait_for(lambda: not phases(fragile))


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("api", FORMS)
def test_a_request_is_cancelled(fragile: EchoServer, api: str, is_streamed: bool) -> None:
    path, asked = FORMS[api]
    asked = {**LONG, **asked, "stream": is_streamed}
    with all_freed(*BODIES), ThreadPoolExecutor(1) as threads:
        answering = threads.submit(
            fragile.client.post, path, json=asked, headers={"x-request-id": "mine"}
        )
        wait_for(lambda: "answering" in phases(fragile))
        assert fragile.client.delete("/v1/requests/mine").json()["cancelled"] == 1
        assert "cancelled" in answering.result().text


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("api", FORMS)
def test_the_engine_fails(
    fragile: EchoServer, api: str, is_streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = FORMS[api]
    monkeypatch.setattr(FragileBackend, "is_broken", True)
    asked = {**asked, "model": "fragile", "stream": is_streamed}
    with all_freed(*BODIES):
        answer = fragile.post(path.replace("slow", "fragile"), asked)
    assert answer.status_code == (200 if is_streamed else 500)


@pytest.mark.parametrize("field", [{"max_tokens": "many"}, {"messages": 1}, {"model": "other"}])
def test_a_body_is_refused(fragile: EchoServer, field: dict[str, object]) -> None:
    """On a connection that stays open."""
    with all_freed(*BODIES, ValidationError):
        assert fragile.post(FORMS["chat"][0], {**FORMS["chat"][1], **field}).is_client_error
