"""What becomes of requests when replicas fall ill, and of streams when they are replaced."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from ray_process import RayServer
from ray_runtime import FAIL, LOSE

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_step_that_fails_costs_its_request_alone(server: RayServer) -> None:
    assert server.say("fragile", "Hello").status_code == 200
    replicas = set(server.answering("echo"))
    reply = server.say("fragile", FAIL)
    assert reply.status_code == 500 and FAIL in reply.json()["error"]["message"]
    for number in range(4):
        assert server.say("fragile", f"Hello {number}").status_code == 200
    assert replicas <= set(server.answering("echo"))


def test_a_replica_that_has_lost_its_device_is_replaced(server: RayServer) -> None:
    before = both(server)
    assert server.say("fragile", LOSE).status_code >= 500
    for number in range(12):
        reply = server.say("echo", f"conversation {number} after that", max_tokens=4)
        assert reply.status_code == 200, reply.text
    wait_for_another(server, before)


def both(server: RayServer) -> set[str]:
    """The replicas of echoes, once each has answered."""
    while len(found := set(server.answering("echo"))) < 2:
        assert server.say("echo", f"{time.perf_counter()}", max_tokens=2).status_code == 200
    return found


def wait_for_another(server: RayServer, before: set[str]) -> None:
    while both(server) == before:
        assert server.say("echo", f"{time.perf_counter()}", max_tokens=2).status_code == 200
        time.sleep(0.05)


def test_a_replica_that_has_stopped_is_replaced_and_its_requests_answered_by_another(
    server: RayServer,
) -> None:
    """Its process does nothing more, but is there: only the health check can tell."""
    server.order("impatient")
    before = both(server)
    server.order("stop echo")
    with ThreadPoolExecutor(12) as pool:
        texts = [f"conversation {number} meanwhile" for number in range(12)]
        replies = list(pool.map(lambda text: server.say("echo", text), texts))
    answers = [reply.json()["choices"][0]["message"]["content"] for reply in replies]
    assert answers == texts
    assert server.client.get("/health").json()["status"] == "ok"
    wait_for_another(server, before)


@contextlib.contextmanager
def closed_gate(server: RayServer) -> Iterator[None]:
    server.gate.touch()
    try:
        yield
    finally:
        server.gate.unlink(missing_ok=True)


def streamed(server: RayServer, text: str, arrived: list[str]) -> str:
    """The whole answer; `arrived` has its lines as they come."""
    body = {
        "model": "gated",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 1000,
    }
    with server.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as got:
        for line in got.iter_lines():
            if line.startswith("data: "):
                arrived.append(line)
    assert arrived[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in arrived[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_streams_go_on_while_their_replica_and_gateway_are_replaced(server: RayServer) -> None:
    """They begin before the update, and end when their replica gets no new requests any more."""
    texts = [f"{number}: " + "rivers and lakes, " * 45 for number in range(4)]
    arrived: list[list[str]] = [[] for _ in texts]
    old = both(server)
    with ThreadPoolExecutor(8) as pool, closed_gate(server):
        streams = [
            pool.submit(streamed, server, *each) for each in zip(texts, arrived, strict=True)
        ]
        whole = pool.submit(server.say, "gated", texts[0], max_tokens=1000)
        while not all(arrived) or len(server.client.get("/v1/requests").json()["data"]) < 5:
            time.sleep(0.05)
        path = server.path
        path.write_text(path.read_text().replace('aliases = ["echo"]', 'aliases = ["echo", "new"]'))
        deployed = pool.submit(server.order, "deploy")
        while old <= set(server.answering("echo")):
            assert server.say("echo", f"{time.perf_counter()}", max_tokens=2).status_code == 200
        assert not any(stream.done() for stream in streams)
        assert not whole.done() and not deployed.done()
        server.gate.unlink()
        assert [stream.result() for stream in streams] == texts
        assert whole.result().json()["choices"][0]["message"]["content"] == texts[0]
        deployed.result()
    assert not old & both(server)
    assert server.say("new", "Hello").status_code == 200
