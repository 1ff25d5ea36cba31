"""/v1/inference/{model}: DeepInfra's native API, for embedders."""

import json
from typing import Any

import httpx2
import numpy as np
import pytest
from live import LiveServer

pytestmark = pytest.mark.timeout(300)


def post_form(server: LiveServer, path: str, fields: dict[str, str]) -> httpx2.Response:
    parts = {name: (None, value) for name, value in fields.items()}
    return httpx2.post(server.url + path, files=parts, timeout=600)


VECTORS = "/v1/inference/sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["query: where is the river?", "passage: behind the hill"]


def test_embeddings_as_langchain_asks(server: LiveServer) -> None:
    answer = server.post(VECTORS, {"inputs": TEXTS, "normalize": False})
    body = answer.json()
    plain = server.post("/v1/embeddings", {"model": "minilm", "input": TEXTS}).json()
    assert np.allclose(body["embeddings"], [item["embedding"] for item in plain["data"]], atol=1e-5)
    assert body["input_tokens"] == plain["usage"]["prompt_tokens"]
    status = body["inference_status"]
    assert status["status"] == "succeeded" and status["tokens_input"] == body["input_tokens"]
    assert status["cost"] == body["input_tokens"] / 1e6 and status["runtime_ms"] >= 0
    assert body["request_id"]


def test_names_may_be_aliases(server: LiveServer) -> None:
    body = server.post("/v1/inference/minilm", {"inputs": TEXTS[0], "dimensions": 8}).json()
    assert np.shape(body["embeddings"]) == (1, 8)


def test_embeddings_by_a_form(server: LiveServer) -> None:
    expected = server.post(VECTORS, {"inputs": TEXTS}).json()["embeddings"]
    answer = post_form(server, VECTORS, {"inputs": json.dumps(TEXTS)})
    assert np.allclose(answer.json()["embeddings"], expected, atol=1e-6)


def test_token_ids_are_those_of_one_text_as_on_openais_route(server: LiveServer) -> None:
    ids = [1820, 15140]  # "the river" in cl100k_base
    found = server.post(VECTORS, {"inputs": ids}).json()["embeddings"]
    expected = server.post(VECTORS, {"inputs": [ids]}).json()["embeddings"]
    assert np.shape(found) == (1, 384) and np.allclose(found, expected, atol=1e-6)
    mixed = server.post(VECTORS, {"inputs": ["a", 1]})
    assert mixed.status_code == 400 and "mixes" in mixed.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (VECTORS, {"inputs": []}, 400, "inputs"),
        (VECTORS, {}, 400, "inputs"),
        (VECTORS, {"inputs": ["word " * 400]}, 400, "inputs"),
        (VECTORS, {"inputs": ["a"], "image": "data:image/png;base64,AA=="}, 400, "image"),
        (VECTORS, {"inputs": ["a"], "webhook": "http://a.example"}, 400, "webhook"),
    ],
)
def test_bad_input(
    server: LiveServer, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = server.post(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), answer.text
    assert error["message"]
