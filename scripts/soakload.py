"""What soaks a server: conversations of many turns, structured answers, scores, vectors, images, in
all the APIs; each asked and checked by one function.

A request is a `Kind`: its function asks through a `Caller` and raises `Wrong` if the answer isn't
what was asked for.
"""

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable
from typing import Any

from benchlib import user, words
from fullserver import Caller

Kind = Callable[[Caller, random.Random], None]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA, "strict": True}}


class Wrong(Exception):
    """An answer that is not what was asked for."""


def ask(caller: Caller, path: str, body: Any) -> Any:
    status, data = caller.ask("POST", path, body)
    if status != 200:
        raise Wrong(f"{path}: {status}: {data[:300]!r}")
    return json.loads(data)


def events(caller: Caller, path: str, body: Any) -> list[Any]:
    """Those of a stream, which must have its last one."""
    status, data = caller.ask("POST", path, body)
    if status != 200:
        raise Wrong(f"{path}: {status}: {data[:300]!r}")
    found = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
    if any(event.get("error") for event in found):
        raise Wrong(f"{path}: {data[-300:]!r}")
    return found


def check(is_right: bool, what: str, answer: Any) -> None:
    if not is_right:
        raise Wrong(f"{what}: {json.dumps(answer)[:300]}")


def text_of(chunks: list[Any]) -> str:
    choices = (choice for chunk in chunks for choice in chunk["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def conversation(caller: Caller, draw: random.Random) -> None:
    """Of several turns, each of which goes on where the one before ended."""
    messages = [user(f"Tell me of {words(draw.random().hex(), 30)}.")]
    for _ in range(draw.randint(2, 6)):
        body = {"model": "main", "messages": messages, "max_tokens": draw.randint(4, 40),
                "stream": True}  # fmt: skip
        chunks = events(caller, "/v1/chat/completions", body)
        check(any(c["choices"] and c["choices"][0]["finish_reason"] for c in chunks), "cut", chunks)
        messages += [{"role": "assistant", "content": text_of(chunks)}]
        messages += [user(words(draw.random().hex(), 12))]


def tools(caller: Caller, draw: random.Random) -> None:
    body = {"model": "main", "messages": [user(words(draw.random().hex(), 8))], "tools": [TOOL],
            "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}  # fmt: skip
    message = ask(caller, "/v1/chat/completions", body)["choices"][0]["message"]
    for call in message.get("tool_calls") or [{}]:
        check("function" in call, "no call", message)
        given = json.loads(call["function"]["arguments"])
        check(given.keys() == {"city", "days"}, "other arguments", message)


def structured(caller: Caller, draw: random.Random) -> None:
    body = {"model": "main", "messages": [user(words(draw.random().hex(), 8))],
            "response_format": FORMAT, "max_tokens": 300, "stream": draw.random() < 0.5,
            "temperature": draw.choice([0, 1])}  # fmt: skip
    if body["stream"]:
        chunks = events(caller, "/v1/chat/completions", body)
        reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
        text, is_whole = text_of(chunks), "stop" in reasons
    else:
        choice = ask(caller, "/v1/chat/completions", body)["choices"][0]
        text, is_whole = choice["message"]["content"], choice["finish_reason"] == "stop"
    if is_whole:
        check(json.loads(text).keys() == {"name", "sizes"}, "another form", text)


def scored(caller: Caller, draw: random.Random) -> None:
    body = {"model": "main", "prompt": words(draw.random().hex(), draw.randint(1, 300)), "n": 2,
            "max_tokens": 12, "logprobs": 5, "echo": draw.random() < 0.3}  # fmt: skip
    choices = ask(caller, "/v1/completions", body)["choices"]
    check(len(choices) == 2 and bool(choices[0]["logprobs"]["tokens"]), "no scores", choices)


def embeddings(caller: Caller, draw: random.Random) -> None:
    texts = [
        words(draw.random().hex(), draw.choice([1, 10, 100, 180]))
        for _ in range(draw.choice([1, 1, 4, 24]))
    ]
    body = {"model": "minilm", "input": texts}
    if draw.random() < 0.5:
        body["encoding_format"] = "base64"
    data = ask(caller, "/v1/embeddings", body)["data"]
    check([row["index"] for row in data] == list(range(len(texts))), "other rows", len(data))


def reranking(caller: Caller, draw: random.Random) -> None:
    documents = [words(draw.random().hex(), draw.randint(1, 120)) for _ in range(20)]
    body = {"model": "cross", "query": "river", "documents": documents, "top_n": 5}
    results = ask(caller, "/v1/rerank", body)["results"]
    check(len(results) == 5, "other results", results)


def painting(caller: Caller, draw: random.Random) -> None:
    body = {"model": "flux", "prompt": f"river {draw.random()}", "size": "128x128",
            "response_format": draw.choice(["b64_json", "url"])}  # fmt: skip
    [image] = ask(caller, "/v1/images/generations", body)["data"]
    check(bool(image.get("b64_json") or image.get("url")), "no image", image)


def responses(caller: Caller, draw: random.Random) -> None:
    """Two turns, of which the server keeps the first."""
    body = {"model": "main", "input": words(draw.random().hex(), 20), "max_output_tokens": 20}
    first = ask(caller, "/v1/responses", body)
    more = {**body, "input": "And then?", "previous_response_id": first["id"], "stream": True}
    found = events(caller, "/v1/responses", more)
    ends = {"response.completed", "response.incomplete"}
    check(found[-1]["type"] in ends, "no end", found[-1:])


def background(caller: Caller, draw: random.Random) -> None:
    body = {"model": "main", "input": words(draw.random().hex(), 20), "max_output_tokens": 20,
            "background": True}  # fmt: skip
    id = ask(caller, "/v1/responses", body)["id"]
    answer = caller.json("GET", f"/v1/responses/{id}")
    while answer["status"] in ("queued", "in_progress"):
        time.sleep(0.1)
        answer = caller.json("GET", f"/v1/responses/{id}")
    check(answer["status"] in ("completed", "incomplete"), "failed", answer)
    if draw.random() < 0.5:
        caller.json("DELETE", f"/v1/responses/{id}")


def messages(caller: Caller, draw: random.Random) -> None:
    body = {"model": "main", "messages": [user(words(draw.random().hex(), 20))], "max_tokens": 20,
            "system": "Be brief.", "stream": True}  # fmt: skip
    found = events(caller, "/v1/messages", body)
    check(found[-1]["type"] == "message_stop", "no end", found[-1:])


def ollama(caller: Caller, draw: random.Random) -> None:
    body = {"model": "main", "messages": [user(words(draw.random().hex(), 20))],
            "options": {"num_predict": 12}, "stream": False}  # fmt: skip
    answer = ask(caller, "/api/chat", body)
    check(answer["done"] is True, "not done", answer)
    vectors = ask(caller, "/api/embed", {"model": "minilm", "input": ["a river", "a stone"]})
    check(len(vectors["embeddings"]) == 2, "other rows", None)


def wrong(caller: Caller, draw: random.Random) -> None:
    """What is refused: a model, a field, a body that nobody knows."""
    name = f"no-{draw.randrange(10**9)}"
    for body, expected in (
        ({"model": name, "messages": [user("a")]}, 404),
        ({"model": "main", "messages": [user("a")], "temperature": 9}, 400),
        ([], 400),
    ):
        status, data = caller.ask("POST", "/v1/chat/completions", body)
        if status != expected:
            raise Wrong(f"{status} instead of {expected}: {data[:300]!r}")
    status, _ = caller.ask("GET", f"/v1/{name}?{name}")
    if status != 404:
        raise Wrong(f"{status} for a path that is not there")


def leaving(caller: Caller, draw: random.Random) -> None:
    """Goes after the first bytes of its answer."""
    body = {"model": "main", "messages": [user(words(draw.random().hex(), draw.randint(1, 200)))],
            "max_tokens": 400, "stream": True}  # fmt: skip
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(data)}\r\n{caller.head}\r\n"
    with socket.create_connection(("127.0.0.1", caller.port), 600) as connection:
        connection.sendall(head.encode() + data)
        with contextlib.suppress(ConnectionError):
            connection.recv(draw.choice([1, 1000, 4000]))


def fill(caller: Caller) -> None:
    """Uses each kind of model once, and all cells and memory that prefixes may take: what is first
    touched later would look like a leak."""
    for kind in (embeddings, reranking, painting):
        kind(caller, random.Random(0))
    for number in range(5):  # more tokens than both have room for
        prompt = words(f"fill {number}", 1300)
        ask(caller, "/v1/completions", {"model": "main", "prompt": prompt, "max_tokens": 1})


SHARES: dict[Kind, int] = {
    conversation: 6, tools: 2, structured: 3, scored: 3, embeddings: 5, reranking: 3, painting: 2,
    responses: 2, background: 2, messages: 2, ollama: 2, wrong: 2, leaving: 3,
}  # fmt: skip
TURN = [kind for kind, share in SHARES.items() for _ in range(share)]
