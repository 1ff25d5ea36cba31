"""The command line's HTTP client: answers as structs, failures as sentences."""

import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from localinfra.cli.client import Client, ServerRefused, ServerUnreachable, events
from localinfra.config.settings import ServerSettings, local_url
from localinfra.errors import ApiError

CHAT = {"model": "one", "messages": [{"role": "user", "content": "hello"}], "stream": True}


def chunks(client: Client) -> list[dict[str, Any]]:
    return list(client.stream("/v1/chat/completions", CHAT, dict[str, Any]))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("localhost", "http://localhost:1"),
    ],
)
def test_a_listen_address_becomes_a_url_for_clients(host: str, url: str) -> None:
    assert local_url(ServerSettings(host=host, port=1)) == url
    assert Client(url).url == url


def test_json_goes_out_and_comes_back(stub: Any) -> None:
    client = Client(stub.url)
    assert client.get("/health", dict[str, str]) == {"status": "ok"}
    assert client.post("/v1/x", {"a": 1}, dict[str, Any]) == {"echo": {"a": 1}}


def test_a_stream_yields_events_up_to_done(stub: Any) -> None:
    texts = [c["choices"][0]["delta"].get("content", "") for c in chunks(Client(stub.url))]
    assert "".join(texts) == "<hello>"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_base_url_may_be_written_as_for_openai_clients(stub: Any, suffix: str) -> None:
    assert Client(stub.url + suffix).get("/health", dict[str, str]) == {"status": "ok"}


def test_url_and_key_come_from_the_environment(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.key = "k"
    monkeypatch.setenv("LOCALINFRA_URL", stub.url)
    with pytest.raises(ServerRefused, match=r"Wrong key\. Give the key with --key or LOCAL") as err:
        chunks(Client())
    assert err.value.status == 401
    monkeypatch.setenv("LOCALINFRA_API_KEY", "k")
    assert chunks(Client())


def test_the_error_for_no_server_says_how_to_start_one() -> None:
    with socket.socket() as idle:  # bound, not listening
        idle.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{idle.getsockname()[1]}")
        with pytest.raises(ServerUnreachable, match="start one with `localinfra serve`"):
            client.get("/health", dict[str, str])


def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = Client(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.1)
        with pytest.raises(ServerUnreachable, match=r"has not answered for 0\.1 s"):
            client.get("/health", dict[str, str])


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x", "http://", "nonsense", "http://x:y", "http://[x"]
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ApiError, match="is not a server's URL"):
        Client(url)


@pytest.mark.parametrize("key", ["k\n", " k", "k\r\n"])
def test_whitespace_around_a_key_is_stripped(stub: Any, key: str) -> None:
    stub.key = "k"
    assert chunks(Client(stub.url, key))


@pytest.mark.parametrize("key", ["a\nb", "schlüssel", "a\0b"])
def test_a_key_that_can_not_be_sent_is_refused(key: str) -> None:
    with pytest.raises(ApiError, match="printable ASCII"):
        Client(key=key)


def test_an_error_reply_is_raised_with_its_message(stub: Any) -> None:
    with pytest.raises(ServerRefused, match="no such path"):
        Client(stub.url).get("/nothing", dict[str, str])


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"status": 3}'])
def test_another_program_at_the_url_is_recognised(stub: Any, body: bytes) -> None:
    stub.health = (200, body)
    with pytest.raises(ServerUnreachable, match="not a localinfra server"):
        Client(stub.url).get("/health", dict[str, str])
    stub.health = (502, body)
    with pytest.raises(ServerRefused, match="HTTP status 502"):
        Client(stub.url).get("/health", dict[str, str])


def test_an_error_event_ends_the_stream(stub: Any) -> None:
    stub.stream = lambda body: iter([b'data: {"error":{"message":"out of memory"}}\n\n'])
    with pytest.raises(ServerRefused, match="out of memory"):
        chunks(Client(stub.url))


def test_a_stream_without_done_is_an_error(stub: Any) -> None:
    stub.stream = lambda body: iter([b'data: {"choices":[]}\n\n'])
    with pytest.raises(ServerUnreachable, match="broke off"):
        chunks(Client(stub.url))


def test_closing_a_stream_closes_its_connection(stub: Any) -> None:
    def endless(body: object) -> Iterator[bytes]:
        for _ in itertools.repeat(None):
            yield b'data: {"choices":[]}\n\n'
            time.sleep(0.005)

    stub.stream = endless
    stream = Client(stub.url).stream("/v1/chat/completions", CHAT, dict[str, Any])
    next(stream)
    stream.close()
    assert stub.gone.wait(10)


def test_events_follow_the_standard() -> None:
    lines = b": note\ndata: a\r\n\r\nevent: x\ndata:b\ndata: c\n\n\n\ndata: cut".splitlines(True)
    assert list(events(lines)) == [b"a", b"b\nc"]
