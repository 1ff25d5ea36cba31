"""The files of `disk_cache`: written whole, checked when read, least recently used out first.

    ROOT/secret            the key of all hashes, made by the first server
    ROOT/MODEL/NAME        an entry (`entry.py`)

Several servers may share a folder, since no file ever changes: one that is gone is a miss. Mode
0700, files 0600: they hold what was said to the models.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra.engine.offloaded import KeptSpan, OffloadedCells
from localinfra.prefixes.entry import (
    HASH_BYTES,
    MAX_HEADER_BYTES,
    NO_PARENT,
    BadEntry,
    Entry,
    header,
    name_of,
    parse,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECRET_BYTES = 32
NAME = re.compile(rf"[0-9a-f]{{{2 * HASH_BYTES}}}")
PART = ".part"
# Windows has neither of these, and alone tells text from bytes.
NEITHER_LINK_NOR_PIPE: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
BINARY: int = getattr(os, "O_BINARY", 0)
STALE_PART_S = 60.0  # a file takes well under a second to write
FULL_SHARE = 15 / 16  # of the limit is kept after files exceed it
FREE_BYTES = 256 << 20  # of the disk are left to others
MOST_FILES = 20_000  # of a model are looked at, the newest; each takes 50 us


class FolderUnusable(Exception):
    """The message names the folder and the remedy."""


class Folder:
    """Any thread, except that `make` comes first."""

    def __init__(self, root: Path, max_bytes: int):
        self._root = root
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._num_bytes = 0  # of all files, those of other servers at the last look among them
        self.secret = b""
        self.num_damaged = 0  # files removed since they can't be used

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def make(self) -> None:
        """Creates the folder if need be, and removes what killed servers left half written.

        Raises FolderUnusable.
        """
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._root.stat().st_mode & 0o077:
                self._root.chmod(0o700)  # fails if it is somebody else's
            self.secret = self._read_secret() or self._make_secret()
            self._remove_stale_parts()
            self.fit()
        except OSError as error:
            raise FolderUnusable(
                f"{self._root} can't hold disk_cache ({error.strerror or error}): make it yours "
                "and writable, or set LOCALINFRA_CACHE to another folder"
            ) from None

    def spans(self, model: bytes) -> list[KeptSpan]:
        """What there is of a model, without data, parents first. Removes files that are of no use
        to anyone."""
        entries: dict[str, Entry] = {}
        ages: dict[str, int] = {}
        newest = sorted(self._files(model), key=lambda each: -each[1].st_mtime_ns)
        for path, status in newest[:MOST_FILES]:
            try:
                with self._opened(path) as file:
                    entry = self._entry(path, file)
                if entry.model != model:
                    raise BadEntry("it is of another model")
            except OSError:
                continue
            except BadEntry:
                self._remove_damaged(path)
                continue
            entries[path.name] = entry
            ages[path.name] = time.time_ns() - status.st_mtime_ns
        copies: dict[str, OffloadedCells] = {}
        found: list[KeptSpan] = []
        for name in sorted(entries, key=lambda name: entries[name].start):
            entry = entries[name]
            if not self._has_parent(entry, entries, copies):
                self.remove(model, [name])  # its parent left before it
                continue
            copies[name] = OffloadedCells(
                entry.start, entry.tokens, entry.is_canonical, None,
                file=name, num_bytes=entry.data_bytes,
            )  # fmt: skip
            parent = copies.get(entry.parent.hex())
            found.append(KeptSpan(entry.salt.hex(), parent, copies[name], ages[name]))
        return found

    @staticmethod
    def _has_parent(
        entry: Entry, entries: dict[str, Entry], copies: dict[str, OffloadedCells]
    ) -> bool:
        if entry.parent == NO_PARENT:
            return entry.start == 0
        name = entry.parent.hex()
        if name not in copies:
            return False
        parent = entries[name]
        return parent.salt == entry.salt and parent.start < entry.start <= parent.stop

    def read(self, model: bytes, name: str) -> "NDArray[np.uint8] | None":
        """The data of a file; None if it is gone or damaged, and it is removed then."""
        import numpy as np

        path = self._path(model, name)
        try:
            with self._opened(path) as file:
                entry = self._entry(path, file)
                file.seek(entry.header_bytes)
                data = np.empty(entry.data_bytes, np.uint8)
                if file.readinto(data.data) != data.nbytes:
                    raise BadEntry("it was cut meanwhile")
            if entry.model != model or zlib.crc32(data.data) != entry.data_crc:
                raise BadEntry("its data is damaged")
        except (OSError, MemoryError):  # perhaps it can be read another time
            return None
        except BadEntry:
            self._remove_damaged(path)
            return None
        return data

    def write(self, entry: Entry, data: "NDArray[np.uint8]") -> None:
        """Writes a file, and removes others if it exceeds the limit. Raises OSError."""
        entry = msgspec.structs.replace(
            entry, data_bytes=data.nbytes, data_crc=zlib.crc32(data.data)
        )
        path = self._path(entry.model, name_of(self.secret, entry))
        if entry.file_bytes > self._max_bytes:
            raise OSError("an entry is larger than disk_cache")
        if path.exists():
            return
        if shutil.disk_usage(self._root).free < entry.file_bytes + FREE_BYTES:
            raise OSError("the disk is full")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}{PART}")
        part.unlink(missing_ok=True)
        try:
            with self._created(part) as file:
                file.write(header(self.secret, entry))
                file.write(data.data)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        with self._lock:
            self._num_bytes += entry.file_bytes
        if self._num_bytes > self._max_bytes:
            self.fit()

    def touch(self, model: bytes, names: list[str]) -> None:
        """Marks files as used now, the first ones, on which others build, as last."""
        now_ns = time.time_ns()
        for at, name in enumerate(names):
            time_ns = now_ns - 1000 * at
            with contextlib.suppress(OSError):
                os.utime(self._path(model, name), ns=(time_ns, time_ns), follow_symlinks=False)

    def remove(self, model: bytes, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                self._path(model, name).unlink()

    def fit(self) -> None:
        """Counts all files, and removes the least recently used if they exceed the limit."""
        with self._lock:
            models = [path.name for path in self._root.iterdir() if NAME.fullmatch(path.name)]
            files = [each for name in models for each in self._files(bytes.fromhex(name))]
            num_bytes = sum(status.st_size for _, status in files)
            if num_bytes > self._max_bytes:
                files = self._dated(files)
                for path, status in files:
                    if num_bytes <= self._max_bytes * FULL_SHARE:
                        break
                    with contextlib.suppress(OSError):
                        path.unlink()
                        num_bytes -= status.st_size
            self._num_bytes = num_bytes
        for name in models:
            with contextlib.suppress(OSError):  # not empty
                (self._root / name).rmdir()

    @staticmethod
    def _dated(files: list[tuple[Path, os.stat_result]]) -> list[tuple[Path, os.stat_result]]:
        """The least recently used first. Those of a clock that has gone back since count as used
        now, and as older ever after: else all that is new would leave before them."""
        files.sort(key=lambda each: each[1].st_mtime_ns)
        now_ns = time.time_ns()
        for path, status in files:
            if status.st_mtime_ns > now_ns:
                with contextlib.suppress(OSError):
                    os.utime(path, ns=(now_ns, now_ns), follow_symlinks=False)
        return files

    def _path(self, model: bytes, name: str) -> Path:
        return self._root / model.hex() / name

    def _files(self, model: bytes) -> Iterator[tuple[Path, os.stat_result]]:
        """The files with names of entries. Whatever else may be there is left alone."""
        with contextlib.suppress(OSError), os.scandir(self._root / model.hex()) as found:
            for each in found:
                if NAME.fullmatch(each.name):
                    with contextlib.suppress(OSError):
                        yield Path(each.path), each.stat(follow_symlinks=False)

    def _entry(self, path: Path, file: BufferedReader) -> Entry:
        """Raises OSError and BadEntry."""
        size = os.fstat(file.fileno()).st_size
        return parse(self.secret, path.name, file.read(MAX_HEADER_BYTES), size)

    @staticmethod
    @contextlib.contextmanager
    def _opened(path: Path) -> Iterator[BufferedReader]:
        """A regular file: neither a link, nor a pipe that would block. Raises OSError and
        BadEntry."""
        try:
            number = os.open(path, os.O_RDONLY | BINARY | NEITHER_LINK_NOR_PIPE)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise BadEntry("it is a link") from None
            raise
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise BadEntry("it is no file")
        with os.fdopen(number, "rb") as file:
            yield file

    @staticmethod
    def _created(path: Path) -> BufferedWriter:
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY, 0o600), "wb")

    def _remove_damaged(self, path: Path) -> None:
        self.num_damaged += 1
        with contextlib.suppress(OSError):
            path.unlink()

    def _remove_stale_parts(self) -> None:
        for path in self._root.rglob(f"*{PART}"):
            with contextlib.suppress(OSError):
                if abs(time.time() - path.lstat().st_mtime) > STALE_PART_S:  # or it was set
                    path.unlink()

    def _read_secret(self) -> bytes | None:
        try:
            with self._opened(self._root / "secret") as file:
                secret = file.read(SECRET_BYTES + 1)
        except (FileNotFoundError, BadEntry):
            return None
        return secret if len(secret) == SECRET_BYTES else None

    def _make_secret(self) -> bytes:
        part = self._root / f"secret.{os.getpid()}{PART}"
        part.unlink(missing_ok=True)
        secret = secrets.token_bytes(SECRET_BYTES)
        with self._created(part) as file:
            file.write(secret)
        try:
            os.link(part, self._root / "secret")  # unless another server was faster
        except FileExistsError:
            known = self._read_secret()
        except OSError:  # a file system without links
            known = None
        else:
            known = secret
        if known is None:  # or it was damaged
            part.replace(self._root / "secret")
        part.unlink(missing_ok=True)
        return known or secret
