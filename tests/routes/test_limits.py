"""What a key's limits do to its requests, in each API's words, and to no one else's."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from echo import ECHO, EchoBackend, EchoRuntime
from named import NamedKeysServer

from localinfra.engine.backend import Batch
from localinfra.keys import holders

KEYS = {
    "one-a-minute": {"rpm": 1},
    "claude": {"rpm": 1, "tpm": 5000},
    "ollama": {"rpm": 1},
    "tokens": {"tpm": 400},
    "settled": {"tpm": 10_000, "rpm": 100},
    "single": {"concurrent": 1},
    "background": {"concurrent": 1},
    "free": {},
    "curious": {"rpm": 2},
    "photographer": {"tpm": 4000},
}


class Gated(EchoBackend):
    """The slow model computes only while the gate is open."""

    gate = threading.Event()

    def decode(self, batch: Batch) -> None:
        if self.step_s:
            assert self.gate.wait(600)
        super().decode(batch)


class GatedRuntime(EchoRuntime):
    backend_kind = Gated


class GatedServer(NamedKeysServer):
    runtime_kind = GatedRuntime


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamedKeysServer]:
    server = GatedServer(tmp_path_factory.mktemp("limits"), KEYS)
    yield server
    server.close()


def test_openais_client_learns_of_the_limit_and_when_to_come_back(server: NamedKeysServer) -> None:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="one-a-minute", max_retries=0
    ) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=ECHO, messages=[{"role": "user", "content": "x"}]
        )
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        assert re.fullmatch(r"1m0s|[\d.]+s", raw.headers["x-ratelimit-reset-requests"])
        assert not any("tokens" in name for name in raw.headers if "ratelimit" in name)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model=ECHO, prompt="x")
    error = refused.value
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "requests", None)
    assert "Limit 1. Please try again in" in error.message
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_anthropics_client_too(server: NamedKeysServer) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="claude", max_retries=0) as client:

        def ask() -> httpx2.Response:
            return client.messages.with_raw_response.create(
                model=ECHO, max_tokens=5, messages=[{"role": "user", "content": "x"}]
            ).http_response

        headers = ask().headers
        assert headers["anthropic-ratelimit-requests-limit"] == "1"
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert headers["anthropic-ratelimit-tokens-limit"] == "5000"
        reset = headers["anthropic-ratelimit-requests-reset"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reset)
        with pytest.raises(anthropic.RateLimitError) as refused:
            ask()
    assert refused.value.response.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_ollamas_clients_get_a_429_and_words(server: NamedKeysServer) -> None:
    replies = [server.chat("ollama", "/api/chat") for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 429]
    assert "Rate limit reached" in replies[1].json()["error"]


def test_tokens_run_out_and_other_keys_go_on(server: NamedKeysServer) -> None:
    replies = [server.chat("tokens", max_tokens=300, stop="l") for _ in range(30)]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert replies[0].status_code == 200 and refused
    error = refused[0].json()["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert server.chat("free").status_code == 200


def test_what_is_charged_is_what_was_used(server: NamedKeysServer) -> None:
    """The estimate is far more: it is given back at the end."""
    used = server.chat("settled", max_tokens=2000).json()["usage"]["total_tokens"]
    headers = server.ask("settled", "GET", "/v1/models").headers
    assert headers["x-ratelimit-limit-tokens"] == "10000"
    assert 10_000 - used <= int(headers["x-ratelimit-remaining-tokens"]) <= 10_000
    assert int(headers["x-ratelimit-remaining-requests"]) >= 99


def test_a_large_picture_is_not_expected_to_take_as_many_tokens_as_text(
    server: NamedKeysServer,
) -> None:
    url = "data:image/png;base64," + "iVBORw0KGgo" * 20_000
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    asked = [{"role": "user", "content": content}, {"role": "user", "content": "well?"}]
    for _ in range(3):
        reply = server.chat("photographer", messages=asked)
        assert reply.status_code == 200, reply.text


def test_only_requests_that_use_a_model_count(server: NamedKeysServer) -> None:
    for _ in range(3):
        assert server.ask("curious", "GET", "/v1/models").status_code == 200
        assert server.chat("curious", model="nobody").status_code == 404
        assert server.chat("curious", max_tokens="many").status_code == 400
    headers = server.ask("curious", "GET", "/v1/requests").headers
    assert headers["x-ratelimit-remaining-requests"] == "2"


@pytest.fixture
def held(server: NamedKeysServer) -> Iterator[None]:
    """Within, the slow model computes nothing."""
    Gated.gate.clear()
    yield
    Gated.gate.set()


LONG: dict[str, Any] = {"model": "slow", "max_tokens": 5}


@pytest.mark.usefixtures("held")
def test_one_request_at_a_time(server: NamedKeysServer) -> None:
    first: list[int] = []
    thread = threading.Thread(
        target=lambda: first.append(server.chat("single", **LONG).status_code)
    )
    thread.start()
    models = server.runtime.loaded_text_models
    until(lambda: "slow" in models() and models()["slow"].is_busy)
    refused = server.chat("single")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "as many as may at the same time" in refused.json()["error"]["message"]
    assert server.chat("free").status_code == 200
    Gated.gate.set()
    thread.join()
    assert first == [200]
    until(lambda: server.chat("single").status_code == 200)  # its place is free again


@pytest.mark.usefixtures("held")
def test_an_answer_in_the_background_counts_until_it_ends(server: NamedKeysServer) -> None:
    body = {"model": "slow", "input": "b", "background": True}
    begun = server.ask("background", "POST", "/v1/responses", body).json()
    assert server.chat("background").status_code == 429
    path = f"/v1/responses/{begun['id']}/cancel"
    cancelling = threading.Thread(target=server.ask, args=("background", "POST", path))
    cancelling.start()
    Gated.gate.set()  # it ends with the step under way, which is counted too
    cancelling.join()
    until(lambda: server.chat("background").status_code == 200)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("always_looks")
def test_revoking_a_key_ends_nothing_that_runs_and_refuses_the_next_request(
    tmp_path: Path,
) -> None:
    server = NamedKeysServer(tmp_path, {"leaver": {}, "stayer": {}})
    try:
        body = {"model": "slow", "prompt": "c" * 200 + "\n", "max_tokens": 200, "stream": True}
        headers = {"authorization": "Bearer leaver"}
        with server.client.stream("POST", "/v1/completions", json=body, headers=headers) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.change({"stayer": {}, "newcomer": {}})
            assert server.chat("leaver").status_code == 401
            assert server.chat("newcomer").status_code == server.chat("stayer").status_code == 200
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.chat("leaver").json()["error"]["code"] == "invalid_api_key"
    finally:
        server.close()


@pytest.mark.usefixtures("always_looks")
def test_many_requests_while_keys_change_are_all_answered(tmp_path: Path) -> None:
    server = NamedKeysServer(tmp_path, {"ours": {}})
    statuses: list[int] = []

    def ask() -> None:
        statuses.extend(server.chat("ours").status_code for _ in range(15))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for at in range(20):
            server.change({"ours": {}, f"other{at}": {"rpm": 1}})
        for thread in threads:
            thread.join()
        assert statuses == [200] * 60
    finally:
        server.close()
