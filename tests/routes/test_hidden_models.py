"""What a key may not use is as unknown to it, in the work too: the time of an answer would tell."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from echo import CATALOGUE
from metering import bearer
from named import NamedKeysServer
from starlette.routing import Route

from localinfra import runtime as runtime_file
from localinfra.api.app import routes
from localinfra.api.http.guard import IMAGE_FILES
from localinfra.api.openai.managing import Pull
from localinfra.errors import ModelNotFound
from localinfra.models.catalog import Catalog
from localinfra.models.sources import RemoteSource
from localinfra.origin import Origin
from localinfra.runtime import Runtime

OWN = re.compile(r'"request_id":"[^"]*"|Hid\d')  # differs from one answer to the next
SERVER = "[server]\nserve_pulled = false\n"
HIDDEN = """
[model."secret"]
kind = "text"
source = "filler.gguf"
aliases = ["covert"]
version = "q4"
deploy_id = "Hid1"
"""
# Names of the hidden model, and others that are as close to those of the visible one.
NAMES = {
    "secret": "secreu",
    "covert": "coveru",
    "secret:q4": "secreu:q4",
    "secret:other": "secreu:other",
    "secret:latest": "secreu:latest",
    "covert:latest": "coveru:latest",
    "hf.co/secret": "hf.co/secreu",
    "deploy_id:Hid1": "deploy_id:Hid2",
    "deploy/Hid1": "deploy/Hid2",
}

SAID: Mapping[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
BODIES: dict[str, Mapping[str, Any]] = {
    "/v1/chat/completions": SAID,
    "/v1/completions": {"prompt": "x"},
    "/v1/engines/{id:path}/chat/completions": SAID,
    "/v1/engines/{id:path}/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/engines/{id:path}/embeddings": {"input": "x"},
    "/v1/rerank": {"query": "x", "documents": ["y"]},
    "/v1/responses": {"input": "x"},
    "/v1/responses/compact": {"input": "x"},
    "/v1/responses/input_tokens": {"input": "x"},
    "/v1/images/generations": {"prompt": "x"},
    "/v1/images/edits": {"prompt": "x", "image": "data:image/png;base64,AAAA"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
    "/v1/models/pull": {},
    "/v1/models/{id:path}/load": {},
    "/v1/models/{id:path}/unload": {},
    "/v1/messages": {**SAID, "max_tokens": 5},
    "/v1/messages/count_tokens": SAID,
    "/v1/inference/{id:path}": {"input": "x"},
    "/v1/embed": {"texts": ["x"]},
    "/tokenizer_info": {},
    "/api/chat": SAID,
    "/api/generate": {"prompt": "x"},
    "/api/embed": {"input": "x"},
    "/api/embeddings": {"prompt": "x"},
    "/api/show": {},
    "/api/pull": {"stream": False},
    "/api/delete": {},
}
BODIES["/v1/models/{id:path}"] = {}
NAME_NONE = {
    *("/", "/health", "/metrics", "/v1/models", "/v1/models/reload", "/api/tags", "/api/ps"),
    *("/api/version", "/docs", "/openapi.json", "/v1/requests", "/v1/chats"),
}
KEPT = ("/v1/responses/{id}", "/v1/requests/{id}", "/v1/chats/{id}", "/docs/", "/web/", IMAGE_FILES)


def naming(all_routes: list[Route]) -> dict[str, list[str]]:
    """Path → methods, one path for each handler."""
    found: dict[Any, Route] = {}
    for route in all_routes:
        found.setdefault((route.endpoint, *sorted(route.methods or ())), route)
    paths: dict[str, list[str]] = {}
    for route in found.values():
        if route.path not in NAME_NONE and not route.path.startswith(KEPT):
            methods = sorted((route.methods or set()) - {"HEAD"})
            paths.setdefault(route.path, []).extend(methods)
    return paths


ROUTES = naming(routes(has_ollama=True))
ASKED = [(method, path) for path, methods in ROUTES.items() for method in methods]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamedKeysServer]:
    folder = tmp_path_factory.mktemp("hidden")
    keys = {"part": {"models": ("echo", "thinker"), "may_manage": True}}
    server = NamedKeysServer(folder, keys, SERVER + CATALOGUE + HIDDEN)
    origin = Origin(folder / "models.toml")
    origin.read()
    server.runtime._origin = origin
    yield server
    server.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the server does, in order. It looks into the folders whenever it may."""
    monkeypatch.setattr(runtime_file, "REFRESH_AFTER_S", 0.0)
    done: list[str] = []

    def record(kind: type, name: str) -> None:
        real: Callable[..., Any] = getattr(kind, name)

        def recorded(self: Any, *args: Any, **named: Any) -> Any:
            done.append(f"{kind.__name__}.{name}")
            return real(self, *args, **named)

        monkeypatch.setattr(kind, name, recorded)

    for name in ("refresh", "load", "unload", "lease", "forgive"):
        record(Runtime, name)
    for name in ("only", "resolve", "find", "own_name", "resolve_as", "image_model", "sampling"):
        record(Catalog, name)
    record(Origin, "discover")
    monkeypatch.setattr(Pull, "_plan", nothing_there)  # asks no servers
    return done


def nothing_there(pull: Pull, source: RemoteSource) -> None:
    raise ModelNotFound("There is nothing.", "model")


def test_the_routes_below_are_all_that_take_a_models_name() -> None:
    assert ROUTES.keys() == BODIES.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("method", "path"), ASKED, ids=[" ".join(one) for one in ASKED])
def test_a_hidden_model_is_the_same_work_as_an_unknown_one(
    server: NamedKeysServer, calls: list[str], method: str, path: str, name: str
) -> None:
    def ask(model: str) -> tuple[int, str, list[str]]:
        calls.clear()
        url = path.replace("{id:path}", model)
        if method == "GET":
            reply = server.client.get(url, params={"model": model}, headers=bearer("part"))
        else:
            reply = server.ask("part", method, url, {"model": model, **BODIES[path]})
        return reply.status_code, OWN.sub("", reply.text.replace(model, "")), calls.copy()

    unknown = ask(NAMES[name])
    assert ask(name) == unknown
    assert unknown[0] >= 400 and (unknown[2] or path == "/v1/models/pull")


def test_a_reload_names_no_others(server: NamedKeysServer) -> None:
    with (server.folder / "models.toml").open("a") as file:
        file.write('[model."another"]\nkind = "text"\nsource = "filler.gguf"\n')
    changes = server.ask("part", "POST", "/v1/models/reload").json()
    assert "another" in server.runtime.catalog.entries
    assert (changes["added"], changes["changed"], changes["removed"]) == ([], [], [])
