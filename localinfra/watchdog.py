"""Detects a thread that is stuck while work waits. Pure: it is given the thread's pulse.

Counts checks instead of reading a clock: a suspended machine or a stopped process makes no checks
either.
"""

from enum import Enum

import msgspec

# One prefill batch of a large model may legitimately take minutes on a CPU.
COMPUTING_FACTOR = 10


class Phase(Enum):
    IDLE = "idle"  # waiting for requests
    WORKING = "working"  # between two batches, where nothing should take long
    COMPUTING = "computing"  # a batch in the backend


class Pulse(msgspec.Struct, frozen=True):
    """What a thread is doing. It changes whenever the thread makes progress."""

    num: int = 0
    phase: Phase = Phase.IDLE
    size: int = 1  # of the computed batch; the limit grows with it

    def next(self) -> "Pulse":
        return Pulse(self.num + 1, Phase.WORKING)

    def computing(self, size: int = 1) -> "Pulse":
        return Pulse(self.num + 1, Phase.COMPUTING, size)

    def idle(self) -> "Pulse":
        return Pulse(self.num + 1, Phase.IDLE)


class Watchdog:
    """Call `stands_still` at regular intervals."""

    def __init__(self, max_checks: int):
        """`max_checks` checks with an unchanged pulse mean stuck: ten times as many while
        computing, times the pulse's size."""
        self._max_checks = max_checks
        self._seen = Pulse()
        self.num_checks = 0  # that found it unchanged

    def stands_still(self, pulse: Pulse) -> bool:
        if pulse != self._seen or pulse.phase is Phase.IDLE:
            self._seen, self.num_checks = pulse, 0
            return False
        self.num_checks += 1
        factor = COMPUTING_FACTOR * pulse.size if pulse.phase is Phase.COMPUTING else 1
        return self.num_checks >= factor * self._max_checks
