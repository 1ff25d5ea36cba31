"""What the gateway charges a key whose clients leave: what its replica has computed for them."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leaving import ROWS, Account, Client, Stepping, SteppingRuntime, limited, until
from scaling import NO_PULLED, ScaledEcho
from waiting import wait_for

PROMPT = "abcdefgh" * 200


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def scaled(tmp_path: Path, account: Account) -> Iterator[tuple[ScaledEcho, Client]]:
    holders = limited(tmp_path, "leaver")
    scaled = ScaledEcho(tmp_path, NO_PULLED, holders, SteppingRuntime, account)
    scaled.client.headers["authorization"] = "Bearer leaver"
    yield scaled, Client(scaled.port, account, holders, "leaver")
    Stepping.may_step.release(1 << 20)
    scaled.close()
    while Stepping.may_step.acquire(blocking=False):
        pass


def body(prompt: str, *, stream: bool) -> dict[str, Any]:
    return {"model": "slow", "prompt": prompt, "temperature": 0, "stream": stream}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_read_in_part(stream: bool, scaled: tuple[ScaledEcho, Client]) -> None:
    client = scaled[1]
    connection = client.send("/v1/completions", body(PROMPT, stream=stream))
    until(lambda: Stepping.num_rows >= 3 * ROWS)
    connection.close()
    client.settled()
    assert not Stepping.num_sampled
    assert client.taken == client.paid.prompt_tokens == Stepping.num_rows


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_left(stream: bool, scaled: tuple[ScaledEcho, Client]) -> None:
    client = scaled[1]
    connection = client.send("/v1/completions", body(PROMPT[:100] + "\n", stream=stream))
    until(lambda: Stepping.num_sampled >= 9)
    connection.close()
    client.settled()
    assert 9 <= client.paid.generated_tokens == Stepping.num_sampled
    assert client.taken == client.paid.prompt_tokens + client.paid.generated_tokens


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_in_the_background_counts_until_its_end(
    stream: bool, is_cancelled: bool, scaled: tuple[ScaledEcho, Client]
) -> None:
    server, client = scaled
    asked = {"model": "slow", "input": "abcdefgh" * 20, "temperature": 0, "background": True}
    asked["stream"] = stream
    with server.client.stream("POST", "/v1/responses", json=asked) as reply:
        lines = reply.iter_lines()
        found = re.search(r"resp_\w+", next(lines) + next(lines, ""))
    assert found
    until(lambda: Stepping.num_rows >= ROWS)
    assert client.meter.num_running == 1
    if is_cancelled:
        path = f"/v1/responses/{found[0]}/cancel"
        cancelling = threading.Thread(target=server.client.post, args=(path,))
        cancelling.start()
        client.settled()
        cancelling.join()
    else:
        client.settled()
    assert client.paid.generated_tokens == Stepping.num_sampled
    assert client.taken == client.paid.prompt_tokens + client.paid.generated_tokens > 0
    assert is_cancelled or client.paid.generated_tokens >= 160


def test_what_a_replica_that_dies_has_sent_is_counted(scaled: tuple[ScaledEcho, Client]) -> None:
    """Usage comes with each batch, not only at the end."""
    server, client = scaled
    server.fleet.cut, server.fleet.cut_after = {"echo0", "echo1"}, 3
    Stepping.may_step.release(1 << 20)
    prompt = "abcdefgh" * 150 + "\n"  # its answer takes many batches, however late they are taken
    reply = server.client.post("/v1/completions", json=body(prompt, stream=True))
    assert "process that worked at this request has died" in reply.text
    wait_for(lambda: not client.meter.num_running)
    assert client.taken > 0


def test_a_replica_that_stops_is_not_waited_for_long(
    scaled: tuple[ScaledEcho, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = scaled
    monkeypatch.setattr("localinfra.scale.gateway.LOOK_S", 0.05)
    connection = client.send("/v1/completions", body(PROMPT, stream=True))
    until(lambda: Stepping.num_rows >= ROWS)
    server.fleet.stopped = {"echo0", "echo1"}
    threading.Timer(0.5, connection.close).start()
    client.settled()
    assert client.meter.num_running == 0
