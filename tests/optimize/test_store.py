"""Which decisions hold for which file."""

import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from children import started

from localinfra import machine
from localinfra.optimize import store
from localinfra.optimize.store import CacheUnusable, Decision


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def keep(source: Path, weights: bytes | None = None) -> Decision:
    """Decides on other weights, or on the source itself."""
    digest = store.digest_of(source)
    with store.locked(lambda holder: None), store.scratch(100) as scratch:
        made = None
        if weights is not None:
            made = scratch / "q8_0.gguf"
            made.write_bytes(weights)
        decision = store.decide(
            store.identify(source), digest, "measured", ("q8_0", made) if made else None
        )
        store.keep(decision, made)
    return decision


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_nothing_is_found_at_first_and_finding_creates_nothing(source: Path, cache: Path) -> None:
    assert store.find(source) is None
    assert store.find(source / "absent") is None
    assert not cache.exists()


def test_a_decision_is_found_again_with_its_weights(source: Path, cache: Path) -> None:
    assert keep(source, b"faster") == store.find(source)
    known = store.find(source)
    assert known and known.path and known.path.parent == cache
    assert known.path.read_bytes() == b"faster"
    assert known.path.name.startswith("model.q8_0-")
    assert len(names(cache)) == 2  # no scratch


def test_keeping_the_original_is_a_decision_too(source: Path) -> None:
    keep(source)
    known = store.find(source)
    assert known and known.path is None and known.reason == "measured"


def test_another_file_at_the_same_path_has_no_decision(source: Path) -> None:
    keep(source, b"faster")
    source.write_bytes(b"other weights")
    assert store.find(source) is None


def test_a_file_rewritten_with_the_same_size_is_recognised_by_its_mtime(source: Path) -> None:
    keep(source, b"faster")
    status = source.stat()
    source.write_bytes(b"WEIGHTS")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert store.find(source) is None


def test_the_same_content_elsewhere_is_found_by_its_digest(source: Path, tmp_path: Path) -> None:
    first = keep(source, b"faster")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(source.read_bytes())
    assert store.find(copy) is None
    assert store.find_digest(store.digest_of(copy)) == first


@pytest.mark.parametrize("part", ["cpu", "llama_build"])
def test_another_cpu_or_build_needs_a_new_decision(
    source: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(source, b"faster")
    monkeypatch.setattr(machine, part, lambda: "another")
    assert store.find(source) is None
    keep(source)
    assert store.find(source)
    monkeypatch.undo()


def test_weights_of_another_build_are_removed_and_those_of_another_cpu_kept(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = keep(source, b"old")
    monkeypatch.setattr(machine, "cpu", lambda: "another")
    keep(source, b"shared home")
    assert old.path and old.path.exists()
    monkeypatch.setattr(machine, "llama_build", lambda: "newer")
    keep(source, b"newer")
    assert old.path.exists()
    assert sorted(path.read_bytes() for path in cache.glob("*.gguf")) == [b"newer", b"old"]


def test_weights_of_a_missing_source_are_removed_at_the_next_decision(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    keep(source, b"faster")
    source.rename(tmp_path / "moved.gguf")
    keep(tmp_path / "moved.gguf")
    assert not list(cache.glob("*.gguf")) and len(list(cache.glob("*.json"))) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"source": 3}', b"\xff"])
def test_a_damaged_record_counts_as_none(source: Path, cache: Path, damage: bytes) -> None:
    keep(source, b"faster")
    (record,) = cache.glob("*.json")
    record.write_bytes(damage)
    assert store.find(source) is None
    keep(source, b"again")
    assert store.find(source)


@pytest.mark.parametrize("content", [b"fas", None], ids=["cut", "gone"])
def test_a_decision_whose_weights_are_cut_or_gone_counts_as_none(
    source: Path, content: bytes | None
) -> None:
    path = keep(source, b"faster").path
    assert path
    path.unlink() if content is None else path.write_bytes(content)
    assert store.find(source) is None


def test_putting_off_expires_unless_final(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_off(source, "busy", is_final=False)
    known = store.find(source)
    assert known and known.reason == "busy"
    later = time.time() + store.RETRY_AFTER_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.find(source) is None
    store.put_off(source, "busy", is_final=False)
    assert store.find(source)
    later -= 365 * 86_400  # the clock was a year ahead
    assert store.find(source) is None
    store.put_off(source, "crashed", is_final=True)
    later *= 2
    assert store.find(source)


def test_a_cache_that_cannot_be_written_says_what_to_do(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for call in (lambda: keep(source), lambda: store.put_off(source, "", True)):
        with pytest.raises(CacheUnusable, match=r"can't be written to .* LOCALINFRA_CACHE"):
            call()
    assert store.find(source) is None


def test_too_little_space_is_an_error_before_anything_is_written(cache: Path) -> None:
    with store.locked(lambda holder: None):
        with pytest.raises(CacheUnusable, match=r"free and [\d,]+ MB are needed"):
            with store.scratch(1 << 60):
                raise AssertionError("not entered")
    assert names(cache) == []


def test_a_failure_leaves_no_scratch(cache: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with store.locked(lambda holder: None), store.scratch(0) as scratch:
            (scratch / "half").write_bytes(b"x")
            raise ZeroDivisionError
    assert names(cache) == []


HOLDER = """
import sys
from localinfra.optimize import store
with store.locked(lambda holder: print("waits", flush=True)), store.scratch(0) as scratch:
    (scratch / "half.gguf").write_bytes(b"x")
    print("holds", flush=True)
    sys.stdin.read()
"""


def holder() -> AbstractContextManager["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    return started([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe, text=True)


def test_one_process_at_a_time_and_the_scratch_of_a_dead_one_is_swept(
    source: Path, cache: Path
) -> None:
    with holder() as first, holder() as second:
        assert first.stdout and second.stdout and second.stdin
        lines = {process: process.stdout.readline() for process in (first, second)}  # type: ignore[union-attr]
        (one,) = (process for process, line in lines.items() if line == "holds\n")
        (other,) = (process for process, line in lines.items() if line == "waits\n")
        store.put_off(source, "no time", is_final=True)  # does nothing while one measures
        store.sweep_if_free()
        assert len(names(cache)) == 1
        one.kill()
        assert other.stdout and other.stdout.readline() == "holds\n"
        assert names(cache) == [f".scratch-{other.pid}"]
        other.kill()
    store.sweep_if_free()
    assert names(cache) == []


def test_the_environment_sets_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.folder() == tmp_path / "cache" / "optimized"
    monkeypatch.delenv("LOCALINFRA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.folder() == tmp_path / "xdg" / "localinfra" / "optimized"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.folder() == tmp_path / ".cache" / "localinfra" / "optimized"


def test_this_machine_and_library_are_identified() -> None:
    for name in (machine.cpu(), machine.llama_build()):
        assert name == name.strip() and len(name.split()[-1]) == 8
    assert machine.llama_build().startswith("0.3.")
    assert (machine.available_memory() or 1 << 30) > 1 << 20
