"""Requests in flight get a clear error when a supervised server dies."""

import contextlib
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from supervised import Supervised, supervised

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Each server computes five steps for its clients, then one that does not end.
STOPS = """
import ctypes, itertools, threading
from localinfra.llama.context import LlamaContext
decode, steps = LlamaContext.decode, itertools.count()
def stop(self, batch):
    if threading.current_thread().name.startswith("engine") and next(steps) >= 5:
        ctypes.CDLL(None).pause()
    decode(self, batch)
LlamaContext.decode = stop
"""
TEMPLATE = """
sequences = 1
chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
"""
COMPLETIONS, COMPLETION = "/v1/completions", {"prompt": "Hi", "max_tokens": 30}
MESSAGES = [{"role": "user", "content": "Hi"}]
FORMS: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, COMPLETION),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 30}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 30}),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 30}),
    ("/api/chat", {"messages": MESSAGES}),
]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("last_words")
    with supervised(folder, server="keepalive_s = 1", model=TEMPLATE, patch=STOPS) as process:
        yield process


@contextlib.contextmanager
def asked(
    process: Supervised, path: str, body: dict[str, Any]
) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=600)
    with contextlib.closing(connection):
        given = json.dumps({"model": "tiny", **body})
        connection.request("POST", path, given, {"content-type": "application/json"})
        yield connection


def answer(connection: http.client.HTTPConnection) -> tuple[http.client.HTTPResponse, bytes]:
    """Raises HTTPException if it is not whole."""
    response = connection.getresponse()
    return response, response.read()


def wait_until_running(process: Supervised, number: int) -> None:
    while len(process.ask("GET", "/v1/requests")[1]["data"]) != number:
        time.sleep(0.01)


def told(path: str, error: dict[str, Any]) -> str:
    """The message of an error in the form of the path's API."""
    if path == "/api/chat":
        return str(error["error"])
    expected = "api_error" if path == "/v1/messages" else "server_error"
    assert error["error"]["type"] == expected and error["error"]["code"] == "server_died"
    return str(error["error"]["message"])


@pytest.mark.parametrize(("path", "body"), FORMS)
def test_a_request_that_is_computed_gets_an_error(
    process: Supervised, path: str, body: dict[str, Any]
) -> None:
    with asked(process, path, {**body, "stream": False}) as connection:
        wait_until_running(process, 1)
        process.kill_server()
        response, data = answer(connection)
    assert response.status == 503 and response.headers["retry-after"] == "1"
    assert response.headers["x-request-id"] and response.headers["connection"] == "close"
    assert "ended unexpectedly" in told(path, json.loads(data))


@pytest.mark.parametrize(("path", "body"), FORMS)
def test_a_stream_ends_in_an_error_event(
    process: Supervised, path: str, body: dict[str, Any]
) -> None:
    with asked(process, path, {**body, "stream": True}) as connection:
        response = connection.getresponse()
        first = response.readline()
        assert response.status == 200 and first
        assert process.ask("GET", "/health")[0] == 200  # the loop has turned since then
        process.kill_server()
        lines = response.read().splitlines()  # all chunks, to their end
    last = next(line for line in reversed(lines) if line)
    if path in ("/v1/messages", "/v1/responses"):
        assert lines[-3:-1] == [b"event: error", last]
    assert "ended unexpectedly" in told(path, json.loads(last.removeprefix(b"data: ")))


def num_descriptors(process: Supervised) -> int:
    return len(list(Path(f"/proc/{process.popen.pid}/fd").iterdir()))


def wait_for_descriptors(process: Supervised, number: int) -> None:
    while num_descriptors(process) != number:
        time.sleep(0.01)


@pytest.fixture
def fresh(process: Supervised) -> Supervised:
    """With a server that has computed nothing."""
    process.kill_server()
    assert process.ask("GET", "/health")[0] == 200
    return process


def test_fifty_at_once_are_told_and_nothing_of_them_stays(fresh: Supervised) -> None:
    floor = num_descriptors(fresh)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(50) as threads:
        bodies = [{**COMPLETION, "stream": number % 2 == 0} for number in range(50)]
        clients = [stack.enter_context(asked(fresh, COMPLETIONS, body)) for body in bodies]
        wait_until_running(fresh, 50)
        clients.pop().close()
        wait_until_running(fresh, 49)
        fresh.kill_server()
        for response, data in threads.map(answer, clients):
            assert response.status in (200, 503) and b"ended unexpectedly" in data
    assert fresh.complete()[0] == 200
    wait_for_descriptors(fresh, floor)


def test_who_follows_an_answer_from_outside_is_told(fresh: Supervised) -> None:
    floor = num_descriptors(fresh)
    body: dict[str, Any] = {"messages": MESSAGES, "stream": True, "background": True}
    with asked(fresh, "/v1/chat/completions", body) as connection:
        id = connection.getresponse().headers["x-request-id"]
        wait_for_descriptors(fresh, floor + 1)
    wait_for_descriptors(fresh, floor)
    follower = http.client.HTTPConnection("127.0.0.1", fresh.port, timeout=600)
    with contextlib.closing(follower):
        follower.request("GET", f"/v1/requests/{id}/events")
        response = follower.getresponse()
        assert response.status == 200
        wait_for_descriptors(fresh, floor + 1)  # it takes a while
        assert fresh.ask("GET", "/health")[0] == 200
        fresh.kill_server()
        assert b"ended unexpectedly" in response.read()


def test_connections_are_kept_while_they_are_open_and_closed_if_they_wait(
    fresh: Supervised,
) -> None:
    floor, body = num_descriptors(fresh), {**COMPLETION, "max_tokens": 1}
    with asked(fresh, COMPLETIONS, body) as connection:
        assert answer(connection)[0].status == 200
        wait_for_descriptors(fresh, floor + 1)
        with asked(fresh, COMPLETIONS, body) as other:
            assert answer(other)[0].status == 200
            wait_for_descriptors(fresh, floor + 2)
        wait_for_descriptors(fresh, floor + 1)
        fresh.kill_server()
        assert connection.sock.recv(1) == b""
    wait_for_descriptors(fresh, floor)


def raw(body: bytes, *heads: str) -> bytes:
    lines = ["POST /v1/completions HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", *heads, "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.contextmanager
def sent(process: Supervised, data: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", process.port), timeout=600) as connection:
        connection.sendall(data)
        yield connection


def rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_connection_ends_with_its_answer_though_the_supervisor_holds_it(
    fresh: Supervised,
) -> None:
    body = json.dumps({"model": "tiny", "prompt": "Hi", "max_tokens": 1}).encode()
    with sent(fresh, raw(body, "connection: close")) as connection:
        data = rest(connection)
    assert data.startswith(b"HTTP/1.1 200") and b'"usage"' in data


def test_of_pipelined_requests_the_first_is_told(fresh: Supervised) -> None:
    request = raw(json.dumps({"model": "tiny", **COMPLETION}).encode())
    with sent(fresh, request * 2) as connection:
        wait_until_running(fresh, 1)
        fresh.kill_server()
        data = rest(connection)
    assert data.count(b"HTTP/1.1 ") == 1 and data.startswith(b"HTTP/1.1 503")


def test_who_is_still_sending_is_told_nothing(fresh: Supervised) -> None:
    request = raw(json.dumps({"model": "tiny", **COMPLETION}).encode())
    with sent(fresh, request[:-1]) as connection:
        wait_until_running(fresh, 1)
        fresh.kill_server()
        with contextlib.suppress(ConnectionResetError):
            assert rest(connection) == b""


def test_what_ends_by_a_signal_tells_nobody_to_try_again(tmp_path: Path) -> None:
    with supervised(tmp_path, model=TEMPLATE, patch=STOPS) as process:
        with asked(process, COMPLETIONS, COMPLETION) as connection:
            wait_until_running(process, 1)
            process.popen.terminate()
            process.wait_for_line("Finishing")
            process.popen.terminate()
            with pytest.raises((OSError, http.client.HTTPException)):
                answer(connection)
        assert process.popen.wait() == 130
