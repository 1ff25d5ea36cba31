"""Threads for disks: they may hang, so that nobody waits for them longer than he wants."""

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Workers:
    """Daemon threads that run jobs in order, started with the first one."""

    def __init__(self, name: str, num_threads: int = 1, *, niceness: int = 0):
        """`niceness`: of the threads, where the system has it."""
        self._name = name
        self._num_threads = num_threads
        self._niceness = niceness
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()

    def run(self, job: Callable[[], object]) -> None:
        self._jobs.put(job)
        with self._starting:
            if not self._threads:
                for _ in range(self._num_threads):
                    thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def finish(self, limit_s: float) -> bool:
        """Runs what waits, for `limit_s` at most. Returns whether all has ended."""
        deadline_s = time.monotonic() + limit_s
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        if self._niceness and sys.platform == "linux":  # elsewhere it is of the whole process
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while job := self._jobs.get():
            try:
                job()
            except Exception:
                logger.exception("%s: a job failed", self._name)
