"""What a client may do below HTTP: raw bytes on real sockets, over an app of a few lines."""

import asyncio
import contextlib
import functools
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from serving import RawReply, Serving, wait_for
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from localinfra.api.http.sse import until_disconnect
from localinfra.api.sockets.connections import Connections
from localinfra.api.sockets.refusals import MAX_HEADERS, MAX_PIPELINED, MAX_URL_BYTES
from localinfra.config.settings import ServerSettings

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
# Short enough to wait for, long enough for a busy machine between two packets.
SHORT = ServerSettings(head_timeout_s=1.0, idle_timeout_s=3.0, write_timeout_s=1.0)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was sent; `/flood` never ends, `/big` is larger than any buffer,
    `/large` than some, as is `/pieces`, which is sent in several."""
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", scope["path"] != "/refused"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/big":
        answer = bytes(64 << 20)
    elif scope["path"] in ("/large", "/pieces"):
        answer = bytes(8 << 20)
    else:
        names = [name.decode() for name, _ in scope["headers"]]
        answer = json.dumps({"path": scope["path"], "body": body.decode(), "names": names}).encode()
    size = str(len(answer)).encode()
    headers = [] if scope["path"] == "/flood" else [(b"content-length", size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/flood":
        with contextlib.suppress(ClientDisconnect):
            await until_disconnect(receive, flood(send))
        return
    if scope["path"] == "/pieces":
        for at in range(0, len(answer), 1 << 20):
            piece = answer[at : at + (1 << 20)]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        answer = b""
    await send({"type": "http.response.body", "body": answer})


async def flood(send: Send) -> None:
    while True:
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    serving = Serving(app)
    yield serving
    serving.close()


@pytest.fixture
def serve() -> Iterator[Callable[[ServerSettings], Serving]]:
    started: list[Serving] = []

    def start(settings: ServerSettings) -> Serving:
        started.append(Serving(app, settings))
        return started[-1]

    yield start
    for serving in started:
        serving.close()


def is_refused(reply: RawReply, status: int) -> bool:
    """In the shape of every error, and said to be the last on this connection."""
    assert reply.status == status, reply
    assert set(reply.error) >= {"message", "type", "param", "code"} and reply.error["message"]
    assert len(reply.headers["x-request-id"]) == 32
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"] == "application/json"
    return True


def headers(count: int, value: bytes = b"v") -> bytes:
    return b"".join(b"x-%d: %b\r\n" % (at, value) for at in range(count))


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
def test_a_head_has_bounds(server: Serving, status: int, parts: list[bytes]) -> None:
    with server.talk() as talk:
        assert is_refused(talk.ask(*parts), status)


def test_a_head_within_the_bounds_is_read(server: Serving) -> None:
    with server.talk() as talk:
        long_url = b"GET /" + b"a" * (MAX_URL_BYTES - 10) + b" HTTP/1.1\r\n\r\n"
        assert talk.ask(long_url).status == 200
        many = b"GET / HTTP/1.1\r\n" + headers(MAX_HEADERS) + b"\r\n"
        assert len(json.loads(talk.ask(many).body)["names"]) == MAX_HEADERS
        large = b"GET / HTTP/1.1\r\nauthorization: " + b"k" * 60_000 + b"\r\n\r\n"
        assert talk.ask(large).status == 200


def test_a_head_may_come_in_bytes(server: Serving) -> None:
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
def test_what_is_no_http_is_told_so(server: Serving, sent: bytes, words: str) -> None:
    with server.talk() as talk:
        reply = talk.ask(sent)
        assert is_refused(reply, 400) and words in str(reply.error["message"])
        assert talk.is_closed()


def test_http_2_is_named(server: Serving) -> None:
    with server.talk() as talk:
        reply = talk.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert is_refused(reply, 505) and "HTTP/1.1" in str(reply.error["message"])


def test_a_websocket_is_refused_so_that_clients_go_on_over_http(server: Serving) -> None:
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
def test_an_offer_of_http_2_is_passed_over_and_the_body_is_read(
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


def test_a_head_that_drips_is_refused_as_a_whole(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    with serve(SHORT).talk() as talk:
        talk.send(b"GET / HTTP/1.1\r\n")
        for at in range(30):
            talk.send(b"x-%d: y\r\n" % at)
            time.sleep(0.1)
        assert is_refused(talk.reply(), 408)


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
        time.sleep(1.5)  # longer than a new one may take
        assert talk.ask(GET).status == 200
        talk.send(sent)
        assert talk.is_closed()


def test_by_default_an_idle_connection_outlives_what_clients_keep() -> None:
    assert ServerSettings().idle_timeout_s >= 90  # Go's; Node's are 4, httpx's 5, aiohttp's 15


def test_the_first_to_wait_gives_way_to_a_newcomer(
    serve: Callable[[ServerSettings], Serving], caplog: pytest.LogCaptureFixture
) -> None:
    serving = serve(ServerSettings(max_connections=20))
    idle = [serving.connect() for _ in range(300)]
    with serving.talk() as talk:
        assert talk.ask(GET).status == 200
    assert "as many as may be" in caplog.text
    wait_for(lambda: len(serving.server.open) <= 21)
    for connection in idle:
        connection.close()


def test_those_at_work_are_not_closed_for_a_newcomer(
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


def test_a_slow_reader_that_reads_is_served(
    serve: Callable[[ServerSettings], Serving], caplog: pytest.LogCaptureFixture
) -> None:
    with serve(SHORT).connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b"GET /flood HTTP/1.1\r\n\r\n")
        for _ in range(30):
            time.sleep(0.1)
            assert len(connection.recv(1 << 20)) > 0
    assert "did not read" not in caplog.text


def holds(connections: Connections, num_bytes: int) -> bool:
    return connections.unread_bytes >= num_bytes


@pytest.mark.parametrize("path", [b"/large", b"/pieces"])
def test_answers_that_nobody_reads_are_bounded_in_all(
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


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([b"1;" + b"x" * 1000, *[b"x" * 1000] * 2000], "an extension without end"),
        ([b"5\r\nhello\r\n0\r\n", *[b"x: y\r\n"] * 20_000], "trailers without end"),
        ([b"5\r\nhello\r\n0\r\nx: ", *[b"y" * 1000] * 20_000], "a trailer without end"),
        ([b"1\r\nx\r\n" * 1000] * 200, "chunks of a byte"),
        ([b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 1000] * 200, "extensions"),
    ],
)
def test_chunks_that_hold_little_have_bounds(server: Serving, parts: list[bytes], why: str) -> None:
    with server.talk() as talk:
        reply = talk.ask(CHUNKED, *parts)
        assert reply.status in (400, 431), why
        assert is_refused(reply, reply.status)


def test_ordinary_chunks_are_read_and_trailers_passed_over(server: Serving) -> None:
    with server.talk() as talk:
        small = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in b"hello" * 500)
        reply = talk.ask(CHUNKED, small, b"0\r\nauthorization: x\r\n\r\n")
        assert json.loads(reply.body)["body"] == "hello" * 500
        assert "authorization" not in json.loads(reply.body)["names"]
        assert talk.ask(GET).status == 200


def test_a_body_that_nobody_reads_ends_its_connection(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    with serve(SHORT).talk() as talk:
        declared = b"POST /refused HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n"
        assert talk.ask(declared).status == 200
        talk.send(b"x" * 1000)
        assert talk.is_closed()


def test_an_endless_body_that_nobody_reads_is_cut(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    with serve(ServerSettings(max_body_bytes=100_000)).talk() as talk:
        assert talk.ask(b"POST /refused HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n").status == 200
        with pytest.raises(OSError):
            for _ in range(1000):
                talk.connection.sendall(b"x" * 100_000)


def test_requests_sent_together_are_answered_in_order(server: Serving) -> None:
    with server.talk() as talk:
        paths = [b"/%d" % at for at in range(MAX_PIPELINED)]
        talk.send(b"".join(b"GET %b HTTP/1.1\r\n\r\n" % path for path in paths))
        answered = [json.loads(talk.reply().body)["path"].encode() for _ in paths]
        assert answered == paths


def test_of_a_heap_of_requests_those_that_may_wait_are_answered(server: Serving) -> None:
    with server.talk() as talk:
        talk.send(GET * 1000)
        for _ in range(1 + MAX_PIPELINED):
            assert talk.reply().status == 200
        refused = talk.reply()
        assert is_refused(refused, 400) and str(MAX_PIPELINED) in refused.error["message"]
        assert talk.is_closed()


WHOLE = [GET, POST + b"content-length: 2\r\n\r\nhi", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"]


@pytest.mark.parametrize("num_before", [1, 3, MAX_PIPELINED])
@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, CHUNKED + b"2\r\nhi\r\nzz\r\n"),
        (415, POST + b"transfer-encoding: gzip, chunked\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\n" + headers(MAX_HEADERS + 1) + b"\r\n"),
    ],
)
def test_nonsense_after_whole_requests_costs_none_of_their_answers(
    server: Serving, num_before: int, status: int, sent: bytes
) -> None:
    with server.talk() as talk:
        before = (WHOLE * num_before)[:num_before]
        talk.send(b"".join(before) + sent)
        bodies = [json.loads(talk.reply().body)["body"] for _ in before]
        assert bodies == (["", "hi", "hi"] * num_before)[:num_before]
        assert is_refused(talk.reply(), status)
        assert talk.is_closed()


@pytest.mark.parametrize(
    "coding",
    [b"gzip, chunked", b"deflate,chunked", b"br", b"gzip;q=1, chunked",
     b"gzip\r\ntransfer-encoding: chunked"],
)  # fmt: skip
def test_a_compressed_body_is_refused(server: Serving, coding: bytes) -> None:
    with server.talk() as talk:
        reply = talk.ask(POST + b"transfer-encoding: %b\r\n\r\n2\r\nhi\r\n0\r\n\r\n" % coding)
        assert is_refused(reply, 415) and "uncompressed" in reply.error["message"]


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"identity, chunked"])
def test_chunks_are_read_as_they_are(server: Serving, coding: bytes) -> None:
    with server.talk() as talk:
        reply = talk.ask(POST + b"transfer-encoding: %b\r\n\r\n2\r\nhi\r\n0\r\n\r\n" % coding)
        assert json.loads(reply.body)["body"] == "hi"


def test_nonsense_after_a_request_lets_its_answer_end(server: Serving) -> None:
    with server.talk() as talk:
        talk.send(b"GET /flood HTTP/1.1\r\n\r\n")
        assert talk.connection.recv(16)
        talk.send(b"nonsense\r\n\r\n")
        for _ in range(100):
            assert b"not valid HTTP" not in talk.connection.recv(65536)


def test_a_refusal_is_one_line_of_the_log(
    server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with server.talk() as talk:
        reply = talk.ask(b"GET /\xff\x1b[31m HTTP/1.1\r\n\r\n")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    line = record.getMessage()
    assert reply.headers["x-request-id"] in line and "400" in line and "127.0.0.1:" in line
    assert line.isprintable()


def test_the_other_end_hears_nothing_of_a_connection_that_leaves_at_once(server: Serving) -> None:
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(GET[:10])
    wait_for(lambda: len(server.server.open) == 0)
    with server.talk() as talk:
        assert talk.ask(GET).status == 200
