"""The requests that are being answered are listed, and can be ended from outside."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from echo import EchoServer
from waiting import wait_for

SLOW = {"model": "slow", "messages": [{"role": "user", "content": "word " * 300}], "temperature": 0}
MODEL = """
[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 8192
"""


def running(server: EchoServer, **headers: str) -> list[dict[str, Any]]:
    reply = server.client.get("/v1/requests", headers=headers)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["data"]
    return found


def is_free(server: EchoServer) -> bool:
    return not server.runtime.loaded_text_models()["slow"].is_busy


def test_a_running_request_tells_how_far_it_is(server: EchoServer) -> None:
    assert running(server) == []
    body, id = {**SLOW, "stream": True}, {"x-request-id": "mine"}
    with server.client.stream("POST", "/v1/chat/completions", json=body, headers=id) as answer:
        pieces = answer.iter_bytes()
        wait_for(lambda: running(server)[0]["generated_tokens"] > 0)
        (found,) = running(server)
        assert (found["id"], found["route"]) == ("mine", "/v1/chat/completions")
        assert (found["model"], found["key"]) == ("slow", "none")
        assert found["prompt_tokens"] > 1500
        assert found["running_s"] > 0
        assert server.client.delete("/v1/requests/mine").json() == {
            "id": "mine",
            "cancelled": 1,
            "object": "request",
        }
        rest = b"".join(pieces)
    assert b'"code":"request_cancelled"' in rest and b"[DONE]" not in rest
    wait_for(lambda: running(server) == [] and is_free(server))


def test_a_request_without_a_stream_is_refused_when_it_is_cancelled(server: EchoServer) -> None:
    replies = []
    asking = threading.Thread(
        target=lambda: replies.append(server.post("/v1/chat/completions", SLOW))
    )
    asking.start()
    wait_for(lambda: len(running(server)) == 1)
    (found,) = running(server)
    assert server.client.delete(f"/v1/requests/{found['id']}").status_code == 200
    asking.join()
    assert replies[0].status_code == 400
    assert replies[0].json()["error"]["code"] == "request_cancelled"
    wait_for(lambda: is_free(server))


def test_no_request_no_cancelling(server: EchoServer) -> None:
    reply = server.client.delete("/v1/requests/none")
    assert reply.status_code == 404 and "'none'" in reply.json()["error"]["message"]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path, '[server]\napi_keys = ["ours", "theirs"]\n' + MODEL)
    yield server
    server.close()


def test_nobody_sees_or_ends_requests_with_another_key(guarded: EchoServer) -> None:
    ours, theirs = ({"Authorization": f"Bearer {key}"} for key in ("ours", "theirs"))
    body = {**SLOW, "stream": True}
    with guarded.client.stream("POST", "/v1/chat/completions", json=body, headers=ours) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        (found,) = running(guarded, **ours)
        assert running(guarded, **theirs) == []
        path = f"/v1/requests/{found['id']}"
        assert guarded.client.delete(path, headers=theirs).status_code == 404
        assert guarded.client.delete(path, headers=ours).status_code == 200
        assert b"request_cancelled" in b"".join(pieces)
    assert guarded.client.get("/v1/requests").status_code == 401
