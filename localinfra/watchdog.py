"""Sees a thread that stands still while work waits. Pure: what the thread is at goes in.

Checks are counted and no clock is read: a machine that was suspended, or a process that was
stopped, has made no checks either.
"""

from enum import Enum

import msgspec

# A batch of a large model's prompt may well take minutes on a CPU, and then it is computed.
COMPUTING_FACTOR = 10


class Phase(Enum):
    IDLE = "idle"  # waits for requests
    WORKING = "working"  # everything between two batches, of which nothing should take long
    COMPUTING = "computing"  # a batch, in the backend


class Pulse(msgspec.Struct, frozen=True):
    """What a thread is at. It changes whenever the thread gets on."""

    num: int = 0
    phase: Phase = Phase.IDLE
    size: int = 1  # of what is computed, by which more patience is had with it

    def next(self) -> "Pulse":
        return Pulse(self.num + 1, Phase.WORKING)

    def computing(self, size: int = 1) -> "Pulse":
        return Pulse(self.num + 1, Phase.COMPUTING, size)

    def idle(self) -> "Pulse":
        return Pulse(self.num + 1, Phase.IDLE)


class Watchdog:
    """Call `stands_still` at regular intervals."""

    def __init__(self, max_checks: int):
        """So many checks may find the thread at the same thing; ten times as many where it
        computes, and that for each unit of a pulse's size."""
        self._max_checks = max_checks
        self._seen = Pulse()
        self.num_checks = 0  # that found it there

    def stands_still(self, pulse: Pulse) -> bool:
        if pulse != self._seen or pulse.phase is Phase.IDLE:
            self._seen, self.num_checks = pulse, 0
            return False
        self.num_checks += 1
        factor = COMPUTING_FACTOR * pulse.size if pulse.phase is Phase.COMPUTING else 1
        return self.num_checks >= factor * self._max_checks
