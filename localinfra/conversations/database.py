"""The file: made, brought to this version's tables, put aside if it is damaged. Knows no rows.

Several servers may use one file: SQLite's log beside it (WAL) lets them read while one writes.
"""

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from localinfra import cache, machine
from localinfra.errors import ChatsUnavailable, DiskFull

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

logger = logging.getLogger(__name__)

WAIT_S = 5.0  # for another server that writes, which takes milliseconds
FREED_PAGES = 4096  # of 4 KiB, at a deletion
BESIDE = ("", "-wal", "-shm")  # endings of the files that belong together
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

# The statements that lead from each version to the next; a file's version is its `user_version`.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `words`: what a search looks through. It stands before `data`, as SQLite reads a long row
        # from its start.
        """CREATE TABLE chats (
            owner TEXT NOT NULL,
            id TEXT NOT NULL,
            title TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            updated_ms INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL,
            words TEXT NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (owner, id)
        )""",
        "CREATE INDEX chats_by_time ON chats (owner, updated_ms DESC, id DESC)",
        "CREATE INDEX chats_by_size ON chats (owner, size_bytes)",
    ),
)


def default_path() -> Path:
    return machine.data_folder("chats") / "chats.sqlite"


class _Damaged(Exception):
    """The file is none of SQLite's, or not whole."""


class Database:
    """One connection, opened when it is first used. One thread only."""

    def __init__(self, path: Path):
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0  # of the file that the connection has

    def read(self, work: Work[T]) -> T:
        """What `work` returns, over one state of the file. A damaged file is put aside, and `work`
        gets a new one.

        Raises ChatsUnavailable, DiskFull, and whatever `work` raises."""
        return self._in_whole_file("BEGIN", work)

    def write(self, work: Work[T]) -> T:
        """The same for work that changes the file: all of it or, if it raises, nothing."""
        return self._in_whole_file("BEGIN IMMEDIATE", work)

    def forget_deleted(self) -> None:
        """Gives pages that are free back to the disk, and empties the log, which still has what was
        in them. Does nothing while another server reads; its next time does it."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                # As a script: `execute` ends it after the first page, as it returns no columns.
                self._connection.executescript(f"PRAGMA incremental_vacuum({FREED_PAGES})")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _in_whole_file(self, begin: str, work: Work[T]) -> T:
        try:
            return self._in_transaction(begin, work)
        except _Damaged as error:
            self._put_aside(str(error))
        try:
            return self._in_transaction(begin, work)
        except _Damaged as error:
            raise ChatsUnavailable(f"{self.path} is damaged and can't be moved: {error}.") from None

    def _in_transaction(self, begin: str, work: Work[T]) -> T:
        try:
            connection = self._opened()
            connection.execute(begin)
            with _ending(connection):
                return work(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without its second half
            if code not in BUSY and code != sqlite3.SQLITE_FULL:
                # What is wrong may be mended when it is opened again. But that takes room on the
                # disk, and who has it open can read on.
                self.close()
            if code in DAMAGED:
                raise _Damaged(str(error)) from None
            raise self._refusal(code, error) from None
        except OSError as error:
            raise self._refusal(0, error.strerror or error) from None

    def _refusal(self, code: int, problem: object) -> DiskFull | ChatsUnavailable:
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(
                f"The disk of {self.path} is full, so nothing was changed: make room there."
            )
        if code in BUSY:
            return ChatsUnavailable(
                f"Another program has held {self.path} for {WAIT_S:g} s: try again.",
                retry_after_s=1,
            )
        return ChatsUnavailable(
            f"{self.path} can't be used ({problem}): make it and its folder writable for the "
            "server, or set LOCALINFRA_DATA to another folder and restart it."
        )

    def _opened(self) -> sqlite3.Connection:
        """The connection, to the file that is there now: it may have been put aside, or deleted."""
        if self._connection is not None and self._inode_there() != self._inode:
            self.close()
        if self._connection is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # others can't read it
            self._inode = self._inode_there()
            connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
            try:
                prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _inode_there(self) -> int:
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0

    def _put_aside(self, problem: str) -> None:
        """Unless another server has done so meanwhile."""
        damaged, aside = self._inode, self.path.with_suffix(f".damaged-{time.time_ns()}")
        with (
            contextlib.suppress(OSError),  # opening it again says what is wrong
            cache.locked(self.path.with_suffix(".lock"), WAIT_S),
        ):
            if self._inode_there() == damaged:
                for end in BESIDE:
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(f"{self.path}{end}", f"{aside}{end}")
                logger.error(
                    "%s is damaged (%s): it is now %s, and conversations begin anew",
                    self.path,
                    problem,
                    aside,
                )


@contextlib.contextmanager
def _ending(connection: sqlite3.Connection) -> Iterator[None]:
    """Ends the transaction that was begun, by what comes of the block."""
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Settings of the connection, then the tables of this version. Raises ChatsUnavailable for a
    newer version's file."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect on a new file only
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may undo the last
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted can't be read from the file
    connection.execute("PRAGMA journal_size_limit = 0")
    connection.execute("BEGIN IMMEDIATE")  # another server may open it just now
    with _ending(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise ChatsUnavailable(
                f"{path} was written by a newer localinfra: update this one, or set "
                "LOCALINFRA_DATA to another folder."
            )
        for statement in itertools.chain.from_iterable(MIGRATIONS[version:]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
