"""Two goals of `bench_swap`: conversations after kill -9, and the first answer of a first start."""

import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchlib import Message, Server, Stream, user, words
from benchreport import say, table
from swap_trials import LIMIT_S, MIB, SMOLLM2, Options, Outcome, served

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


def undisturbed() -> list[str]:
    """The command that runs another at real-time priority, where the system allows it: what other
    programs do then hardly counts."""
    command = ["chrt", "--rr", "1"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return command


def start_once(folder: Path, cache: Path) -> Start:
    command = [*undisturbed(), *served(LOCALINFRA_CACHE=cache)]
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
        f"{first.whole_s:.2f} s, its first token after {first.first_token_s:.2f} s"
        + (", at real-time priority" if undisturbed() else ""),
        first.whole_s <= 2.0,
        table(head, rows),
    )
