"""NAME:VERSION and deploy_id:ID on every text route."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import openai
import pytest
from echo import EchoServer

# The versions differ in their default_max_tokens.
MODELS = """
[model."org/smol"]
kind = "text"
source = "echo.gguf"
version = "2024-07"
aliases = ["smol"]
context_length = 512
sequences = 2
default_max_tokens = 3
price = { input = 1 }

[model."org/smol".versions."2024-09"]
deploy_id = "Zx81"
default_max_tokens = 5

[model."org/smol".versions."2024-11"]
context_length = 256

[model."org/gone"]
kind = "text"
default_version = "v2"
versions.v1.source = "no/such.gguf"
versions.v2.source = "hf:owner/repo/file.gguf"
"""

SMOL = [  # the name requested, the model that answers, its number of tokens
    ("org/smol", "org/smol", 3),
    ("org/smol:2024-07", "org/smol", 3),
    ("smol:2024-07", "org/smol", 3),
    ("org/smol:2024-09", "org/smol:2024-09", 5),
    ("smol:2024-09", "org/smol:2024-09", 5),
    ("deploy_id:Zx81", "org/smol:2024-09", 5),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("names"), MODELS)
    yield server
    server.close()


def chat(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count to ten."}]
    return {"model": model, "messages": messages, **fields}


@pytest.mark.parametrize(("asked", "answers", "num_tokens"), SMOL)
def test_chat(client: openai.OpenAI, asked: str, answers: str, num_tokens: int) -> None:
    reply = client.chat.completions.create(**chat(asked))
    assert reply.model == answers and reply.usage.completion_tokens == num_tokens
    chunks = list(client.chat.completions.create(**chat(asked, stream=True)))
    assert {chunk.model for chunk in chunks} == {answers}
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == num_tokens


@pytest.mark.parametrize(("asked", "answers", "num_tokens"), SMOL)
def test_completions(client: openai.OpenAI, asked: str, answers: str, num_tokens: int) -> None:
    reply = client.completions.create(model=asked, prompt="One, two\n")
    assert reply.model == answers
    assert reply.usage is not None and reply.usage.completion_tokens == num_tokens


@pytest.mark.parametrize("quoted", [str, quote, lambda name: quote(name, safe="")])
@pytest.mark.parametrize(("asked", "answers", "num_tokens"), SMOL)
def test_names_in_paths_may_be_percent_encoded(
    server: EchoServer, quoted: Any, asked: str, answers: str, num_tokens: int
) -> None:
    card = server.client.get(f"{server.url}/v1/models/{quoted(asked)}").json()
    assert card["id"] == answers
    body = {"prompt": "One, two\n"}
    reply = server.post(f"/v1/engines/{quoted(asked)}/completions", body).json()
    assert (reply["model"], reply["usage"]["completion_tokens"]) == (answers, num_tokens)


ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/openai/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/embeddings", {"input": "Hi"}),
    ("/v1/rerank", {"query": "Hi", "documents": ["Ho"]}),
    ("/v1/images/generations", {"prompt": "Hi"}),
]


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=[path for path, _ in ROUTES])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("org/smol:2024-08", "no version '2024-08'. Did you mean org/smol:2024-0"),
        ("deploy_id:Zx80", "no model has the deploy_id 'zx80'. Did you mean deploy_id:Zx81?"),
        ("deploy_id:Zx81:2024-09", "deploy_id:Zx81"),
    ],
)
def test_an_unknown_version_or_deploy_id_is_404_on_every_route(
    server: EchoServer, path: str, body: dict[str, Any], asked: str, told: str
) -> None:
    answer = server.post(path, {"model": asked, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert told.casefold() in error["message"].casefold()


@pytest.mark.parametrize(
    "path",
    ["models/org/smol:x", "models/deploy_id:x", "inference/deploy/x", "inference/org/smol%3Ax"],
)
def test_an_unknown_version_or_deploy_id_in_a_path_is_404(server: EchoServer, path: str) -> None:
    method = "GET" if path.startswith("models") else "POST"
    answer = server.client.request(method, f"/v1/{path}", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_the_list_has_versions_with_their_own_details(client: openai.OpenAI) -> None:
    client.completions.create(model="smol:2024-09", prompt="One, two\n", max_tokens=1)
    listed = client.models.list(extra_query={"all": "true"}).data
    cards = {card.id: card.model_extra or {} for card in listed}
    assert list(cards)[:3] == ["org/smol", "org/smol:2024-09", "org/smol:2024-11"]
    assert list(cards)[-2:] == ["org/gone:v1", "org/gone:v2"]
    assert [card.id for card in client.models.list().data] == list(cards)[:-2]
    assert {card["kind"] for card in cards.values()} == {"text"}
    model, newer = cards["org/smol"], cards["org/smol:2024-09"]
    for card in (model, newer):
        assert card["versions"] == ["2024-07", "2024-09", "2024-11"]
        assert (card["context_length"], card["price"]["input"]) == (512, 1)
    assert (model["version"], model["aliases"][1:]) == (
        "2024-07",
        ["org/smol:2024-07", "smol:2024-07"],
    )
    assert (newer["version"], newer["deploy_id"], newer["state"]) == ("2024-09", "Zx81", "loaded")
    assert cards["org/gone:v2"]["aliases"] == ["org/gone"]
    assert cards["org/gone:v2"]["state"] == "fetch needed"
    assert cards["org/gone:v1"]["state"] == "file missing"
    assert "no/such.gguf" in cards["org/gone:v1"]["remedy"] and "remedy" not in model
    gone = client.models.retrieve("org/gone").model_extra or {}
    assert (gone["state"], gone["remedy"]) == ("fetch needed", cards["org/gone:v2"]["remedy"])


@pytest.mark.parametrize(
    ("query", "is_all"),
    [("?all=true", True), ("?all=1", True), ("?all", True), ("?all=false", False), ("?x=1", False)],
)
def test_absent_models_are_listed_on_request(server: EchoServer, query: str, is_all: bool) -> None:
    for path in ("/v1/models", "/v1/openai/models"):
        listed = server.client.get(f"{server.url}{path}{query}").json()["data"]
        assert ("org/gone:v1" in {card["id"] for card in listed}) is is_all


def test_all_is_true_or_false(server: EchoServer) -> None:
    answer = server.client.get(f"{server.url}/v1/models?all=maybe")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "all")


def test_a_version_whose_file_is_absent_says_what_to_do(server: EchoServer) -> None:
    for asked, told in (("org/gone", "owner/repo"), ("org/gone:v1", "no/such.gguf")):
        answer = server.post("/v1/chat/completions", chat(asked))
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert told in message and 'source of "org/gone:v' in message


def test_concurrent_requests_for_a_version_share_one_load(
    server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = "org/smol:2024-11"
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", chat("smol:2024-11")),
        ("/v1/chat/completions", chat(name, stream=True)),
        ("/v1/completions", {"model": name, "prompt": "One, two\n"}),
        ("/v1/engines/smol%3A2024-11/completions", {"prompt": "One, two\n"}),
    ]
    card = f"{server.url}/v1/models/{name}"
    assert server.client.get(card).json()["state"] == "present"
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda request: server.post(*request), requests))
    assert [answer.status_code for answer in answers] == [200] * len(requests)
    assert caplog.text.count(f"loaded {name} in") == 1
    assert server.client.get(card).json()["state"] == "loaded"
