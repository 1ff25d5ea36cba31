"""Conversations by their owner: listed, found by their words, put, deleted; within limits.

Rows only: what a conversation means is its client's business, but for the texts of its turns.
"""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from localinfra.chat.decoding import values_of
from localinfra.conversations.database import Database, Work
from localinfra.errors import BodyTooLarge, Conflict, DiskFull, NotFound
from localinfra.executor import BoundedExecutor, is_abandoned
from localinfra.steps import done

T = TypeVar("T")

MIB = 1024 * 1024
MAX_WAITING = 256
# Of SQLite's machine, some hundred rows: after so many, a search looks whether its client has left.
STEPS_UNWATCHED = 1000


class Limits(msgspec.Struct, frozen=True):
    """What may be kept."""

    chat_bytes: int = 8 * MIB  # of one conversation
    num_chats: int = 10_000  # of an owner
    owner_bytes: int = 512 * MIB  # of an owner's conversations together
    total_bytes: int = 4096 * MIB  # of all


class ChatHead(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation without its content."""

    id: str
    title: str
    created_at: float  # Unix seconds, as below
    updated_at: float
    revision: int  # 1 for a new one, and one more with each change
    size_bytes: int  # of its data


class KeptChat(ChatHead, frozen=True, kw_only=True):
    """A conversation as it was put."""

    data: msgspec.Raw  # a JSON object


class ChatPage(msgspec.Struct, frozen=True):
    """Some of the conversations, the latest first."""

    heads: list[ChatHead]
    next: str | None  # where the next page begins; None: there is none


class KeptTurn(msgspec.Struct, frozen=True, gc=False):
    """A turn that a search looks through, if its content is a text."""

    content: msgspec.Raw = msgspec.Raw()

    def __post_init__(self) -> None:
        """Other threads have their turn here: a million turns take 80 ms."""


class KeptContent(msgspec.Struct, frozen=True):
    """What is read of a conversation's data. Most of it is skipped, and never made."""

    turns: list[KeptTurn] = []


_CONTENT = msgspec.json.Decoder(KeptContent)
SLICE_CHARS = 1 << 17  # of a text, written small in 1 ms
HEAD = "id, title, created_ms, updated_ms, revision, size_bytes"


def words_of(title: str, data: bytes) -> bytearray:
    """What a search looks through, in UTF-8: the title, and the texts of the turns, if it has any.
    For threads: no step of it holds the interpreter for long, whatever the data are."""
    words = bytearray()
    for text in itertools.chain([title], _texts(data)):
        if words:
            words += b"\n"
        for at in range(0, len(text), SLICE_CHARS):  # a case is each character's own
            words += text[at : at + SLICE_CHARS].casefold().encode()
    return words


def _texts(data: bytes) -> Iterator[str]:
    """The contents of turns that are texts. `data`: valid JSON in UTF-8."""
    try:
        turns = _CONTENT.decode(data).turns
    except (ValueError, RecursionError):  # DecodeError is a ValueError
        return
    turns.reverse()
    while turns:  # one by one, as to free a million at once takes long too
        raw = bytes(turns.pop().content)
        if raw.startswith(b'"'):
            yield done(values_of(raw)).whole


class ChatStore:
    """All SQL runs in two threads of its own, since a search may take seconds. Event loop only.

    Every method raises ChatsUnavailable if the file can't be used, and QueueFull.
    """

    def __init__(self, path: Path, limits: Limits | None = None):
        """Nothing is opened or made before it is used."""
        self.limits = limits or Limits()
        self._usual = _Thread("conversations", path)
        self._searches = _Thread("a search of conversations", path)

    async def close(self) -> None:
        await self._searches.close()
        await self._usual.close()  # the last one empties the log

    async def page(self, owner: str, search: str, limit: int, after: str | None) -> ChatPage:
        """Those with the words, or all. `after`: the `next` of the page before. Raises ValueError
        if it is none."""
        start = _start(after) if after else None
        thread, words = self._searches if search else self._usual, search.casefold()
        return await thread.read(lambda at: _page(at, owner, words, limit, start))

    async def get(self, owner: str, id: str) -> KeptChat:
        """Raises NotFound."""
        return await self._usual.read(lambda at: _get(at, owner, id))

    async def put(
        self,
        owner: str,
        id: str,
        title: str,
        data: bytes,
        revision: int,
        updated_at: float | None = None,
    ) -> ChatHead:
        """Keeps the next revision of a conversation, or a new one. `revision`: the one that it
        changes, or 0. `updated_at`: Unix seconds; None: now.

        Raises Conflict if another was put meanwhile, NotFound if it was deleted, BodyTooLarge, and
        DiskFull for a limit or a full disk."""
        self.check_size(len(data))
        now_ms = time.time_ns() // 1_000_000
        updated_ms = now_ms if updated_at is None else min(now_ms, int(updated_at * 1000))
        row = _Row(owner, id, title, updated_ms, revision, data)
        return await self._usual.write(lambda at: _put(at, row, self.limits))

    def check_size(self, num_bytes: int) -> None:
        """Raises BodyTooLarge, for data that need not be looked at."""
        if num_bytes > self.limits.chat_bytes:
            raise BodyTooLarge(
                f"This conversation has {num_bytes} bytes, more than the {self.limits.chat_bytes} "
                "that are kept: begin a new one, or delete pictures or token probabilities in it."
            )

    async def delete(self, owner: str, id: str | None = None) -> int:
        """Deletes a conversation, or all of the owner's. Returns how many there were."""
        number = await self._usual.write(lambda at: _delete(at, owner, id))
        if number:
            await self._usual.forget_deleted()
        return number


class _Thread:
    """A thread with a connection of its own."""

    def __init__(self, name: str, path: Path):
        self._executor = BoundedExecutor(name, 1, MAX_WAITING)
        self._database = Database(path)
        self._is_used = False

    async def read(self, work: Work[T]) -> T:
        self._is_used = True
        return await self._executor.run(self._database.read, work)

    async def write(self, work: Work[T]) -> T:
        self._is_used = True
        return await self._executor.run(self._database.write, work)

    async def forget_deleted(self) -> None:
        await self._executor.run(self._database.forget_deleted)

    async def close(self) -> None:
        if self._is_used:
            await self._executor.run(self._database.close)
        self._executor.close()


class _Row(msgspec.Struct, frozen=True):
    owner: str
    id: str
    title: str
    updated_ms: int
    revision: int  # before
    data: bytes


def _start(after: str) -> tuple[int, str]:
    """Of a page: the time and the id of the conversation before it."""
    updated_ms, _, id = after.partition(".")
    if not (updated_ms.isascii() and updated_ms.isdigit() and len(updated_ms) < 18 and id):
        raise ValueError
    return int(updated_ms), id


def _mark(row: tuple[Any, ...]) -> str:
    id, _, _, updated_ms, *_ = row
    return f"{updated_ms}.{id}"


def _head(row: tuple[Any, ...]) -> ChatHead:
    id, title, created_ms, updated_ms, revision, size_bytes = row
    return ChatHead(
        id=id,
        title=title,
        created_at=created_ms / 1000,
        updated_at=updated_ms / 1000,
        revision=revision,
        size_bytes=size_bytes,
    )


def _page(
    connection: sqlite3.Connection,
    owner: str,
    words: str,
    limit: int,
    start: tuple[int, str] | None,
) -> ChatPage:
    conditions, values = ["owner = ?"], list[object]([owner])
    if words:
        connection.set_progress_handler(is_abandoned, STEPS_UNWATCHED)
        conditions.append("instr(words, ?)")
        values.append(words)
    if start is not None:
        conditions.append("(updated_ms, id) < (?, ?)")
        values += start
    rows = connection.execute(
        f"SELECT {HEAD} FROM chats WHERE {' AND '.join(conditions)} "
        "ORDER BY updated_ms DESC, id DESC LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    heads = [_head(row) for row in rows[:limit]]
    next = _mark(rows[limit - 1]) if len(rows) > limit else None
    return ChatPage(heads, next)


def _get(connection: sqlite3.Connection, owner: str, id: str) -> KeptChat:
    row = connection.execute(
        f"SELECT {HEAD}, data FROM chats WHERE owner = ? AND id = ?", (owner, id)
    ).fetchone()
    if row is None:
        raise NotFound(f"There is no conversation {id[:100]!r}, or no longer, or not of this key.")
    *head, data = row
    return KeptChat(**msgspec.structs.asdict(_head(tuple(head))), data=msgspec.Raw(data))


def _put(connection: sqlite3.Connection, row: _Row, limits: Limits) -> ChatHead:
    found = connection.execute(
        "SELECT revision, created_ms, size_bytes FROM chats WHERE owner = ? AND id = ?",
        (row.owner, row.id),
    ).fetchone()
    if found is None and row.revision:
        raise NotFound(
            f"The conversation {row.id!r} was deleted since its revision {row.revision}: put it "
            "with revision 0 to keep it again."
        )
    revision, created_ms, size_bytes = found or (0, row.updated_ms, 0)
    if revision != row.revision:
        raise Conflict(
            f"The conversation {row.id!r} is at revision {revision}, not {row.revision}: get it, "
            "put both together, and send that with its revision.",
            "revision",
        )
    _check_room(connection, row, limits, size_bytes, is_new=found is None)
    values = (row.title, row.updated_ms, revision + 1, len(row.data))
    content = (words_of(row.title, row.data), row.data)
    connection.execute(
        "INSERT OR REPLACE INTO chats (title, updated_ms, revision, size_bytes, words, data, "
        "owner, id, created_ms) VALUES (?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?, ?)",
        (*values, *content, row.owner, row.id, created_ms),
    )
    return _head((row.id, row.title, created_ms, *values[1:]))


def _check_room(
    connection: sqlite3.Connection, row: _Row, limits: Limits, before_bytes: int, *, is_new: bool
) -> None:
    more_bytes = len(row.data) - before_bytes
    if not is_new and more_bytes <= 0:
        return  # a conversation may always become smaller
    number, own_bytes = connection.execute(
        "SELECT count(*), coalesce(sum(size_bytes), 0) FROM chats WHERE owner = ?", (row.owner,)
    ).fetchone()
    (all_bytes,) = connection.execute("SELECT coalesce(sum(size_bytes), 0) FROM chats").fetchone()
    remedy = "delete some that are not needed; exporting them before keeps a copy."
    if is_new and number >= limits.num_chats:
        raise DiskFull(f"{number} conversations are kept, as many as may be: {remedy}")
    if own_bytes + more_bytes > limits.owner_bytes:
        raise DiskFull(
            f"Your conversations would take more than the {limits.owner_bytes} bytes that each "
            f"key has for them: {remedy}"
        )
    if all_bytes + more_bytes > limits.total_bytes:
        raise DiskFull(
            f"All conversations of this server would take more than {limits.total_bytes} bytes: "
            f"{remedy}"
        )


def _delete(connection: sqlite3.Connection, owner: str, id: str | None) -> int:
    if id is None:
        return connection.execute("DELETE FROM chats WHERE owner = ?", (owner,)).rowcount
    return connection.execute("DELETE FROM chats WHERE owner = ? AND id = ?", (owner, id)).rowcount
