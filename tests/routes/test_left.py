"""What a client pays that leaves before its answer: what was computed for it, as tokens of its
key's limit and as costs. The echo computes a step whenever a test lets it."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from echo import EchoServer
from leaving import ROWS, Account, Client, Stepping, SteppingRuntime, limited, until
from waiting import wait_for

from localinfra.costs import Used
from localinfra.keys.holders import Holders
from localinfra.models.entries import Price

PRICE = Price(input=1.0, output=2.0)
CATALOGUE = """
[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 4096
sequences = 1
price = { input = 1.0, output = 2.0 }
"""


class LeftServer(EchoServer):
    runtime_kind = SteppingRuntime


@pytest.fixture(scope="module")
def account() -> Account:
    return Account()


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Holders:
    return limited(tmp_path_factory.mktemp("keys"), "leaver", "stayer", single=("single",))


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, account: Account, holders: Holders
) -> Iterator[LeftServer]:
    folder = tmp_path_factory.mktemp("left")
    server = LeftServer(folder, CATALOGUE, account, holders)
    yield server
    Stepping.may_step.release(1 << 20)
    server.close()


@pytest.fixture
def client(server: LeftServer, account: Account, holders: Holders) -> Client:
    return Client(server.port, account, holders, "leaver")


numbers = iter(range(1000, 9999))


def text(size: int) -> str:
    """One that no cache knows."""
    return f"{next(numbers)}" + "abcdefgh" * (size // 8)


def messages(size: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": text(size)}]


def asked(size: int) -> list[tuple[str, dict[str, Any]]]:
    """On every route that answers with text, whole and streamed."""
    common: dict[str, Any] = {"model": "slow", "temperature": 0, "max_tokens": 1000}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": messages(size)}),
        ("/v1/chat/completions", {"messages": messages(size), "n": 3}),
        ("/v1/completions", {"prompt": text(size) + "\n"}),
        ("/v1/completions", {"prompt": [text(size) + "\n", text(size) + "\n"]}),
        ("/v1/messages", {"messages": messages(size)}),
        ("/v1/responses", {"input": text(size)}),
        ("/v1/inference/slow", {"input": text(size) + "\n"}),
        ("/api/chat", {"messages": messages(size)}),
        ("/api/generate", {"prompt": text(size)}),
        ("/api/generate", {"prompt": text(size), "raw": True}),
    ]
    return [
        (path, common | body | {"stream": stream})
        for stream in (False, True)
        for path, body in bodies
    ]


NUM_ROUTES = len(asked(0))


@pytest.mark.parametrize("number", range(NUM_ROUTES))
def test_who_leaves_while_its_prompt_is_read_pays_for_what_was_read(
    number: int, client: Client
) -> None:
    path, body = asked(1600)[number]
    connection = client.send(path, body)
    until(lambda: Stepping.num_rows >= 3 * ROWS)
    connection.close()
    client.settled()
    assert not Stepping.num_sampled and 3 * ROWS <= Stepping.num_rows
    assert client.paid.prompt_tokens == client.taken == Stepping.num_rows
    assert (client.paid.requests, client.paid.generated_tokens) == (1, 0)
    assert client.paid.usd == pytest.approx(PRICE.of(Stepping.num_rows))


@pytest.mark.parametrize("number", range(NUM_ROUTES))
def test_who_leaves_an_answer_pays_for_its_prompt_and_all_that_was_generated(
    number: int, client: Client
) -> None:
    """Whether it was sent or not."""
    path, body = asked(200)[number]
    connection = client.send(path, body)
    until(lambda: Stepping.num_sampled >= 9)
    connection.close()
    client.settled()
    assert 9 <= client.paid.generated_tokens == Stepping.num_sampled
    assert client.taken == client.paid.prompt_tokens + client.paid.generated_tokens
    assert client.paid.prompt_tokens >= 200 and client.paid.requests == 1


def test_who_leaves_the_queue_pays_nothing(
    server: LeftServer, account: Account, holders: Holders
) -> None:
    first = Client(server.port, account, holders, "stayer")
    staying = first.send("/v1/completions", {"model": "slow", "prompt": text(400)})
    wait_for(lambda: Stepping.is_waiting)
    left = Client(server.port, account, holders, "leaver")
    leaving = left.send("/v1/completions", {"model": "slow", "prompt": text(400)})
    model = server.runtime.loaded_text_models()["slow"]
    wait_for(lambda: model.worker.num_waiting == 1)
    leaving.close()
    left.settled()
    assert left.paid == Used() and left.taken == 0
    staying.close()
    first.settled()


def test_an_answer_in_the_background_that_is_cancelled_is_paid_up_to_there(
    server: LeftServer, client: Client
) -> None:
    body = {"model": "slow", "input": text(1600), "background": True}
    headers = {"authorization": f"Bearer {client.key}"}
    begun = server.post("/v1/responses", body, headers=headers).json()
    until(lambda: Stepping.num_rows >= 3 * ROWS)
    threading.Thread(
        target=server.post,
        args=(f"/v1/responses/{begun['id']}/cancel", None),
        kwargs={"headers": headers},
    ).start()
    client.settled()
    assert not Stepping.num_sampled
    assert client.paid.prompt_tokens == client.taken == Stepping.num_rows


def test_what_the_cache_has_is_free_where_nothing_is_answered(client: Client) -> None:
    prompt = text(1600)
    for _ in range(2):
        connection = client.send("/v1/completions", {"model": "slow", "prompt": prompt})
        num_rows = Stepping.num_rows
        until(lambda num_rows=num_rows: Stepping.num_rows >= num_rows + 3 * ROWS)  # type: ignore[misc]
        connection.close()
        client.settled()
    assert not Stepping.num_sampled and client.paid.requests == 2
    assert client.paid.prompt_tokens == client.taken == Stepping.num_rows


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_may_ask_again_before_the_engine_has_ended_its_step(
    stream: bool, server: LeftServer, account: Account, holders: Holders
) -> None:
    """Also with a key that has one request at a time."""
    client = Client(server.port, account, holders, "single")
    body = {"model": "slow", "max_tokens": 1000, "stream": stream}
    first = client.send("/v1/completions", body | {"prompt": text(200)})
    until(lambda: Stepping.num_sampled >= 2)
    first.close()
    wait_for(lambda: client.meter.num_left == 1)
    second = client.send("/v1/completions", body | {"prompt": text(200)})
    wait_for(lambda: client.meter.num_running == 2)
    assert client.taken > 0  # what is expected, until it is counted
    second.close()
    client.settled()
    assert client.meter.num_left == 0
    assert client.taken == client.paid.prompt_tokens + client.paid.generated_tokens
