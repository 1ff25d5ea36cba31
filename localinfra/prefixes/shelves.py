"""A shelf for each model: its prefixes while it is unloaded, and their files.

Files are read and written in threads of their own; engines only queue.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from localinfra.engine.offloaded import Done, KeptSpan, OffloadedCells, offloaded_bytes
from localinfra.prefixes.entry import HASH_BYTES, NO_PARENT, Entry, keyed_hash, name_of
from localinfra.prefixes.folder import Folder, FolderUnusable
from localinfra.prefixes.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

NUM_READERS = 2
NICENESS = 10
MOST_UNWRITTEN = 64 << 20  # bytes queued before an engine waits with more


class Shelves:
    """All of a server. Any thread."""

    def __init__(self, root: Path, max_disk_bytes: int = 0):
        """Files are kept below `root`; none if `max_disk_bytes` is 0."""
        self._folder = Folder(root, max_disk_bytes) if max_disk_bytes else None
        self._is_made = False
        self._making = threading.Lock()
        self.is_ending = False
        self.readers = Workers("prefix reader", NUM_READERS)
        self.writer = Workers("prefix writer", niceness=NICENESS)
        self._shelves: dict[str, ModelShelf] = {}

    def opened_folder(self) -> Folder | None:
        """The folder, made with the first call; None if there are no files. Touches the disk."""
        with self._making:
            if self._folder and not self._is_made:
                self._is_made = True
                try:
                    self._folder.make()
                except FolderUnusable as error:
                    logger.warning("%s", error)
                    self._folder = None
            return self._folder

    def shelf(self, name: str, identity: Sequence[str]) -> "ModelShelf":
        """The shelf of the model `name`. What others with its name left is dropped: `identity` is
        all that the contents of its cells depend on."""
        model = hashlib.blake2b("\0".join(identity).encode(), digest_size=HASH_BYTES).digest()
        known = self._shelves.get(name)
        if known is None or known.model != model:
            known = self._shelves[name] = ModelShelf(self, name, model)
        return known

    def salt(self, client: str) -> str:
        """What a client's prefixes are kept under: in files, its name can't be read from it."""
        folder = self._folder if self._is_made else None
        return keyed_hash(folder.secret, client.encode()).hex() if folder else client

    @property
    def num_bytes(self) -> dict[str, int]:
        """Main memory that prefixes of unloaded models take, by model."""
        return {name: shelf.num_bytes for name, shelf in list(self._shelves.items())}

    def fit(self, max_bytes: int, wanted: Collection[str]) -> None:
        """Frees main memory until prefixes of unloaded models take at most so much: those of models
        that are `wanted` last, else of those first that were unloaded first. Files stay."""
        excess = sum(self.num_bytes.values()) - max_bytes
        freed: list[NDArray[np.uint8]] = []
        shelves = list(self._shelves.values())  # loads add to them
        for shelf in sorted(shelves, key=lambda one: (one.name in wanted, one.left_at)):
            if excess <= 0:
                break
            data = shelf.shed(excess)
            excess -= sum(one.nbytes for one in data)
            freed += data
        if freed:
            self.readers.run(freed.clear)  # it takes the system a while

    @property
    def num_disk_bytes(self) -> int:
        return self._folder.num_bytes if self._folder else 0

    @property
    def num_damaged(self) -> int:
        return self._folder.num_damaged if self._folder else 0

    @property
    def num_read_tokens(self) -> dict[str, int]:
        """Tokens whose cells came from files, by model."""
        return {name: shelf.num_read_tokens for name, shelf in self._shelves.items()}

    def close(self, limit_s: float) -> None:
        """Writes what is queued, for `limit_s` at most, and ends the threads."""
        self.readers.finish(0)
        if not self.writer.finish(limit_s):
            logger.warning("disk_cache: the last prompts could not be written within %g s", limit_s)


class ModelShelf:
    """`engine.offloaded.Shelf` of one model."""

    def __init__(self, shelves: Shelves, name: str, model: bytes):
        self.model = model
        self._shelves = shelves
        self.name = name
        self._folder = shelves.opened_folder()
        self._left: list[KeptSpan] | None = None  # by the last engine
        self.left_at = 0.0  # time.monotonic()
        self._lock = threading.Lock()
        self._unwritten: dict[str, NDArray[np.uint8]] = {}  # by file
        self._is_failing = False
        self.num_read_tokens = 0

    @property
    def num_bytes(self) -> int:
        return offloaded_bytes(span.cells for span in self._left or ())

    @property
    def is_open(self) -> bool:
        return self.has_files or not self._shelves.is_ending

    @property
    def has_files(self) -> bool:
        return self._folder is not None

    @property
    def is_behind(self) -> bool:
        with self._lock:
            return sum(data.nbytes for data in self._unwritten.values()) > MOST_UNWRITTEN

    def shed(self, num_bytes: int) -> "list[NDArray[np.uint8]]":
        """Gives up so much of what is in memory, the least recently used first; or all of it."""
        freed: list[NDArray[np.uint8]] = []
        with self._lock:
            if not self._left:
                return freed
            for copy in in_order_of_leaving(self._left):
                if num_bytes <= 0:
                    break
                if (data := copy.data) is not None:
                    copy.data = None
                    freed.append(data)
                    num_bytes -= data.nbytes
            self._left = [one for one in self._left if one.cells.data is not None or one.cells.file]
        return freed

    def take(self) -> list[KeptSpan]:
        with self._lock:
            spans, self._left = self._left, None
        if spans is None:
            spans = self._folder.spans(self.model) if self._folder else []
        if spans:
            self._log("are back", spans)
        return spans

    def put(self, spans: list[KeptSpan]) -> None:
        with self._lock:
            self._left, self.left_at = spans, time.monotonic()
        if spans:
            self._log("are kept", spans)

    def _log(self, what: str, spans: list[KeptSpan]) -> None:
        num_tokens = sum(len(span.cells.tokens) for span in spans)
        in_memory = offloaded_bytes(span.cells for span in spans) / 2**20
        on_disk = sum(span.cells.num_bytes for span in spans if span.cells.file) / 2**20
        logger.info(
            "%s: %d tokens of earlier prompts %s (%.0f MiB in memory, %.0f MiB on disk)",
            self.name, num_tokens, what, in_memory, on_disk,
        )  # fmt: skip

    def write(self, span: KeptSpan) -> None:
        copy, parent, data = span.cells, span.parent, span.cells.data
        assert self._folder and data is not None
        if parent and not parent.file:
            return  # it would never be found
        entry = Entry(
            model=self.model,
            salt=bytes.fromhex(span.salt),
            parent=bytes.fromhex(parent.file) if parent and parent.file else NO_PARENT,
            start=copy.start,
            tokens=copy.tokens,
            is_canonical=copy.is_canonical,
        )
        copy.file = name = name_of(self._folder.secret, entry)
        with self._lock:
            self._unwritten[name] = data
        self._shelves.writer.run(partial(self._write, copy, name, entry, data))

    def _write(
        self, copy: OffloadedCells, name: str, entry: Entry, data: "NDArray[np.uint8]"
    ) -> None:
        assert self._folder
        try:
            self._folder.write(entry, data)
            self._is_failing = False
        except OSError as error:
            copy.file = None
            if not self._is_failing:  # log once, not for every piece
                logger.warning("disk_cache: a prompt can't be written: %s", error)
            self._is_failing = True
        finally:
            with self._lock:
                self._unwritten.pop(name, None)

    def read(self, copies: list[OffloadedCells], done: Done) -> None:
        for copy in copies:
            self._shelves.readers.run(partial(self._read, copy, done))

    def _read(self, copy: OffloadedCells, done: Done) -> None:
        data = None
        try:
            data = self._data_of(copy)
        finally:
            done(copy, data)

    def _data_of(self, copy: OffloadedCells) -> "NDArray[np.uint8] | None":
        name = copy.file
        if not self._folder or not name:
            return None
        with self._lock:
            data = self._unwritten.get(name)
        if data is None:
            data = self._folder.read(self.model, name)
            self.num_read_tokens += len(copy.tokens) if data is not None else 0
        return data

    def touch(self, copies: list[OffloadedCells]) -> None:
        names = [copy.file for copy in copies if copy.file]
        if self._folder and names:
            self._shelves.writer.run(partial(self._folder.touch, self.model, names))

    def remove(self, copies: list[OffloadedCells]) -> None:
        names = [copy.file for copy in copies if copy.file]
        if self._folder and names:
            self._shelves.writer.run(partial(self._folder.remove, self.model, names))


def in_order_of_leaving(spans: Sequence[KeptSpan]) -> list[OffloadedCells]:
    """The least recently used first, and none before what continues it. `spans`: parents first."""
    ages: dict[OffloadedCells, int] = {}  # of the copy and all that continues it
    for span in reversed(spans):
        age = ages[span.cells] = min(span.age, ages.get(span.cells, span.age))
        if span.parent:
            ages[span.parent] = min(age, ages.get(span.parent, age))
    copies = (span.cells for span in spans)
    return sorted(copies, key=lambda copy: (-ages[copy], -copy.start))
