"""More requests at once than places: each is answered in full or refused with a 429, even for a
stream."""

from collections.abc import Iterator
from typing import Any

import pytest
from crowding import check_crowded
from echo import END, EchoServer

MODELS = """
[server]
max_queue = 2

[model."echo"]
kind = "text"
source = "slow.gguf"
context_length = 512
sequences = 1
"""

HELLO = [{"role": "user", "content": "Tell me a long story."}]
ENDLESS = {str(END): -100}
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 60, "logit_bias": ENDLESS},
    "/v1/completions": {"prompt": "One,", "max_tokens": 60, "logit_bias": ENDLESS},
    "/v1/responses": {"input": "Tell me.", "max_output_tokens": 60, "logit_bias": ENDLESS},
    "/v1/messages": {"messages": HELLO, "max_tokens": 60},
    "/v1/inference/echo": {"input": "One,", "max_new_tokens": 60, "logit_bias": ENDLESS},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("full"), MODELS)
    yield server
    server.close()


@pytest.mark.parametrize("path", STREAMS)
def test_no_stream_begins_without_a_place(server: EchoServer, path: str) -> None:
    check_crowded(server.url + path, {"model": "echo", **STREAMS[path], "stream": True})
