"""Ollama's API: which models there are and stay in memory, and what its clients probe."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi import Header, Reply, call, scope_of
from echo import ECHO, THINKER, EchoServer
from models.tiny_gguf import tiny_llama
from waiting import wait_for

from localinfra.api.app import create_app
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.models.entries import RerankModelEntry, TextModelEntry
from localinfra.models.sampling import SamplingSettings
from localinfra.models.sources import PathSource
from localinfra.runtime import Runtime


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path)
    yield server
    server.close()


def running(server: EchoServer) -> dict[str, Any]:
    listed = server.client.get("/api/ps").json()["models"]
    return {model["name"]: model for model in listed}


def test_models_with_files_are_listed(own: EchoServer) -> None:
    listed = {model["name"]: model for model in own.client.get("/api/tags").json()["models"]}
    assert {ECHO, "thinker"} <= listed.keys() and not {"absent", "vectors"} & listed.keys()
    assert listed[ECHO]["model"] == ECHO and listed[ECHO]["size"] == 104
    assert len(listed[ECHO]["digest"]) == 64
    assert listed[ECHO]["digest"] == listed["thinker"]["digest"] != listed["filler"]["digest"]
    assert datetime.datetime.fromisoformat(listed[ECHO]["modified_at"]).tzinfo


def test_an_empty_request_loads_a_model_or_unloads_it(own: EchoServer) -> None:
    for route, empty in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
        loaded = own.post(route, {"model": "echo", **empty}).json()
        assert (loaded["done"], loaded["done_reason"], loaded["model"]) == (True, "load", ECHO)
        model = running(own)[ECHO]
        assert model["context_length"] == 2048 and model["size_vram"] == 0
        assert model["expires_at"] > "2100"
        gone = own.post(route, {"model": "echo", **empty, "keep_alive": 0}).json()
        assert gone["done_reason"] == "unload" and not running(own)
    assert own.post("/api/chat", {"model": "nobody", "keep_alive": "0s"}).status_code == 404


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("5m", 300), ("1h30m", 5400), (120, 120), ("90", 90), (0.5, 0.5), ("1.5h", 5400)],
)
def test_keep_alive_says_how_long_an_idle_model_stays(
    own: EchoServer, given: object, seconds: float
) -> None:
    own.post("/api/generate", {"model": "echo", "keep_alive": given})
    expires = datetime.datetime.fromisoformat(running(own)[ECHO]["expires_at"])
    left_s = (expires - datetime.datetime.now(datetime.UTC)).total_seconds()
    assert seconds - 100 < left_s <= seconds


def test_a_model_goes_after_its_keep_alive_and_stays_with_a_negative_one(own: EchoServer) -> None:
    asked = {"model": "echo", "prompt": "Hi", "stream": False}
    own.post("/api/generate", asked | {"keep_alive": -1})
    own.post("/api/generate", asked | {"model": "thinker", "keep_alive": 0})
    wait_for(lambda: "thinker" not in running(own))
    assert running(own)[ECHO]["expires_at"] > "2100"
    own.post("/api/generate", asked)  # which says nothing of it
    assert running(own)[ECHO]["expires_at"] > "2100"
    own.post("/api/generate", asked | {"keep_alive": "1ms"})
    wait_for(lambda: not running(own))


def test_what_keep_alive_said_ends_with_the_model(own: EchoServer) -> None:
    own.post("/api/generate", {"model": "echo", "keep_alive": "5m"})
    own.client.post("/v1/models/echo/unload")
    own.post("/api/generate", {"model": "echo"})
    assert running(own)[ECHO]["expires_at"] > "2100"


def asked(
    path: str,
    body: object,
    *headers: Header,
    runtime: Runtime | None = None,
    client: str = "127.0.0.1",
    method: str = "POST",
) -> Reply:
    scope = scope_of(method, path, [("host", "localhost"), *headers])
    scope["client"] = (client, 50_000)
    app = create_app(runtime or Runtime(ServerSettings(), Catalog({})))
    return call(app, scope, [json.dumps(body).encode()])


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/chat")],
)
def test_who_may_not_manage_models_may_not_here_either(method: str, path: str) -> None:
    body = {"model": "nobody", "keep_alive": 0}
    for headers, client in ((["https://app.example"], "127.0.0.1"), ([], "192.168.1.7")):
        origins = [("origin", origin) for origin in headers]
        reply = asked(path, body, *origins, client=client, method=method)
        assert reply.status == 403 and isinstance(reply.error, str)


def test_keep_alive_of_others_is_ignored_and_named(own: EchoServer) -> None:
    headers = {"x-forwarded-for": "203.0.113.9"}
    body = {"model": "echo", "prompt": "Hi", "stream": False, "keep_alive": "5m"}
    reply = own.post("/api/generate", body, headers=headers)
    assert reply.headers["x-localinfra-ignored"] == "keep_alive"
    assert running(own)[ECHO]["expires_at"] > "2100"


BROWSER = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8")


def test_clients_that_probe_find_ollama_running_and_browsers_do_not() -> None:
    for headers in ([], [("accept", "*/*")], [("accept", "application/json, text/plain, */*")]):
        reply = asked("/", None, *headers, method="GET")
        assert (reply.status, reply.body) == (200, b"Ollama is running")
    assert asked("/", None, method="HEAD").status == 200
    assert b"Ollama" not in asked("/", None, BROWSER, method="GET").body
    version = json.loads(asked("/api/version", None, method="GET").body)["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)  # what editors ask for


def test_it_can_be_turned_off() -> None:
    def off(method: str, path: str) -> Reply:
        runtime = Runtime(ServerSettings(ollama_api=False), Catalog({}))
        return asked(path, {"model": "m"}, runtime=runtime, method=method)

    for method, path in (("POST", "/api/chat"), ("GET", "/api/tags"), ("GET", "/api/version")):
        reply = off(method, path)
        assert reply.status == 404 and "ollama_api" in reply.error
    assert b"Ollama" not in off("GET", "/").body


def test_a_key_is_needed_here_too() -> None:
    runtime = Runtime(ServerSettings(api_keys=("k",)), Catalog({}))
    assert asked("/api/tags", None, runtime=runtime, method="GET").status == 401
    bearer = ("authorization", "Bearer k")
    assert asked("/api/tags", None, bearer, runtime=runtime, method="GET").status == 200


def shown(folder: Path, name: str, **settings: Any) -> Any:
    path = folder / "tiny.Q8_0.gguf"
    path.write_bytes(tiny_llama().to_bytes())
    entry = TextModelEntry(source=PathSource(path), aliases=("tiny",), **settings)
    runtime = Runtime(ServerSettings(), Catalog({"org/tiny": entry}))
    return json.loads(asked("/api/show", {"model": name}, runtime=runtime).body)


def test_a_model_is_described_by_its_file_and_its_settings(tmp_path: Path) -> None:
    plain = shown(tmp_path, "org/tiny", context_length=512)
    assert plain["details"]["format"] == "gguf" and plain["details"]["family"] == "llama"
    assert plain["details"]["parameter_size"][-1] in "KM"
    assert plain["model_info"]["general.architecture"] == "llama"
    assert plain["model_info"]["llama.context_length"] == 512  # as it is served
    assert plain["model_info"]["general.parameter_count"] > 0
    assert plain["capabilities"][0] == "completion" and "thinking" not in plain["capabilities"]
    assert plain["parameters"] == "num_ctx 512"
    assert datetime.datetime.fromisoformat(plain["modified_at"])


def test_what_its_template_and_its_authors_say_is_shown(tmp_path: Path) -> None:
    recommended = SamplingSettings(temperature=0.6, repetition_penalty=1.05)
    found = shown(tmp_path, "tiny:latest", chat_template=THINKER, recommended=recommended)
    assert found["template"] == THINKER
    assert found["capabilities"] == ["completion", "tools", "thinking"]
    assert found["parameters"].splitlines() == ["temperature 0.6", "repeat_penalty 1.05"]
    assert "PARAMETER temperature 0.6" in found["modelfile"]


def test_a_model_whose_reasoning_has_a_form_of_its_own_is_said_to_think(tmp_path: Path) -> None:
    harmony = "{{ '<|start|>assistant<|channel|>analysis<|message|>' }}"
    assert "thinking" in shown(tmp_path, "tiny", chat_template=harmony)["capabilities"]


def test_a_model_without_files_can_not_be_shown() -> None:
    nowhere = PathSource(Path("/nowhere/model"))
    entries = {"gone": TextModelEntry(source=nowhere), "ranks": RerankModelEntry(source=nowhere)}
    runtime = Runtime(ServerSettings(), Catalog(entries))
    for name in ("gone", "ranks", "nobody"):
        reply = asked("/api/show", {"name": name}, runtime=runtime)
        assert reply.status == 404 and "try pulling it first" in reply.error
    assert asked("/api/show", {}, runtime=runtime).status == 400
