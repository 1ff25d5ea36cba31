"""The server shared by the tests of this folder, and clients for it."""

from collections.abc import Iterator

import anthropic
import openai
import pytest
from echo import EchoServer
from repeatable import repeatable

__all__ = ["repeatable"]  # of every test here


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def client(server: EchoServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def claude(server: EchoServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client
