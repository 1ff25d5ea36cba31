"""What the gateway charges a key whose clients leave, on a real Ray."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from metering import bearer
from named import key_file
from ray_process import RayServer
from waiting import wait_for

from localinfra.keys import file

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

# More than is set aside for a request, less than a step of its prompt: that is 512 tokens.
TPM = 400
KEYS = ("prompt", "stream", "whole")


@pytest.fixture(scope="module")
def keyed(server: RayServer) -> Iterator[RayServer]:
    path = key_file(file.default_path().parent, {key: {"tpm": TPM} for key in KEYS})
    try:
        with server.changed("[server]", '[server]\napi_keys = ["new"]'):
            for _ in range(20):  # the proxy learns of the new gateway a moment later
                while server.client.get("/v1/models", headers=bearer("new")).status_code != 200:
                    time.sleep(0.05)
            yield server
            path.unlink()
        while server.client.get("/v1/models").status_code != 200:
            time.sleep(0.05)
    finally:
        path.unlink(missing_ok=True)


def asked(model: str, *, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": (model + " a river; ")[:12] * 80}]
    return {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": 100,
        "stream": stream,
    }


def wait_until_charged(server: RayServer, key: str) -> None:
    """Until more than its limit is used: what is only set aside leaves some."""

    def remaining() -> int:
        headers = server.client.get("/v1/models", headers=bearer(key)).headers
        return int(headers["x-ratelimit-remaining-tokens"])

    wait_for(lambda: remaining() == 0, 120)


def test_a_stream_that_is_left_in_its_middle(keyed: RayServer) -> None:
    body, headers = asked("slow", stream=True), bearer("stream")
    with keyed.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as got:
        lines = got.iter_lines()
        while "content" not in next(lines):
            pass
    wait_until_charged(keyed, "stream")


@pytest.mark.parametrize(("key", "after_s"), [("prompt", 0.5), ("whole", 2.0)])
def test_a_prompt_or_an_answer_of_which_nothing_was_sent(
    keyed: RayServer, key: str, after_s: float
) -> None:
    """Steps take half a second: its prompt is read in two."""
    keyed.gate.touch()
    body, limit = asked("gated", stream=False), httpx2.Timeout(600, read=after_s)
    with pytest.raises(httpx2.ReadTimeout):
        keyed.client.post("/v1/chat/completions", json=body, headers=bearer(key), timeout=limit)
    wait_until_charged(keyed, key)
    keyed.gate.unlink()
