"""Models that are fetched, removed and read again by request, from a hub on this machine."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from asgi import Reply, answer, scope_of
from documented import check_answer, examples, operation
from fetch.site import Fault, Site, repository, serving
from models.tiny_gguf import tiny_llama
from waiting import run, until

from localinfra.api.app import create_app
from localinfra.api.ollama.managing import sources_of
from localinfra.api.openai.managing import Pull
from localinfra.executor import DaemonThreads
from localinfra.leases import Leases
from localinfra.models.fetch import references
from localinfra.models.sources import HubSource, OllamaSource, RemoteSource
from localinfra.origin import Origin
from localinfra.runtime import Runtime

Ask = Callable[..., Any]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HF_HUB_CACHE", "LOCALINFRA_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    (tmp_path / "models.toml").write_text("")
    with serving() as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        repository(site, site, "org/m", {"m.Q8_0.gguf": tiny_llama().to_bytes()})
        yield site


def asked(folder: Path, *requests: tuple[str, str, object]) -> list[Reply]:
    """The answers to these requests (method, path, body), one after the other."""
    replies = []

    async def scenario() -> None:
        origin = Origin(folder / "models.toml")
        runtime = Runtime(*origin.read(), origin)
        app = create_app(runtime)
        headers = [("host", "localhost"), ("content-type", "application/json")]
        for method, path, body in requests:
            scope = scope_of(method, path, headers)
            replies.append(await answer(app, scope, [json.dumps(body).encode()]))
        await runtime.close()

    run(scenario)
    return replies


def events_of(reply: Reply) -> Sequence[Any]:
    lines = reply.body.decode().split("\n\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_a_pulled_model_is_served_at_once_and_gone_once_it_is_deleted(
    hub: Site, tmp_path: Path
) -> None:
    pulled, listed, deleted, gone = asked(
        tmp_path,
        ("POST", "/v1/models/pull", {"model": "org/m", "stream": True}),
        ("GET", "/v1/models", None),
        ("DELETE", "/v1/models/org/m", None),
        ("GET", "/v1/models/org/m", None),
    )
    events = events_of(pulled)
    assert events[0] == {"status": "planning"} and events[-1] == {
        "status": "done",
        "ids": ["org/m"],
    }
    assert pulled.body.endswith(b"data: [DONE]\n\n")
    assert [card["id"] for card in json.loads(listed.body)["data"]] == ["org/m"]
    size = len(tiny_llama().to_bytes())
    assert json.loads(deleted.body)["size_bytes"] == size
    assert gone.status == 404
    assert [path.name for path in (tmp_path / "HF_HUB_CACHE").iterdir()] == [".locks"]


def test_ollamas_clients_pull_and_delete_in_their_own_form(hub: Site, tmp_path: Path) -> None:
    pulled, again, listed, deleted, gone = asked(
        tmp_path,
        ("POST", "/api/pull", {"name": "hf:org/m"}),
        ("POST", "/api/pull", {"model": "hf.co/org/m", "stream": False}),
        ("GET", "/api/tags", None),
        ("DELETE", "/api/delete", {"model": "org/m:latest"}),
        ("DELETE", "/api/delete", {"name": "org/m"}),
    )
    first, *_, last = [json.loads(line) for line in pulled.body.splitlines()]
    assert first == {"status": "pulling manifest"} and last == {"status": "success"}
    size = len(tiny_llama().to_bytes())
    bars = [json.loads(line) for line in pulled.body.splitlines() if b"digest" in line]
    assert bars and all(bar["total"] == size and len(bar["digest"]) == 71 for bar in bars)
    assert json.loads(again.body) == {"status": "success"}
    assert [model["name"] for model in json.loads(listed.body)["models"]] == ["org/m"]
    assert (deleted.status, deleted.body) == (200, b"")
    assert gone.status == 404 and "not found" in gone.error


def test_a_failed_pull_ends_in_an_error_that_ollamas_clients_read(
    hub: Site, tmp_path: Path
) -> None:
    stream, whole, wrong = asked(
        tmp_path,
        ("POST", "/api/pull", {"model": "hf:org/none"}),
        ("POST", "/api/pull", {"model": "hf:org/none", "stream": False}),
        ("POST", "/api/pull", {}),
    )
    assert (stream.status, whole.status, wrong.status) == (200, 404, 400)
    assert json.loads(stream.body.splitlines()[-1]).keys() == {"error"}
    assert isinstance(whole.error, str) and "model is required" in wrong.error


def test_pulling_what_is_here_already_succeeds(hub: Site, tmp_path: Path) -> None:
    tiny_llama().write(tmp_path / "own.gguf")
    (tmp_path / "models.toml").write_text('[model.own]\nkind = "text"\nsource = "own.gguf"')
    [reply] = asked(tmp_path, ("POST", "/api/pull", {"model": "own"}))
    assert json.loads(reply.body) == {"status": "success"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("llama3.2", OllamaSource("llama3.2")),
        ("qwen3:8b", OllamaSource("qwen3", "8b")),
        ("user/model:tag", OllamaSource("user/model", "tag")),
        ("hf.co/org/m:Q4_K_M", HubSource("org/m", quant="Q4_K_M")),
        ("hf:org/m", HubSource("org/m")),
        ("mine", HubSource("org/other", quant="Q8_0")),
        ("mine:latest", HubSource("org/other", quant="Q8_0")),
    ],
)
def test_a_name_means_what_it_means_to_ollama(
    tmp_path: Path, name: str, source: RemoteSource
) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[model.mine]\nkind = "text"\nsource = "hf:org/other:Q8_0"')

    async def scenario() -> None:
        origin = Origin(path)
        runtime = Runtime(*origin.read(), origin)
        assert await sources_of(Leases(runtime), name, DaemonThreads("files", 1, 1)) == [source]
        await runtime.close()

    run(scenario)


def test_without_a_stream_the_answer_comes_at_the_end(hub: Site, tmp_path: Path) -> None:
    [reply] = asked(tmp_path, ("POST", "/v1/models/pull", {"model": "hf:org/m:Q8_0"}))
    assert json.loads(reply.body) == {"status": "done", "ids": ["org/m"]}


def test_the_documents_examples_are_answered_as_it_says(hub: Site, tmp_path: Path) -> None:
    repository(hub, hub, "Qwen/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q8_0.gguf": tiny_llama().to_bytes()})
    order = (
        "pull_model",
        "delete_model",
        "pull_ollama_model",
        "delete_ollama_model",
        "reload_models",
    )
    requests = [one for name in order for one in examples() if one.operation == name]
    assert {one.operation for one in requests} == {*order}
    replies = asked(tmp_path, *((one.method, unquote(one.path), one.body) for one in requests))
    for one, reply in zip(requests, replies, strict=True):
        check_answer(operation(one.operation), reply.status, dict(reply.headers), reply.body)
        assert reply.status == 200


def test_a_client_that_leaves_stops_the_pull_and_nothing_complains(
    hub: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        origin = Origin(tmp_path / "models.toml")
        runtime = Runtime(*origin.read(), origin)
        pull = Pull(runtime, Leases(runtime), references.parse("org/m", runtime.catalog))
        events = pull.events()
        assert (await anext(events)).status == "planning"
        # From here on the file's line brings nothing.
        hub.faults += [Fault(cut_after=10, stall=True)] * 20
        assert (await anext(events)).status == "fetching"
        await pull.aclose()
        await events.aclose()
        await until(lambda: not any("Pull._fetch" in repr(task) for task in asyncio.all_tasks()))
        gc.collect()
        await runtime.close()

    run(scenario)
    assert not caplog.records


def test_a_model_that_failed_for_its_files_is_loaded_once_they_are_pulled(
    hub: Site, tmp_path: Path
) -> None:
    (tmp_path / "models.toml").write_text('[model.m]\nkind = "text"\nsource = "hf:org/m:Q8_0"')
    absent, _, loaded = asked(
        tmp_path,
        ("POST", "/v1/models/m/load", None),
        ("POST", "/v1/models/pull", {"model": "m"}),
        ("POST", "/v1/models/m/load", None),
    )
    assert absent.status == 503 and "localinfra pull" in absent.error["message"]
    assert loaded.status == 200


def test_a_fallback_model_is_not_what_is_deleted_loaded_or_unloaded(
    hub: Site, tmp_path: Path
) -> None:
    asked(tmp_path, ("POST", "/v1/models/pull", {"model": "org/m"}))
    (tmp_path / "models.toml").write_text('server.fallback_model = "org/m"')
    replies = asked(
        tmp_path,
        ("DELETE", "/v1/models/gpt-4o", None),
        ("POST", "/v1/models/gpt-4o/load", None),
        ("POST", "/v1/models/gpt-4o/unload", None),
        ("DELETE", "/v1/models/org/m", None),
    )
    assert [reply.status for reply in replies] == [404, 404, 404, 200]


def test_a_file_that_has_just_come_can_be_loaded_at_once(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localinfra.runtime.REFRESH_AFTER_S", 0.0)
    (tmp_path / "models.toml").write_text('server.models_dir = "."')

    async def scenario() -> None:
        origin = Origin(tmp_path / "models.toml")
        runtime = Runtime(*origin.read(), origin)
        tiny_llama().write(tmp_path / "new.gguf")
        loaded = await answer(create_app(runtime), scope_of("POST", "/v1/models/new/load"))
        assert loaded.status == 200
        await runtime.close()

    run(scenario)


def test_the_disk_is_not_asked_on_the_event_loop(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.toml").write_text('[model.m]\nkind = "text"\nsource = "hf:org/m:Q8_0"')
    find = HubSource.find

    def elsewhere(source: HubSource) -> Path | None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return find(source)

    origin = Origin(tmp_path / "models.toml")
    settings, catalog = origin.read()

    async def scenario() -> None:
        app = create_app(Runtime(settings, catalog, origin))
        monkeypatch.setattr(HubSource, "find", elsewhere)
        for path in ("/v1/models", "/v1/models/m"):
            scope = scope_of("GET", path, [("host", "localhost")])
            assert (await answer(app, scope)).status == 200

    run(scenario)


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("nothing", 404, "Nothing is called 'nothing'"),
        ("org/none", 404, "has no model 'org/none'"),
        ("../etc/passwd", 404, "Nothing is called"),
        ("package:x/y", 404, "Nothing is called"),
        ("file:///etc/passwd", 400, "expected a path"),
    ],
)
def test_what_can_not_be_pulled_is_an_error(
    hub: Site, tmp_path: Path, model: str, status: int, words: str
) -> None:
    whole, streamed = asked(
        tmp_path,
        ("POST", "/v1/models/pull", {"model": model}),
        ("POST", "/v1/models/pull", {"model": model, "stream": True}),
    )
    assert whole.status == status and words in whole.error["message"]
    told = events_of(streamed)[-1]["error"] if streamed.status == 200 else streamed.error
    assert words in told["message"]


def test_a_pull_that_fails_says_so_in_its_stream(hub: Site, tmp_path: Path) -> None:
    hub.faults += [Fault(status=404)] * 20
    [reply] = asked(tmp_path, ("POST", "/v1/models/pull", {"model": "org/m", "stream": True}))
    assert "error" in events_of(reply)[-1]


def test_what_was_not_pulled_is_not_deleted(hub: Site, tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "mine.gguf")
    (tmp_path / "models.toml").write_text('[model.mine]\nkind = "text"\nsource = "mine.gguf"')
    [reply] = asked(tmp_path, ("DELETE", "/v1/models/mine", None))
    assert reply.status == 400 and "was not pulled" in reply.error["message"]
    assert path.exists()


def test_a_reload_says_what_changed_and_a_wrong_file_what_is_wrong(
    hub: Site, tmp_path: Path
) -> None:
    tiny_llama().write(tmp_path / "mine.gguf")
    file = tmp_path / "models.toml"

    async def scenario() -> None:
        origin = Origin(file)
        app = create_app(Runtime(*origin.read(), origin))
        scope = scope_of("POST", "/v1/models/reload")
        file.write_text('[server]\nport = 9\n[model.mine]\nkind = "text"\nsource = "mine.gguf"')
        changes = json.loads((await answer(app, scope)).body)
        assert changes == {
            "added": ["mine"], "changed": [], "removed": [], "needs_restart": ["port"],
        }  # fmt: skip
        file.write_text("[model.mine]\nkind = 7")
        refused = await answer(app, scope_of("POST", "/v1/models/reload"))
        assert refused.status == 400 and "kind: expected" in refused.error["message"]
        listed = await answer(app, scope_of("GET", "/v1/models"))
        assert [card["id"] for card in json.loads(listed.body)["data"]] == ["mine"]

    run(scenario)
