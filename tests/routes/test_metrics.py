"""What requests with two keys add to /metrics and the costs."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from echo import END, EchoServer
from metering import ALICE, BOB, Watch, bearer, label, metrics, post
from waiting import wait_for

from localinfra.cli.main import main
from localinfra.cli.top import MODELS
from localinfra.costs import Ledger, Used
from localinfra.engine.policy.speculation import Speculator

SMOL = "smol:a"
CATALOGUE = f"""
[server]
api_keys = ["{ALICE}", "{BOB}"]
share_prefixes = true

[model."smol"]
kind = "text"
default_version = "a"
aliases = ["any"]
sequences = 4
context_length = 2048
price = {{ input = 1, output = 3 }}
versions.a.source = "slow.gguf"
"""
CHAT = {
    "model": "smol", "messages": [{"role": "user", "content": "Count to a hundred."}],
    "max_tokens": 7, "logit_bias": {str(END): -100},
}  # fmt: skip


@pytest.fixture(scope="module")
def server(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"), CATALOGUE, ledger)
    yield server
    server.close()


def test_an_answer_in_the_background_is_one_request_until_its_end(
    server: EchoServer, watch: Watch
) -> None:
    route = "/v1/responses"
    body = {"model": "smol", "input": "Hello", "temperature": 0, "background": True}
    id = post(server, ALICE, route, body)["id"]
    wait_for(lambda: watch.grown("requests_total", SMOL, route, "2xx") == 1)
    path, headers = f"{server.url}{route}/{id}", bearer(ALICE)
    reply = httpx2.get(path, headers=headers, timeout=600).json()
    assert (reply["status"], reply["usage"]["output_tokens"]) == ("completed", 6)
    assert watch.grown("generated_tokens_total", SMOL) == 6
    assert watch.grown("requests_total", "", route, "2xx") == 0
    assert watch.kept(ALICE, SMOL).requests == 1


def test_a_chat(server: EchoServer, watch: Watch) -> None:
    usage = post(server, ALICE, "/v1/chat/completions", CHAT)["usage"]
    assert usage["completion_tokens"] == 7
    assert watch.grown("prompt_tokens_total", SMOL) == usage["prompt_tokens"]
    assert watch.grown("generated_tokens_total", SMOL) == 7
    cost = watch.grown("cost_usd_total", label(ALICE), SMOL)
    assert cost == pytest.approx(usage["estimated_cost"])
    assert watch.grown("cost_usd_total", label(BOB), SMOL) == 0
    assert watch.grown("requests_total", SMOL, "/v1/chat/completions", "2xx") == 1
    assert watch.grown("time_to_first_token_seconds_count", SMOL) == 1
    assert 0 < watch.grown("time_to_first_token_seconds_sum", SMOL) < 60
    assert watch.grown("request_duration_seconds_count", SMOL, "/v1/chat/completions") == 1
    kept = watch.kept(ALICE, SMOL)
    assert (kept.requests, kept.prompt_tokens, kept.generated_tokens) == (
        1,
        usage["prompt_tokens"],
        7,
    )
    assert kept.usd == pytest.approx(usage["estimated_cost"])


def test_drafted_tokens_and_those_accepted(
    server: EchoServer, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def eager(_: Speculator, chances: list[list[float]], *__: object) -> list[int]:
        return [min(len(each), 2) for each in chances]

    monkeypatch.setattr(Speculator, "sizes", eager)
    messages = [{"role": "user", "content": "tick tock " * 20}]
    post(server, ALICE, "/v1/chat/completions", {**CHAT, "messages": messages, "max_tokens": 40})
    drafted = watch.grown("drafted_tokens_total", SMOL)
    assert drafted >= watch.grown("accepted_draft_tokens_total", SMOL) > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_of_anthropics_api(server: EchoServer, watch: Watch, stream: bool) -> None:
    body = {**CHAT, "model": "any", "stream": stream}
    del body["logit_bias"]
    answer = server.post("/v1/messages", body, headers={"x-api-key": ALICE})
    assert answer.status_code == 200
    kept = watch.kept(ALICE, SMOL)
    assert kept.requests == 1 and kept.prompt_tokens > kept.cached_tokens
    assert 0 < kept.generated_tokens <= 7
    assert kept.usd == pytest.approx((kept.prompt_tokens + 3 * kept.generated_tokens) / 1e6)
    assert watch.grown("requests_total", SMOL, "/v1/messages", "2xx") == 1


def test_a_streamed_chat_with_another_key_and_two_choices_finds_its_prompt_cached(
    server: EchoServer, watch: Watch
) -> None:
    post(server, ALICE, "/v1/chat/completions", CHAT)
    before = watch.grown("cached_prompt_tokens_total", SMOL)
    body = {**CHAT, "stream": True, "n": 2, "model": "any:a"}
    answer = server.post("/v1/openai/chat/completions", body, headers=bearer(BOB))
    assert answer.text.endswith("data: [DONE]\n\n")
    kept = watch.kept(BOB, SMOL)
    assert (kept.requests, kept.generated_tokens) == (1, 14)
    assert kept.cached_tokens == kept.prompt_tokens - 1  # the last one gives the logits
    assert watch.grown("cached_prompt_tokens_total", SMOL) - before == kept.cached_tokens
    assert kept.usd == pytest.approx((kept.prompt_tokens + 3 * 14) / 1e6)
    chats = watch.grown("requests_total", SMOL, "/v1/chat/completions", "2xx")
    assert chats == 2  # whatever the prefix


def test_a_client_that_leaves_is_charged_up_to_that_point(server: EchoServer, watch: Watch) -> None:
    body = {**CHAT, "stream": True, "max_tokens": 1900}
    url = f"{server.url}/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, headers=bearer(BOB), timeout=600) as answer:
        lines = (line for line in answer.iter_lines() if '"content":"' in line)
        received = [next(lines) for _ in range(12)]
        assert watch.grown("sequences_running", SMOL) == 1
    wait_for(lambda: metrics(server)["sequences_running", SMOL] == 0)
    kept = watch.kept(BOB, SMOL)
    assert kept.requests == 1 and kept.prompt_tokens > 0
    assert len(received) - 1 <= kept.generated_tokens < 1900  # the first chunk has the role
    assert watch.grown("generated_tokens_total", SMOL) == kept.generated_tokens
    assert watch.grown("requests_total", SMOL, "/v1/chat/completions", "2xx") == 1


def test_a_client_that_leaves_before_its_whole_answer_is_charged_too(
    server: EchoServer, watch: Watch
) -> None:
    body = {**CHAT, "max_tokens": 1900}
    with pytest.raises(httpx2.TimeoutException):
        url = f"{server.url}/v1/chat/completions"
        server.client.post(url, json=body, headers=bearer(ALICE), timeout=2)
    wait_for(lambda: watch.grown("requests_total", SMOL, "/v1/chat/completions", "none") == 1)
    assert 0 < watch.kept(ALICE, SMOL).generated_tokens < 1900


def test_completions(server: EchoServer, watch: Watch) -> None:
    body = {"model": "smol", "prompt": ["One, two,", "Red, green, blue,"], "n": 2, "best_of": 3}
    body |= {"max_tokens": 5, "logit_bias": {str(END): -100}}
    usage = post(server, ALICE, "/v1/completions", body)["usage"]
    assert usage["completion_tokens"] == 2 * 3 * 5
    kept = watch.kept(ALICE, SMOL)
    assert (kept.requests, kept.prompt_tokens, kept.generated_tokens) == (
        1,
        usage["prompt_tokens"],
        30,
    )
    assert kept.usd == pytest.approx(usage["estimated_cost"])


def test_a_response_is_charged_to_its_key(server: EchoServer, watch: Watch) -> None:
    body = {
        "model": "smol",
        "input": "Count.",
        "max_output_tokens": 5,
        "logit_bias": {str(END): -100},
    }
    answer = post(server, ALICE, "/v1/responses", body)
    assert watch.grown("requests_total", SMOL, "/v1/responses", "2xx") == 1
    kept = watch.kept(ALICE, SMOL)
    assert (kept.requests, kept.generated_tokens) == (1, 5)
    assert kept.usd == pytest.approx(answer["usage"]["estimated_cost"])
    url = f"{server.url}/v1/responses/{answer['id']}"
    assert server.client.get(url, headers=bearer(ALICE)).json() == answer
    assert server.client.get(url, headers=bearer(BOB)).status_code == 404
    going_on = {**body, "previous_response_id": answer["id"]}
    assert server.post("/v1/responses", going_on, headers=bearer(BOB)).status_code == 404
    post(server, ALICE, "/v1/responses", going_on)


@pytest.mark.parametrize(
    ("body", "status", "model"),
    [
        ({**CHAT, "model": "smol:b"}, 404, ""),
        ({**CHAT, "model": "gpt-4o"}, 404, ""),
        ({**CHAT, "max_tokens": -2}, 400, ""),
        ({**CHAT, "messages": [{"role": "user", "content": "word " * 3000}]}, 400, SMOL),
    ],
)
def test_refused_requests_are_counted_but_cost_nothing(
    server: EchoServer, watch: Watch, body: dict[str, Any], status: int, model: str
) -> None:
    answer = server.post("/v1/chat/completions", body, headers=bearer(ALICE))
    assert answer.status_code == status
    assert watch.grown("requests_total", model, "/v1/chat/completions", "4xx") == 1
    assert watch.kept(ALICE, SMOL) == Used()


def test_metrics_need_a_key_and_never_show_one(server: EchoServer) -> None:
    assert server.client.get(f"{server.url}/metrics").status_code == 401
    text = server.client.get(f"{server.url}/metrics", headers=bearer(BOB)).text
    assert label(ALICE) in text and ALICE not in text and BOB not in text


def test_made_up_names_are_not_labels(server: EchoServer) -> None:
    for name in ("made-up-model", "smol:made-up"):
        server.post("/v1/completions", {"model": name, "prompt": "x"}, headers=bearer(ALICE))
        server.client.get(f"{server.url}/v1/{name}", headers=bearer(ALICE))
        server.client.get(f"{server.url}/v1/models", headers=bearer(name))
    assert "made-up" not in server.client.get(f"{server.url}/metrics", headers=bearer(BOB)).text


def test_gauges_show_the_current_state(server: EchoServer) -> None:
    post(server, ALICE, "/v1/chat/completions", CHAT)
    wait_for(lambda: metrics(server)["sequences_running", SMOL] == 0)
    now = metrics(server)
    assert now["model_loaded", "text", SMOL] == 1 and now["sequences_waiting", SMOL] == 0
    assert 0 < now["kv_cells_used", SMOL] <= now["kv_cells", SMOL]


def test_steps_of_the_engine_are_counted_with_their_time_and_tokens(
    server: EchoServer, watch: Watch
) -> None:
    used = post(server, ALICE, "/v1/chat/completions", CHAT)["usage"]
    computed = used["prompt_tokens"] - used["prompt_tokens_details"]["cached_tokens"]
    wait_for(lambda: metrics(server)["sequences_running", SMOL] == 0)
    assert 0 < watch.grown("steps_total", SMOL) <= computed + 7
    assert watch.grown("step_tokens_total", SMOL) >= computed + 7 - 1  # the last is not read
    assert 0 < watch.grown("step_seconds_total", SMOL) < 60


def test_opentelemetrys_names_are_there_too(server: EchoServer, watch: Watch) -> None:
    post(server, ALICE, "/v1/chat/completions", CHAT)
    labels = ("chat", "localinfra", SMOL)
    assert watch.grown("gen_ai_server_time_to_first_token_seconds_count", *labels) == 1
    assert watch.grown("gen_ai_server_time_per_output_token_seconds_count", *labels) == 1
    assert watch.grown("gen_ai_server_request_duration_seconds_count", "", *labels) == 1
    server.post("/v1/chat/completions", {**CHAT, "max_tokens": -2}, headers=bearer(ALICE))
    refused = ("invalid_value", "chat", "localinfra", "")
    assert watch.grown("gen_ai_server_request_duration_seconds_count", *refused) == 1


def test_top_shows_what_the_server_does(server: EchoServer) -> None:
    body = {**CHAT, "stream": True, "max_tokens": 1900}
    url = f"{server.url}/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, headers=bearer(ALICE), timeout=600) as answer:
        lines = answer.iter_lines()
        next(lines)
        command = ["top", "--interval", "0.5", "--url", server.url, "--key", ALICE]
        done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    shown = [line.split() for line in done.stdout.splitlines()]
    [row] = [dict(zip(MODELS, line, strict=False)) for line in shown if line[:1] == [SMOL]]
    assert row["RUN"] == "1" and row["KV"].endswith("%")
    assert all(float(row[name]) > 0 for name in ("OUT/S", "BATCH", "MS/STEP"))
