"""The clock is set by years, forwards and back, while a server runs: nothing expires, waits or
fails for that, and answers carry the new time."""

import time
from collections.abc import Iterator

import httpx2
import pytest
from echo import EchoServer

YEARS_S = 10 * 365 * 86_400
CATALOGUE = """
[server]
events_kept_s = 3600
[model.slow]
kind = "text"
source = "slow.gguf"
context_length = 2048
unload_after_s = 86400
"""
CHAT = "/v1/chat/completions"
BODY = {
    "model": "slow",
    "messages": [{"role": "user", "content": "Rivers, stones and clouds"}],
    "temperature": 0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"), CATALOGUE)
    yield server
    server.close()


def text_of(reply: httpx2.Response) -> str:
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("step_s", [YEARS_S, -YEARS_S], ids=["forwards", "back"])
def test_a_clock_that_is_set_changes_nothing_but_the_time(
    server: EchoServer, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    expected = text_of(server.post(CHAT, BODY))
    id = f"background-{step_s}"
    stream = {**BODY, "stream": True, "background": True}
    kept = server.post(CHAT, stream, headers={"x-request-id": id})
    assert kept.status_code == 200
    real = time.time
    with server.client.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        monkeypatch.setattr(time, "time", lambda: real() + step_s)
        assert list(lines)[-2] == "data: [DONE]"
    reply = server.post(CHAT, BODY)
    assert text_of(reply) == expected
    assert abs(reply.json()["created"] - time.time()) < 600
    again = server.client.get(f"/v1/requests/{id}/events")
    assert again.status_code == 200 and again.text.endswith("data: [DONE]\n\n")
    assert server.client.get("/health").json()["models_loaded"] == 1
    for row in server.client.get("/v1/requests").json()["data"]:
        assert 0 <= row["running_s"] < 600
    response = server.post("/v1/responses", {"model": "slow", "input": "Rivers"}).json()
    assert abs(response["created_at"] - time.time()) < 600
    more = {"model": "slow", "input": "And?", "previous_response_id": response["id"]}
    assert server.post("/v1/responses", more).status_code == 200  # it is still kept


def test_what_was_loaded_before_the_clock_was_set_has_sensible_dates(
    server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.post(CHAT, BODY)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - YEARS_S)
    [card] = server.client.get("/v1/models").json()["data"]
    assert card["state"] == "loaded"
    assert server.client.get("/api/ps").status_code == 200
    assert server.client.get("/metrics").status_code == 200
