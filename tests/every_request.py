"""A request to each route for each place in its body that may be of any size, and a server that is
sent them: test_loop_rule holds it to its rule, and scripts/bench_bodies measures by how much."""

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from large_bodies import Filled, Wrap, one_of_each, places
from live import CATALOGUE
from loop_watch import WatchedServer

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
from localinfra.conversations.store import KeptContent

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


def as_data(raw: bytes) -> bytes:
    return b'{"title":"a","data":%b}' % raw


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
    Case("/v1/chats/a", KeptContent, {}, as_data, method="PUT"),
    Case("/v1/models/pull", managing.PullRequest, {"model": "no such model"}),
    Case("/api/chat", ollama_chat.ChatFields, OLLAMA | {"messages": HELLO}),
    Case("/api/generate", ollama_generate.GenerateFields, OLLAMA | {"prompt": "a"}),
    Case("/api/embed", ollama_embed.OllamaEmbedFields, {"model": "own-ids", "input": "a"}),
    Case("/api/embeddings", ollama_embed.OldEmbedFields, {"model": "own-ids", "prompt": "a"}),
    Case("/api/show", ollama_managing.ManagingFields, {"model": "smollm2"}),
    Case("/api/pull", ollama_managing.OllamaPullFields, {"model": "no such model"}),
]  # fmt: skip


def all_places() -> Iterator[tuple[Case, Filled]]:
    """One filling or two for each place of all structs."""
    paths = {case.kind.__name__: case for case in CASES}
    found = (place for case in CASES for place in places(case.kind, case.given, case.around))
    for filled in one_of_each(found):
        yield paths[filled.place.path.split(".")[0]], filled


@contextmanager
def served(
    folder: Path, setenv: Callable[[str, str], object], log: int | None = None
) -> Iterator[WatchedServer]:
    """Its text model and an embedder are loaded. `log`: see `WatchedServer`."""
    (folder / "damaged.gguf").write_bytes(b"GGUF")
    (folder / "models.toml").write_text(KEEPS + CATALOGUE + ABSENT)
    setenv("LOCALINFRA_DATA", str(folder / "data"))
    with WatchedServer(folder / "models.toml", log) as server:
        for path, body in [
            ("/v1/chat/completions", CHAT),
            ("/v1/embeddings", {"model": "own-ids", "input": "a"}),
        ]:
            assert post(server, path, json.dumps(body).encode()) == 200
        server.blocked_s()
        yield server


def post(
    server: WatchedServer,
    path: str,
    body: bytes,
    content_type: str = "application/json",
    method: str = "POST",
) -> int:
    """The status. A server that refuses early may not read the rest."""
    if method == "PUT":  # what is kept already would be a conflict
        post(server, path, b"", method="DELETE")
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
