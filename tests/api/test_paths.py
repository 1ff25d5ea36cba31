"""Paths as clients spell them, and the advice for unknown paths."""

import pytest
from asgi import Header, Reply, call, scope_of
from starlette.applications import Starlette
from starlette.routing import Route

from localinfra.api.app import create_app
from localinfra.api.http.paths import advice, canonical, example
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

HOST = ("host", "localhost:8000")
JSON = ("content-type", "application/json")


@pytest.fixture(scope="module")
def app() -> Starlette:
    return create_app(Runtime(ServerSettings(), Catalog({})))


@pytest.fixture(scope="module")
def locked() -> Starlette:
    return create_app(Runtime(ServerSettings(api_keys=("secret",)), Catalog({})))


def ask(app: Starlette, method: str, path: str, *headers: Header) -> Reply:
    return call(app, scope_of(method, path, [HOST, *headers]), (b"{}",))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/health/", "/health"),
        ("//health", "/health"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("///v1///models///", "/v1/models"),
        ("/v1/models/org/name", "/v1/models/org/name"),
        ("/v1/models/org/name/", "/v1/models/org/name"),
        ("/v1/inference/org/name:1.0/", "/v1/inference/org/name:1.0"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/v1/v1", "/v1/v1"),
        ("/anthropic/v1/v1/messages", "/anthropic/v1/messages"),
        ("/v1/openai/v1/models", "/v1/models"),
        ("/openai/v1/models", "/v1/models"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/embeddings/", "/v1/embeddings"),
        ("/models", "/v1/models"),
        ("/models/org/name", "/v1/models/org/name"),
        ("/responses", "/v1/responses"),
        ("/responses/resp_1/input_items", "/v1/responses/resp_1/input_items"),
        ("/messages", "/v1/messages"),
        ("/images/generations", "/v1/images/generations"),
        ("/rerank", "/v1/rerank"),
        ("/reranking", "/v1/rerank"),
        ("/v1/reranking", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v1/rerank", "/v1/rerank"),
        ("/v1/v2/embed", "/v2/embed"),
        ("/v1/v1/embed", "/v1/embed"),
        ("/v2/v2/embed", "/v2/embed"),
        ("/v1/anthropic/v1/messages", "/anthropic/v1/messages"),
        ("/anthropic/messages", "/anthropic/v1/messages"),
        ("/anthropic/messages/count_tokens", "/anthropic/v1/messages/count_tokens"),
        ("/anthropic/v1/models", "/v1/models"),
        ("/v1/openai/v1/messages", "/v1/messages"),
        ("/openai/models", "/v1/models"),
        ("/openai/models/org/name", "/v1/models/org/name"),
        ("/openai/v1/v1/models", "/v1/models"),
        ("/openai/openai/v1/models", "/v1/models"),
        ("/api/chat/completions", "/v1/chat/completions"),
        ("/v1/inference-api/openai/v1/models", "/v1/models"),
        ("/inference-api/openai/models", "/v1/models"),
        ("/inference-api/openai/v1/v1/models", "/v1/models"),
        ("/inference/org/name", "/v1/inference/org/name"),
        ("/v1/v1/inference/org/name:1", "/v1/inference/org/name:1"),
        ("/v1/openai/inference/name", "/v1/inference/name"),
        ("/v1/inference/v1/inference/name", "/v1/inference/name"),
        ("/v1/v1/tokenize", "/v1/tokenize"),
        ("/openai/tokenize", "/v1/tokenize"),
        ("/v1/health", "/health"),
        ("/v1/openai/metrics/", "/metrics"),
        ("/v1/tokenizer_info", "/tokenizer_info"),
        # Paths of other servers' APIs, with advice of their own.
        ("/api/embed", "/api/embed"),
        ("/api/embeddings", "/api/embeddings"),
        ("/embed", "/embed"),
        ("/v2/chat/completions", "/v2/chat/completions"),
        ("/v1beta/models", "/v1beta/models"),
        # These stay unchanged.
        ("/v1/openai/chat/completions", "/v1/openai/chat/completions"),
        ("/inference-api/openai/v1/models", "/inference-api/openai/v1/models"),
        ("/tokenize", "/tokenize"),
        ("/v2/rerank", "/v2/rerank"),
        ("/modelsx", "/modelsx"),
        ("/chat", "/chat"),
        ("/api/tags", "/api/tags"),
        ("/v1/models/v1/v1/x", "/v1/models/v1/v1/x"),
        ("", "/"),
        ("*", "*"),
    ],
)
def test_a_path_is_read_as_it_is_meant(given: str, meant: str) -> None:
    assert canonical(given) == meant
    assert canonical(meant) == meant


def test_whatever_is_posted_to_is_found_below_any_base_url(app: Starlette) -> None:
    """Each route's name has its place in `PREFIXED`."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    paths = [example(route.path) for route in routes if "POST" in (route.methods or ())]
    ours = [path for path in paths if path.startswith("/v1/") and "/openai/" not in path]
    assert ours and [canonical(f"/v1{path}") for path in ours] == ours


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/", 200),
        ("GET", "/v1//models", 200),
        ("GET", "//v1/models", 200),
        ("GET", "/models", 200),
        ("HEAD", "/v1/models", 200),
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("HEAD", "/health", 200),
        ("HEAD", "/metrics", 200),
        # The handler is reached: the body has no model.
        ("POST", "/rerank", 400),
        ("POST", "/v1/rerank/", 400),
        ("POST", "/v1/reranking", 400),
        ("POST", "/v2/rerank", 400),
        ("POST", "/v1/embed", 400),
        ("POST", "/v2/embed", 400),
        ("POST", "/chat/completions", 400),
        ("POST", "/v1/v1/chat/completions", 400),
        ("POST", "/api/v1/chat/completions", 400),
        ("POST", "//v1//chat//completions//", 400),
    ],
)
def test_the_spelling_does_not_matter_to_the_answer(
    app: Starlette, method: str, path: str, status: int
) -> None:
    reply = ask(app, method, path, JSON)
    assert reply.status == status, reply.body
    if method == "POST":
        assert "is required" in str(reply.error["message"])


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/openai", "/openai/v1"])
@pytest.mark.parametrize("model", ["m", "org/m", "org%2Fm"])
def test_a_model_can_be_in_the_path_of_each_route(app: Starlette, prefix: str, model: str) -> None:
    for route, param in (("chat/completions", "messages"), ("completions", "prompt"),
                         ("embeddings", "input")):  # fmt: skip
        reply = ask(app, "POST", f"{prefix}/engines/{model}/{route}", JSON)
        assert (reply.status, reply.error["param"]) == (400, param)


BASES = [
    *("", "/v1", "/v1/", "//v1", "/v1/openai", "/openai", "/openai/v1", "/api", "/api/v1"),
    *("/inference-api/openai/v1", "/inference-api/openai", "/v1/v1", "/v1/openai/v1", "/anthropic"),
    *("/anthropic/v1", "/v1/anthropic"),
]


@pytest.mark.parametrize("base", BASES)
def test_every_base_url_goes_with_every_client(app: Starlette, base: str) -> None:
    for suffix in ("/chat/completions", "/completions", "/responses", "/messages", "/rerank"):
        for between in ("", "/v1", "/v1/"):
            reply = ask(app, "POST", base + between + suffix, JSON)
            assert reply.status == 400, (base, between, suffix)
            assert "is required" in str(reply.error["message"])
    for suffix in ("/v2/rerank", "/v2/embed", "/v1/embed", "/v1/embeddings", "/v1/tokenize"):
        assert ask(app, "POST", base + suffix, JSON).status == 400, (base, suffix)
    for suffix in ("/models", "/v1/models", "/models/"):
        assert ask(app, "GET", base + suffix).status == 200, (base, suffix)
    assert ask(app, "POST", f"{base}/v1/inference/none", JSON).error["code"] == "model_not_found"


@pytest.mark.parametrize("base", ["/anthropic", "/anthropic/v1", "/v1/anthropic/v1"])
def test_anthropics_clients_are_answered_in_their_shape(app: Starlette, base: str) -> None:
    assert b'"type":"error"' in ask(app, "POST", f"{base}/messages", JSON).body


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/", "//v1/models", "/models"])
def test_no_spelling_avoids_the_key(locked: Starlette, path: str) -> None:
    assert ask(locked, "GET", path).status == 401
    assert ask(locked, "GET", path, ("authorization", "Bearer secret")).status == 200


@pytest.mark.parametrize("path", ["/health", "/health/", "//health"])
def test_health_needs_no_key_in_any_spelling(locked: Starlette, path: str) -> None:
    assert ask(locked, "GET", path).status == 200
    assert ask(locked, "GET", "/v1/models/../../health").status == 401


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/tags", "http://127.0.0.1:8000/v1"),
        ("/api/chat", "/v1/chat/completions"),
        ("/api/generate", "Ollama"),
        ("/v2/chat", "/v1/chat/completions"),
        ("/v1/audio/speech", "not supported"),
        ("/v1/audio/transcriptions", "not supported"),
        ("/v1/moderations", "not supported"),
        ("/v1/files/file-1", "not stored"),
        ("/v1/batches", "not supported"),
        ("/v1/messages/batches", "not supported"),
        ("/v1/realtime", "/v1/responses"),
        ("/v1beta/models/gemini:generateContent", "/v1/chat/completions"),
        ("/v1/chat/completions/chat/completions", "base URL to http://127.0.0.1:8000/v1"),
        ("/v1/chat/completion", "Did you mean /v1/chat/completions"),
        ("/v1/chat", "Did you mean /v1/chat/completions"),
        ("/V1/Chat/Completions", "Did you mean /v1/chat/completions"),
        ("/v1/embedding", "Did you mean /v1/embeddings"),
        ("/v1/model", "Did you mean /v1/models or /v1/models/pull or /v1/models/MODEL"),
        ("/v1/openai/model", "Did you mean /v1/openai/models"),
        ("/v1/response", "Did you mean /v1/responses"),
        ("/v1/tokenise", "Did you mean /v1/tokenize"),
        ("/version", "in /health"),
        ("/openai/deployments/m/chat/completions", "base URL http://127.0.0.1:8000/v1"),
        ("/v1/deployments/m/chat/completions", "base URL http://127.0.0.1:8000/v1"),
        ("/deployments/m/embeddings", "base URL http://127.0.0.1:8000/v1"),
        ("/api/embed", "Ollama"),
        ("/nowhere", "/v1/chat/completions"),
    ],
)
def test_an_unknown_path_says_what_to_do(app: Starlette, path: str, words: str) -> None:
    reply = ask(app, "POST", path, JSON)
    assert reply.status == 404 and words in str(reply.error["message"]), reply.error
    assert "{" not in str(reply.error["message"])


def test_no_hint_shows_a_pattern(app: Starlette) -> None:
    routes = [getattr(route, "path", "") for route in app.routes]
    for route in routes:
        for typo in (route + "x", route[:-1], route.replace("{id:path}", "a/b") + "s"):
            assert "{" not in advice(typo.replace("{id:path}", "m").replace("{", ""), routes, "")
    assert "/v1/models/MODEL" in advice("/v1/modls/x", routes, "")


def test_the_path_in_a_message_is_escaped_and_cut(app: Starlette) -> None:
    message = ask(app, "GET", "/\x1b[31m\n" + "é" * 300).error["message"] or ""
    assert message.isprintable() and "\\x1b[31m\\n" in message and len(message) < 450
