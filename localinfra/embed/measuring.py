"""Finds the fastest way to compute an encoder while it serves, by running `prepare.py` as a child.

Owns the child and the thread that waits for it, and puts the plan into the cache. Knows nothing of
how the encoder is computed meanwhile.
"""

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import localinfra
from localinfra import cache
from localinfra.children import OWN_GROUP, module_command
from localinfra.embed import plan as plans
from localinfra.embed.plan import EncoderPlan
from localinfra.scratch import memory_file

logger = logging.getLogger(__name__)

COMMAND = module_command("localinfra.embed.prepare")
LIMIT_S = 1800.0  # for the child, which may get little CPU time
END_LIMIT_S = 2.0

# Requests come first: the child starts when this process has been quiet for a while.
QUIET_CHECK_S = 0.5
QUIET_CHECKS = 4  # in a row
QUIET_CORES = 0.2  # this process counts as quiet if it uses no more
MAX_WAIT_S = 600.0  # then it starts anyway, at the lowest priority


class MeasuringFailed(Exception):
    """The child made no plan; the message is its last output."""


class Measurement:
    """One attempt to make the plan of `place`, which is passed to `use` on its own thread."""

    def __init__(
        self, name: str, request: plans.Request, place: Path, use: Callable[[EncoderPlan], None]
    ):
        """`request.out` is replaced by a scratch folder."""
        self._name = name
        self._request = request
        self._place = place
        self._use = use
        self._is_cancelled = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=f"measure {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, limit_s: float) -> None:
        """Waits until it has ended, successfully or not."""
        self._thread.join(limit_s)

    def cancel(self) -> None:
        """Ends the child, if there is one. Idempotent."""
        self._is_cancelled.set()
        if child := self._child:
            child.kill()
        if self._thread.is_alive():
            self._thread.join(END_LIMIT_S)

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._wait_until_quiet()
            plan = self._plan()
            if not self._is_cancelled.is_set():
                self._use(plan)
        except Exception as error:  # the current way stays in use
            if not self._is_cancelled.is_set():
                logger.warning(
                    "%s: measuring failed, it keeps its current library: %s", self._name, error
                )

    def _wait_until_quiet(self) -> None:
        num_quiet, used_s = 0, time.process_time()
        for _ in range(round(MAX_WAIT_S / QUIET_CHECK_S)):
            if num_quiet >= QUIET_CHECKS or self._is_cancelled.wait(QUIET_CHECK_S):
                return
            before_s, used_s = used_s, time.process_time()
            is_quiet = used_s - before_s <= QUIET_CORES * QUIET_CHECK_S
            num_quiet = num_quiet + 1 if is_quiet else 0

    def _plan(self) -> EncoderPlan:
        """Raises MeasuringFailed and OSError."""
        folder = self._place.parent
        lock = cache.locked(
            folder / cache.LOCK, LIMIT_S, self._log_waiting, self._is_cancelled.is_set
        )
        with lock:
            cache.sweep(folder)
            if (known := plans.load(self._place)) is not None:
                return known  # another process was faster
            scratch = cache.scratch_folder(folder)
            scratch.mkdir()
            try:
                self._prepare(scratch)
                shutil.rmtree(self._place, ignore_errors=True)  # an unreadable plan
                scratch.rename(self._place)
            finally:
                cache.sweep(folder)
            plans.drop_unused(folder)
        plan = plans.load(self._place)
        if plan is None:
            raise MeasuringFailed(f"{self._place} has no plan")
        return plan

    def _log_waiting(self, holder: str) -> None:
        logger.info("%s: waiting for %s, which is measuring", self._name, holder)

    def _prepare(self, out: Path) -> None:
        logger.info("%s: looking for a faster way to compute it while serving", self._name)
        started = time.monotonic()
        request = msgspec.structs.replace(self._request, out=str(out))
        with memory_file() as log:
            self._child = child = subprocess.Popen(
                [*COMMAND, msgspec.json.encode(request).decode()],
                stdin=subprocess.PIPE,  # open while this process lives
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(localinfra.__file__).parent.parent)},
                start_new_session=True,  # Ctrl-C must not end it first
                creationflags=OWN_GROUP,
            )
            timer = threading.Timer(LIMIT_S, child.kill)
            timer.daemon = True
            timer.start()
            try:
                with child:
                    if self._is_cancelled.is_set():  # `cancel` may have run before the start
                        child.kill()
                    assert child.stdout
                    for line in child.stdout:
                        passed_s = time.monotonic() - started
                        logger.info("%s: %s (%.0f s)", self._name, line.strip(), passed_s)
            finally:
                timer.cancel()
            if child.returncode:
                log.seek(0)
                said = log.read().decode(errors="replace").strip()[-500:]
                raise MeasuringFailed(said or f"it ended with status {child.returncode}")
