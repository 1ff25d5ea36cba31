"""The file of the named keys: read, and changed under a lock. Several servers and commands may use
one file; readers see it before a change or after it. All of it blocks."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from localinfra import cache, machine
from localinfra.errors import ConfigError
from localinfra.keys.record import KeyRecord

LOCK_LIMIT_S = 5.0  # usually held for milliseconds
MAX_BYTES = 16 << 20
VERSION = 1
Stamp = tuple[int, ...]  # changes whenever the file does, or who may read it

NO_FILE: Stamp = ()


class KeyBook(msgspec.Struct, frozen=True):
    """The whole file. It stays when its last key is revoked: from the first key on, servers ask
    for one."""

    keys: tuple[KeyRecord, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        for what in ("name", "sha256"):
            found = [getattr(key, what) for key in self.keys]
            if len(set(found)) < len(found):
                raise ValueError(f"two keys have the same {what}")
        if self.version > VERSION:
            raise ValueError("it was written by a newer version of localinfra")


def default_path() -> Path:
    return machine.data_folder("keys") / "keys.json"


def stamp(path: Path) -> Stamp:
    """Raises OSError, but not if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return NO_FILE
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def read(path: Path) -> KeyBook | None:
    """None if there is no such file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
        return msgspec.json.decode(data, type=KeyBook)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"the keys in {path} can't be read: {error.strerror or error}. Give this user the "
            "file, or set LOCALINFRA_DATA to another folder"
        ) from None
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise ConfigError(
            f"{path} is damaged: {error}. Put a copy of it back, or delete it and make new keys "
            "with `localinfra key new`"
        ) from None


def change(path: Path, edit: Callable[[Sequence[KeyRecord]], Sequence[KeyRecord]]) -> KeyBook:
    """Writes what `edit` makes of the keys. Returns what the file has now. Raises ConfigError, and
    whatever `edit` raises: then nothing has changed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with cache.locked(path.with_suffix(".lock"), LOCK_LIMIT_S):
            book = KeyBook(tuple(edit((read(path) or KeyBook()).keys)))
            write(path, book)
            return book
    except OSError as error:
        raise ConfigError(
            f"the keys in {path} can't be changed: {error.strerror or error}"
        ) from None


def write(path: Path, book: KeyBook) -> None:
    """The old file stays whole until the new one is on the disk."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(book)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
