"""Clients of the server that a test's module has."""

from collections.abc import Iterator

import anthropic
import openai
import pytest
from application import Application


@pytest.fixture(scope="module")
def client(server: Application) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server: Application) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client
