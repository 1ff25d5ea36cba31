"""A server's process and cheap clients for it, shared by the benchmarks.

Knows HTTP, server-sent events and /proc, but not what is measured. Standard library only. Times are
time.perf_counter's, in seconds.
"""

import contextlib
import json
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
WORDS = "river stone cloud paper engine garden window summer bridge letter music winter".split()
CONTENT = re.compile(rb'content": ?"[^"]')  # some text in a chunk or an answer

Message = dict[str, Any]


def use_environment() -> None:
    """Continues in the project's environment, where `localinfra` can be imported."""
    if not PYTHON.exists():
        sys.exit("There is no environment yet. Run scripts/test once before.")
    if Path(sys.prefix) != PYTHON.parent.parent:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    sys.path.insert(0, str(ROOT))


def words(seed: int | str, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def user(text: str) -> Message:
    return {"role": "user", "content": text}


class Unmeasurable(Exception):
    """A figure could not be measured; the message says why."""


class TimedOut(Unmeasurable):
    pass


class Refused(Unmeasurable):
    """The server found fault with the request, and would again."""


@dataclass(eq=False)
class Stream:
    """One request and its answer as it arrives."""

    connection: socket.socket
    num_tokens: int | None  # required of each choice; None: any number
    sent_at: float
    received: list[bytes] = field(default_factory=list)
    text_at: list[float] = field(default_factory=list)  # arrivals of text, one token or several
    ended_at: float = 0.0

    @property
    def first_at(self) -> float:
        """Arrival of the first token; the end, if no token had text."""
        return self.text_at[0] if self.text_at else self.ended_at

    @property
    def first_token_s(self) -> float:
        return self.first_at - self.sent_at

    @property
    def duration_s(self) -> float:
        return self.ended_at - self.sent_at

    def answer(self) -> "Answer":
        """The parsed answer. Raises Unmeasurable unless it is a 200 with `num_tokens` tokens."""
        head, _, body = b"".join(self.received).partition(b"\r\n\r\n")
        try:
            return self._parsed(head, body)
        except ValueError:  # invalid JSON or chunk size
            raise Unmeasurable("an answer broke off") from None

    def _parsed(self, head: bytes, body: bytes) -> "Answer":
        if b"transfer-encoding: chunked" in head.lower():
            body = join_chunks(body)
        if not head.startswith(b"HTTP/1.1 200"):
            status = head[9:12].decode() or "no answer"
            is_refused = status in ("400", "401", "422")
            raise (Refused if is_refused else Unmeasurable)(f"{status}: {error_message(body)}")
        lines = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]
        objects = lines if b"text/event-stream" in head else [body]
        answer = Answer([json.loads(line) for line in objects])
        if self.num_tokens is not None:
            answer.check(self.num_tokens)
        return answer


class Answer:
    """The content of a stream's chunks, or of an answer's single object."""

    def __init__(self, chunks: list[dict[str, Any]]):
        self.texts: dict[int, str] = {}
        self.finish_reasons: dict[int, str] = {}
        self.usage: dict[str, Any] = {}
        for chunk in chunks:
            if "error" in chunk:
                raise Unmeasurable(f"an error in the stream: {chunk['error']}")
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk.get("choices", ()):
                text = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
                index = choice["index"]
                self.texts[index] = self.texts.get(index, "") + text
                if choice.get("finish_reason"):
                    self.finish_reasons[index] = choice["finish_reason"]

    def check(self, num_tokens: int) -> None:
        """Raises Unmeasurable unless all choices have `num_tokens` tokens. Some servers count one
        choice in usage, and some send none in streams: a finish_reason of length then proves it."""
        counted = self.usage.get("completion_tokens", num_tokens)
        if counted not in (num_tokens, num_tokens * len(self.texts)):
            raise Unmeasurable(f"{counted} tokens instead of {num_tokens}")
        if others := set(self.finish_reasons.values()) - {"length"}:
            raise Unmeasurable(f"an answer ended early: {', '.join(others)}")
        if not self.texts or len(self.finish_reasons) != len(self.texts):
            raise Unmeasurable("an answer broke off")


def join_chunks(body: bytes) -> bytes:
    """Undoes HTTP's chunked transfer encoding."""
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


def error_message(body: bytes) -> str:
    try:
        return " ".join(str(json.loads(body)["error"]["message"]).split())[:300]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:300]


def uncounted(settings: str) -> str:
    """models.toml's text without the costs ledger: benchmarks must not be charged to anyone."""
    return settings.replace("[server]\n", "[server]\nkeep_costs = false\n", 1)


class Server:
    """A server's process, and all its clients in one thread over bare sockets: on two cores, CPU
    time spent by clients is taken from the server."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        end_tokens: Iterable[int],
        model: str | None = None,
        timeout_s: float = 120,
    ):
        """Starts `command` in `folder`, with {port} filled in, and waits for the first answer.
        Forbids `end_tokens` in all answers. `model` defaults to the first that the server lists.

        Raises Unmeasurable if it ends or does not answer in time, OSError if it can't be run.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.bias = {str(token): -100 for token in end_tokens}
        self.model = model
        self.selector = selectors.DefaultSelector()
        self.log = tempfile.TemporaryFile()
        self.set_deadline(timeout_s)
        self.exec_at = time.perf_counter()
        self.process = subprocess.Popen(
            [word.replace("{port}", str(self.port)) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all its processes, by SIGTERM first; process.returncode is set then."""
        self.cancel()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.log.close()

    def _wait_until_ready(self) -> None:
        while True:
            try:
                self.first_answer_s = self.say_hello().first_at - self.exec_at
                return
            except Refused:
                raise
            except (OSError, Unmeasurable) as error:
                if self.process.poll() is not None:
                    raise Unmeasurable(f"did not start: {self._last_words()}") from None
                if time.perf_counter() > self.deadline:
                    raise Unmeasurable(f"{error}; {self._last_words()}") from None
                time.sleep(0.005)

    def say_hello(self) -> Stream:
        """Sends a request to see whether it serves. Raises OSError or Unmeasurable if not."""
        self.model = self.model or self._first_model()
        [stream] = self.ask([[user("Hello")]], 1)
        return stream

    def _first_model(self) -> str:
        stream = self.request("GET", "/v1/models", b"", None)
        self.wait(lambda: bool(stream.ended_at))
        body = b"".join(stream.received).partition(b"\r\n\r\n")[2]
        try:
            return str(json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["data"][0]["id"])
        except (ValueError, KeyError, IndexError):
            raise Unmeasurable(f"/v1/models: {error_message(body)}") from None

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"exit code {self.process.poll()}, log: {' '.join(lines[-2:])[-400:]}"

    def send(self, messages: list[Message], num_tokens: int | None, **fields: object) -> Stream:
        """Sends a greedy request for `num_tokens` tokens without waiting. `fields` extend or
        replace those of the body; stream=None turns streaming off."""
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": num_tokens,
            "logit_bias": self.bias,
            "stream": True,
            **fields,
        }
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        given = {name: value for name, value in body.items() if value is not None}
        return self.request("POST", "/v1/chat/completions", json.dumps(given).encode(), num_tokens)

    def request(self, method: str, path: str, body: bytes, num_tokens: int | None = None) -> Stream:
        """Sends a request without waiting."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        sent_at = time.perf_counter()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(head.encode() + body)
        connection.setblocking(False)
        stream = Stream(connection, num_tokens, sent_at)
        self.selector.register(connection, selectors.EVENT_READ, stream)
        return stream

    def set_deadline(self, limit_s: float) -> None:
        """Limits all following waits together."""
        self.limit_s, self.deadline = limit_s, time.perf_counter() + limit_s

    def wait(self, until: Callable[[], bool]) -> None:
        """Reads answers until the condition is true. Raises TimedOut at the deadline."""
        while not until():
            if time.perf_counter() > self.deadline:
                raise TimedOut(f"no answer within {self.limit_s:g} s")
            for key, _ in self.selector.select(0.5):
                self._read(key.data)

    def _read(self, stream: Stream) -> None:
        try:
            data = stream.connection.recv(1 << 16)
        except ConnectionError:
            data = b""
        now = time.perf_counter()
        if not data:
            stream.ended_at = now
            self._drop(stream)
            return
        stream.received.append(data)
        if CONTENT.search(data):
            stream.text_at.append(now)

    def finish(self, *streams: Stream) -> None:
        """Waits for the streams to end, then checks the answers."""
        self.wait(lambda: all(stream.ended_at for stream in streams))
        for stream in streams:
            stream.answer()

    def ask(self, prompts: Iterable[list[Message]], num_tokens: int) -> list[Stream]:
        """Sends all prompts at once and waits for the answers to end."""
        streams = [self.send(messages, num_tokens) for messages in prompts]
        self.finish(*streams)
        return streams

    def ask_in_turn(
        self, prompts: Iterable[list[Message]], num_tokens: int, at_once: int, streams: list[Stream]
    ) -> None:
        """Keeps `at_once` prompts running until all have ended; appends to `streams`."""
        for messages in prompts:
            self.wait(lambda: sum(not stream.ended_at for stream in streams) < at_once)
            streams.append(self.send(messages, num_tokens))
        self.finish(*streams)

    def cancel(self) -> None:
        """Drops all running answers."""
        for key in list(self.selector.get_map().values()):
            self._drop(key.data)

    def _drop(self, stream: Stream) -> None:
        self.selector.unregister(stream.connection)
        stream.connection.close()

    def memory_mib(self) -> dict[str, float]:
        """Sums over all its processes: VmRSS (resident, with shared file pages) and RssAnon."""
        sums = {"VmRSS": 0.0, "RssAnon": 0.0}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                if session == self.process.pid:
                    status = (folder / "status").read_text()
                    for name, kib in re.findall(r"^(VmRSS|RssAnon):\s*(\d+)", status, re.MULTILINE):
                        sums[name] += int(kib) / 1024
        if not sums["VmRSS"]:
            raise Unmeasurable("its processes have ended")
        return sums


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Runs a busy-looping process for each core."""
    command = [str(PYTHON), "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
