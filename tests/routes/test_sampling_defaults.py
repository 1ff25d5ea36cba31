"""A model's own sampling defaults on every text route, and what its authors recommend."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asgi import answer, scope_of
from echo import EchoServer
from models.tiny_gguf import F32, Value, tiny_llama

from localinfra.api.app import create_app
from localinfra.config import settings as config_file
from localinfra.models import catalog as catalog_file
from localinfra.runtime import Runtime

GREEDY = """
[model.greedy]
kind = "text"
source = "echo.gguf"
context_length = 512
sampling = { temperature = 0 }
recommended = { temperature = 0.6, top_k = 20 }
"""
SAID = "what is said"  # and only at temperature 0 repeated without noise

MESSAGES = [{"role": "user", "content": SAID}]
ROUTES: list[tuple[str, dict[str, Any], str]] = [  # path, body, name of its limit
    ("/v1/chat/completions", {"messages": MESSAGES}, "max_tokens"),
    ("/v1/completions", {"prompt": f"{SAID}\n"}, "max_tokens"),
    ("/v1/responses", {"input": SAID}, "max_output_tokens"),
    ("/v1/messages", {"messages": MESSAGES}, "max_tokens"),
    ("/v1/inference/greedy", {"input": f"{SAID}\n"}, "max_new_tokens"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("greedy"), GREEDY)
    yield server
    server.close()


@pytest.mark.parametrize(("path", "body", "limit"), ROUTES, ids=[path for path, _, _ in ROUTES])
def test_a_request_without_a_temperature_gets_the_models(
    server: EchoServer, path: str, body: dict[str, Any], limit: str
) -> None:
    body = {"model": "greedy", limit: len(SAID), **body}
    assert SAID in server.post(path, body).text.replace(f'"input":"{SAID}', "")
    own = [server.post(path, {**body, "temperature": 1, "seed": seed}).text for seed in range(3)]
    assert not all(SAID in text for text in own), "the request's own wins"


def test_a_response_says_what_was_sampled_with(server: EchoServer) -> None:
    body = {"model": "greedy", "input": SAID, "max_output_tokens": 1}
    assert server.post("/v1/responses", body).json()["temperature"] == 0
    assert server.post("/v1/responses", {**body, "temperature": 0.5}).json()["temperature"] == 0.5


def test_the_card_has_what_is_recommended(server: EchoServer) -> None:
    card = server.client.get(f"{server.url}/v1/models/greedy").json()
    assert card["recommended"] == {"temperature": 0.6, "top_k": 20}


def test_a_file_recommends_before_its_model_is_loaded(tmp_path: Path) -> None:
    model = tiny_llama()
    model.metadata["general.sampling.temp"] = Value(F32, 0.6)
    model.write(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"GGUF, and no more")
    names = {"a": "a.gguf", "b": "b.gguf", "absent": "absent.gguf"}
    tables = [f'[model.{name}]\nkind = "text"\nsource = "{file}"' for name, file in names.items()]
    (tmp_path / "models.toml").write_text("\n".join(tables))
    config = config_file.load(tmp_path / "models.toml")

    async def cards() -> dict[str, Any]:
        runtime = Runtime(config.server, catalog_file.load(config))
        app = create_app(runtime)
        one = msgspec.json.decode((await answer(app, scope_of(path="/v1/models/a"))).body)
        listed = msgspec.json.decode((await answer(app, scope_of(path="/v1/models"))).body)
        assert (one["state"], one["recommended"]) == ("present", {"temperature": 0.6})
        await runtime.close()
        return {card["id"]: card.get("recommended") for card in listed["data"]}

    assert asyncio.run(cards()) == {"a": {"temperature": 0.6}, "b": None}
