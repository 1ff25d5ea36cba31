"""What processes share in the cache: locks that are tried and never waited for without end, and
scratch that vanishes.

A lock is a file whose holder is whoever has it locked; it lets go with the end of its process.
"""

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: two processes may do the same work twice, each for itself
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
SCRATCH = ".scratch-"  # begins the names of folders that are removed where nobody holds the lock
TRY_INTERVAL_S = 0.02


class LockHeld(OSError):
    """Another process kept a lock for too long. The message names file, process and remedy."""

    def __init__(self, path: Path, waited_s: float):
        holder = holder_of(path)
        super().__init__(
            f"{path} is locked by {holder}, which did not let go within {waited_s:g} s; end it if "
            "it hangs"
        )


@contextmanager
def locked(
    path: Path,
    limit_s: float = math.inf,
    waiting: Callable[[str], None] = lambda holder: None,
    gives_up: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Holds the lock at `path`; where another process has it, `waiting` is told which, once.

    Raises LockHeld after `limit_s` or when it `gives_up`, and OSError where the file can't be made.
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
    """Held until the file is closed, by the end of the process if need be."""
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks; see Windows above
        pass
    return True


def holder_of(path: Path) -> str:
    """Who has the file locked, as far as Linux tells."""
    with contextlib.suppress(OSError):
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text()
        if found := re.search(rf"FLOCK\s+\S+\s+WRITE\s+(\d+)\s+\S+:{inode}\s", locks):
            name = Path(f"/proc/{found[1]}/comm").read_text().strip()
            return f"process {found[1]} ({name})"
    return "another process"


def sweep(folder: Path) -> None:
    """Removes scratch in the folder. Call it with its lock held: nobody is at work then."""
    for path in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(path, ignore_errors=True)


def sweep_if_free(folder: Path) -> None:
    """Removes scratch that dead processes left in the folder, unless one is at work there."""
    if any(folder.glob(f"{SCRATCH}*")):
        with contextlib.suppress(OSError), (folder / LOCK).open("ab") as lock:
            if try_lock(lock):
                sweep(folder)


def scratch_folder(folder: Path) -> Path:
    """Where this process may put files in the making."""
    return folder / f"{SCRATCH}{os.getpid()}"
