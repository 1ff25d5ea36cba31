"""Strange requests on every route, some of those that `scripts/fuzz` sends to real models."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import document
from echo import EchoServer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from fuzzing.client import Client
from fuzzing.generator import Generator
from fuzzing.judging import Judge
from fuzzing.run import exchanged
from fuzzing.seeds import SMOL, Route

NUM_OF_A_ROUTE = 80
NUM_PULLS = 4  # each tries three times, with pauses, to reach a hub where nothing listens
NOWHERE = "http://127.0.0.1:9"
CATALOGUE = f"""
[server]
keep_chats = true
body_timeout_s = 1.0
head_timeout_s = 1.0

[model."{SMOL}"]
kind = "text"
source = "echo.gguf"
context_length = 512
default_max_tokens = 8

[model."sentence-transformers/all-MiniLM-L6-v2"]
kind = "embedding"
source = "hf:owner/vectors"
"""
GENERATOR = Generator(document(), seed=1)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    folder = tmp_path_factory.mktemp("strange")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "LOCALINFRA_DATA", "LOCALINFRA_CACHE", "HF_HUB_CACHE"):
            patch.setenv(name, str(folder / name))
        for name in ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, NOWHERE)
        server = EchoServer(folder, CATALOGUE)
        yield server
        server.close()


@pytest.mark.parametrize("route", GENERATOR.routes, ids=lambda route: route.operation)
def test_every_strange_request_gets_a_whole_documented_answer(
    strange: EchoServer, route: Route
) -> None:
    judge, client = Judge(document()), Client(strange.port, limit_s=600)
    for number in range(NUM_PULLS if "pull" in route.operation else NUM_OF_A_ROUTE):
        attempt = GENERATOR.attempt(number, route)
        outcome = exchanged(client, attempt)
        faults = judge.faults_of(attempt, outcome)
        assert not faults, (attempt.kind, attempt.delivery.packets, outcome.answers)
    client.close()
