"""A load that is known to go well goes on in silence, and nobody misses what it would have said."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from models.tiny_gguf import tiny_llama

from localinfra.llama import log
from localinfra.llama.library import llama_cpp
from localinfra.text.known_loads import known_loads

# Loads its files in the order given, each in the first place as the first of its process.
CHILD = """
import json, logging, sys
from pathlib import Path
heard = []
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
from localinfra.llama import log
from localinfra.llama.library import llama_cpp
from localinfra.llama.library import llama_cpp
python = log.callback
counted = llama_cpp.llama_log_callback(lambda *a: (heard.append(a[0]), python(*a))[1])
log.callback = counted
from localinfra.errors import ModelUnavailable
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PathSource
from localinfra.text.placing import place, plan_text
answers = []
for name in sys.argv[2:]:
    path = Path(name)
    entry = TextModelEntry(source=PathSource(path), context_length=int(sys.argv[1]))
    del heard[:]
    try:
        context, model = place("tiny", entry, plan_text("tiny", entry, path, read_header(path), {}))
    except ModelUnavailable as error:
        answers.append({"lines": len(heard), "error": str(error)})
    else:
        of = [dict(f.bytes_on) | {"mapped": f.mapped} for f in (model.footprint, context.footprint)]
        answers.append({"lines": len(heard), "footprints": of})
        context.close()
print(json.dumps(answers))
"""


class Child:
    def __init__(self, cache: Path):
        self._cache = cache

    def loads(self, *paths: Path, length: int = 256) -> list[dict[str, Any]]:
        """What its loads found, and of llama.cpp's lines how many Python heard; its log is
        `said`."""
        command = [sys.executable, "-c", CHILD, str(length), *map(str, paths)]
        env = os.environ | {"LOCALINFRA_CACHE": str(self._cache)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.said = done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child(tmp_path / "cache")


def test_a_second_start_hears_nothing_and_knows_the_same(child: Child, tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    (first,), said = child.loads(path, length=8192), child.said
    (second,) = child.loads(path, length=8192)
    assert first["lines"] > 50 and second["lines"] == 0
    assert second["footprints"] == first["footprints"] and first["footprints"][1]["cpu"] > 0
    assert "n_ctx_seq" in said and child.said == said  # its warning of a long context


def test_only_the_first_load_of_a_process_is_silent(child: Child, tmp_path: Path) -> None:
    one, other = (tiny_llama(layers=n).write(tmp_path / f"{n}.gguf") for n in (1, 2))
    loud = child.loads(one, other)
    first, second, third = child.loads(one, other, one)
    assert first["lines"] == 0 and second["lines"] > 50 and third["lines"] > 50
    footprints = [each["footprints"] for each in (first, second, third)]
    assert footprints == [loud[0]["footprints"], loud[1]["footprints"], loud[0]["footprints"]]


def test_other_settings_are_heard(child: Child, tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    child.loads(path)
    (other,) = child.loads(path, length=512)
    assert other["lines"] > 50


def test_a_load_that_fails_in_silence_says_why(child: Child, tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    child.loads(path)
    whole, state = path.read_bytes(), path.stat()
    at = whole.index(b"blk.0.attn_q.weight")
    path.write_bytes(whole[:at] + b"blk.0.attn_x.weight" + whole[at + 19 :])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as the load knows it
    (failed,) = child.loads(path)
    assert failed["lines"] > 0 and "blk.0.attn_q.weight" in failed["error"]


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"weights": 1}', b'{"warnings": [["x"]]}'])
def test_a_damaged_record_is_no_record(child: Child, tmp_path: Path, damaged: bytes) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    (first,) = child.loads(path)
    (kept,) = (tmp_path / "cache" / "loads").glob("*.json")
    kept.write_bytes(damaged)
    (second,) = child.loads(path)
    assert second["lines"] > 50 and second["footprints"] == first["footprints"]


def test_another_thread_that_loads_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(llama_cpp, "llama_log_set", lambda callback, _: calls.append(callback))
    monkeypatch.setattr(log, "_has_heard", False)
    with log.silenced() as is_silent:
        with log.collected():  # the silent load itself
            pass
        assert is_silent and calls == [log.NOTHING]
        other = threading.Thread(target=log.hear)
        other.start()
        other.join()
        assert calls == [log.NOTHING, log.callback]
    assert calls[-1] is log.callback
    with log.silenced() as is_silent:
        assert not is_silent


def test_records_lie_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path))
    assert known_loads.place("x") == tmp_path / "loads" / "x.json"
