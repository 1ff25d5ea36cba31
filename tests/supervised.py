"""`localinfra serve --supervised` over a tiny real model, and its processes."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from children import started
from models.tiny_gguf import tiny_llama
from serve_process import ServeProcess

ABORTS = """  # as GGML_ASSERT does
import ctypes, threading
from localinfra.llama.context import LlamaContext
decode = LlamaContext.decode
def abort(self, batch):
    if threading.current_thread().name.startswith("engine"):
        ctypes.CDLL(None).abort()
    decode(self, batch)
LlamaContext.decode = abort
"""


class Supervised(ServeProcess):
    def __init__(self, popen: "subprocess.Popen[str]", errors: Path, cache: Path):
        self._errors = errors
        self.cache = cache
        super().__init__(popen)

    @property
    def log(self) -> str:
        return self._errors.read_text()

    @property
    def server(self) -> int:
        """The process that answers; waits until there is one."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        return int(found[0])

    def kill_server(self, number: int = signal.SIGKILL) -> None:
        """Returns once it is gone."""
        server = self.server
        os.kill(server, number)
        while self.popen.poll() is None and self.server == server:
            time.sleep(0.01)

    def ask(self, method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, Any]:
        """Raises OSError or HTTPException if there is no whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            connection.request(
                method,
                path,
                json.dumps(body) if body is not None else None,
                {"content-type": "application/json"},
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def complete(self) -> tuple[int, Any]:
        body: dict[str, object] = {"model": "tiny", "prompt": "Hi", "max_tokens": 2}
        return self.ask("POST", "/v1/completions", body)

    def wait_for_log(self, words: str, times: int = 1) -> None:
        while self.log.count(words) < times:
            assert self.popen.poll() is None, self.log
            time.sleep(0.02)


@contextlib.contextmanager
def supervised(
    folder: Path, *, server: str = "", model: str = "sequences = 1", patch: str = ""
) -> Iterator[Supervised]:
    """`server` and `model`: settings. `patch`: a program that runs in every server before it
    starts."""
    file = tiny_llama().write(folder / "tiny.gguf")
    (folder / "models.toml").write_text(
        f"[server]\nkeep_costs = false\nserve_pulled = false\n{server}\n"
        f'[model.tiny]\nkind = "text"\nsource = "{file}"\ncontext_length = 64\n{model}\n'
    )
    program = f"{patch}\nfrom localinfra.cli.main import main; main()"
    options = ["--supervised", "--port", "0", "--config", str(folder / "models.toml")]
    command = [sys.executable, "-c", program, "serve", *options]
    errors, cache = folder / "stderr", folder / "cache"
    environment = os.environ | {"LOCALINFRA_CACHE": str(cache)}
    with errors.open("wb") as stderr:
        pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
        with started(command, env=environment, **pipes) as popen:
            yield Supervised(popen, errors, cache)
