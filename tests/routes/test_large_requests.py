"""No request may take more tokens than `max_request_tokens`: on every route with text."""

from collections.abc import Iterator
from typing import Any

import pytest
from echo import END, EchoServer

MOST = 400
MODELS = f"""
[server]
max_request_tokens = {MOST}

[model."echo"]
kind = "text"
source = "echo.gguf"
context_length = 1024
"""
LETTERS = "a" * 100
SAID = [{"role": "user", "content": LETTERS}]
ENDLESS = {str(END): -100}

# Path, body, the name of its limit, the number of answers.
ROUTES: list[tuple[str, dict[str, Any], str, int]] = [
    ("/v1/chat/completions", {"messages": SAID}, "max_tokens", 1),
    ("/v1/chat/completions", {"messages": SAID, "n": 3}, "max_completion_tokens", 3),
    ("/v1/completions", {"prompt": LETTERS, "n": 3}, "max_tokens", 3),
    ("/v1/completions", {"prompt": LETTERS, "best_of": 3}, "max_tokens", 3),
    ("/v1/completions", {"prompt": ["aa", "bb", "cc"]}, "max_tokens", 3),
    ("/v1/responses", {"input": LETTERS}, "max_output_tokens", 1),
    ("/v1/messages", {"messages": SAID}, "max_tokens", 1),
    ("/v1/inference/echo", {"input": LETTERS, "num_responses": 3}, "max_new_tokens", 3),
    ("/api/chat", {"messages": SAID}, "options.num_predict", 1),
    ("/api/generate", {"prompt": LETTERS}, "options.num_predict", 1),
    ("/api/generate", {"prompt": LETTERS, "raw": True}, "options.num_predict", 1),
]
IDS = [f"{path} {limit} {number}" for path, _, limit, number in ROUTES]
STREAMED = [route for route in ROUTES if route[3] == 1 and "/api/" not in route[0]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("large"), MODELS)
    yield server
    server.close()


def with_limit(path: str, body: dict[str, Any], limit: str, number: int) -> dict[str, Any]:
    own = {"model": "echo", **body}
    if "/api/" in path:
        return {**own, "options": {"num_predict": number}, "stream": False}
    return {**own, limit: number}


@pytest.mark.parametrize(("path", "body", "limit", "number"), ROUTES, ids=IDS)
def test_a_request_for_too_many_tokens_says_what_to_lower(
    server: EchoServer, path: str, body: dict[str, Any], limit: str, number: int
) -> None:
    small = with_limit(path, body, limit, 20)
    assert server.post(path, small).status_code == 200
    reply = server.post(path, with_limit(path, body, limit, MOST))
    assert reply.status_code == 400
    error = reply.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert f"lower {limit}" in message and "max_request_tokens" in message
    assert f"and {number} x {MOST} of answers. At most {MOST} are" in message
    if isinstance(error, dict) and "param" in error:
        assert error["param"] == limit


@pytest.mark.parametrize(("path", "body", "limit", "number"), STREAMED)
def test_no_stream_begins_that_asks_for_too_many(
    server: EchoServer, path: str, body: dict[str, Any], limit: str, number: int
) -> None:
    reply = server.post(path, {**with_limit(path, body, limit, MOST), "stream": True})
    assert reply.status_code == 400 and "max_request_tokens" in reply.text


def test_nor_does_an_answer_in_the_background(server: EchoServer) -> None:
    body = {"model": "echo", "input": LETTERS, "max_output_tokens": MOST, "background": True}
    response = server.post("/v1/responses", body).json()
    while response["status"] in ("queued", "in_progress"):
        response = server.client.get(f"/v1/responses/{response['id']}").json()
    assert response["status"] == "failed"
    assert "max_request_tokens" in response["error"]["message"]


def test_without_a_limit_choices_share_what_there_is(server: EchoServer) -> None:
    body = {"model": "echo", "prompt": LETTERS, "n": 3, "logit_bias": ENDLESS}
    reply = server.post("/v1/completions", body).json()
    assert reply["usage"] == {**reply["usage"], "prompt_tokens": 100, "completion_tokens": 300}
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"length"}
    body = {"model": "echo", "messages": SAID, "n": 3, "logit_bias": ENDLESS}
    reply = server.post("/v1/chat/completions", body).json()
    assert MOST - 3 < reply["usage"]["total_tokens"] <= MOST
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"length"}


def test_nor_is_a_default_of_the_api_a_reason_to_refuse(server: EchoServer) -> None:
    body = {"input": LETTERS, "logit_bias": ENDLESS}
    reply = server.post("/v1/inference/echo", {**body, "num_responses": 2}).json()
    assert reply["num_tokens"] == MOST - 100  # two times 512 would be too many


def test_a_prompt_that_is_too_much_by_itself_is_refused(server: EchoServer) -> None:
    reply = server.post("/v1/completions", {"model": "echo", "prompt": "a" * MOST})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "prompt"
    assert "shorten the prompt" in reply.json()["error"]["message"]
