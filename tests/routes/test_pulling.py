"""Models that are fetched, removed and read again by request, from a hub on this machine."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgi import Reply, answer, scope_of
from fetch.site import Fault, Site, repository, serving
from models.tiny_gguf import tiny_llama
from waiting import run

from localinfra.api.app import create_app
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


def test_without_a_stream_the_answer_comes_at_the_end(hub: Site, tmp_path: Path) -> None:
    [reply] = asked(tmp_path, ("POST", "/v1/models/pull", {"model": "hf:org/m:Q8_0"}))
    assert json.loads(reply.body) == {"status": "done", "ids": ["org/m"]}


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
