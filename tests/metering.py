"""What requests add to /metrics and to the costs, as tests see it."""

import asyncio
import re
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import httpx2
import pytest

from localinfra import costs
from localinfra.api.exposition import Exposition
from localinfra.costs import CostRow, Ledger, Used
from localinfra.metrics import Metrics

ALICE, BOB = "alices-key", "bobs-key"
SAMPLE = re.compile(r"(?P<name>\w+)(\{(?P<labels>.*)\})? (?P<number>\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')

Numbers = dict[tuple[str, ...], float]


class Served(Protocol):
    """A server of either sort of tests."""

    url: str

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response: ...


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def label(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:8]


def post(server: Served, key: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.post(path, body, headers=bearer(key))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def written(metrics: Metrics, accept: str = "") -> str:
    """As a scrape gets them, without those of the process."""
    text, _ = asyncio.run(Exposition(metrics).text(accept))
    lines = text.decode().splitlines(keepends=True)
    return "".join(line for line in lines if "process_" not in line.split("{")[0])


def metrics(server: Served) -> Numbers:
    """Numbers by the metric's name, without its prefix, and its labels' values in the order of
    the labels' names."""
    answer = httpx2.get(f"{server.url}/metrics", headers=bearer(ALICE))
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = [SAMPLE.fullmatch(line) for line in answer.text.splitlines() if line[0] != "#"]
    return {
        (
            found["name"].removeprefix("localinfra_"),
            *(value for _, value in LABEL.findall(found["labels"] or "")),
        ): float(found["number"])
        for found in samples
        if found
    }


class Watch:
    """What changes in the metrics, and in the costs file, which follows in a few seconds."""

    def __init__(self, server: Served, costs_file: Path):
        self.server = server
        self.file = costs_file
        self.before = metrics(server)
        self.rows = self.settled()

    def settled(self) -> dict[tuple[str, str], CostRow]:
        """The file's rows, once they hold all tokens of the metrics."""
        deadline = time.monotonic() + 120
        while True:
            rows = {(row.key, row.model): row for row in costs.read(self.file).rows}
            now = metrics(self.server)
            names = ("prompt_tokens_total", "generated_tokens_total")
            counted = sum(number for at, number in now.items() if at[0] in names)
            if counted == sum(row.prompt_tokens + row.generated_tokens for row in rows.values()):
                return rows
            assert time.monotonic() < deadline, (now, rows)
            time.sleep(0.1)

    def grown(self, *at: str) -> float:
        return metrics(self.server).get(at, 0) - self.before.get(at, 0)

    def kept(self, key: str, model: str) -> Used:
        """What the file has of them now and had not before."""
        at = (label(key), model)
        new, old = self.settled().get(at, Used()), self.rows.get(at, Used())
        names = Used.__struct_fields__
        return Used(**{name: getattr(new, name) - getattr(old, name) for name in names})


@pytest.fixture(scope="module")
def costs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("costs") / "costs.json"


@pytest.fixture(scope="module")
def ledger(costs_file: Path) -> Iterator[Ledger]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "SAVE_INTERVAL_S", 0.1)  # so that no test waits for seconds
        yield Ledger(costs_file)


@pytest.fixture
def watch(server: Served, costs_file: Path) -> Watch:
    return Watch(server, costs_file)
