"""Conversations with pictures get the tokens that `llama-server` gives them.

Only where LLAMA_SERVER names one of the same revision (scripts/bench_peers says how to make it);
elsewhere test_like_mtmd.py compares with the part of it that reads pictures.
"""

import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import started
from llama.test_like_mtmd import ASKED, KINDS, NUM_TOKENS, PICTURES, SMALL, TEMPLATE, both, said

from localinfra.cli.child import free_port

LLAMA_SERVER = os.environ.get("LLAMA_SERVER", "")


class PeerServer:
    def __init__(self, url: str):
        self._url = url

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def wait_until_ready(self, process: "subprocess.Popen[Any]") -> None:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(self._url + "/health"):
                return
            time.sleep(0.05)
        raise AssertionError("llama-server has ended")

    def tokens(self, data: bytes) -> list[int]:
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        image = {"type": "image_url", "image_url": {"url": url}}
        message = {"role": "user", "content": [image, {"type": "text", "text": ASKED}]}
        wanted = {"max_tokens": NUM_TOKENS, "temperature": 0, "logprobs": True}
        body = {"messages": [message], "add_generation_prompt": False, **wanted}
        [choice] = self.post("/v1/chat/completions", body)["choices"]
        return [token["id"] for token in choice["logprobs"]["content"]]


@contextlib.contextmanager
def llama_server(folder: Path) -> Iterator[PeerServer]:
    template, port = folder / "template.jinja", free_port()
    template.write_text(TEMPLATE)
    files = ["-m", folder / "m.gguf", "--mmproj", folder / "mmproj-m.gguf"]
    sizes = ["-c", 1024, "-np", 1, "-t", 1, "-b", SMALL, "-ub", SMALL, "--port", port]
    command = [LLAMA_SERVER, *files, *sizes, "--jinja", "--chat-template-file", template]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started([str(word) for word in command], **silent) as process:
        server = PeerServer(f"http://127.0.0.1:{port}")
        server.wait_until_ready(process)
        yield server


@pytest.mark.skipif(not LLAMA_SERVER, reason="LLAMA_SERVER names none")
@pytest.mark.parametrize("name", ["Gemma 3", "Qwen2-VL"])
def test_ten_pictures_get_the_tokens_of_llama_server(name: str, tmp_path: Path) -> None:
    with both(KINDS[name], tmp_path, SMALL) as by, llama_server(tmp_path) as server:
        got = {note: said(by.ours, data).tokens for note, data in PICTURES.items()}
        assert got == {note: server.tokens(data) for note, data in PICTURES.items()}
