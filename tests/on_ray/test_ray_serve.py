"""Two replicas on a real Ray of this machine, behind Serve's own HTTP proxy.

The echo models compute nothing, so what is measured is how requests are spread; SmolLM2 is real.
"""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
from live import SMOLLM2
from prometheus_client.parser import text_string_to_metric_families
from ray_process import RayServer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_openais_client_talks_to_a_real_model(server: RayServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        asked = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "Name a river."}],
            "max_tokens": 12,
            "temperature": 0,
        }
        whole = client.chat.completions.create(**asked)  # type: ignore[call-overload]
        stream = client.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content and text
        assert "tests/echo" in {model.id for model in client.models.list()}
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**asked | {"model": "nobody"})  # type: ignore[call-overload]
        raw = client.chat.completions.with_raw_response.create(**asked)  # type: ignore[call-overload]
        assert re.fullmatch(r"[\w-]+", raw.headers["x-request-id"])


def test_anthropics_client_streams(server: RayServer) -> None:
    with (
        anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client,
        client.messages.stream(
            model="tests/echo",
            max_tokens=40,
            messages=[{"role": "user", "content": "Where is the river?"}],
            extra_body={"temperature": 0},
        ) as stream,
    ):
        assert "".join(stream.text_stream) == "Where is the river?"
        assert stream.get_final_message().usage.output_tokens > 0


def test_conversations_return_to_their_cache(server: RayServer) -> None:
    def talk(number: int) -> list[bool]:
        said, was_cached = [f"conversation {number}, long enough to be worth its cache"], []
        for turn in range(4):
            answer = server.say("echo", *said, max_tokens=20).json()
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            if turn:
                was_cached.append(cached > 40)
            said += [answer["choices"][0]["message"]["content"], f"and then, in turn {turn}?"]
        return was_cached

    with ThreadPoolExecutor(4) as pool:
        found = [one for talked in pool.map(talk, range(16)) for one in talked]
    assert sum(found) >= 0.95 * len(found)
    assert len(server.answering("echo")) == 2


def test_throughput_grows_with_replicas(server: RayServer) -> None:
    """With steps that sleep, one sequence at a time: this machine's cores would be the limit."""

    def seconds(model: str) -> float:
        def ask(number: int) -> None:
            reply = server.say(model, f"{number} " * 60, max_tokens=20)
            assert reply.json()["usage"]["completion_tokens"] == 20

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, range(2)))  # loads it, on both
            started = time.perf_counter()
            list(pool.map(ask, range(10, 16)))
            return time.perf_counter() - started

    assert seconds("alone") > 1.4 * seconds("one-by-one")


def test_a_client_that_leaves_ends_the_work(server: RayServer) -> None:
    body = {
        "model": "slow",
        "messages": [{"role": "user", "content": "x" * 1500}],
        "temperature": 0,
        "max_tokens": 1500,
    }
    with server.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as got:
        next(got.iter_lines())
    while server.client.get("/v1/requests").json()["data"]:
        time.sleep(0.05)
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    tokens = {
        one.labels["replica"]: one.value
        for family in families
        for one in family.samples
        if one.name == "localinfra_generated_tokens_total" and one.labels["model"] == "slow"
    }
    assert sum(tokens.values()) < 1500


def test_clients_that_leave_at_any_moment_harm_no_replica(server: RayServer) -> None:
    """Also in the moment in which their answer ends."""
    text = "a short answer"
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], "temperature": 0}
    for num_lines in range(2 * len(text)):
        with server.client.stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}
        ) as got:
            for _, _ in zip(range(num_lines), got.iter_lines(), strict=False):
                pass
    for number in range(8):
        assert server.say("echo", f"{number}: {text}").status_code == 200
    assert len(server.answering("echo")) == 2


def test_the_page_the_lists_and_the_key_are_those_of_one_server(server: RayServer) -> None:
    as_a_browser = {"accept": "text/html"}
    assert "<title>" in server.client.get("/", headers=as_a_browser).text
    assert server.client.get("/docs").status_code == 200
    assert "/v1/messages" in server.client.get("/openapi.json").json()["paths"]
    assert server.client.get("/health").json()["status"] == "ok"
    models = {card["id"] for card in server.client.get("/v1/models").json()["data"]}
    assert {"tests/echo", "alone", SMOLLM2} <= models
    foreign = server.client.get("/v1/models", headers={"origin": "https://example.org"})
    assert foreign.status_code == 403


def test_a_websocket_is_refused_so_that_clients_fall_back_to_http(server: RayServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(
            b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n"
            b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 426 ")


def test_a_replica_that_is_killed_loses_no_later_request(server: RayServer) -> None:
    before = set(server.answering("echo"))
    server.order("kill echo")
    for number in range(12):
        reply = server.say("echo", f"conversation {number} of many", max_tokens=4)
        assert reply.status_code == 200, reply.text
    while len(found := set(server.answering("echo"))) < 2 or found == before:
        assert server.say("echo", f"{time.perf_counter()}", max_tokens=2).status_code == 200
        time.sleep(0.05)


def test_what_no_machine_has_is_refused_and_changes_nothing(server: RayServer) -> None:
    before = server.path.read_text()
    server.path.write_text(before.replace("num_cpus = 1", "num_cpus = 1\nnum_gpus = 64"))
    server.order("deploy")
    server.path.write_text(before)
    assert 'a replica of "rest" takes 64 GPUs' in server.answer["refused"]
    assert server.say("echo", "still here?").status_code == 200


def test_models_toml_is_replaced_while_requests_go_on(server: RayServer) -> None:
    """Replicas whose models have changed are new ones after it."""
    server.path.write_text(server.path.read_text().replace('["paced"]', '["paced", "renamed"]'))
    server.say("smollm2", "Hello", max_tokens=1)  # by a replica of the other group
    old, kept = set(server.answering("echo")), set(server.answering("rest"))
    statuses: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(server.order, "deploy")
        while not deployed.done():
            statuses.append(server.say("echo", f"hello {len(statuses)}").status_code)
        deployed.result()
    assert set(statuses) == {200}
    assert server.client.get("/v1/models/renamed").json()["id"] == "one-by-one"
    assert old and not old & set(server.answering("echo"))
    assert kept and kept <= set(server.answering("rest"))
