"""Framing of bodies, and pipelined requests: raw bytes on real sockets."""

import json
import logging
from collections.abc import Callable

import pytest
from raw_http import CHUNKED, GET, POST, SHORT, headers, is_refused
from serving import Serving, also_with_tls
from waiting import wait_for

from localinfra.api.sockets.refusals import MAX_HEADERS, MAX_PIPELINED
from localinfra.config.settings import ServerSettings
from localinfra.logs import OneLine


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
def test_tiny_chunks_have_limits(server: Serving, parts: list[bytes], why: str) -> None:
    with server.talk() as talk:
        reply = talk.ask(CHUNKED, *parts)
        assert reply.status in (400, 431), why
        assert is_refused(reply, reply.status)


def test_ordinary_chunks_are_read_and_trailers_skipped(server: Serving) -> None:
    with server.talk() as talk:
        small = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in b"hello" * 500)
        reply = talk.ask(CHUNKED, small, b"0\r\nauthorization: x\r\n\r\n")
        assert json.loads(reply.body)["body"] == "hello" * 500
        assert "authorization" not in json.loads(reply.body)["names"]
        assert talk.ask(GET).status == 200


@also_with_tls
def test_an_unread_body_ends_its_connection(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    with serve(SHORT).talk() as talk:
        declared = b"POST /refused HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n"
        assert talk.ask(declared).status == 200
        talk.send(b"x" * 1000)
        assert talk.is_closed()


@also_with_tls
def test_an_endless_unread_body_is_cut_off(
    serve: Callable[[ServerSettings], Serving],
) -> None:
    with serve(ServerSettings(max_body_bytes=100_000)).talk() as talk:
        assert talk.ask(b"POST /refused HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n").status == 200
        with pytest.raises(OSError):
            for _ in range(1000):
                talk.connection.sendall(b"x" * 100_000)


@also_with_tls
def test_pipelined_requests_are_answered_in_order(server: Serving) -> None:
    with server.talk() as talk:
        paths = [b"/%d" % at for at in range(MAX_PIPELINED)]
        talk.send(b"".join(b"GET %b HTTP/1.1\r\n\r\n" % path for path in paths))
        answered = [json.loads(talk.reply().body)["path"].encode() for _ in paths]
        assert answered == paths


def test_pipelined_requests_up_to_the_limit_are_answered(server: Serving) -> None:
    with server.talk() as talk:
        talk.send(GET * 1000)
        for _ in range(1 + MAX_PIPELINED):
            assert talk.reply().status == 200
        refused = talk.reply()
        assert is_refused(refused, 400) and str(MAX_PIPELINED) in refused.error["message"]
        assert talk.is_closed()


WHOLE = [GET, POST + b"content-length: 2\r\n\r\nhi", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"]


@also_with_tls
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
def test_garbage_after_whole_requests_costs_none_of_their_answers(
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
def test_plain_chunks_are_read(server: Serving, coding: bytes) -> None:
    with server.talk() as talk:
        reply = talk.ask(POST + b"transfer-encoding: %b\r\n\r\n2\r\nhi\r\n0\r\n\r\n" % coding)
        assert json.loads(reply.body)["body"] == "hi"


def test_garbage_after_a_request_lets_its_answer_finish(server: Serving) -> None:
    with server.talk() as talk:
        talk.send(b"GET /flood HTTP/1.1\r\n\r\n")
        assert talk.connection.recv(16)
        talk.send(b"nonsense\r\n\r\n")
        for _ in range(100):
            assert b"not valid HTTP" not in talk.connection.recv(65536)


def test_a_refusal_is_one_log_line(server: Serving, caplog: pytest.LogCaptureFixture) -> None:
    with server.talk() as talk:
        reply = talk.ask(b"GET /\xff\x1b[31m HTTP/1.1\r\n\r\n")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    line = OneLine().format(record)
    assert reply.headers["x-request-id"] in line and "400" in line and "127.0.0.1:" in line
    assert line.isprintable()


def test_a_connection_closed_at_once_gets_no_answer(server: Serving) -> None:
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(GET[:10])
    wait_for(lambda: len(server.server.open) == 0)
    with server.talk() as talk:
        assert talk.ask(GET).status == 200
