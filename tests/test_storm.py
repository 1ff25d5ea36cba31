"""Short versions of `scripts/storm` and `scripts/soak`, over the echo model in this process; the
soak with models of each kind is in `weights/test_soak.py`.

Whoever leaves, in whichever way and state, leaves nothing behind; and nothing grows with each
request."""

import contextlib
import gc
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from echo import EchoServer
from waiting import wait_for

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import soakload
from fullserver import Caller
from leavers import WAYS, Body, Client, Look, Plan

pytestmark = pytest.mark.timeout(900)
MODELS = """
[model.main]
kind = "text"
source = "slow.gguf"
context_length = 2048
sequences = 4

[model.narrow]
kind = "text"
source = "slow.gguf"
context_length = 2048
sequences = 1

[model.quick]
kind = "text"
source = "echo.gguf"
context_length = 1024
"""


def chat(draw: random.Random, model: str = "main", **fields: Any) -> Body:
    text = f"{draw.randrange(10**6)} " * 10  # said again: in some 70 steps of 5 ms
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


BUSY = ("generating",)
PLANS = {
    "head": Plan(chat, ("taken",), sent=0.1),
    "body": Plan(chat, ("body",), sent=0.7),
    "queued": Plan(lambda draw: chat(draw, "narrow", stream=True), ("waiting",)),
    "decoding": Plan(chat, BUSY),
    "streaming": Plan(lambda draw: chat(draw, stream=True, n=2), BUSY),
    "reader": Plan(lambda draw: chat(draw, stream=True, background=True), BUSY, reads_on=True),
}
NUM_AT_ONCE = 8
SPARE = 8  # threads and descriptors that pools may still take; of a leak, 24


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"), MODELS)
    yield server
    server.close()


def storm(server: EchoServer, first: int, count: int) -> Counter[tuple[str, str]]:
    """So many clients, each way of leaving and each plan as often; with the states they saw."""
    seen: Counter[tuple[str, str]] = Counter()
    numbers, lock = iter(range(first, first + count)), threading.Lock()
    faults: list[BaseException] = []

    def run(look: Look) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            name = list(PLANS)[number % len(PLANS)]
            way = WAYS[number // len(PLANS) % len(WAYS)]
            client = Client(server.port, f"{number}", PLANS[name], way, random.Random(number))
            try:
                seen[name, client.run(look)] += 1
            except BaseException as error:
                faults.append(error)

    with contextlib.closing(Look(server.port)) as look:
        threads = [threading.Thread(target=run, args=(look,)) for _ in range(NUM_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults
    return seen


def come_to_rest(server: EchoServer) -> None:
    with contextlib.closing(Caller(server.port)) as caller:
        wait_for(lambda: not caller.json("GET", "/v1/requests")["data"])
    for model in server.runtime.loaded_text_models().values():
        wait_for(lambda model=model: not model.is_busy)  # type: ignore[misc]
        wait_for(lambda model=model: model.stats.kv_used == model.stats.kv_shared)  # type: ignore[misc]
        engine: Any = model.worker
        cache = engine._scheduler.cache
        assert cache.num_used == cache.num_cached and not cache.num_private
        assert not engine._owners and not engine._scheduler.waiting


def held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_clients_that_leave_in_any_state_and_way_leave_nothing_behind(server: EchoServer) -> None:
    storm(server, 0, 12)
    come_to_rest(server)
    num_threads, num_descriptors = held()
    seen = storm(server, 24, 24)
    come_to_rest(server)
    wait_for(lambda: held()[0] <= num_threads + SPARE and held()[1] <= num_descriptors + SPARE)
    assert seen.total() == 24
    for name, plan in PLANS.items():
        assert any(seen[name, state] for state in plan.leaves), (name, seen)
    body = {"model": "quick", "prompt": "Hello\n", "temperature": 0, "max_tokens": 9}
    assert server.post("/v1/completions", body).status_code == 200


KINDS = [soakload.conversation, soakload.scored, soakload.messages, soakload.wrong,
         soakload.leaving]  # fmt: skip
KEPT = [soakload.responses, soakload.background]  # of which the server keeps the answers
MOST_GROWN = 10  # objects for each request; a request that is kept holds more than 50


def soaked(server: EchoServer, draw: random.Random, rounds: int) -> int:
    """Objects of Python after so many rounds."""
    with contextlib.closing(Caller(server.port)) as caller:
        for _ in range(rounds):
            for kind in KINDS:
                kind(caller, draw)
    come_to_rest(server)
    gc.collect()
    return len(gc.get_objects())


def test_nothing_grows_with_each_request(tmp_path: Path) -> None:
    catalogue = MODELS.replace("slow.gguf", "echo.gguf")
    server = EchoServer(tmp_path, catalogue)
    try:
        draw = random.Random(1)
        with contextlib.closing(Caller(server.port)) as caller:
            for kind in KEPT:
                kind(caller, draw)
        counts = [soaked(server, draw, 4) for _ in range(4)]  # caches fill with the first ones
        grown = min(after - before for before, after in pairwise(counts))
        assert grown < MOST_GROWN * 4 * len(KINDS), counts
    finally:
        server.close()
