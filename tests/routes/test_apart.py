"""A key with a list of models knows no others; keys learn nothing of each other."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from echo import CATALOGUE, ECHO
from metering import bearer, label
from named import NamedKeysServer
from picture_files import file, plain

from localinfra.api.probes import UNTOLD
from localinfra.keys import holders

HIDDEN = "slow"
KEYS: dict[str, dict[str, Any]] = {
    "whole": {"may_manage": True},
    "part": {"models": ("echo", "thinker")},  # an alias and a name
    "managing-part": {"models": ("echo",), "may_manage": True},
    "plain": {},
}
SERVER = '[server]\nfallback_model = "slow"\napi_keys = ["of-settings"]\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamedKeysServer]:
    server = NamedKeysServer(tmp_path_factory.mktemp("apart"), KEYS, SERVER + CATALOGUE)
    yield server
    server.close()


def ids(server: NamedKeysServer, key: str, path: str = "/v1/models?all=true") -> set[str]:
    found = server.ask(key, "GET", path).json()
    return {each.get("id") or each["name"] for each in found.get("data") or found["models"]}


def test_only_the_models_of_the_key_are_listed(server: NamedKeysServer) -> None:
    assert ids(server, "part") == {ECHO, "thinker"}
    assert HIDDEN in ids(server, "whole") == ids(server, "of-settings") == ids(server, "plain")


def test_ollamas_routes_list_no_others_either(server: NamedKeysServer) -> None:
    for model in (HIDDEN, "echo"):
        assert server.chat("whole", model=model).status_code == 200  # loads it
    assert ids(server, "part", "/api/ps") == {ECHO}
    assert {ECHO, HIDDEN} <= ids(server, "whole", "/api/ps")
    assert ids(server, "part", "/api/tags") == {ECHO, "thinker"}
    assert HIDDEN in ids(server, "whole", "/api/tags")


ASKED: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("POST", "/v1/completions", {"prompt": "x"}),
    ("POST", "/v1/responses", {"input": "x"}),
    ("POST", "/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
    ("POST", "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}),
    ("POST", "/v1/embeddings", {"input": "x"}),
    ("POST", "/v1/rerank", {"query": "x", "documents": ["y"]}),
    ("POST", "/v1/images/generations", {"prompt": "x"}),
    ("POST", "/tokenize", {"prompt": "x"}),
    ("POST", "/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
    ("POST", "/api/generate", {"prompt": "x"}),
    ("POST", "/api/show", {}),
    ("POST", "/v1/inference/{model}", {"input": "x"}),
    ("GET", "/v1/models/{model}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ASKED, ids=[path for _, path, _ in ASKED])
def test_another_model_is_answered_for_as_if_there_were_none(
    server: NamedKeysServer, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """`sloe`: a name that is as close to others as the hidden one."""

    def ask(model: str) -> tuple[int, str]:
        sent = None if body is None else {"model": model, **body}
        reply = server.ask("part", method, path.format(model=model), sent)
        return reply.status_code, reply.json()["error"]["message"] if (
            isinstance(reply.json()["error"], dict)
        ) else reply.json()["error"]

    status, message = ask(HIDDEN)
    unknown = ask("sloe")
    assert (status, message.replace(HIDDEN, "sloe")) == unknown
    assert status == 404 and HIDDEN not in message.replace(f"'{HIDDEN}'", "")
    assert "filler" not in message


def test_a_restricted_key_that_manages_manages_only_its_models(server: NamedKeysServer) -> None:
    assert server.ask("managing-part", "POST", "/v1/models/echo/load").status_code == 200
    for method, path in (
        ("POST", "/v1/models/slow/load"),
        ("POST", "/v1/models/slow/unload"),
        ("DELETE", "/v1/models/slow"),
    ):
        assert server.ask("managing-part", method, path).status_code == 404


def test_health_tells_of_a_broken_model_only_those_who_may_use_it(
    server: NamedKeysServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.runtime, "faults", lambda: {ECHO: "dead", HIDDEN: "at /home/x"})

    def reason(headers: dict[str, str]) -> str:
        reply = server.client.get("/health", headers=headers)
        assert reply.status_code == 503 and reply.json()["status"] == "degraded"
        assert not any(name.startswith("x-ratelimit") for name in reply.headers)
        return str(reply.json()["reason"])

    for stranger in ({}, {"authorization": "Bearer wrong"}):
        assert reason(stranger) == UNTOLD
    assert reason(bearer("part")) == f"{ECHO}: dead; {UNTOLD}"
    assert reason(bearer("whole")) == f"{ECHO}: dead; {HIDDEN}: at /home/x"


def test_who_asks_for_nothing_but_health_has_a_new_key_known_too(
    server: NamedKeysServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.runtime, "faults", lambda: {ECHO: "dead"})
    monkeypatch.setattr(holders, "LOOK_EVERY_S", 0.0)

    def reason() -> str:
        return str(server.client.get("/health", headers=bearer("new")).json()["reason"])

    assert reason() == UNTOLD
    for keys, expected in ((KEYS | {"new": {}}, f"{ECHO}: dead"), (KEYS, UNTOLD)):
        server.change(keys)
        while reason() != expected:
            pass


MANAGING = [
    ("POST", "/v1/models/echo/load"),
    ("POST", "/v1/models/echo/unload"),
    ("POST", "/v1/models/pull"),
    ("POST", "/v1/models/reload"),
    ("DELETE", "/v1/models/echo"),
    ("POST", "/api/pull"),
    ("DELETE", "/api/delete"),
]


@pytest.mark.parametrize(("method", "path"), MANAGING)
def test_only_keys_made_for_it_manage_models(
    server: NamedKeysServer, method: str, path: str
) -> None:
    reply = server.ask("plain", method, path, {"model": "echo"})
    assert reply.status_code == 403 and "--manage" in reply.text


def test_a_key_sees_and_ends_its_own_requests_whatever_it_may_manage(
    server: NamedKeysServer,
) -> None:
    assert server.ask("plain", "GET", "/v1/requests").json()["data"] == []
    assert server.ask("plain", "DELETE", "/v1/requests/none").status_code == 404


def test_metrics_of_all_keys_are_for_those_who_manage(server: NamedKeysServer) -> None:
    for key in ("whole", "plain"):
        server.chat(key)
    refused = server.ask("plain", "GET", "/metrics")
    assert refused.status_code == 403 and "localinfra_" not in refused.text
    for key in ("whole", "of-settings"):
        text = server.ask(key, "GET", "/metrics").text
        assert label("plain") in text and 'key="plain"' not in text


def test_no_error_tells_the_name_of_another_key(server: NamedKeysServer) -> None:
    replies = [
        server.chat("part", model=HIDDEN),
        server.chat("unknown"),
        server.ask("plain", "GET", "/metrics"),
        server.ask("plain", "GET", "/v1/responses/resp_x"),
        server.ask("plain", "GET", "/nowhere"),
    ]
    for reply in replies:
        assert reply.status_code >= 400
        assert not any(name in reply.text for name in ("whole", "managing-part", label("whole")))


def test_grammars_are_compiled_for_each_key(server: NamedKeysServer) -> None:
    """A second key that sends the same schema waits as long as if nobody had sent it."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    def kept() -> int:
        grammars = server.runtime.loaded_text_models()[ECHO].grammars
        return len(grammars._compiler._grammars)

    server.chat("plain")
    before = kept()
    counts = []
    for key in ("plain", "plain", "whole", "whole"):
        server.chat(key, response_format=form)
        counts.append(kept() - before)
    assert counts == [1, 1, 2, 2]


SEEING = """
[model."seer"]
kind = "text"
source = "seer.gguf"
mmproj = "echo.gguf"
context_length = 1024
"""


def test_who_may_not_use_a_model_that_sees_learns_of_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, keys = tmp_path_factory.mktemp("seeing"), {"part": {"models": ("echo",)}, "all": {}}
    server = NamedKeysServer(folder, keys, CATALOGUE + SEEING)
    url = "data:image/png;base64," + base64.b64encode(file(plain(30, 20))).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    replies = {
        key: server.chat(key, messages=[{"role": "user", "content": content}]) for key in keys
    }
    server.close()
    assert {reply.status_code for reply in replies.values()} == {400}
    assert "seer" in replies["all"].text and "seer" not in replies["part"].text
