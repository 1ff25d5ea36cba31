"""Embeddings in Cohere's shapes over the real embedder, against OpenAI's of the same texts."""

import base64
from typing import Any

import pytest
from live import LiveServer

TEXTS = ["a cat on a mat", "a dog"]


@pytest.fixture(scope="module")
def vectors(server: LiveServer) -> Any:
    reply = server.post("/v1/embeddings", {"model": "minilm", "input": TEXTS})
    return [item["embedding"] for item in reply.json()["data"]]


def embed(server: LiveServer, path: str = "/v2/embed", **fields: Any) -> Any:
    body = {"model": "minilm", "input_type": "search_document", **fields}
    return server.post(path, body)


def test_version_2_names_the_types_of_vectors(server: LiveServer, vectors: Any) -> None:
    reply = embed(server, texts=TEXTS, embedding_types=["float", "base64"])
    body = reply.json()
    assert reply.status_code == 200 and body["response_type"] == "embeddings_by_type"
    assert body["texts"] == TEXTS and body["meta"]["api_version"]["version"] == "2"
    assert body["meta"]["billed_units"]["input_tokens"] > 0
    for row, expected in zip(body["embeddings"]["float"], vectors, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    assert len(base64.b64decode(body["embeddings"]["base64"][0])) == 4 * len(vectors[0])


def test_version_1_lists_plain_vectors(server: LiveServer, vectors: Any) -> None:
    body = embed(server, "/v1/embed", texts=TEXTS).json()
    assert body["response_type"] == "embeddings_floats"
    assert body["embeddings"][1] == pytest.approx(vectors[1], abs=1e-4)
    by_type = embed(server, "/v1/embed", texts=TEXTS, embedding_types=["float"]).json()
    assert by_type["embeddings"]["float"] == body["embeddings"]


def test_inputs_of_text_parts_are_texts(server: LiveServer, vectors: Any) -> None:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    body = embed(server, inputs=inputs, output_dimension=8).json()
    assert len(body["embeddings"]["float"][0]) == 8 and body["texts"] == TEXTS


def test_types_of_vectors_that_are_not_served_are_left_out_and_named(server: LiveServer) -> None:
    reply = embed(server, texts=TEXTS, embedding_types=["int8", "float", "ubinary"])
    assert list(reply.json()["embeddings"]) == ["float"]
    assert reply.headers["x-localinfra-ignored"] == "embedding_types[0], embedding_types[2]"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({}, 400, "texts"),
        ({"texts": []}, 400, "texts"),
        ({"texts": ["a", ""]}, 400, "texts"),
        ({"texts": TEXTS, "inputs": [{"content": [{"type": "text", "text": "a"}]}]}, 400, "inputs"),
        ({"inputs": [{"content": [{"type": "text", "text": ""}]}]}, 400, "inputs"),
        ({"texts": TEXTS, "embedding_types": ["int8"]}, 400, "embedding_types"),
        ({"texts": TEXTS, "truncate": "START"}, 400, "truncate"),
        ({"texts": TEXTS, "input_type": "other"}, 400, "input_type"),
        ({"texts": TEXTS, "output_dimension": 0}, 400, "output_dimension"),
        ({"images": ["data:image/png;base64,AA=="]}, 400, "images"),
        ({"inputs": [{"content": [{"type": "image_url"}]}]}, 400, "inputs"),
        ({"texts": ["word " * 1000], "truncate": "NONE"}, 400, "texts"),
        ({"texts": TEXTS, "model": "nobody"}, 404, "model"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    server: LiveServer, fields: dict[str, Any], status: int, param: str
) -> None:
    reply = embed(server, **fields)
    assert reply.status_code == status
    assert reply.json()["error"]["param"] == param


def test_a_text_that_is_too_long_is_cut_as_cohere_does(server: LiveServer) -> None:
    reply = embed(server, texts=["a", "word " * 1000])
    assert reply.status_code == 200 and reply.headers["x-localinfra-truncated"] == "1"
