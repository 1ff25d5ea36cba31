"""How many cores of this machine are idle, read from /proc; None where the system has none."""

import os
import time
from collections.abc import Callable
from pathlib import Path

WINDOW_S = 0.5


class IdleCores:
    """Cores' worth of idle time among those this process may use, over the last half second or
    since the last call but one."""

    def __init__(
        self,
        stat: Path = Path("/proc/stat"),
        loadavg: Path = Path("/proc/loadavg"),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stat = stat
        self._loadavg = loadavg
        self._clock = clock
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._names = {f"cpu{core}" for core in allowed}
        self._has_all_cores = len(allowed) == os.cpu_count()
        self._read_s = clock()
        self._idle_s = self._read()
        self._cores: float | None = None

    def __call__(self) -> float | None:
        now = self._clock()
        if self._idle_s is not None and now >= self._read_s + WINDOW_S:
            idle_s = self._read()
            if idle_s is not None:
                self._cores = (idle_s - self._idle_s) / (now - self._read_s)
                self._idle_s, self._read_s = idle_s, now
        return self._cores

    def at_once(self) -> float | None:
        """Cores that no other thread of the machine wants at this moment; None also where this
        process may use only some cores, for nobody tells where those threads run."""
        if not self._has_all_cores:
            return None
        try:
            runnable = int(self._loadavg.read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return None
        return float(max(0, len(self._names) - (runnable - 1)))  # one of them reads this file

    def _read(self) -> float | None:
        """Idle seconds since boot, of all cores that this process may use."""
        try:
            with self._stat.open() as lines:
                ticks = sum(
                    int(fields[4]) + int(fields[5])  # idle, waiting for a disk
                    for line in lines
                    if (fields := line.split(maxsplit=6))[0] in self._names
                )
                return ticks / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None
