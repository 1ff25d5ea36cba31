"""What each model does at this moment, in memory that outlives the process.

Threads note their steps here, without a system call; the supervisor reads them after a death.
Standard library only, as the supervisor imports it.
"""

import contextlib
import mmap
import re
import struct
import threading
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MAX_ROWS = 256  # models at a time; those beyond are not noted
FIRST_ROW = 64  # bytes before it, of which the first says whether the server listens
ROW = struct.Struct("<BBQ32sH200s")  # step, trouble, thread, identity, length of the name, name
THREAD = struct.Struct("<Q")
NAME_BYTES = 200
SIZE = FIRST_ROW + MAX_ROWS * ROW.size
THREAD_AT = 2
IDENTITY = re.compile(rb"[0-9a-f]{32}")
CURRENT_THREAD = re.compile(r"^Current thread (0x[0-9a-f]+)", re.M)  # as faulthandler writes it


class StepKind(IntEnum):
    IDLE = 0
    LOAD = 1
    SCHEDULE = 2
    PREFILL = 3
    DECODE = 4
    SAMPLE = 5
    KEEP = 6
    EMBED = 7
    PAINT = 8
    SEE = 9

    @property
    def words(self) -> str:
        return WORDS[self]


WORDS = {
    StepKind.IDLE: "while idle",
    StepKind.LOAD: "while loading",
    StepKind.SCHEDULE: "while preparing a step (drafts, restored prefixes)",
    StepKind.PREFILL: "while reading a prompt",
    StepKind.DECODE: "while decoding",
    StepKind.SAMPLE: "while sampling",
    StepKind.KEEP: "while copying prefixes",
    StepKind.EMBED: "while computing embeddings",
    StepKind.PAINT: "while making an image",
    StepKind.SEE: "while reading a picture",
}


class Trouble(IntEnum):
    """Why the server ends itself to be started again."""

    NONE = 0
    HANGS = 1
    DEVICE_LOST = 2


class Suspect(NamedTuple):
    """A model that was at work, as read from its row."""

    step: StepKind
    trouble: Trouble
    thread: int  # threading.get_ident() of who noted the step
    identity: str  # of its files and settings; see `models/measured.py`
    name: str


class Mark:
    """Where the threads that compute a model note what they do."""

    def __init__(
        self,
        memory: "bytearray | mmap.mmap | None" = None,
        at: int = 0,
        journal: "CrashJournal | None" = None,
    ):
        """Without `memory`, nobody reads it."""
        self._memory: bytearray | mmap.mmap = bytearray(ROW.size) if memory is None else memory
        self._at = at
        self._journal = journal
        self._thread = 0

    def note(self, step: StepKind) -> None:
        """Takes 0.5 µs on a busy machine."""
        if (thread := threading.get_ident()) != self._thread:
            THREAD.pack_into(self._memory, self._at + THREAD_AT, thread)
            self._thread = thread
        self._memory[self._at] = step

    @contextlib.contextmanager
    def during(self, step: StepKind) -> Iterator[None]:
        """Notes that step for the block, and what there was after it."""
        before = StepKind(self._memory[self._at])
        self.note(step)
        try:
            yield
        finally:
            self.note(before)

    @contextlib.contextmanager
    def beside(self, step: StepKind) -> Iterator[None]:
        """Notes what another thread of the model does during the block, in a row of its own: a
        death is then not laid to what this one notes meanwhile. Any thread."""
        if (journal := self._journal) is None:
            yield
            return
        mark = journal.another(self)
        mark.note(step)
        try:
            yield
        finally:
            journal.close(mark)

    def blame(self, trouble: Trouble) -> None:
        """The model is why the server is about to end."""
        self._memory[self._at + 1] = trouble

    def detach(self) -> None:
        """The row belongs to another model from now on; a thread may have been left behind."""
        self._memory, self._at, self._journal = bytearray(ROW.size), 0, None


class CrashJournal:
    """A row for each model. Any thread."""

    def __init__(self, memory: "bytearray | mmap.mmap | None" = None):
        self._memory: bytearray | mmap.mmap = bytearray(SIZE) if memory is None else memory
        self._lock = threading.Lock()
        self._marks: dict[int, Mark] = {}  # by the row's place

    @classmethod
    def on(cls, descriptor: int) -> "CrashJournal":
        """In a file of SIZE bytes that processes share."""
        return cls(mmap.mmap(descriptor, SIZE))

    @property
    def is_ready(self) -> bool:
        """Whether the server has begun to listen."""
        return self._memory[0] == 1

    def set_ready(self) -> None:
        self._memory[0] = 1

    def clear(self) -> None:
        self._memory[:] = bytes(SIZE)

    def open(self, name: str, identity: str) -> Mark:
        """A row for the model, until `close`."""
        with self._lock:
            at = next((at for at in places() if at not in self._marks), None)
            if at is None:
                return Mark()
            encoded = name.encode()[:NAME_BYTES]
            row = (StepKind.IDLE, Trouble.NONE, 0, identity.encode(), len(encoded), encoded)
            ROW.pack_into(self._memory, at, *row)
            mark = self._marks[at] = Mark(self._memory, at, self)
            return mark

    def another(self, mark: Mark) -> Mark:
        """A second row for the mark's model, until `close`."""
        with self._lock:
            at = next((at for at, one in self._marks.items() if one is mark), None)
            if at is None:  # its model is gone
                return Mark()
            _, _, _, identity, length, name = ROW.unpack_from(self._memory, at)
        return self.open(name[:length].decode(errors="ignore"), identity.decode())

    def close(self, mark: Mark) -> None:
        """The model is gone; a row with trouble stays, for the supervisor."""
        with self._lock:
            for at, one in list(self._marks.items()):
                if one is mark and self._memory[at + 1] == Trouble.NONE:
                    del self._marks[at]
                    mark.detach()
                    self._memory[at : at + ROW.size] = bytes(ROW.size)

    def at_work(self) -> list[Suspect]:
        """The models that a step was noted for, and those in trouble. What the dead process has
        written may be anything: rows that make no sense are left out."""
        found = []
        for at in places():
            step, trouble, thread, identity, length, name = ROW.unpack_from(self._memory, at)
            is_sound = step in WORDS and trouble in list(Trouble) and IDENTITY.fullmatch(identity)
            if (step or trouble) and is_sound:
                shown = name[:length].decode(errors="replace")
                row = (StepKind(step), Trouble(trouble), thread, identity.decode(), shown)
                found.append(Suspect(*row))
        return found


def places() -> Iterator[int]:
    return (FIRST_ROW + row * ROW.size for row in range(MAX_ROWS))


def culprits(at_work: list[Suspect], report: str) -> list[Suspect]:
    """Who of these has killed the process, each model once. `report`: faulthandler's, which names
    the thread if it was one of Python's. Threads of libraries have no name: then all are
    suspects."""
    blamed = [entry for entry in at_work if entry.trouble]
    if not blamed and (found := CURRENT_THREAD.search(report)):
        blamed = [entry for entry in at_work if entry.thread == int(found[1], 16)]
    elif not blamed:
        blamed = at_work
    return [*{(entry.identity, entry.name): entry for entry in blamed}.values()]
