"""One rule for all routes: whatever a body of the largest allowed size holds, the event loop goes
on. Each list, map and text of each request struct is filled, and the server, a real one, says for
how long its loop stood still."""

import ast
import http.client
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from large_bodies import Filled, Wrap, fillings, one_of_each, places
from live import CATALOGUE
from loop_watch import WatchedServer, watched

from localinfra import api
from localinfra.api import chats, cohere, rerank, tokens
from localinfra.api.anthropic import input as messages_input
from localinfra.api.anthropic import messages
from localinfra.api.deepinfra import encoders as native_encoders
from localinfra.api.deepinfra import images as native_images
from localinfra.api.deepinfra import text as native_text
from localinfra.api.generation import tools
from localinfra.api.ollama import chat as ollama_chat
from localinfra.api.ollama import embed as ollama_embed
from localinfra.api.ollama import generate as ollama_generate
from localinfra.api.ollama import managing as ollama_managing
from localinfra.api.openai import chat, completions, embeddings, image_edits, images, managing
from localinfra.api.openai.responses import input as responses_input
from localinfra.api.openai.responses import request as responses_request
from localinfra.api.openai.responses import tools as responses_tools
from localinfra.api.openai.responses.foreign import FOREIGN

pytestmark = pytest.mark.timeout(600)

# Times what this machine takes to decode a million numbers, 43 ms on that of docs/reliability.md,
# where the loop stands still for 20 ms at most: with room for other threads of the server that work
# meanwhile, and for busy machines.
MAX_BLOCKED = 1.5

KEEPS = "[server]\nkeep_chats = true\n"
ABSENT = """
[model."cross"]
kind = "rerank"
source = "hf:owner/cross"

[model."flux"]
kind = "image"
source = "hf:owner/flux"
"""

HELLO = [{"role": "user", "content": "a"}]
CHAT = {"model": "smollm2", "max_tokens": 1, "messages": HELLO}
PROMPT = {"model": "smollm2", "max_tokens": 1, "prompt": "a"}
INPUT = {"model": "smollm2", "max_output_tokens": 1, "input": "a"}
OLLAMA: dict[str, object] = {"model": "smollm2", "options": {"num_predict": 1}}
NATIVE = "/v1/inference/"


class Case(NamedTuple):
    path: str
    kind: type[msgspec.Struct]
    given: Mapping[str, Any]  # what else a request needs to be answered
    around: Wrap = lambda raw: raw
    method: str = "POST"


def as_item(raw: bytes) -> bytes:
    return b'{"model":"smollm2","max_output_tokens":1,"input":[%b]}' % raw


def as_tool(raw: bytes) -> bytes:
    return b'{"model":"smollm2","max_output_tokens":1,"input":"a","tools":[%b]}' % raw


def as_chat_tool(raw: bytes) -> bytes:
    return b'{"model":"smollm2","max_tokens":1,"messages":[{"role":"user","content":"a"}],' + (
        b'"tools":[%b]}' % raw
    )


def as_input(raw: bytes) -> bytes:
    return b'{"input":%b}' % raw


CASES = [
    Case("/v1/chat/completions", chat.ChatCompletionRequest, CHAT),
    Case("/v1/completions", completions.CompletionRequest, PROMPT),
    Case("/v1/engines/smollm2/completions", completions.EngineCompletionRequest, PROMPT),
    Case("/v1/engines/smollm2/chat/completions", chat.EngineChatCompletionRequest, CHAT),
    Case("/v1/embeddings", embeddings.EmbeddingsRequest, {"model": "own-ids", "input": "a"}),
    Case("/v1/engines/own-ids/embeddings", embeddings.EngineEmbeddingsRequest, {"input": "a"}),
    Case("/v1/rerank", rerank.RerankRequest, {"model": "cross", "query": "a", "documents": ["b"]}),
    Case("/v1/messages", messages.MessageRequest, CHAT),
    Case("/v1/messages/count_tokens", messages_input.PromptFields, CHAT),
    Case("/v1/responses", responses_request.ResponsesRequest, INPUT),
    Case("/v1/responses", responses_input.Sent, {}, as_item),
    Case("/v1/responses", responses_input.SentMessage, HELLO[0], as_item),
    Case("/v1/responses", responses_input.SentReasoning, {"type": "reasoning"}, as_item),
    Case("/v1/responses", responses_input.SentCall, {"type": "function_call"}, as_item),
    Case("/v1/responses", responses_input.SentOutput, {"type": "function_call_output"}, as_item),
    Case("/v1/responses", responses_input.SentCompaction, {"type": "compaction"}, as_item),
    Case("/v1/responses", responses_input.ItemReference, {"type": "item_reference"}, as_item),
    *(Case("/v1/responses", kind, {"type": name}, as_item) for name, kind in FOREIGN.items()),
    Case("/v1/responses", tools.ToolType, {"type": "web_search"}, as_tool),
    Case("/v1/chat/completions", tools.SentFunction, {"type": "function"}, as_chat_tool),
    Case("/v1/responses", responses_tools.SentNamespace, {"type": "namespace"}, as_tool),
    Case("/v1/embed", cohere.EmbedRequest, {"model": "own-ids", "texts": ["a"]}),
    Case("/v1/images/generations", images.ImageFields, {"model": "flux", "prompt": "a"}),
    Case("/v1/images/edits", image_edits.EditFields, {"model": "flux", "prompt": "a"}),
    Case("/tokenize", tokens.TokenizeRequest, {"model": "smollm2", "prompt": "a"}),
    Case("/detokenize", tokens.DetokenizeRequest, {"model": "smollm2", "tokens": [1]}),
    Case(NATIVE + "smollm2", native_text.TextBody, {"input": "a", "max_new_tokens": 1}),
    Case(NATIVE + "own-ids", native_encoders.EmbeddingBody, {"inputs": ["a"]}),
    Case(NATIVE + "cross", native_encoders.RerankBody, {"queries": ["a"], "documents": ["b"]}),
    Case(NATIVE + "flux", native_images.ImageBody, {"prompt": "a"}),
    Case(NATIVE + "flux", native_images.CogInput, {"prompt": "a"}, as_input),
    Case("/v1/chats/a", chats.ChatBody, {"title": "a", "data": {}}, method="PUT"),
    Case("/v1/models/pull", managing.PullRequest, {"model": "no such model"}),
    Case("/api/chat", ollama_chat.ChatFields, OLLAMA | {"messages": HELLO}),
    Case("/api/generate", ollama_generate.GenerateFields, OLLAMA | {"prompt": "a"}),
    Case("/api/embed", ollama_embed.OllamaEmbedFields, {"model": "own-ids", "input": "a"}),
    Case("/api/embeddings", ollama_embed.OldEmbedFields, {"model": "own-ids", "prompt": "a"}),
    Case("/api/show", ollama_managing.ManagingFields, {"model": "smollm2"}),
    Case("/api/pull", ollama_managing.OllamaPullFields, {"model": "no such model"}),
]  # fmt: skip

# Without those that read the fields of another, and no more, at another path.
FIELDS: dict[type | None, set[str]] = {c.kind: set(c.kind.__struct_fields__) for c in CASES}
OWN_FIELDS = [case for case in CASES if FIELDS[case.kind] != FIELDS.get(case.kind.__base__)]


@pytest.fixture(scope="module")
def watched_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "damaged.gguf").write_bytes(b"GGUF")
    (folder / "models.toml").write_text(KEEPS + CATALOGUE + ABSENT)
    patch = pytest.MonkeyPatch()
    patch.setenv("LOCALINFRA_DATA", str(folder / "data"))
    with watched(folder / "models.toml") as server:
        for path, body in [
            ("/v1/chat/completions", CHAT),
            ("/v1/embeddings", {"model": "own-ids", "input": "a"}),
        ]:
            assert post(server, path, json.dumps(body).encode()) == 200  # it is loaded
        server.blocked_s()
        yield server
    patch.undo()


def post(
    server: WatchedServer,
    path: str,
    body: bytes,
    content_type: str = "application/json",
    method: str = "POST",
) -> int:
    """The status. A server that refuses early may not read the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=590)
    try:
        headers = {"content-type": content_type}
        try:
            connection.request(method, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            return 413
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def bodies(case: Case) -> Iterator[Filled]:
    """Every second filling of each place, by turns the first or the second."""
    for at, place in enumerate(places(case.kind, case.given, case.around)):
        yield from itertools.islice(fillings(place), at % 2, None, 2)


def all_places() -> Iterator[tuple[Case, Filled]]:
    """One filling or two for each place of all structs."""
    paths = {case.kind.__name__: case for case in CASES}
    found = (place for case in CASES for place in places(case.kind, case.given, case.around))
    for filled in one_of_each(found):
        yield paths[filled.place.path.split(".")[0]], filled


def check(server: WatchedServer, case: Case, filled: Filled) -> str | None:
    body = filled.body()
    assert len(body) <= 16 << 20, filled
    status = post(server, case.path, body, method=case.method)
    blocked = server.blocked_s() / server.reference_s
    what = f"{case.path} {filled.place.path} {filled.how}: {status}, {blocked:.1f}"
    return what if blocked > MAX_BLOCKED or status not in EXPECTED else None


EXPECTED = (200, 400, 404, 409, 413, 503)  # no such item; kept before; the model's files are absent


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
