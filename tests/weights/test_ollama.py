"""Ollama's API over the real models: vectors, and what is said of them."""

from typing import Any

import httpx2
import pytest
from live import SMOLLM2, LiveServer

TEXTS = ["a cat on a mat", "a dog"]
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def vectors(server: LiveServer) -> Any:
    reply = server.post("/v1/embeddings", {"model": "minilm", "input": TEXTS})
    return [item["embedding"] for item in reply.json()["data"]]


def test_vectors_are_those_of_openais_api(server: LiveServer, vectors: Any) -> None:
    body = {"model": "minilm:latest", "input": TEXTS, "dimensions": 0}  # Go's for "not given"
    answer = server.post("/api/embed", body).json()
    assert answer["model"] == MINILM and answer["prompt_eval_count"] > len(TEXTS)
    assert answer["total_duration"] >= answer["load_duration"] > 0
    for row, expected in zip(answer["embeddings"], vectors, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    one = server.post("/api/embed", {"model": "minilm", "input": TEXTS[1], "dimensions": 8}).json()
    assert [len(row) for row in one["embeddings"]] == [8]
    old = server.post("/api/embeddings", {"model": "minilm", "prompt": TEXTS[0]}).json()
    assert old["embedding"] == pytest.approx(vectors[0], abs=1e-4)


def test_an_empty_input_loads_the_model(server: LiveServer) -> None:
    empties: list[dict[str, Any]] = [{}, {"input": ""}, {"input": []}]
    for empty in empties:
        answer = server.post("/api/embed", {"model": "minilm", **empty}).json()
        assert answer["embeddings"] == [] and answer["model"] == MINILM
    assert server.post("/api/embeddings", {"model": "minilm"}).json() == {"embedding": []}


def test_a_long_text_is_cut_off_unless_the_request_refuses(server: LiveServer) -> None:
    body = {"model": "minilm", "input": ["a", "word " * 400]}
    cut = server.post("/api/embed", body)
    assert cut.status_code == 200 and cut.headers["x-localinfra-truncated"] == "1"
    refused = server.post("/api/embed", {**body, "truncate": False})
    assert refused.status_code == 400 and "input[1]" in refused.json()["error"]


def test_other_kinds_of_models_are_sent_to_their_routes(server: LiveServer) -> None:
    refused = server.post("/api/embed", {"model": "smollm2", "input": "a"})
    assert refused.status_code == 400 and "not at /api/embed" in refused.json()["error"]
    refused = server.post("/api/chat", {"model": "minilm"})
    assert refused.status_code == 400 and "not at /api/chat" in refused.json()["error"]


def test_models_are_described(server: LiveServer) -> None:
    chat = server.post("/api/show", {"model": "smollm2"}).json()
    assert chat["details"] == {
        "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "135M",
        "quantization_level": "Q4_1", "parent_model": "",
    }  # fmt: skip
    assert chat["capabilities"] == ["completion", "tools"]
    assert chat["model_info"]["llama.context_length"] == 2048
    assert chat["model_info"]["tokenizer.ggml.tokens"] is None
    assert "<|im_start|>" in chat["template"] and chat["license"] == "apache-2.0"
    thinker = server.post("/api/show", {"model": "thinker"}).json()
    assert thinker["capabilities"] == ["completion", "tools", "thinking"]
    vectors = server.post("/api/show", {"model": "minilm"}).json()
    assert vectors["capabilities"] == ["embedding"] and vectors["details"]["format"] == (
        "safetensors"
    )


def test_memory_is_shown(server: LiveServer) -> None:
    server.post("/api/chat", {"model": "smollm2"})
    [model] = [
        model
        for model in httpx2.get(f"{server.url}/api/ps").json()["models"]
        if model["name"] == SMOLLM2
    ]
    assert model["size"] > 100e6 and model["context_length"] == 2048
