"""What loads have shown, kept for later starts: above all how much memory a model takes."""

import contextlib
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from localinfra import cache, machine
from localinfra.footprint import MIB, Footprint
from localinfra.models.entries import ModelEntry

T = TypeVar("T")

# Growth of the process's memory includes whatever else happens in it at the same time. Beyond these
# bounds it says nothing of the model.
MOST_TIMES_EXPECTED = 1.5
SPARE_BYTES = 100 * MIB  # for buffers and caches of a small model's library

# A load that imports so many modules also brings the kind's libraries, which stay in memory.
MANY_MODULES = 100

MOST_KEPT = 256  # files, the newest


def identity(entry: ModelEntry, *facts: object) -> str:
    """A name for the entry's files and all its settings, on this machine."""
    path = entry.source.find()
    files = sorted(path.rglob("*")) if path and path.is_dir() else [path] if path else []
    states = [state_of(file) for file in (*files, *entry.other_files)]
    return digest(states, entry, machine.llama_build(), machine.cpu(), facts)


def digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def state_of(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:  # a broken link; the load will say so if it matters
        return str(file), 0, 0
    return str(file), status.st_size, status.st_mtime_ns


class Records(Generic[T]):
    """A folder of the cache with a small JSON file for each name."""

    def __init__(self, folder: str, kind: type[T]):
        self._folder, self._kind = folder, kind

    def find(self, name: str) -> T | None:
        """What was kept under this name; None if nothing was, or it can't be read."""
        try:
            return msgspec.json.decode(self.place(name).read_bytes(), type=self._kind)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return None

    def keep(self, name: str, value: T) -> None:
        """Does nothing if the cache can't be written: the next start finds it out again."""
        path = self.place(name)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            cache.write_whole(path, msgspec.json.encode(value))
            kept = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in kept[:-MOST_KEPT]:
                file.unlink()

    def all(self) -> Iterator[T]:
        for file in sorted(machine.cache_folder(self._folder).glob("*.json")):
            if (found := self.find(file.stem)) is not None:
                yield found

    def clear(self) -> None:
        for file in machine.cache_folder(self._folder).glob("*.json"):
            with contextlib.suppress(OSError):
                file.unlink()

    def place(self, name: str) -> Path:
        return machine.cache_folder(self._folder) / f"{name}.json"


footprints = Records("memory", Footprint)


class LoadMeter:
    """Measures loads by the growth of this process's memory. Any thread."""

    def __init__(self, held: Callable[[], Footprint]):
        """`held`: what this process holds in all."""
        self._held = held
        self._lock = threading.Lock()
        self._loads: set[MeteredLoad] = set()

    @contextlib.contextmanager
    def load(self) -> Iterator["MeteredLoad"]:
        load = MeteredLoad(self._held())
        num_modules = len(sys.modules)
        with self._lock:
            self._loads.add(load)
            for one in self._loads if len(self._loads) > 1 else ():
                one.is_alone = False
        try:
            yield load
            load.after = self._held()
            if len(sys.modules) - num_modules >= MANY_MODULES:
                load.is_alone = False
        finally:
            with self._lock:
                self._loads.remove(load)


class MeteredLoad:
    def __init__(self, before: Footprint):
        self.before = self.after = before
        self.is_alone = True  # nothing else is known to have grown memory at the same time

    def grown(self, expected: Footprint) -> Footprint | None:
        """What the model took; None if that can't be told from other growth."""
        return grown(self.before, self.after, expected) if self.is_alone else None


def grown(before: Footprint, after: Footprint, expected: Footprint) -> Footprint | None:
    """What a model took, if memory grew by about what was expected."""
    growth = {
        device: max(0, size - before.bytes_on.get(device, 0))
        for device, size in after.bytes_on.items()
    }
    found = Footprint({device: size for device, size in growth.items() if size})
    for device in growth.keys() | expected.bytes_on.keys():
        least = expected.bytes_on.get(device, 0)
        most = MOST_TIMES_EXPECTED * least + SPARE_BYTES
        if not least / 2 <= found.bytes_on.get(device, 0) <= most:
            return None
    return found
