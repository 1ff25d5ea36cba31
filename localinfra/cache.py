"""What processes share in the cache: file locks, files that are whole, and scratch folders that get
cleaned up.

A lock is polled, never blocked on. The operating system releases it when its holder's process
ends.
"""

import contextlib
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: no locks, so two processes may do the same work twice
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PART = ".part"  # ending of files that are being written
SCRATCH = ".scratch-"  # prefix of folders that are removed when no process holds the lock
TRY_INTERVAL_S = 0.02


class LockHeld(OSError):
    """Another process held a lock too long. The message names file, process and remedy."""

    def __init__(self, path: Path, waited_s: float):
        holder = holder_of(path)
        super().__init__(
            f"{path} is locked by {holder}, which did not release it within {waited_s:g} s; end it "
            "if it hangs"
        )


@contextmanager
def locked(
    path: Path,
    limit_s: float = math.inf,
    waiting: Callable[[str], None] = lambda holder: None,
    gives_up: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Holds the lock at `path`. If another process has it, calls `waiting` once with its name.

    Raises LockHeld after `limit_s` or once `gives_up()` is true, and OSError if the file can't be
    created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with path.open("ab") as lock:
        if not try_lock(lock):
            waiting(holder_of(path))
            while not try_lock(lock):
                waited_s = time.monotonic() - started
                if waited_s >= limit_s or gives_up():
                    raise LockHeld(path, round(waited_s, 1))
                time.sleep(TRY_INTERVAL_S)
        yield


def try_lock(lock: IO[bytes]) -> bool:
    """Takes the lock without blocking. It is held until the file is closed or the process ends."""
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: as on Windows
        pass
    return True


def holder_of(path: Path) -> str:
    """The process that has the file locked, by id and name where /proc/locks shows it."""
    with contextlib.suppress(OSError):
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text()
        if found := re.search(rf"FLOCK\s+\S+\s+WRITE\s+(\d+)\s+\S+:{inode}\s", locks):
            name = Path(f"/proc/{found[1]}/comm").read_text().strip()
            return f"process {found[1]} ({name})"
    return "another process"


def write_whole(path: Path, data: bytes) -> None:
    """Gives the file this content: readers see the old one or the new one, and a full disk leaves
    the old one and nothing beside it. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Removes the folder's scratch. Call it with the folder's lock held: then no one uses it."""
    for path in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(path, ignore_errors=True)


def sweep_if_free(folder: Path) -> None:
    """Removes scratch that dead processes left in the folder, unless a process holds the lock."""
    if any(folder.glob(f"{SCRATCH}*")):
        with contextlib.suppress(OSError), (folder / LOCK).open("ab") as lock:
            if try_lock(lock):
                sweep(folder)


def scratch_folder(folder: Path) -> Path:
    """This process's folder for unfinished files."""
    return folder / f"{SCRATCH}{os.getpid()}"
