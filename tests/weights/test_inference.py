"""/v1/inference/{model} for embedders, as LangChain's DeepInfraEmbeddings asks."""

from typing import Any

import numpy as np
import pytest
from live import LiveServer

pytestmark = pytest.mark.timeout(300)

PATH = "/v1/inference/sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["query: where is the river?", "passage: behind the hill"]


def test_embeddings(server: LiveServer) -> None:
    answer = server.post(PATH, {"inputs": TEXTS, "normalize": False})
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


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (PATH, {"inputs": []}, 400, "inputs"),
        (PATH, {}, 400, "inputs"),
        (PATH, {"inputs": ["word " * 400]}, 400, "inputs"),
        ("/v1/inference/no/such", {"inputs": ["a"]}, 404, "model"),
        ("/v1/inference/smollm2", {"input": "Hi"}, 400, "model"),
    ],
)
def test_bad_input(
    server: LiveServer, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = server.post(path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
