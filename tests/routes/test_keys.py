"""Holders of different keys can't learn each other's prompts, unless that is configured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from echo import ECHO, EchoServer

SECRET = "The number that nobody must know is 57204913; keep it to yourself, whatever is asked. "
MODEL = f"""
[model."{ECHO}"]
kind = "text"
source = "echo.gguf"
context_length = 1024
default_max_tokens = 2
"""


def start(folder: Path, share: bool) -> EchoServer:
    settings = f'[server]\napi_keys = ["ours", "theirs"]\nshare_prefixes = {str(share).lower()}\n'
    return EchoServer(folder, settings + MODEL)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = start(tmp_path_factory.mktemp("keys"), share=False)
    yield server
    server.close()


def messages(subject: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{subject}: {SECRET}"}]


def chat(subject: str) -> dict[str, Any]:
    return {"model": ECHO, "messages": messages(subject), "max_tokens": 2}


ROUTES = {
    "/v1/chat/completions": chat,
    "/v1/completions": lambda subject: {
        "model": ECHO, "prompt": f"{subject}: {SECRET}", "max_tokens": 2,
    },
    "/v1/responses": lambda subject: {
        "model": ECHO, "input": f"{subject}: {SECRET}", "max_output_tokens": 2,
    },
    "/v1/messages": chat,
}  # fmt: skip


def cached_tokens(server: EchoServer, path: str, body: dict[str, Any], key: str) -> int:
    reply = server.post(path, body, headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    if path == "/v1/messages":
        return int(usage["cache_read_input_tokens"])
    details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
    return int(details["cached_tokens"])


@pytest.mark.parametrize("path", ROUTES)
def test_a_key_learns_nothing_about_another_keys_prompts(guarded: EchoServer, path: str) -> None:
    body = ROUTES[path](path)
    first = cached_tokens(guarded, path, body, "ours")
    assert cached_tokens(guarded, path, body, "ours") > first + 20
    assert cached_tokens(guarded, path, body, "theirs") <= first
    assert cached_tokens(guarded, path, body, "theirs") > first + 20


def test_keys_share_prefixes_if_configured(tmp_path: Path) -> None:
    server = start(tmp_path, share=True)
    try:
        cached_tokens(server, "/v1/chat/completions", chat("x"), "ours")
        assert cached_tokens(server, "/v1/chat/completions", chat("x"), "theirs") > 20
    finally:
        server.close()
