"""The usage of each model by each key, kept in one file of the cache for `localinfra costs`.

Owns that file. Several servers may add to it: each adds its usage since its last write, under a
lock. It has one row per key and model, so the settings bound its size.
"""

import asyncio
import contextlib
import copy
import datetime
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable
from pathlib import Path

import msgspec

from localinfra import cache, machine
from localinfra.executor import in_daemon_thread

logger = logging.getLogger(__name__)

SAVE_INTERVAL_S = 3.0  # for answers that go on, and after a write that failed
# Between two writes, however many answers end: a write takes 0.3 ms of processor time, and many
# milliseconds with thousands of rows.
REST_S = 0.05
REST_RATIO = 50  # to the processor time of the last write
LOCK_LIMIT_S = 3.0  # usually held for milliseconds
LAST_SAVE_LIMIT_S = 5.0  # at the end, even if the disk hangs


class Used(msgspec.Struct, kw_only=True):
    """The usage of one step of a request, or the sum of many."""

    requests: int = 0
    prompt_tokens: int = 0  # including texts to embed or score
    cached_tokens: int = 0  # the part of prompt_tokens that was not computed again
    generated_tokens: int = 0
    images: int = 0
    usd: float = 0.0  # at the prices of that time

    def add(self, used: "Used") -> None:
        self.requests += used.requests
        self.prompt_tokens += used.prompt_tokens
        self.cached_tokens += used.cached_tokens
        self.generated_tokens += used.generated_tokens
        self.images += used.images
        self.usd += used.usd


class CostRow(Used, kw_only=True):
    """The usage of one model by one key so far, times in UTC."""

    key: str  # its label, never the key
    model: str
    first_at: datetime.datetime
    last_at: datetime.datetime

    def merge(self, other: "CostRow") -> None:
        """Adds another row of the same key and model."""
        self.add(other)
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)


class Book(msgspec.Struct, frozen=True):
    """The whole file."""

    since: datetime.datetime  # when counting began
    rows: list[CostRow] = []

    def with_rows(self, rows: Collection[CostRow]) -> "Book":
        since = min([self.since, *(row.first_at for row in rows)])
        return Book(since, merged([*self.rows, *rows]))


def merged(rows: Iterable[CostRow]) -> list[CostRow]:
    """One row per key and model; does not change the given ones."""
    found: dict[tuple[str, str], CostRow] = {}
    for row in rows:
        if known := found.get((row.key, row.model)):
            known.merge(row)
        else:
            found[row.key, row.model] = copy.copy(row)
    return list(found.values())


class CostsUnreadable(Exception):
    """The file can't be read; the message names it and the remedy."""


def default_path() -> Path:
    return machine.cache_folder("costs") / "costs.json"


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def read(path: Path) -> Book:
    """The content of the file, or an empty book if there is none. Raises CostsUnreadable."""
    try:
        return _book(path)
    except (OSError, msgspec.MsgspecError) as error:
        raise CostsUnreadable(
            f"{path} can't be read ({error}); `localinfra costs --reset` starts from zero"
        ) from None


def _book(path: Path) -> Book:
    """Raises OSError and MsgspecError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Book)
    except FileNotFoundError:
        return Book(now())


def add(path: Path, rows: Collection[CostRow]) -> None:
    """Adds rows to the file. Moves a damaged file aside, but not one that can't be read for now:
    too many files may be open, or a disk fail for a moment. Raises OSError."""
    with cache.locked(path.with_suffix(".lock"), LOCK_LIMIT_S):
        try:
            book = _book(path)
        except msgspec.MsgspecError as error:
            aside = path.with_suffix(".damaged")
            logger.warning(
                "%s is damaged (%s); counting from zero, it is now %s", path, error, aside
            )
            path.replace(aside)
            book = Book(now())
        write(path, book.with_rows(rows))


def reset(path: Path) -> None:
    """Starts from zero; running servers go on adding. Raises OSError."""
    with cache.locked(path.with_suffix(".lock"), LOCK_LIMIT_S):
        write(path, Book(now()))


def timed_add(path: Path, rows: Collection[CostRow]) -> float:
    """Like `add`. Returns the seconds of processor time that it took."""
    started_s = time.thread_time()
    add(path, rows)
    return time.thread_time() - started_s


def write(path: Path, book: Book) -> None:
    cache.write_whole(path, msgspec.json.format(msgspec.json.encode(book)))


class Ledger:
    """Records usage. Event loop only; the file is written in a thread."""

    def __init__(self, path: Path | None = None):
        """Without a path, nothing is recorded."""
        self._path = path
        self._unsaved: dict[tuple[str, str], CostRow] = {}
        self._wanted = asyncio.Event()  # a write, soon
        self._ending = asyncio.Event()
        self._is_failing = False

    def add(self, key: str, model: str, used: Used) -> None:
        if self._path is None:
            return
        at = now()
        row = self._unsaved.get((key, model))
        if row is None:
            row = CostRow(key=key, model=model, first_at=at, last_at=at)
            self._unsaved[key, model] = row
        row.add(used)
        row.first_at, row.last_at = min(row.first_at, at), max(row.last_at, at)  # it may be set

    def save_soon(self) -> None:
        """An answer is at its end: what it used is written at once, or after the rest since the
        last write. From then on the death of this process loses none of it."""
        self._wanted.set()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Inside the context, updates the file when answers end and every SAVE_INTERVAL_S; and at
        the end, waiting at most LAST_SAVE_LIMIT_S for the lock and the disk."""
        saving = asyncio.create_task(self._save_regularly())
        try:
            yield
        finally:
            self._ending.set()
            self._wanted.set()
            try:
                async with asyncio.timeout(LAST_SAVE_LIMIT_S):
                    await saving
                    await self._save()
            except TimeoutError:
                logger.warning("costs: %s could not be written in time", self._path)
            if self._unsaved:
                usd = sum(row.usd for row in self._unsaved.values())
                logger.warning("costs of %.6f US dollars were not saved in %s", usd, self._path)

    async def _save_regularly(self) -> None:
        while not self._ending.is_set():
            self._wanted.clear()
            rest_s = await self._save()
            await set_within(self._ending, rest_s)
            await set_within(self._wanted, SAVE_INTERVAL_S)

    async def _save(self) -> float:
        """Returns how many seconds to rest."""
        rows, self._unsaved = list(self._unsaved.values()), {}
        if self._path is None or not rows:
            return 0.0
        try:
            took_s = await in_daemon_thread(timed_add, self._path, rows, name="costs")
            self._is_failing = False
            return max(REST_S, REST_RATIO * took_s)
        except (OSError, RuntimeError, MemoryError) as error:  # such as no room for a thread
            if not self._is_failing:  # log once, not every few seconds
                logger.warning("costs can't be saved in %s: %s", self._path, error)
            self._is_failing = True
            again = merged([*rows, *self._unsaved.values()])
            self._unsaved = {(row.key, row.model): row for row in again}
            return SAVE_INTERVAL_S


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Waits for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
