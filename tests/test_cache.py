"""Locks that another process holds, and scratch that dead ones left."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localinfra import cache
from localinfra.cache import LockHeld

HOLDER = """
import sys
from pathlib import Path
from localinfra import cache
with cache.locked(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_holds(path: Path) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "holds\n"
        yield holder
        holder.kill()


def test_waiting_for_another_processes_lock_ends_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.lock"
    told: list[str] = []
    with another_holds(path) as holder:
        with pytest.raises(LockHeld) as caught:
            with cache.locked(path, 0.1, told.append):
                raise AssertionError("not entered")
    assert str(path) in str(caught.value) and "end it" in str(caught.value)
    if sys.platform == "linux":
        assert f"process {holder.pid} " in str(caught.value) and f"process {holder.pid} " in told[0]
    assert len(told) == 1
    with cache.locked(path, 0.1):  # it went with its process
        pass


def test_waiting_ends_when_gives_up_says_so(tmp_path: Path) -> None:
    with another_holds(tmp_path / "x.lock"):
        is_over = threading.Event()
        threading.Timer(0.1, is_over.set).start()
        with pytest.raises(LockHeld):
            with cache.locked(tmp_path / "x.lock", gives_up=is_over.is_set):
                raise AssertionError("not entered")


def test_threads_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with cache.locked(tmp_path / "x.lock", 60):
            inside.append(number)
            time.sleep(0.01)
            assert inside[-1] == number

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(inside) == list(range(4))


def test_scratch_is_swept_unless_the_lock_is_held(tmp_path: Path) -> None:
    left = tmp_path / f"{cache.SCRATCH}123-old" / "model"
    left.mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    with another_holds(tmp_path / cache.LOCK):
        cache.sweep_if_free(tmp_path)
        assert left.exists()
    cache.sweep_if_free(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [cache.LOCK, "kept"]
    cache.sweep_if_free(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
