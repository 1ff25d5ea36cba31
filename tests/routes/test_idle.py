"""Idle models are unloaded, and loaded again with the next request."""

import time
from pathlib import Path

from echo import EchoServer

CATALOGUE = """
[model."brief"]
kind = "text"
source = "echo.gguf"
unload_after_s = 1

[model."lasting"]
kind = "text"
source = "echo.gguf"
"""


def ask(server: EchoServer, model: str) -> str:
    body = {"model": model, "prompt": "Here.\n", "temperature": 0}
    return str(server.post("/v1/completions", body).json()["choices"][0]["text"])


def test_an_idle_text_model_leaves_and_comes_back(tmp_path: Path) -> None:
    server = EchoServer(tmp_path, CATALOGUE)
    try:
        assert ask(server, "brief") == ask(server, "lasting") == "Here."
        deadline = time.monotonic() + 120
        while "brief" in server.runtime.loaded():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ask(server, "brief") == "Here." and "lasting" in server.runtime.loaded()
    finally:
        server.close()


def test_a_model_is_busy_while_its_answer_is_being_read(server: EchoServer) -> None:
    body = {"model": "slow", "prompt": "endless", "max_tokens": 1500, "stream": True}
    with server.cut_short(1500), server.client.stream("POST", "/v1/completions", json=body) as read:
        next(read.iter_bytes())
        assert server.runtime.loaded_text_models()["slow"].is_busy
