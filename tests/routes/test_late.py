"""Streams whose pictures take long to encode: heartbeats meanwhile, errors as their last event."""

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from echo import EchoEncoder, EchoServer
from outliving import all_freed
from picture_files import file, plain
from waiting import wait_for

from localinfra.api.call import Call
from localinfra.picture_parts import EncodingFailed

CATALOGUE = """
[server]
keepalive_s = 0.02

[model."seer"]
kind = "text"
source = "seer.gguf"
mmproj = "echo.gguf"
context_length = 1024
"""
URL = f"data:image/png;base64,{base64.b64encode(file(plain(30, 20))).decode()}"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": URL.partition(",")[2]}
ASKED: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "what?"}]}]},
        b": keep-alive",
    ),
    "messages": (
        "/v1/messages",
        {
            "max_tokens": 50,
            "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}],
        },
        b"event: ping",
    ),
    "responses": (
        "/v1/responses",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
        b": keep-alive",
    ),
    "native": ("/v1/inference/seer", {"input": "what?\n", "image": URL}, b": keep-alive"),
}


class Encoding:
    """Of an echo, held up until `may_end` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.problem = ""
        read = EchoEncoder.read

        def held(*arguments: Any) -> Any:
            self.has_begun.set()
            self.may_end.wait()
            if self.problem:
                raise EncodingFailed(self.problem)
            return read(*arguments)

        monkeypatch.setattr(EchoEncoder, "read", held)


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Encoding]:
    held = Encoding(monkeypatch)
    yield held
    held.may_end.set()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("late"), CATALOGUE)
    yield server
    server.close()


def phases(server: EchoServer) -> list[str]:
    return [one["phase"] for one in server.client.get("/v1/requests").json()["data"]]


@pytest.mark.parametrize("api", ASKED)
def test_heartbeats_come_while_a_picture_is_encoded(
    server: EchoServer, encoding: Encoding, api: str
) -> None:
    path, body, beat = ASKED[api]
    body = {"model": "seer", "stream": True, "temperature": 0, **body}
    with server.client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        pieces, seen = answer.iter_bytes(), b""
        while seen.count(beat) < 2:
            seen += next(pieces)
        wait_for(lambda: phases(server) == ["encoding"])
        assert b"*" not in seen and not encoding.may_end.is_set()
        encoding.may_end.set()
        seen += b"".join(pieces)
    assert b"*" in seen and seen.count(b"[DONE]") == (api in ("chat", "native"))
    wait_for(lambda: phases(server) == [])


ERRORS = {
    "chat": b'{"error"',
    "native": b'{"error"',
    "messages": b"event: error",
    "responses": b"response.failed",
}


@pytest.mark.parametrize(("api", "end"), ERRORS.items())
def test_a_late_error_is_the_last_event(
    server: EchoServer, encoding: Encoding, api: str, end: bytes
) -> None:
    path, body, beat = ASKED[api]
    encoding.problem = "unlucky"
    body = {"model": "seer", "stream": True, **body}
    with server.client.stream("POST", path, json=body) as answer:
        pieces, seen = answer.iter_bytes(), b""
        while beat not in seen:
            seen += next(pieces)
        encoding.may_end.set()
        seen += b"".join(pieces)
    assert end in seen and b"unlucky" in seen and b"[DONE]" not in seen


def test_the_request_of_a_late_error_is_freed(server: EchoServer, encoding: Encoding) -> None:
    path, body, beat = ASKED["chat"]
    asked = {"model": "seer", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    assert server.post(path, asked).status_code == 200  # it is loaded
    encoding.problem = "unlucky"
    with all_freed(Call, EncodingFailed):
        asked = {"model": "seer", "stream": True, **body}
        with server.client.stream("POST", path, json=asked) as answer:
            pieces = answer.iter_bytes()
            assert beat in next(pieces)
            encoding.may_end.set()
            assert b"unlucky" in b"".join(pieces)


def test_who_leaves_while_a_picture_is_encoded_has_left(
    server: EchoServer, encoding: Encoding
) -> None:
    path, body, beat = ASKED["chat"]
    with server.client.stream("POST", path, json={"model": "seer", "stream": True, **body}) as it:
        pieces = it.iter_bytes()  # which, if it ends, closes the connection
        assert beat in next(pieces)
        encoding.has_begun.wait()
    wait_for(lambda: phases(server) == [])
    encoding.may_end.set()
    wait_for(lambda: not server.runtime.loaded_text_models()["seer"].is_busy)


def test_a_late_stream_can_be_ended_from_outside(server: EchoServer, encoding: Encoding) -> None:
    path, body, beat = ASKED["chat"]
    headers = {"x-request-id": "mine"}
    asked = {"model": "seer", "stream": True, **body}
    with server.client.stream("POST", path, json=asked, headers=headers) as answer:
        pieces = answer.iter_bytes()
        assert beat in next(pieces)
        assert server.client.delete("/v1/requests/mine").json()["cancelled"] == 1
        assert b"request_cancelled" in b"".join(pieces)
