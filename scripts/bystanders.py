"""A client that reads an endless stream and one that keeps asking for `/health`: what others wait
while somebody else's requests are answered.

They are a process of their own, so that what the one who measures computes is no wait of theirs.
Standard library only. As a program, with a port: reads `reset` and `waits` from stdin, and answers
the latter with a line of JSON.
"""

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from typing import NamedTuple

HEALTH_PAUSE_S = 0.005
STORY = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 4000,
    "stream": True,
    "logit_bias": {"0": -100, "2": -100},
}


class Waits(NamedTuple):
    """In seconds, since the last reset."""

    usual_s: float  # the median gap between two pieces of the stream
    longest_s: float
    health_s: float  # the longest answer of `/health`


class Bystanders:
    """The process, from outside."""

    def __init__(self, port: int):
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Bystanders":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def reset(self) -> None:
        self._send("reset")

    def waits(self) -> Waits:
        self._send("waits")
        assert self._process.stdout
        return Waits(*json.loads(self._process.stdout.readline()))

    def _send(self, command: str) -> None:
        assert self._process.stdin
        print(command, file=self._process.stdin, flush=True)


class _Clients:
    def __init__(self, port: int):
        self._port = port
        self._lock = threading.Lock()
        self._gaps_s: list[float] = []
        self._last_s: float | None = None  # when the stream's last piece came, or the reset did
        self._health_s = 0.0

    def reset(self) -> None:
        with self._lock:
            self._gaps_s, self._health_s = [], 0.0
            self._last_s = self._last_s and time.perf_counter()

    def waits(self) -> Waits:
        with self._lock:
            open_s = time.perf_counter() - self._last_s if self._last_s else 0.0
            gaps_s = [*self._gaps_s, open_s]
            return Waits(statistics.median(gaps_s), max(gaps_s), self._health_s)

    def read(self) -> None:
        headers = {"content-type": "application/json"}
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
            connection.request("POST", "/v1/chat/completions", json.dumps(STORY), headers)
            answer = connection.getresponse()
            while line := answer.readline():
                if b'"content":"' in line and b'"content":""' not in line:
                    self._add_piece()
            connection.close()
            self._last_s = None  # the next one's first token is no gap

    def _add_piece(self) -> None:
        now_s = time.perf_counter()
        with self._lock:
            if self._last_s:
                self._gaps_s.append(now_s - self._last_s)
            self._last_s = now_s

    def ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        while True:
            start_s = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            health_s = time.perf_counter() - start_s
            with self._lock:
                self._health_s = max(self._health_s, health_s)
            time.sleep(HEALTH_PAUSE_S)


def main() -> None:
    clients = _Clients(int(sys.argv[1]))
    for work in (clients.read, clients.ask):
        threading.Thread(target=work, daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "reset":
            clients.reset()
        else:
            print(json.dumps(clients.waits()), flush=True)


if __name__ == "__main__":
    main()
