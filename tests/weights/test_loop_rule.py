"""One rule for all routes: whatever a body of the largest allowed size holds, the event loop goes
on. Each list, map and text of each request struct is filled, and the server, a real one, says for
how long its loop stood still."""

import ast
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from every_request import CASES, NATIVE, Case, all_places, post, served
from large_bodies import Filled, fillings, places
from loop_watch import WatchedServer

from localinfra import api
from localinfra.api.generation.carried import carried

pytestmark = pytest.mark.timeout(600)

# Times what this machine takes to decode a million numbers, 43 ms on that of docs/reliability.md,
# where the loop stands still for 20 ms at most: with room for other threads of the server that work
# meanwhile, and for busy machines.
MAX_BLOCKED = 1.5

# Without those that read the fields of another, and no more, at another path.
FIELDS: dict[type | None, set[str]] = {c.kind: set(c.kind.__struct_fields__) for c in CASES}
OWN_FIELDS = [case for case in CASES if FIELDS[case.kind] != FIELDS.get(case.kind.__base__)]


@pytest.fixture(scope="module")
def watched_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    with pytest.MonkeyPatch.context() as patch:
        with served(tmp_path_factory.mktemp("watched"), patch.setenv) as server:
            yield server


def bodies(case: Case) -> Iterator[Filled]:
    """Every second filling of each place, by turns the first or the second."""
    for at, place in enumerate(places(case.kind, case.given, case.around)):
        yield from itertools.islice(fillings(place), at % 2, None, 2)


def check(server: WatchedServer, case: Case, filled: Filled) -> str | None:
    body = filled.body()
    assert len(body) <= 16 << 20, filled
    status = post(server, case.path, body, method=case.method)
    blocked = server.blocked_s() / server.reference_s
    what = f"{case.path} {filled.place.path} {filled.how}: {status}, {blocked:.1f}"
    return what if blocked > MAX_BLOCKED or status not in EXPECTED else None


EXPECTED = (200, 400, 404, 413, 503)  # no such item; the model's files are absent


def test_no_body_stops_the_loop(watched_server: WatchedServer) -> None:
    """A third of the places; the slow test below tries all."""
    some = itertools.islice(all_places(), 0, None, 3)
    wrong = [check(watched_server, case, filled) for case, filled in some]
    assert not [what for what in wrong if what]
    assert len(wrong) > 50


CODE = '    if value == "x\\n":\n        return {"a": [1, 2]}  # é\n'
PICTURE = "data:image/png;base64," + "iVBORw0KGgoA" * (1 << 20)
EMOJIS = "word " * (3 << 20) + "🦙"
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": CODE}}
TOO_LONG = "word " * 4000  # to be answered: what an answer computes is no time of the loop's
LINES = "\n" * ((8 << 20) - 500)
CUSTOM = {"id": "a", "type": "custom", "custom": {"name": "f", "input": LINES}}
THOUGHT = carried("word é " * (1 << 20))
CARRIED = {"type": "reasoning", "summary": [], "encrypted_content": THOUGHT}
SIGNED = {"type": "thinking", "thinking": "", "signature": THOUGHT}


def said(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "code": ("/v1/chat/completions", {"messages": said(CODE * 250_000)}),
    "a picture": (
        "/v1/chat/completions",
        {"messages": said([{"type": "image_url", "image_url": {"url": PICTURE}}])},
    ),
    "emojis": ("/v1/messages", {"messages": said(EMOJIS), "max_tokens": 1}),
    "a role": ("/v1/chat/completions", {"messages": [{"role": EMOJIS, "content": "a"}]}),
    "messages": ("/v1/chat/completions", {"messages": said("word " * 300) * 10_000}),
    "messages with nulls": (
        "/v1/chat/completions",
        {"messages": [{**said("word " * 200)[0], "name": None, "tool_calls": None}] * 10_000},
    ),
    "calls": (
        "/v1/chat/completions",
        {"messages": [*said("a"), {"role": "assistant", "tool_calls": [CALL] * 1000}]},
    ),
    "custom calls": (
        "/v1/chat/completions",
        {"messages": [*said("a"), {"role": "assistant", "tool_calls": [CUSTOM]}]},
    ),
    "carried reasoning": ("/v1/responses", {"input": [*said("a"), CARRIED, *said(TOO_LONG)]}),
    "a signature": (
        "/v1/messages",
        {"messages": [*said("a"), {"role": "assistant", "content": [SIGNED]}, *said(TOO_LONG)]},
    ),
    "parts": ("/v1/messages", {"messages": said([{"type": "text", "text": CODE}] * 10_000)}),
    "items": ("/v1/responses", {"input": said("word " * 300) * 10_000}),
    "tools": (
        "/v1/chat/completions",
        {"messages": said("a"), "tools": [{"type": "function", "name": "f"}] * 30_000},
    ),
    "texts": ("/v1/embeddings", {"model": "own-ids", "input": ["word " * 1500] * 2048}),
    "vectors": ("/v1/embeddings", {"model": "own-ids", "input": ["word"] * 2048}),
    "documents": ("/v1/rerank", {"model": "cross", "query": "a", "documents": [CODE * 200] * 1000}),
    "a text": ("/tokenize", {"prompt": CODE * 15_000}),
    "a prompt": ("/api/generate", {"prompt": CODE * 250_000}),
}  # fmt: skip


@pytest.mark.parametrize("what", LARGE)
def test_no_large_request_of_a_client_stops_the_loop(
    watched_server: WatchedServer, what: str
) -> None:
    path, fields = LARGE[what]
    body = json.dumps({"model": "smollm2", **fields}, ensure_ascii=False).encode()
    assert len(body) <= 16 << 20
    assert post(watched_server, path, body) in EXPECTED
    assert watched_server.blocked_s() < MAX_BLOCKED * watched_server.reference_s


MANY = (1 << 20) - 100  # values
MOST = (8 << 20) - 100  # bytes
CONVERSATIONS = {
    "lists": b'[{"content":[%b]}]' % (b"[]," * MANY)[:-1],
    "turns": b"[%b]" % (b"{}," * MANY)[:-1],
    "short texts": b"[%b]" % (b'{"content":""},' * (MANY // 2))[:-1],
    "escapes": b'[{"content":"%b"}]' % (b"\\n" * (MOST // 2)),
    "emojis": b'[{"content":"%b"}]' % ((b"a" * 60 + "🦙".encode()) * (MOST // 64)),
    "what is longer in small letters": b'[{"content":"%b"}]' % ("ΐ".encode() * (MOST // 2)),
}


@pytest.mark.parametrize("what", CONVERSATIONS)
def test_no_conversation_stops_the_loop(watched_server: WatchedServer, what: str) -> None:
    """As large as may be: kept with what a search looks through, and read again."""
    path, body = "/v1/chats/a", b'{"title":"a","data":{"turns":%b}}' % CONVERSATIONS[what]
    assert post(watched_server, path, body, method="PUT") == 200
    assert post(watched_server, path, b"", method="GET") == 200
    assert watched_server.blocked_s() < MAX_BLOCKED * watched_server.reference_s


FORMS = {
    "a file": (b'name="image"; filename="a.png"', b"a"),
    "a text": (b'name="prompt"', b"a"),
    "line ends": (b'name="prompt"', b"\r\n"),
    "quotes": (b'name="prompt"', b'"'),
    "numbers": (b'name="n"', b"[1],"),
    "almost boundaries": (b'name="n"', b"\r\n--boundar"),
    "unknown": (b'name="other"', b'["'),
}


@pytest.mark.parametrize("what", FORMS)
@pytest.mark.parametrize("path", ["/v1/images/edits", NATIVE + "smollm2", NATIVE + "flux"])
def test_no_form_stops_the_loop(watched_server: WatchedServer, path: str, what: str) -> None:
    head, unit = FORMS[what]
    data = unit * (((16 << 20) - 300) // len(unit))
    data = b"[" + data if unit.startswith(b"[") else data
    body = b"--boundary\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n--boundary--\r\n" % (
        head,
        data,
    )
    status = post(watched_server, path, body, "multipart/form-data; boundary=boundary")
    assert status in EXPECTED
    assert watched_server.blocked_s() < MAX_BLOCKED * watched_server.reference_s


LONG = "river stone cloud paper engine garden window summer bridge letter music winter " * 40


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [f"{at} {LONG}" for at in range(3)], "echo": True, "max_tokens": 1},
        {"prompt": LONG, "n": 8, "max_tokens": 8},
        {"prompt": LONG, "n": 8, "max_tokens": 8, "stream": True},
        {"prompt": "One,", "n": 64, "max_tokens": 2},
    ],
    ids=["echo", "long prompt", "long prompt, streamed", "many choices"],
)
def test_logprobs_do_not_stop_the_loop(
    watched_server: WatchedServer, fields: dict[str, Any]
) -> None:
    body = json.dumps({"model": "smollm2", "logprobs": 20, **fields}).encode()
    assert post(watched_server, "/v1/completions", body) == 200
    assert watched_server.blocked_s() < MAX_BLOCKED * watched_server.reference_s


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", OWN_FIELDS, ids=lambda case: case.kind.__name__)
def test_no_filling_of_any_field_stops_the_loop(watched_server: WatchedServer, case: Case) -> None:
    wrong = [check(watched_server, case, filled) for filled in bodies(case)]
    assert not [what for what in wrong if what]


def test_every_struct_that_is_read_from_a_body_is_tried() -> None:
    read = set()
    for file in Path(api.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            reader = ast.unparse(node.func).split("[")[0] if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and reader in READERS:
                kind = node.args[READERS[reader]]
                if isinstance(kind, ast.Name) and kind.id != "kind":
                    read.add(kind.id)
    tried = {case.kind.__name__ for case in CASES}
    assert len(read) > 15 and read <= tried


# Where each has the struct among its arguments. What is looked up in FOREIGN is tried as well.
READERS = {"Call.begin": 1, "Call.begin_with_form": 1, "decode": 1, "decode_within": 2}
