"""Tells when a server and its machine have nothing else to do. Event loop only."""

import asyncio
import os
import time
from collections.abc import Callable

from localinfra.engine.policy.idle_cores import IdleCores

QUIET_S = 2.0  # without a request
CHECK_S = 0.1
IDLE_SHARE = 0.9  # of the cores, when other programs count as idle
CLEAR_CHECKS = 10  # in a row, for `wait`

FOR_REQUESTS = "waiting until no request runs"
FOR_OTHERS = "waiting until other programs leave the machine idle"


class Quiet:
    def __init__(
        self,
        is_busy: Callable[[], bool],
        idle_cores: Callable[[], float | None] | None = None,
    ):
        """`is_busy`: whether requests run or models are loading. `idle_cores`: of late, None if
        nothing is known."""
        self._is_busy = is_busy
        self._idle_cores = idle_cores or IdleCores().of_late
        self._num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._busy_at = time.monotonic()

    def end(self) -> None:
        """A request has come."""
        self._busy_at = time.monotonic()

    @property
    def is_here(self) -> bool:
        """Whether no request has run of late. Look often: this is how running ones are noticed."""
        if self._is_busy():
            self.end()
        return time.monotonic() - self._busy_at >= QUIET_S

    def obstacle(self) -> str | None:
        """What is waited for; None if requests and other programs leave the machine idle."""
        if not self.is_here:
            return FOR_REQUESTS
        idle = self._idle_cores()
        is_crowded = idle is not None and idle < IDLE_SHARE * self._num_cores
        return FOR_OTHERS if is_crowded else None

    async def wait(self, show: Callable[[str], None] = lambda obstacle: None) -> None:
        """Returns when there has been no obstacle for a while. `show` gets each one seen."""
        num_clear = 0
        while num_clear < CLEAR_CHECKS:
            obstacle = self.obstacle()
            num_clear = 0 if obstacle else num_clear + 1
            if obstacle:
                show(obstacle)
            await asyncio.sleep(CHECK_S)
