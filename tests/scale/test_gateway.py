"""Two replicas behind a gateway answer like one server."""

import asyncio
import codecs
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from named import key_file
from prometheus_client.parser import text_string_to_metric_families
from scaling import NO_PULLED, ScaledEcho
from waiting import run, until

from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.state import AppState
from localinfra.api.openai.image_files import ImageFiles
from localinfra.config.settings import ServerSettings
from localinfra.keys.holders import Holders


@pytest.fixture
def scaled(tmp_path: Path) -> Iterator[ScaledEcho]:
    server = ScaledEcho(tmp_path)
    yield server
    server.close()


def test_a_chat_is_answered_as_ever(scaled: ScaledEcho) -> None:
    reply = scaled.say("hello")
    assert reply.json()["choices"][0]["message"]["content"] == "hello"
    assert reply.json()["usage"]["completion_tokens"] == 6
    assert len(reply.headers.get_list("x-request-id")) == 1


def test_a_stream_arrives_whole(scaled: ScaledEcho) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with scaled.client.stream(
        "POST", "/v1/chat/completions", json=body | {"temperature": 0}
    ) as got:
        lines = list(got.iter_lines())
    assert got.headers["content-type"].startswith("text/event-stream")
    assert lines[-2] == "data: [DONE]" and '"finish_reason":"stop"' in lines[-4]


def test_conversations_find_their_cache_again(scaled: ScaledEcho) -> None:
    cached = []
    for number in range(6):
        talk = [f"conversation number {number}, which is long enough to be cached"]
        for _ in range(3):
            answer = scaled.say(*talk).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            talk += [answer["choices"][0]["message"]["content"], "and then?"]
    assert all(number > 40 for at, number in enumerate(cached) if at % 3)
    assert len(set(scaled.fleet.answered)) == 2


def test_the_wrong_body_gets_the_servers_own_error(scaled: ScaledEcho) -> None:
    reply = scaled.client.post("/v1/chat/completions", json={"model": "echo", "messages": 7})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "messages"
    assert scaled.client.get("/v1/nothing").status_code == 404
    reply = scaled.client.post("/v1/chat/completions", json={"model": "ecko", "messages": []})
    assert reply.status_code in (400, 404)


def test_models_go_to_their_group_and_are_listed_once(scaled: ScaledEcho) -> None:
    body = {"model": "filler", "prompt": "a\n", "max_tokens": 3}
    assert scaled.client.post("/v1/completions", json=body).status_code == 200
    assert scaled.fleet.answered == ["rest0"]
    scaled.say("hello")
    cards = scaled.client.get("/v1/models").json()["data"]
    states = {card["id"]: card["state"] for card in cards}
    assert states["filler"] == "loaded" and len(states) == len(cards)
    loaded = scaled.client.post("/v1/models/tests/echo/load").json()
    assert loaded["state"] == "loaded"
    assert all("tests/echo" in scaled.runtimes[one].loaded() for one in ("echo0", "echo1"))
    assert "filler" not in scaled.runtimes["echo0"].loaded()


def test_a_dead_replica_costs_no_request(scaled: ScaledEcho) -> None:
    for number in range(8):
        assert scaled.say(f"hello {number}").status_code == 200
    scaled.fleet.killed = {"echo0"}
    for number in range(8):
        assert scaled.say(f"hello {number}", f"hello {number}", "go on").status_code == 200


def test_when_all_are_dead_the_error_says_so(scaled: ScaledEcho) -> None:
    scaled.fleet.killed = {"echo0", "echo1"}
    reply = scaled.say("hello")
    assert reply.status_code == 503 and "send the request again" in reply.json()["error"]["message"]
    assert len(scaled.fleet.answered) == 2


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", 'data: {"error":'),
        ("/v1/messages", 'data: {"type":"error",'),
        ("/api/chat", '{"error":'),
    ],
)
def test_a_stream_that_breaks_off_says_so(scaled: ScaledEcho, path: str, last: str) -> None:
    scaled.fleet.cut = {"echo0", "echo1"}
    body = {"model": "slow", "messages": [{"role": "user", "content": "hello" * 50}]}
    reply = scaled.client.post(path, json=body | {"stream": True, "max_tokens": 200})
    assert reply.status_code == 200
    lines = [line for line in reply.text.split("\n") if line]
    assert lines[-1].startswith(last) and "[DONE]" not in reply.text
    assert len(scaled.fleet.answered) == 1


def test_bodies_that_wait_for_replicas_have_a_limit(tmp_path: Path) -> None:
    limits = "max_body_bytes = 1000000\nmax_held_bytes = 1048576\n"
    scaled = ScaledEcho(tmp_path, NO_PULLED + limits)
    scaled.fleet.stopped = {"echo0", "echo1"}
    body = {"model": "echo", "prompt": "a" * 600_000}

    async def test() -> None:
        async with httpx2.AsyncClient(base_url=scaled.url, timeout=60) as client:
            waiting = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: len(scaled.fleet.answered) == 1)
            refused = await client.post("/v1/completions", json=body)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "5"
            waiting.cancel()
            await asyncio.wait((waiting,))
            scaled.fleet.stopped.clear()
            while (await client.post("/v1/completions", json=body)).status_code == 429:
                await asyncio.sleep(0.01)  # that the first has left is not known yet

    run(test)
    scaled.close()


def test_stored_responses_are_found_from_any_replica(scaled: ScaledEcho) -> None:
    for number in range(4):
        first = scaled.client.post(
            "/v1/responses", json={"model": "echo", "input": f"one {number}"}
        )
        id = first.json()["id"]
        assert scaled.client.get(f"/v1/responses/{id}").json()["id"] == id
        body = {"model": "echo", "input": "two", "previous_response_id": id}
        assert scaled.client.post("/v1/responses", json=body).status_code == 200
        item = first.json()["output"][0]["id"]
        refers = {"model": "echo", "input": [{"type": "item_reference", "id": item},
                                             {"role": "user", "content": "three"}]}  # fmt: skip
        assert scaled.client.post("/v1/responses", json=refers).status_code == 200
        assert scaled.client.delete(f"/v1/responses/{id}").json()["deleted"] is True
        assert scaled.client.get(f"/v1/responses/{id}").status_code == 404
    assert {"echo0", "echo1"} <= set(scaled.fleet.answered)


def test_background_answers_are_read_and_cancelled_from_anywhere(scaled: ScaledEcho) -> None:
    body = {"model": "slow", "input": "x" * 900, "background": True, "max_output_tokens": 900}
    started = [scaled.client.post("/v1/responses", json=body).json()["id"] for _ in range(4)]
    for id in started:
        reply = scaled.client.post(f"/v1/responses/{id}/cancel").json()
        assert reply["status"] == "cancelled"


def test_image_urls_are_found_from_any_replica(scaled: ScaledEcho) -> None:
    hosted = scaled.fleet.hosted["rest"]["rest0"]
    images = AppState.of(hosted._app).store(ImageFiles)
    images.apply(scaled.runtimes["rest0"].settings)
    path = images.put(b"\x89PNG", "image/png", "none")
    assert scaled.client.get(path).content == b"\x89PNG"
    assert scaled.client.get(path + "x").status_code == 404


def test_a_replica_that_says_nothing_holds_up_no_list_and_no_lookup(
    scaled: ScaledEcho, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localinfra.scale.gateway.LOOK_S", 0.5)
    body = {"model": "echo", "temperature": 0}
    kept: dict[str, str] = {}  # by replica
    while len(kept) < 2:
        reply = scaled.client.post("/v1/responses", json=body | {"input": f"{time.time()}"})
        kept[scaled.fleet.answered[-1]] = reply.json()["id"]
    scaled.fleet.stopped = {"echo0"}
    assert scaled.client.get("/health").json()["status"] == "ok"
    assert 'replica="echo1"' in scaled.client.get("/metrics").text
    assert scaled.client.get("/v1/models").json()["data"]
    assert scaled.client.get(f"/v1/responses/{kept['echo1']}").status_code == 200
    reply = scaled.client.get(f"/v1/responses/{kept['echo0']}")  # none that answers has it
    assert reply.status_code == 503 and "does not answer" in reply.json()["error"]["message"]
    scaled.fleet.stopped = set()
    assert scaled.client.get(f"/v1/responses/{kept['echo0']}").status_code == 200


def test_pictures_without_a_models_name_are_painted_by_the_image_models_group(
    tmp_path: Path,
) -> None:
    painter = '[model.flux]\nkind = "image"\nsource = "flux"\n[ray.group.art]\nmodels = ["flux"]\n'
    scaled = ScaledEcho(tmp_path, NO_PULLED + painter)
    try:
        reply = scaled.client.post("/v1/images/generations", json={"prompt": "a river"})
        assert reply.status_code == 503 and "flux" in reply.json()["error"]["message"]
        reply = scaled.client.post(
            "/v1/images/edits",
            files={"image": b"\x89PNG" + bytes(100_000)},
            data={"prompt": "a river"},
        )
        assert reply.status_code >= 400
        assert scaled.fleet.answered == ["art0", "art0"]
    finally:
        scaled.close()


def test_a_websocket_is_refused_so_that_clients_fall_back_to_http() -> None:
    """Behind a proxy that speaks it, as Ray's does."""
    sent: list[dict[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("there is no such route")

    scope = {"type": "websocket", "path": "/v1/responses", "headers": [], "state": {}}
    asyncio.run(Guard(app, Access(ServerSettings()))(scope, receive, send))
    assert sent[0]["type"] == "websocket.http.response.start" and sent[0]["status"] == 426
    assert b"use HTTP" in sent[1]["body"]


def test_a_client_that_leaves_frees_its_place(scaled: ScaledEcho) -> None:
    body = {
        "model": "slow",
        "messages": [{"role": "user", "content": "x" * 1500}],
        "temperature": 0,
    }
    with scaled.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as got:
        next(got.iter_lines())
    with pytest.raises(httpx2.TimeoutException):  # before the answer begins
        scaled.client.post("/v1/chat/completions", json=body, timeout=0.2)
    models = [
        found
        for runtime in scaled.runtimes.values()
        if (found := runtime.loaded_text_models().get("slow"))
    ]
    while any(model.is_busy for model in models):
        time.sleep(0.01)
    assert sum(model.stats.num_steps for model in models) < 1500


def test_running_requests_and_metrics_are_those_of_all(scaled: ScaledEcho) -> None:
    for number in range(6):
        scaled.say(f"hello {number}")
    families = text_string_to_metric_families(scaled.client.get("/metrics").text)
    found = {family.name: family.samples for family in families}
    answered = {
        one.labels["replica"]: one.value
        for one in found["localinfra_requests"]
        if one.labels["route"] == "/v1/chat/completions"
    }
    assert sum(answered.values()) == 6 and set(answered) == {"echo0", "echo1"}
    assert scaled.client.get("/v1/requests").json()["data"] == []
    assert scaled.client.get("/health").json()["status"] == "ok"


def test_keys_are_checked_and_limited_by_the_gateway(tmp_path: Path) -> None:
    holders = Holders(key_file(tmp_path, {"limited": {"rpm": 3, "tpm": 1000}}))
    holders.read()
    scaled = ScaledEcho(tmp_path, NO_PULLED, holders)
    try:
        assert scaled.say("hello").status_code == 401 and not scaled.fleet.answered
        scaled.client.headers["authorization"] = "Bearer limited"
        replies = [scaled.say(f"hello {number}") for number in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert replies[0].headers["x-ratelimit-limit-requests"] == "3"
        assert "retry-after" in replies[3].headers
        # What was used is settled at the end: far less than what was set aside at the start.
        left = [int(reply.headers["x-ratelimit-remaining-tokens"]) for reply in replies[:3]]
        assert left[0] < 750 and left[2] > 500
        assert scaled.client.get("/v1/models").status_code == 200
    finally:
        scaled.close()


def test_no_spelling_of_a_body_escapes_the_limits_of_a_key(tmp_path: Path) -> None:
    holders = Holders(key_file(tmp_path, {"limited": {"rpm": 1}}))
    holders.read()
    scaled = ScaledEcho(tmp_path, NO_PULLED, holders)
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    marked = codecs.BOM_UTF8 + msgspec.json.encode(body)
    try:
        scaled.client.headers["authorization"] = "Bearer limited"
        url, headers = "/v1/chat/completions", {"content-type": "application/json"}
        replies = [scaled.client.post(url, content=marked, headers=headers) for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 429]
    finally:
        scaled.close()


@pytest.mark.parametrize("models", [None, ["pulled"]])
def test_models_that_the_gateway_does_not_know_count_too(
    models: list[str] | None, tmp_path: Path
) -> None:
    """A replica may have found one since."""
    holders = Holders(key_file(tmp_path, {"limited": {"rpm": 2, "models": models}}))
    holders.read()
    scaled = ScaledEcho(tmp_path, NO_PULLED, holders)
    try:
        scaled.client.headers["authorization"] = "Bearer limited"
        replies = [scaled.say("hello", model="pulled") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [404, 404, 429]
    finally:
        scaled.close()


def test_a_model_that_a_key_may_not_use_goes_where_unknown_ones_go(tmp_path: Path) -> None:
    """It starts no replica of its group, and counts for the key's limits as they do."""
    holders = Holders(key_file(tmp_path, {"limited": {"rpm": 4, "models": ["thinker"]}}))
    holders.read()
    scaled = ScaledEcho(tmp_path, NO_PULLED, holders)
    try:
        scaled.client.headers["authorization"] = "Bearer limited"
        replies = [scaled.say("hello", model=name) for name in ("slow", "sloe", "echo", "ecko")]
        assert {reply.status_code for reply in replies} == {404}
        assert set(scaled.fleet.answered) == {"rest0"}
        assert scaled.say("hello", model="slow").status_code == 429
    finally:
        scaled.close()
