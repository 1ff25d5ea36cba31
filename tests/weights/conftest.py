"""The server that all tests of this folder share, and openai's client for it."""

from collections.abc import Iterator

import openai
import pytest
from live import CATALOGUE, LiveServer
from repeatable import repeatable

__all__ = ["repeatable"]  # of every test here


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "damaged.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "models.toml").write_text(CATALOGUE)
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
