"""The budget of time and bytes for making one prompt. Knows no Jinja.

Every operation of a sandboxed template calls the meter and none is long by itself, so the limits
hold on the calling thread without a subprocess, a signal or a trace function.
"""

import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from itertools import chain
from sys import getsizeof

# A 100-message conversation takes about 2 ms and produces a few 100 kB.
DEADLINE_S = 2.0
LOOK_EVERY_S = 0.02  # between checks that are slower than reading the wall clock
MAX_VALUE_BYTES = 4 << 20  # of one value written out in full; plus 8 times the input
MAX_TOTAL_BYTES = 32 << 20  # of all values made while rendering; plus 32 times the input

POINTER_BYTES = 8  # in a list

CONTAINERS = (list, tuple, dict)
SCALARS = frozenset([bool, int, float, type(None)])


class LimitExceeded(BaseException):
    """Not an Exception: nothing inside a template or a filter may catch it."""


class Deadline:
    """Limits the CPU time of the thread that makes a prompt, from messages to token ids."""

    def __init__(
        self, limit_s: float | None = None, is_abandoned: Callable[[], bool] = lambda: False
    ):
        """`limit_s`: DEADLINE_S if None. `is_abandoned`: whether the client has left."""
        self._limit_s = DEADLINE_S if limit_s is None else limit_s
        self._is_abandoned = is_abandoned
        self._next_look_s = time.monotonic() + LOOK_EVERY_S
        self._cpu_end = time.thread_time() + self._limit_s

    def check(self) -> bool:
        """Raises LimitExceeded when time is up. Returns True, so that expressions can use it.

        The wall clock is cheap and says when to look; the thread's CPU time decides, so that a
        machine busy with other work refuses no request.
        """
        now_s = time.monotonic()
        if now_s > self._next_look_s:
            self._next_look_s = now_s + LOOK_EVERY_S
            if self._is_abandoned():
                raise LimitExceeded("its client has left")
            if time.thread_time() > self._cpu_end:
                raise LimitExceeded(f"it took more than {self._limit_s:g} s of CPU time")
        return True


class Meter:
    """The budget for one prompt. Rendering thread only."""

    def __init__(self, inputs: object, deadline: Deadline | None = None):
        self._sizes: dict[int, int] = {}  # id of a container → bytes of it written out
        self._kept: list[object] = []  # keeps those ids from being reused
        self._own: set[int] = set()  # ids of lists that may change
        input_bytes = self.size(inputs)
        self._max_value = MAX_VALUE_BYTES + 8 * input_bytes
        self._left = MAX_TOTAL_BYTES + 32 * input_bytes
        self.tick = (deadline or Deadline()).check

    def spend(self, size_bytes: int) -> None:
        """Charges for a value that was made or is about to be."""
        self._left -= size_bytes
        if size_bytes > self._max_value or self._left < 0:
            raise LimitExceeded("it produced too much text")

    def charge(self, value: object) -> object:
        """Charges for the value and returns it; an iterator as a list, so its size is known."""
        kind = type(value)
        if kind is str:
            self.spend(getsizeof(value))
        elif kind in SCALARS:
            pass
        elif isinstance(value, CONTAINERS):
            self.spend(getsizeof(value))
            if self.size(value) > self._max_value:
                raise LimitExceeded("it built too large a value")
        elif isinstance(value, (Iterator, KeysView, ItemsView, ValuesView)):
            return self.charge(list(value))
        return value

    def own(self, made: list[object]) -> list[object]:
        """Charges for a list of the template's own, which it may change until the list is part of
        another value: so no value contains itself, and the sizes of others stay as they were."""
        self.charge(made)
        self._own.add(id(made))
        return made

    def append(self, target: list[object], item: object) -> None:
        """Call it before the list's method, as `pop`. Raises ValueError unless the list is own."""
        self._own.discard(id(item))
        self._resize(target, POINTER_BYTES + self.size(item))
        self.spend(POINTER_BYTES)

    def pop(self, target: list[object], index: int = -1) -> None:
        self._resize(target, -POINTER_BYTES - self.size(target[index]))

    def _resize(self, target: list[object], by: int) -> None:
        if id(target) not in self._own:
            raise ValueError(
                "a template can only change a list that it wrote and that is in no other value"
            )
        size = self._sizes[id(target)] + by
        if size > self._max_value:
            raise LimitExceeded("it built too large a value")
        self._sizes[id(target)] = size

    def text(self, value: object) -> str:
        """str(value), charged for if that makes a new string."""
        if type(value) is str:
            return value
        text = str(value)
        self.spend(getsizeof(text))
        return text

    def size(self, value: object) -> int:
        """Bytes of the value written out in full, with shared parts counted each time.

        `[x, x]` nested 40 deep is small in memory, but printing, hashing or comparing it takes
        forever. Each is summed once: of containers only own lists change, and no part of others.
        """
        if isinstance(value, str):
            return getsizeof(value)
        if not isinstance(value, CONTAINERS):
            return 32
        known = self._sizes.get(id(value))
        if known is None:
            parts = [*chain.from_iterable(value.items())] if isinstance(value, dict) else value
            known = getsizeof(value) + sum(map(self.size, parts))
            if self._own:
                self._own.difference_update(map(id, parts))
            self._sizes[id(value)] = known
            self._kept.append(value)
        return known


def written(text: str) -> int:
    """The most bytes that its characters take in a longer text."""
    return len(text) if text.isascii() else 4 * len(text)


class Buffer(list[str]):
    """Collects the output of a macro or a set block and charges for each piece."""

    def __init__(self, meter: Meter):
        super().__init__()
        self._meter = meter

    def append(self, piece: str) -> None:
        self._meter.spend(getsizeof(piece))
        super().append(piece)

    def extend(self, pieces: "tuple[str, ...]") -> None:  # type: ignore[override]  # as Jinja calls it
        self._meter.spend(sum(map(getsizeof, pieces)))
        super().extend(pieces)
