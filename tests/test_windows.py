"""Windows lacks some of Python's modules and functions: what runs there must do without.

Simulated in child processes, from which they are taken away as Python starts.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localinfra.engine.grammar import prober
from localinfra.errors import InvalidRequest
from localinfra.models.fetch import journal

ENDLESS = (
    '%llguidance {"no_forcing": true}\n'
    'start: %json {"type": "integer", "multipleOf": 99999989}'
)  # hours

# https://docs.python.org/3/library/os.html names what exists on Unix only. Kept is what Python's
# own library uses to start processes on this system.
TAKEN_AWAY = """
import os, signal, sys

for name in ("fcntl", "grp", "pwd", "readline", "resource", "termios", "uvloop"):
    sys.modules[name] = None
for name in (
    "fchmod", "fork", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg",
    "mkfifo", "nice", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "posix_fadvise",
    "posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity",
    "sched_setaffinity", "sched_setscheduler", "SCHED_IDLE", "setsid", "statvfs", "sysconf",
):
    delattr(os, name)
for name in (
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP",
    "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "pthread_sigmask", "setitimer",
):
    delattr(signal, name)
"""
IMPORT_ALL = """
import importlib, pkgutil, localinfra

for module in pkgutil.walk_packages(localinfra.__path__, "localinfra."):
    if module.name not in {"localinfra.__main__", "localinfra.ray_serve"}:
        importlib.import_module(module.name)
assert not hasattr(__import__("os"), "nice")
"""


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find themselves on something like Windows."""
    (tmp_path / "sitecustomize.py").write_text(TAKEN_AWAY)
    root = Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")


@pytest.mark.usefixtures("windows")
def test_every_module_can_be_imported_on_windows() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("windows")
def test_grammars_are_tried_on_windows_within_their_cpu_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prober, "MAX_WAIT_S", 500.0)
    tried = prober.Prober()
    tried.check('%llguidance {}\nstart: "a"', "p")
    with pytest.raises(InvalidRequest, match="too much time"):
        tried.check(ENDLESS, "p")
    tried.close()


def test_files_are_written_anywhere_without_pwrite(tmp_path: Path) -> None:
    number = os.open(tmp_path / "file", journal.OPEN)
    assert journal.seek_and_write(number, b"world", 6) == 5
    assert journal.seek_and_write(number, b"hello ", 0) == 6
    assert journal.seek_and_read(number, 5, 6) == b"world"
    os.close(number)
