"""How many cores of this machine are idle, read from /proc; None where a system has none."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from localinfra.engine.policy.numbers import NUMBERS


class IdleCores:
    """Counts only the cores that this process may use."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic):
        self._proc, self._clock = proc, clock
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._names = {f"cpu{core}" for core in allowed}
        self._read_s, self._idle_s = clock(), self._read()
        self._cores: float | None = None

    def of_late(self) -> float | None:
        """Over the last half second, or since the last call if that is longer ago."""
        now = self._clock()
        if self._idle_s is not None and now >= self._read_s + NUMBERS.idle_window_s:
            idle_s = self._read()
            if idle_s is not None:
                self._cores = (idle_s - self._idle_s) / (now - self._read_s)
                self._read_s, self._idle_s = now, idle_s
        return self._cores

    def at_once(self) -> float | None:
        """At this moment: cores that no other thread of the machine wants. `of_late` where this is
        not known: if this process may use only some cores, those threads may run on others."""
        if len(self._names) != os.cpu_count():
            return self.of_late()
        try:
            runnable = int((self._proc / "loadavg").read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return self.of_late()
        return float(max(0, len(self._names) - (runnable - 1)))  # one of them reads this file

    def _read(self) -> float | None:
        """Idle seconds since boot, waiting for a disk included."""
        try:
            lines = (self._proc / "stat").read_text().splitlines()
            parts = (line.split(maxsplit=6) for line in lines)
            ticks = sum(int(p[4]) + int(p[5]) for p in parts if p[0] in self._names)
        except (OSError, ValueError, IndexError):
            return None
        return ticks / os.sysconf("SC_CLK_TCK")
