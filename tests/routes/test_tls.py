"""The whole application over TLS, with the clients that people use."""

from collections.abc import Iterator

import anthropic
import httpx2
import openai
import pytest
from echo import CATALOGUE, EchoServer
from serving import CERTIFICATES, trusting_tests

TABLE = f"""[server]
tls_cert = "{CERTIFICATES / "first.pem"}"
tls_key = "{CERTIFICATES / "first.key"}"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"), TABLE + CATALOGUE)
    yield server
    server.close()


@pytest.fixture(scope="module")
def http(server: EchoServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(verify=trusting_tests(), timeout=600) as http:
        yield http


def test_openais_client_streams(server: EchoServer, http: httpx2.Client) -> None:
    client = openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http
    )
    for _ in range(3):  # on one connection
        chunks = client.chat.completions.create(
            model="echo",
            messages=[{"role": "user", "content": "Straße 👋 " * 20}],
            temperature=0,
            max_tokens=400,
            stream=True,
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == "Straße 👋 " * 20


def test_anthropics_client_streams(server: EchoServer, http: httpx2.Client) -> None:
    client = anthropic.Anthropic(
        base_url=server.url, api_key="none", max_retries=0, http_client=http
    )
    with client.messages.stream(
        model="echo",
        max_tokens=64,
        messages=[{"role": "user", "content": "Hello"}],
        extra_body={"temperature": 0},
    ) as stream:
        assert "".join(stream.text_stream) == "Hello"


def test_a_client_that_leaves_frees_its_place(server: EchoServer) -> None:
    body = {"model": "slow", "prompt": "a", "max_tokens": 2000, "stream": True}
    with (
        server.cut_short(2000),
        server.client.stream("POST", "/v1/completions", json=body) as reply,
    ):
        next(reply.iter_lines())


def test_errors_name_the_servers_own_url(server: EchoServer) -> None:
    assert server.url.startswith("https://")
    message = server.post("/nothing", {}).json()["error"]["message"]
    assert f"{server.url}/v1" in message
