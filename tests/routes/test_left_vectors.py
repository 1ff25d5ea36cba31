"""What a client pays that leaves embeddings or a reranking: the texts that were computed for it, or
were just being so."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tokenizers
from echo import EchoRuntime, EchoServer
from leaving import Account, Client, limited
from waiting import wait_for

from localinfra.api.openai import embeddings
from localinfra.embed.encoder import Rows, Tokens
from localinfra.embed.model import EmbeddingModel, RerankModel
from localinfra.embed.tokenizer import FastTokenizer
from localinfra.embed.worker import EmbedWorker
from localinfra.kinds import LoadedModel
from localinfra.models.entries import EmbeddingModelEntry, ModelEntry, RerankModelEntry
from localinfra.models.seats import LoadPlan

CATALOGUE = """
[model."vectors"]
kind = "embedding"
source = "slow.gguf"
price = { input = 1.0 }

[model."scores"]
kind = "rerank"
source = "slow.gguf"
price = { input = 1.0 }
"""
TEXTS = [f"{'word ' * 8}number {at}" for at in range(30)]  # of ten tokens each
BATCH = 100  # tokens
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"model": "vectors", "input": TEXTS}),
    ("/v2/embed", {"model": "vectors", "texts": TEXTS, "embedding_types": ["float"]}),
    ("/api/embed", {"model": "vectors", "input": TEXTS}),
    ("/v1/inference/vectors", {"inputs": TEXTS}),
    ("/v1/rerank", {"model": "scores", "query": "word", "documents": [t[5:] for t in TEXTS]}),
    ("/v1/inference/scores", {"queries": ["word"], "documents": [t[5:] for t in TEXTS]}),
]


class Stepping:
    """An encoder that computes a batch whenever it may."""

    name, batch_tokens, num_lanes = "stepping", BATCH, 1
    may_step = threading.Semaphore(0)
    num_tokens = 0

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
        Stepping.num_tokens += sum(map(len, batch))
        assert self.may_step.acquire(timeout=600)
        return np.ones((len(batch), self.width), np.float32)

    def close(self) -> None: ...


def tokenizer() -> FastTokenizer:
    """A word is a token."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return FastTokenizer(words.to_str(), max_tokens=512)


class SteppingRuntime(EchoRuntime):
    def _load_kind(self, name: str, entry: ModelEntry, plan: LoadPlan) -> LoadedModel:
        worker = EmbedWorker(Stepping(4 if name == "vectors" else 1), name=name, max_waiting=8)
        if isinstance(entry, RerankModelEntry):
            return RerankModel(name, entry, worker, tokenizer())
        assert isinstance(entry, EmbeddingModelEntry)
        return EmbeddingModel(name, entry, worker, tokenizer(), {})


class VectorServer(EchoServer):
    runtime_kind = SteppingRuntime


@pytest.fixture(scope="module")
def client_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    account, folder = Account(), tmp_path_factory.mktemp("left")
    holders = limited(folder, "leaver")
    server = VectorServer(folder, CATALOGUE, account, holders)

    def client() -> Client:
        Stepping.num_tokens = 0
        return Client(server.port, account, holders, "leaver")

    yield client
    Stepping.may_step.release(1 << 20)
    server.close()


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("num_batches", [1, 2])
def test_who_leaves_pays_for_the_texts_that_were_computed(
    num_batches: int, path: str, body: dict[str, Any], client_of: Any
) -> None:
    client: Client = client_of()
    connection = client.send(path, body)
    wait_for(lambda: Stepping.num_tokens > 0)
    if num_batches == 2:
        Stepping.may_step.release()
    wait_for(lambda: Stepping.num_tokens == num_batches * BATCH)
    connection.close()
    wait_for(lambda: not client.meter.num_running)
    Stepping.may_step.release()
    assert client.paid.prompt_tokens == client.taken == num_batches * BATCH == Stepping.num_tokens
    assert client.paid.requests == 1
    assert client.paid.usd == pytest.approx(num_batches * BATCH / 1e6)


def test_who_leaves_while_its_vectors_are_written_pays_for_all(
    client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_written = threading.Event()

    async def never(*_: object) -> None:
        is_written.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(embeddings, "pieces", never)
    client: Client = client_of()
    connection = client.send(*REQUESTS[0])
    Stepping.may_step.release(3)
    assert is_written.wait(600)
    connection.close()
    wait_for(lambda: not client.meter.num_running)
    assert client.paid.prompt_tokens == client.taken == 300
