"""Limits of a connection: raw bytes on real sockets, over a minimal app."""

import contextlib
import functools
import json
import socket
import time
from collections.abc import Callable

import pytest
from raw_http import CHUNKED, GET, POST, SHORT, headers, is_refused
from serving import Serving, also_with_tls
from waiting import wait_for

from localinfra.api.sockets.connections import Connections
from localinfra.api.sockets.refusals import MAX_HEADERS, MAX_URL_BYTES
from localinfra.config.settings import ServerSettings


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (431, [b"GET / HTTP/1.1\r\n", headers(MAX_HEADERS + 1), b"\r\n"]),
        (431, [b"GET / HTTP/1.1\r\n", headers(10, b"v" * 7000), b"\r\n"]),
        (431, [b"GET / HTTP/1.1\r\nx: ", b"v" * 80_000, b"\r\n\r\n"]),
        (431, [b"GET / HTTP/1.1\r\n", b"x" * 80_000, b": v\r\n\r\n"]),
        (431, [b"GET / HTTP/1.1\r\n" + headers(5_000)]),
        (414, [b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\n\r\n"]),
        (414, [b"GET /?q=" + b"a" * MAX_URL_BYTES, b"a HTTP/1.1\r\n\r\n"]),
        # None of these ever ends.
        (431, [b"GET / HTTP/1.1\r\n", *[b"x: y\r\n"] * 20_000]),
        (431, [b"GET / HTTP/1.1\r\nx: ", *[b"v" * 1000] * 20_000]),
        (431, [b"GET / HTTP/1.1\r\n", *[b"x" * 1000] * 20_000]),
        (414, [b"GET /", *[b"a" * 1000] * 20_000]),
    ],
)
def test_a_head_has_limits(server: Serving, status: int, parts: list[bytes]) -> None:
    with server.talk() as talk:
        assert is_refused(talk.ask(*parts), status)


def test_a_head_within_the_limits_is_read(server: Serving) -> None:
    with server.talk() as talk:
        long_url = b"GET /" + b"a" * (MAX_URL_BYTES - 10) + b" HTTP/1.1\r\n\r\n"
        assert talk.ask(long_url).status == 200
        many = b"GET / HTTP/1.1\r\n" + headers(MAX_HEADERS) + b"\r\n"
        assert len(json.loads(talk.ask(many).body)["names"]) == MAX_HEADERS
        large = b"GET / HTTP/1.1\r\nauthorization: " + b"k" * 60_000 + b"\r\n\r\n"
        assert talk.ask(large).status == 200


@also_with_tls
def test_a_head_may_arrive_byte_by_byte(server: Serving) -> None:
    with server.talk() as talk:
        talk.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert talk.ask(*[bytes([byte]) for byte in GET]).status == 200


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"nonsense\r\n\r\n", "not valid HTTP"),
        (b"GET\r\n\r\n", "not valid HTTP"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "not valid HTTP"),
        (b"GET / HTTP/9.9\r\n\r\n", "not valid HTTP"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "not valid HTTP"),
        (b"GET nowhere HTTP/1.1\r\n\r\n", "not valid HTTP"),
        (POST + b"content-length: x\r\n\r\n", "not valid HTTP"),
        (POST + b"content-length: -1\r\n\r\n", "not valid HTTP"),
        (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", "not valid HTTP"),
        (CHUNKED + b"zz\r\n", "not valid HTTP"),
        (b"\x00\x01\x02", "not valid HTTP"),
        (b"\r\n" * 1000, "not valid HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "http://"),  # a TLS handshake
    ],
)
def test_input_that_is_not_http_is_refused(server: Serving, sent: bytes, words: str) -> None:
    with server.talk() as talk:
        reply = talk.ask(sent)
        assert is_refused(reply, 400) and words in str(reply.error["message"])
        assert talk.is_closed()


def test_http_2_is_named(server: Serving) -> None:
    with server.talk() as talk:
        reply = talk.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert is_refused(reply, 505) and "HTTP/1.1" in str(reply.error["message"])


def test_a_websocket_is_refused_so_that_clients_fall_back_to_http(server: Serving) -> None:
    with server.talk() as talk:
        reply = talk.ask(
            b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\n"
            b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert is_refused(reply, 426) and "WebSocket" in str(reply.error["message"])


def test_a_proxys_request_is_refused(server: Serving) -> None:
    with server.talk() as talk:
        assert is_refused(talk.ask(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n"), 405)


UPGRADE = POST + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: A\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [UPGRADE + b"content-length: 5\r\n\r\nhello"],
        [UPGRADE + b"content-length: 5\r\n\r\n", b"hel", b"lo"],
        [UPGRADE + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"],
        [*[bytes([byte]) for byte in UPGRADE + b"content-length: 5\r\n\r\nhello"]],
    ],
)
def test_an_offer_of_http_2_is_ignored_and_the_body_is_read(
    server: Serving, parts: list[bytes]
) -> None:
    with server.talk() as talk:
        for _ in range(2):  # the connection stays in use
            assert json.loads(talk.ask(*parts).body)["body"] == "hello"
        assert talk.ask(UPGRADE + b"\r\n").status == 200
        assert talk.ask(GET).status == 200


def test_slow_heads_are_refused(serve: Callable[[ServerSettings], Serving]) -> None:
    serving = serve(SHORT)
    for begin in (b"G", b"GET / HTTP/1.1\r\nhost: loc", GET + b"GET /"):
        with serving.talk() as talk:
            talk.send(begin)
            reply = talk.reply()
            if begin.startswith(GET):
                reply = talk.reply()
            assert is_refused(reply, 408) and talk.is_closed()


def test_a_dripping_head_is_refused(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    with serve(SHORT).talk() as talk:
        talk.send(b"GET / HTTP/1.1\r\n")
        for at in range(30):
            talk.send(b"x-%d: y\r\n" % at)
            time.sleep(0.1)
        assert is_refused(talk.reply(), 408)


@also_with_tls
@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(
    serve: Callable[[ServerSettings], Serving], sent: bytes
) -> None:
    with serve(SHORT).talk() as talk:
        talk.send(sent)
        assert talk.is_closed()


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_an_idle_connection_is_kept_and_then_closed(
    serve: Callable[[ServerSettings], Serving], sent: bytes
) -> None:
    with serve(SHORT).talk() as talk:
        assert talk.ask(GET).status == 200
        time.sleep(1.5)  # longer than a new connection may wait
        assert talk.ask(GET).status == 200
        talk.send(sent)
        assert talk.is_closed()


def test_by_default_an_idle_connection_outlives_what_clients_keep() -> None:
    assert ServerSettings().idle_timeout_s >= 90  # Go's; Node's are 4, httpx's 5, aiohttp's 15


@also_with_tls
def test_the_oldest_waiting_connection_makes_room(
    serve: Callable[[ServerSettings], Serving], caplog: pytest.LogCaptureFixture
) -> None:
    serving = serve(ServerSettings(max_connections=20))
    idle = [serving.connect() for _ in range(300)]
    with serving.talk() as talk:
        assert talk.ask(GET).status == 200
    assert "closing the oldest" in caplog.text
    wait_for(lambda: len(serving.server.open) <= 21)
    for connection in idle:
        connection.close()


@also_with_tls
def test_working_connections_are_not_closed_for_a_new_one(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    serving = serve(ServerSettings(max_connections=2))
    floods = [serving.connect() for _ in range(2)]
    for flood in floods:
        flood.sendall(b"GET /flood HTTP/1.1\r\n\r\n")
        assert flood.recv(1)
    with serving.talk() as talk:
        reply = talk.ask(GET)
        assert is_refused(reply, 503) and reply.headers["retry-after"]
        assert "max_connections" in str(reply.error["message"])
    for flood in floods:
        assert flood.recv(1)  # still sent to
        flood.close()


@also_with_tls
def test_a_client_that_does_not_read_is_dropped(
    serve: Callable[[ServerSettings], Serving], caplog: pytest.LogCaptureFixture
) -> None:
    serving = serve(SHORT)
    for path in (b"/flood", b"/big"):
        caplog.clear()
        with serving.connect() as connection:
            connection.sendall(b"GET %b HTTP/1.1\r\n\r\n" % path)
            wait_for(lambda: "did not read its answer" in caplog.text)
            wait_for(lambda: len(serving.server.open) == 0)


@also_with_tls
def test_a_slow_reader_that_makes_progress_is_served(
    serve: Callable[[ServerSettings], Serving], caplog: pytest.LogCaptureFixture
) -> None:
    with serve(SHORT).connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b"GET /flood HTTP/1.1\r\n\r\n")
        for _ in range(30):
            time.sleep(0.1)
            for _ in range(8):  # a record of TLS has 16 kB
                assert connection.recv(16 << 10)
    assert "did not read" not in caplog.text


def holds(connections: Connections, num_bytes: int) -> bool:
    return connections.unread_bytes >= num_bytes


@also_with_tls
@pytest.mark.parametrize("path", [b"/large", b"/pieces"])
def test_unread_answers_have_a_total_limit(
    serve: Callable[[ServerSettings], Serving], caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    serving = serve(ServerSettings(max_unread_bytes=20 << 20))
    opened = serving.server.open
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(serving.talk()) for _ in range(5)]
        for client, least_bytes in zip(clients, (7 << 20, *[14 << 20] * 4), strict=True):
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.send(b"GET %b HTTP/1.1\r\n\r\n" % path)
            wait_for(functools.partial(holds, opened, least_bytes))
            assert opened.unread_bytes <= 20 << 20
        wait_for(lambda: len(opened) == 2)
        assert caplog.text.count("slow to read") == 3
        for client in clients[3:]:
            assert len(client.reply().body) == 8 << 20
        assert all(client.is_closed() for client in clients[:3])
    wait_for(lambda: opened.unread_bytes == 0)
