"""What of an unfinished file is on disk: a small file beside it, right after a kill -9.

Owns the format and who wrote what; fetches nothing. A line of JSON says which content it is about.
After it each part of the file has a record of fixed size: how many of its bytes are written, and
their SHA-256 once it is whole. A record is written after its bytes, so it never says too much; a
power cut may lose bytes that were written, which the hash of the whole file shows, and the parts'
hashes then say where.
"""

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

RECORD = struct.Struct("<Q32s")  # bytes written from the part's beginning, SHA-256 or zeros
NOTHING = (0, bytes(32))
READ_BYTES = 1 << 20
OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)


class About(msgspec.Struct, frozen=True):
    """The first line. Another content is another journal."""

    content: str  # its hash, or the server's ETag
    size_bytes: int
    part_bytes: int
    version: int = 1


@dataclass(frozen=True)
class Part:
    index: int
    start: int  # in the file
    size: int


def parts_of(about: About) -> list[Part]:
    """An empty file has one, of nothing."""
    starts = range(0, about.size_bytes, about.part_bytes) or (0,)
    size = about.size_bytes
    return [Part(at, start, min(about.part_bytes, size - start)) for at, start in enumerate(starts)]


class Journal:
    """An unfinished file with its record. Parts are written by one thread each, under one lock of
    the file for all processes."""

    def __init__(self, path: Path, about: About) -> None:
        """`path`: of the unfinished file. Begins anew if what is there is of another content."""
        self.path = path
        self.about = about
        self.own_path = beside(path)
        self.parts = parts_of(about)
        known = read(path)
        is_same = known is not None and known[0] == about
        records = known[1] if known and is_same else [NOTHING] * len(self.parts)
        self.done = [done for done, _ in records]
        self._hashes = [hash for _, hash in records]
        head = msgspec.json.encode(about) + b"\n"
        self._records_at = len(head)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, OPEN, 0o666)
        self._journal = os.open(self.own_path, OPEN, 0o666)
        self._is_open = True
        if not is_same:  # in an order in which the journal is never about other bytes
            os.ftruncate(self._journal, 0)
            os.ftruncate(self._file, 0)
            pwrite(self._journal, head + RECORD.pack(*NOTHING) * len(self.parts), 0)
            os.ftruncate(self._file, about.size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._file)
            os.close(self._journal)

    @property
    def done_bytes(self) -> int:
        return sum(self.done)

    def missing(self) -> list[Part]:
        return [part for part in self.parts if self.done[part.index] < part.size]

    def write(self, part: Part, data: bytes) -> None:
        done = self.done[part.index]
        view = memoryview(data)
        while view:
            written = pwrite(self._file, view, part.start + done)
            done, view = done + written, view[written:]
        self.record(part, done)

    def record(self, part: Part, done: int, hash: bytes = NOTHING[1]) -> None:
        self.done[part.index], self._hashes[part.index] = done, hash
        at = self._records_at + part.index * RECORD.size
        pwrite(self._journal, RECORD.pack(done, hash), at)

    def read(self, start: int, size: int) -> Iterator[bytes]:
        while size > 0 and (data := pread(self._file, min(READ_BYTES, size), start)):
            yield data
            start, size = start + len(data), size - len(data)

    @property
    def whole_bytes(self) -> int:
        """How far the file is whole from its beginning."""
        gap = next((part for part in self.parts if self.done[part.index] < part.size), None)
        return gap.start + self.done[gap.index] if gap else self.about.size_bytes

    def forget_bad(self) -> bool:
        """Forgets the parts whose bytes on disk are not those that were written. If none differs,
        some came wrong: forgets all and returns true."""
        bad = []
        for part in self.parts:
            hash = hashlib.sha256()
            for data in self.read(part.start, part.size):
                hash.update(data)
            if hash.digest() != self._hashes[part.index]:
                bad.append(part)
        for part in bad or self.parts:
            self.record(part, 0)
        return not bad

    def finish(self, target: Path) -> None:
        """Gives the whole and verified file its name."""
        os.fsync(self._file)
        self.close()  # Windows moves and deletes no open file
        os.replace(self.path, target)
        self.own_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Deletes the unfinished file."""
        self.close()
        discard(self.path)


class PartWriter:
    """Appends to a part, and hashes it meanwhile."""

    def __init__(self, journal: Journal, part: Part) -> None:
        self._journal = journal
        self.part = part
        self._hash = hashlib.sha256()
        for data in journal.read(part.start, journal.done[part.index]):
            self._hash.update(data)

    @property
    def at(self) -> int:
        """Where in the file the next byte belongs."""
        return self.part.start + self._journal.done[self.part.index]

    @property
    def left(self) -> int:
        """Bytes that the part still needs."""
        return self.part.size - self._journal.done[self.part.index]

    def write(self, data: bytes) -> None:
        """Bytes beyond the part's end are dropped: no server was asked for them."""
        data = data[: self.left]
        self._hash.update(data)
        self._journal.write(self.part, data)
        if not self.left:
            self._journal.record(self.part, self.part.size, self._hash.digest())

    def restart(self) -> None:
        self._hash = hashlib.sha256()
        self._journal.record(self.part, 0)


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


_seeking = threading.Lock()  # threads share a file's position


def seek_and_write(file: int, data: bytes | memoryview, at: int) -> int:
    with _seeking:
        os.lseek(file, at, os.SEEK_SET)
        return os.write(file, data)


def seek_and_read(file: int, size: int, at: int) -> bytes:
    with _seeking:
        os.lseek(file, at, os.SEEK_SET)
        return os.read(file, size)


pwrite = getattr(os, "pwrite", seek_and_write)  # Windows has neither
pread = getattr(os, "pread", seek_and_read)


def discard(path: Path) -> None:
    """Deletes the unfinished file."""
    path.unlink(missing_ok=True)
    beside(path).unlink(missing_ok=True)


def read(path: Path) -> tuple[About, list[tuple[int, bytes]]] | None:
    """The journal of the unfinished file at `path`; None if there is none that makes sense. Other
    processes may read it while the file is being fetched."""
    try:
        size = path.stat().st_size
        head, _, rest = beside(path).read_bytes().partition(b"\n")
        about = msgspec.json.decode(head, type=About)
        records: list[tuple[int, bytes]] = list(RECORD.iter_unpack(rest))
    except (OSError, msgspec.DecodeError, struct.error):
        return None
    count = max(1, -(-about.size_bytes // max(1, about.part_bytes)))
    if size != about.size_bytes or about.part_bytes <= 0 or len(records) != count:
        return None
    pairs = zip(records, parts_of(about), strict=True)
    return (about, records) if all(done <= part.size for (done, _), part in pairs) else None
