"""/v1/rerank over a real cross-encoder with small random weights: the scores are the library's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cross_encoder import make_cross_encoder
from live import LiveServer

from localinfra.embed.plan import EncoderPlan

pytestmark = pytest.mark.timeout(900)

QUERY = "Where does the river end?"
DOCUMENTS = [
    "At the sea.",
    "The mountain is high, and nobody was ever on its top.",
    "Rivers end in the sea or in a lake, and some end in a desert.",
    "A",
    "stone " * 200,
    "Bread needs flour.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cross_encoder(tmp_path_factory.mktemp("cross") / "encoder")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    import sentence_transformers

    encoder = sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)
    return encoder.predict([(QUERY, document) for document in DOCUMENTS])


@pytest.fixture(scope="module", params=["auto", "torch"])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    path = folder.parent / f"{request.param}.toml"
    path.write_text(
        f'[model."cross"]\nkind = "rerank"\nsource = "encoder"\nbackend = "{request.param}"\n'
        "price = { input = 1.0 }\n"
    )
    with pytest.MonkeyPatch.context() as patch:  # its plan is of no use to anybody else
        patch.setenv("LOCALINFRA_CACHE", str(folder.parent / "cache"))
        patch.setattr(EncoderPlan, "fastest", other_than_torch)
        server = LiveServer(path)
        check_the_first_answer(server, folder)
        yield server
        server.close()


def other_than_torch(plan: EncoderPlan, *, exact: bool) -> str:
    """For the takeover to be seen: beside other tests, torch may be measured as the fastest."""
    near = [
        name
        for name, way in plan.measured.items()
        if way.is_near and "torch" not in name and not (exact and name.endswith("-bf16"))
    ]
    return min(near, key=lambda name: plan.measured[name].mixed_s)


def check_the_first_answer(server: LiveServer, folder: Path) -> None:
    """It comes by torch, long before the ways to compute it are measured; and when one of them has
    taken over, it is the same."""
    first = ranked(server)["results"]
    [model] = server.runtime.loaded_encoders().values()
    encoder = model.worker._encoder
    assert encoder.name == "torch float32 on cpu"
    if model._measurement is None:
        return
    model._measurement.wait(800)
    assert model.worker._encoder is not encoder and not hasattr(encoder, "network")
    before, after = (
        [item["relevance_score"] for item in found] for found in (first, ranked(server)["results"])
    )
    assert np.allclose(before, after, atol=1e-3)
    assert not list((folder.parent / "cache" / "encoders").glob(".scratch-*"))


def ranked(server: LiveServer, **fields: Any) -> Any:
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, **fields}
    answer = server.post("/v1/rerank", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_scores_are_the_librarys_in_falling_order(server: LiveServer, expected: Any) -> None:
    results = ranked(server)["results"]
    scores = [item["relevance_score"] for item in results]
    assert scores == sorted(scores, reverse=True)
    found = np.empty(len(DOCUMENTS))
    found[[item["index"] for item in results]] = scores
    assert np.allclose(found, expected, atol=1e-4), (found, expected)
    assert np.ptp(found) > 0.01  # random weights, but not all alike


def test_the_first_and_their_documents(server: LiveServer) -> None:
    whole = ranked(server)["results"]
    some = ranked(server, top_n=2, return_documents=True)["results"]
    assert [item["index"] for item in some] == [item["index"] for item in whole[:2]]
    assert [item["document"]["text"] for item in some] == [
        DOCUMENTS[item["index"]] for item in some
    ]
    assert "document" not in whole[0]


def test_documents_may_be_objects(server: LiveServer) -> None:
    objects = [{"text": text} for text in DOCUMENTS]
    assert ranked(server, documents=objects)["results"] == ranked(server)["results"]


def test_usage_and_too_long_documents(server: LiveServer) -> None:
    reply = ranked(server)
    assert reply["usage"]["total_tokens"] > 200
    assert reply["usage"]["estimated_cost"] == reply["usage"]["total_tokens"] / 1e6
    body = {"model": "cross", "query": QUERY, "documents": ["a", "stone " * 2000]}
    cut = server.post("/v1/rerank", body)
    assert cut.headers["x-localinfra-truncated"] == "1"
    refused = server.post("/v1/rerank", {**body, "truncate": False})
    assert refused.status_code == 400 and "documents[1]" in refused.json()["error"]["message"]


def test_what_is_long_but_few_tokens_is_read(server: LiveServer) -> None:
    """Blanks are none, and a word that nobody knows is one."""
    blanks = " " * 60_000
    plain = ranked(server, documents=["river stone", "xyzzy"])
    long = ranked(server, query=QUERY + blanks, documents=[f"river{blanks}stone", "xyzzy"])
    assert [item["relevance_score"] for item in long["results"]] == pytest.approx(
        [item["relevance_score"] for item in plain["results"]], abs=1e-4
    )
    body = {"model": "cross", "query": "a" * 50_000, "documents": ["b", "c" * 50_000]}
    answer = server.post("/v1/rerank", body)
    assert answer.status_code == 200 and "x-localinfra-truncated" not in answer.headers


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("stone " * 1000, "The query has 1002 tokens; at most"),
        ("stone " * 9000, "characters, where reading stopped; at most"),
        (" " * 100_000 + "stone", "too many to be read with each of 300 documents"),
    ],
)
def test_a_query_that_is_too_long_is_told_so(server: LiveServer, query: str, words: str) -> None:
    body = {"model": "cross", "query": query, "documents": ["a"] * 300}
    answer = server.post("/v1/rerank", body)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_bad_input(server: LiveServer, fields: dict[str, Any], param: str) -> None:
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, **fields}
    answer = server.post("/v1/rerank", body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_reranker_makes_no_embeddings(server: LiveServer) -> None:
    answer = server.post("/v1/embeddings", {"model": "cross", "input": "a"})
    assert answer.status_code == 400 and "/v1/rerank" in answer.json()["error"]["message"]


def test_the_native_route_gives_scores_in_the_documents_order(
    server: LiveServer, expected: Any
) -> None:
    body = {"queries": [QUERY], "documents": DOCUMENTS}
    found = server.post("/v1/inference/cross", body).json()
    assert np.allclose(found["scores"], expected, atol=1e-4)
    assert found["inference_status"]["status"] == "succeeded" and found["input_tokens"] > 200


def test_a_query_that_leaves_no_room_is_refused_before_it_is_read_with_each_document(
    server: LiveServer,
) -> None:
    body = {"model": "cross", "query": "a " * 200_000, "documents": ["b"] * 2000}
    answer = server.post("/v1/rerank", body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "query"


def test_cohere_s_newer_path(server: LiveServer) -> None:
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS}
    assert server.post("/v2/rerank", body).json()["results"] == ranked(server)["results"]


def test_a_classifier_of_several_labels_is_no_reranker(folder: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from localinfra.embed.torch_encoder import TorchEncoder
    from localinfra.errors import ModelUnavailable

    several = folder.parent / "several"
    shutil.copytree(folder, several)
    config = BertConfig.from_pretrained(several, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(several)
    with pytest.raises(ModelUnavailable, match="3 scores"):
        TorchEncoder(several, "rerank")
