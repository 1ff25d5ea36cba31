"""What `scripts/fuzz` sends, and that it finds the faults of a server that has some."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import document
from serving import Serving
from starlette.types import Receive, Scope, Send

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from fuzzing.client import Answer, Client, Span
from fuzzing.generator import Attempt, Generator
from fuzzing.judging import Judge
from fuzzing.patience import Slow, hangs, num_tokens
from fuzzing.run import exchanged
from fuzzing.shrinking import shrunk
from fuzzing.values import places
from fuzzing.wire import HttpRequest, whole

FAULTS = {
    "/fine": "",
    "/crash": "status 500 (engine_failed)",
    "/other-shape": "an error in another shape",
    "/undocumented": "status 418, which is not documented",
    "/half": "a stream without its end",
    "/inside": "an error that shows the server's inside",
    "/wrong": "the answer is not as documented",
    "/nameless": "no x-request-id with status 200",
    "/in-stream": "a server's error in the stream",
}
MODELS = b'{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}'


def error(message: str, code: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": code}}).encode()


ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "/fine": (200, "application/json", MODELS),
    "/crash": (500, "application/json", error("no", "engine_failed")),
    "/other-shape": (400, "application/json", b'{"detail":"no"}'),
    "/undocumented": (418, "application/json", error("no", "teapot")),
    "/half": (200, "text/event-stream", b'data: {"a":1}\n\n'),
    "/inside": (400, "application/json", error("Traceback (most recent", "x")),
    "/wrong": (200, "application/json", b'{"object":"list","data":7}'),
    "/nameless": (200, "application/json", MODELS),
    "/in-stream": (200, "text/event-stream", b'data: {"error":{"type":"server_error"}}\n\n'),
}


async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    status, kind, body = ANSWERS[scope["path"]]
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    if scope["path"] != "/nameless":
        headers.append((b"x-request-id", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    server = Serving(faulty)
    yield server
    server.close()


def listing(path: str) -> Attempt:
    [route] = Generator(document(), 1, "list_models").routes
    request = HttpRequest("GET", path.encode(), ((b"host", b"localhost"),))
    return Attempt(0, route, "valid", request, whole(request))


@pytest.mark.parametrize(("path", "fault"), FAULTS.items())
def test_a_fault_is_found(server: Serving, path: str, fault: str) -> None:
    client = Client(server.port, 600)
    attempt = listing(path)
    found = Judge(document()).faults_of(attempt, exchanged(client, attempt))
    client.close()
    assert [one for one in found if one.startswith(fault)] if fault else not found, found


def test_a_server_that_is_gone_is_a_fault() -> None:
    server = Serving(faulty)
    server.close()
    attempt = listing("/fine")
    outcome = exchanged(Client(server.port, 600), attempt)
    [fault] = Judge(document()).faults_of(attempt, outcome)
    assert fault.startswith("refused")


def test_attempts_follow_from_seed_and_number() -> None:
    one, same, other = (Generator(document(), seed) for seed in (1, 1, 2))
    for number in range(200):
        made = one.attempt(number)
        assert made.delivery == same.attempt(number).delivery
        assert made.route == same.attempt(number).route
    assert any(one.attempt(at).delivery != other.attempt(at).delivery for at in range(5))


def test_all_routes_and_all_kinds_of_damage_are_tried() -> None:
    generator = Generator(document(), 3)
    made = [generator.attempt(number) for number in range(6000)]
    routes = Counter(attempt.route.operation for attempt in made)
    kinds = Counter(kind for attempt in made for kind in attempt.kind.split(" + "))
    assert routes.keys() == {route.operation for route in generator.routes}
    assert kinds.keys() >= {
        "valid", "by schema", "near schema", "as it is", "a name twice", "damaged", "form", "bytes",
        "headers", "method", "target", "version", "in packets", "chunked", "broken chunks", "cut",
        "leaving", "expecting", "damaged head", "lying length", "8 pipelined",
    }  # fmt: skip


def test_a_body_is_made_as_small_as_its_fault_allows() -> None:
    generator = Generator(document(), 1, "create_chat_completion")
    attempt = next(
        made for number in range(99) if (made := generator.attempt(number)).kind == "as it is"
    )
    assert len(list(places(attempt.body))) > 4

    def has_fault(other: Attempt) -> bool:
        return b'"messages": [{' in other.request.body

    small = shrunk(attempt, has_fault)
    assert set(small.body) == {"messages"} and len(small.body["messages"]) == 1


def silent(seconds: float, num_tokens: int = 0) -> Slow:
    return Slow(Span(100.0, 100.0 + seconds), num_tokens, 1, "infer", "damaged")


@pytest.mark.parametrize(
    ("slow", "others_s", "is_hanging"),
    [
        (silent(9.9), 0.1, False),
        (silent(12), 0.7, True),
        (silent(12), 3.9, True),
        (silent(12), 4.1, False),  # all were slow
        (silent(12, 512), 0.7, False),  # 23 ms a token, others' 29
        (silent(51, 507), 3.2, False),
        (silent(46, 512), 0.7, True),
        (silent(12, 8), 0.7, True),
    ],
)
def test_work_is_told_from_hanging(slow: Slow, others_s: float, is_hanging: bool) -> None:
    meanwhile = Span(101.0, 101.0 + others_s)
    later = Span(500.0, 600.0)  # which excuses nothing
    assert hangs(slow, [meanwhile, later]) is is_hanging


def test_silence_with_no_answer_to_anybody_hangs() -> None:
    assert hangs(silent(12, 512), [])


@pytest.mark.parametrize(
    "body",
    [
        {"usage": {"prompt_tokens": 9, "completion_tokens": 7}},
        {"usage": {"input_tokens": 9, "output_tokens": 7}},
        {"inference_status": {"tokens_input": 9, "tokens_generated": 7}},
        {"prompt_eval_count": 9, "eval_count": 7},
    ],
)
def test_an_answer_says_how_many_tokens_it_has(body: object) -> None:
    assert num_tokens(Answer(200, {}, json.dumps(body).encode())) == 7


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"usage":null}', b'{"usage":{"a":1}}'])
def test_an_answer_that_says_no_number_of_tokens_has_none(body: bytes) -> None:
    assert num_tokens(Answer(200, {}, body)) == 0
