"""Other clients during the run, whom nothing of it may reach: streams whose text never changes,
and a probe of `/health`."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from fuzzing.client import Client, Span
from fuzzing.patience import CONTROL_TOKENS
from fuzzing.seeds import SMOL
from fuzzing.served import CONTROL_KEY
from fuzzing.wire import HttpRequest, whole

PAUSE_S = 1.0  # what it asks is work, too
HEALTH_LIMIT_S = 10.0
ANSWER_LIMIT_S = 120.0
ASKED = [{"role": "user", "content": "Tell me of a river, in a few sentences."}]
GREEDY: dict[str, Any] = {
    "model": SMOL,
    "messages": ASKED,
    "max_tokens": CONTROL_TOKENS,
    "temperature": 0,
}
SEEDED = {**GREEDY, "temperature": 0.9, "seed": 11, "stream": True}


def post(path: str, body: Any, key: str = CONTROL_KEY) -> HttpRequest:
    headers = (
        (b"host", b"localhost"),
        (b"authorization", b"Bearer " + key.encode()),
        (b"content-type", b"application/json"),
    )
    return HttpRequest("POST", path.encode(), headers, json.dumps(body).encode())


@dataclass
class Watch:
    """One who asks again and again, in a thread of its own."""

    port: int
    faults: list[str] = field(default_factory=list)
    asked: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def longest_s(self) -> float:
        return max((span.took_s for span in self.asked), default=0.0)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            since = time.monotonic()
            fault = self.ask()
            self.asked.append(Span(since, time.monotonic()))
            if fault and len(self.faults) < 20:
                self.faults.append(f"number {len(self.asked)}: {fault}")
            if self._is_over.wait(PAUSE_S):
                break

    def ask(self) -> str:
        raise NotImplementedError


class Health(Watch):
    def ask(self) -> str:
        client = Client(self.port, HEALTH_LIMIT_S)  # a new connection each time, as probes have
        outcome = client.send(whole(HttpRequest("GET", b"/health", ((b"host", b"localhost"),))))
        client.close()
        if outcome.trouble:
            return f"/health: {outcome.trouble}"
        return "" if outcome.answers[0].status == 200 else f"/health: {outcome.answers[0].status}"


@dataclass
class Control(Watch):
    body: Any = None
    text: str = ""  # of the first answer

    def ask(self) -> str:
        client = Client(self.port, ANSWER_LIMIT_S)
        outcome = client.send(whole(post("/v1/chat/completions", self.body)))
        client.close()
        if outcome.trouble or outcome.answers[0].status != 200:
            return f"the control stream: {outcome.trouble or outcome.answers[0].body[:300]!r}"
        text = said(outcome.answers[0].body, is_stream=bool(self.body.get("stream")))
        self.text = self.text or text
        return "" if text == self.text else f"the control stream said {text!r}, not {self.text!r}"


def load_all(port: int) -> None:
    """Asks each kind of model once, so that no attempt waits for its load."""
    from localinfra.api.openapi.examples import EMBEDDER, PAINTER, RERANKER

    client = Client(port, 300)
    for path, body in (
        ("/v1/embeddings", {"model": EMBEDDER, "input": "a"}),
        ("/v1/rerank", {"model": RERANKER, "query": "a", "documents": ["b"]}),
        ("/v1/images/generations", {"model": PAINTER, "prompt": "a", "size": "64x64"}),
    ):
        outcome = client.send(whole(post(path, body)))
        if outcome.trouble or outcome.answers[0].status != 200:
            raise SystemExit(f"{path}: {outcome}")
    client.close()


def said(body: bytes, *, is_stream: bool) -> str:
    if not is_stream:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {")]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
