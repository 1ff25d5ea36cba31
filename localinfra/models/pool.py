"""Keeps models in memory: loads each once, on demand, off the event loop; drops broken ones.

Does not know what a model is. A memory budget and an eviction policy would belong here.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from localinfra.errors import ApiError, ModelUnavailable
from localinfra.executor import in_daemon_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

# After a failed load, requests get its error at once for this long, so that not every request reads
# the model from disk again. For longer after a slow load, which must not run most of the time.
RETRY_AFTER_S = 10.0
PAUSE_PER_LOAD = 2.0  # seconds per second that the load took
MAX_RETRY_AFTER_S = 120.0

UNLOAD_LIMIT_S = 10.0  # how long a load waits for its predecessor to free its memory
# A request that has just got its model may have no work in it for a moment, as when it waits for
# its prompt: a model is replaced once no request has asked for it for so long.
REPLACE_AFTER_S = 1.0
REPLACE_CHECK_S = 0.1
CLOSE_LIMIT_S = 8.0  # for all models together


class LoadState(StrEnum):
    """absent → loading → loaded | failed; failed → loading once its pause has passed; loaded →
    absent by `unload` and by `drop`."""

    ABSENT = "not loaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


class Failure(msgspec.Struct, frozen=True):
    """A failed load."""

    error: ApiError
    retry_at: float  # time.monotonic()
    says_when: bool  # the error has a Retry-After

    def again(self) -> ApiError:
        """The error that requests get meanwhile."""
        if self.says_when:
            self.error.retry_after_s = max(1, math.ceil(self.retry_at - time.monotonic()))
        return self.error.with_traceback(None)


class Fault(msgspec.Struct, frozen=True):
    """Why a loaded model broke."""

    reason: str
    since: float  # time.monotonic()


class Pool(Generic[T]):
    """Loaded models by name. Event loop only; `load` and `unload` run in threads.

    `fault` says why a loaded model can't go on, None if it can; `is_busy`, whether it has any work.
    """

    def __init__(
        self,
        load: Callable[[str], T],
        unload: Callable[[T], None],
        fault: Callable[[T], str | None] = lambda _: None,
        is_busy: Callable[[T], bool] = lambda _: False,
    ):
        self._load = load
        self._unload = unload
        self._fault = fault
        self._is_busy = is_busy
        self._loads: dict[str, asyncio.Future[T]] = {}
        self._renewals: dict[str, asyncio.Future[T]] = {}  # loads of models that are loaded
        self._used_at: dict[str, float] = {}  # time.monotonic()
        self._failures: dict[str, Failure] = {}
        self._faults: dict[str, Fault] = {}
        self._unloads: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def state(self, name: str) -> LoadState:
        if name in self._failures:
            return LoadState.FAILED
        load = self._loads.get(name)
        if load is None:
            return LoadState.ABSENT
        return LoadState.LOADED if is_loaded(load) else LoadState.LOADING

    def loaded(self) -> dict[str, T]:
        """The models that are ready."""
        return {name: load.result() for name, load in self._loads.items() if is_loaded(load)}

    @property
    def faults(self) -> dict[str, Fault]:
        """Models that broke and are not back yet."""
        return dict(self._faults)

    async def get(self, name: str) -> T:
        """The model, loaded if it is not in memory. Concurrent calls share one load.

        Raises ModelUnavailable if it can't be loaded.
        """
        if self._is_closed:
            raise ModelUnavailable("The server is shutting down.")
        self.check()
        if failure := self._failures.get(name):
            if time.monotonic() < failure.retry_at:
                raise failure.again()
            del self._failures[name]
        if name not in self._loads:
            self._loads[name] = asyncio.create_task(self._load_in_thread(name))
        self._used_at[name] = time.monotonic()
        # Shielded: a client that leaves must not cancel the load that others wait for.
        return await asyncio.shield(self._loads[name])

    async def unload(self, name: str) -> None:
        """Frees a loaded model; the next request loads it again, once its memory is free."""
        if self.state(name) is LoadState.LOADED:
            await asyncio.shield(self._start_unload(name))
            logger.info("unloaded %s", name)

    async def unload_at_rest(self, name: str) -> None:
        """Frees the model between two requests, also one that is still loading."""
        load = self._loads.get(name)
        if load is None:
            return
        await asyncio.wait((load,))
        while self._loads.get(name) is load and not self._is_closed:
            if is_loaded(load) and self._rests(name):
                await self.unload(name)
                return
            await asyncio.sleep(REPLACE_CHECK_S)

    async def renew(self, name: str) -> bool:
        """Loads a loaded model again beside itself, and replaces it between two requests. Returns
        whether it did: not if the model was unloaded meanwhile, or was not loaded at all.

        Raises what the load raises; the model then stays as it is.
        """
        old = self._loads.get(name)
        if self._is_closed or name in self._renewals or old is None or not is_loaded(old):
            return False
        load = in_daemon_thread(self._load, name, name=f"renew {name}")
        new = self._renewals[name] = asyncio.ensure_future(load)
        try:
            await asyncio.shield(new)
            while self._loads.get(name) is old and not self._is_closed and not self._rests(name):
                await asyncio.sleep(REPLACE_CHECK_S)
        except Exception:
            self._renewals.pop(name, None)
            raise
        if self._is_closed:
            return False  # `close` frees both
        del self._renewals[name]
        if self._loads.get(name) is not old:
            await in_daemon_thread(self._unload, new.result(), name=f"unload {name}")
            return False
        unloading = self._start_unload(name)
        unloading.add_done_callback(lambda task: log_failure(name, task))
        self._loads[name] = new
        return True

    def _rests(self, name: str) -> bool:
        """Whether a loaded model has no work, nor had a request of late."""
        if self._is_busy(self._loads[name].result()):
            self._used_at[name] = time.monotonic()
        return time.monotonic() - self._used_at[name] > REPLACE_AFTER_S

    async def unload_idle(self, limits_s: Mapping[str, float | None]) -> None:
        """Frees the models that have been idle for longer than their limit. Call it regularly: it
        is also what notes when a model was last busy."""
        for name, model in self.loaded().items():
            limit_s = limits_s.get(name)
            if self._is_busy(model):
                self._used_at[name] = time.monotonic()
            elif limit_s is not None and time.monotonic() - self._used_at[name] > limit_s:
                try:
                    await self.unload(name)
                except Exception:  # a device error; unload the other models all the same
                    logger.exception("%s could not be unloaded", name)

    def check(self) -> None:
        """Drops the models that can't go on."""
        for name, model in self.loaded().items():
            if reason := self._fault(model):
                self.drop(name, reason)

    def drop(self, name: str, reason: str, *, is_final: bool = False) -> None:
        """Gives up a loaded model. The next request loads it again, unless `is_final`."""
        logger.error("giving up on %s: %s", name, reason)
        self._faults[name] = Fault(reason, time.monotonic())
        unloading = self._start_unload(name)
        unloading.add_done_callback(lambda task: log_failure(name, task))
        if is_final:
            error = ModelUnavailable(f"{name}: {reason}. Restart the server.", "model")
            self._failures[name] = Failure(error, math.inf, says_when=False)

    def _start_unload(self, name: str) -> asyncio.Task[None]:
        model = self._loads.pop(name).result()
        unloading = in_daemon_thread(self._unload, model, name=f"unload {name}")
        task = self._unloads[name] = asyncio.create_task(unloading)
        return task

    async def close(self, limit_s: float = CLOSE_LIMIT_S) -> bool:
        """Unloads everything; waits for running loads first, since they can't be stopped.

        Leaves behind what has not ended within the limit. Returns whether everything has.
        """
        self._is_closed = True
        names = self._loads.keys() | self._unloads.keys() | self._renewals.keys()
        closing = [asyncio.create_task(self._close(name), name=name) for name in names]
        if not closing:
            return True
        _, late = await asyncio.wait(closing, timeout=limit_s)
        for task in late:
            logger.error("%s did not end within %g s and is left behind", task.get_name(), limit_s)
            task.cancel()
        return not late

    async def _close(self, name: str) -> None:
        if unloading := self._unloads.pop(name, None):
            await asyncio.wait((unloading,))
        if renewal := self._renewals.pop(name, None):
            await asyncio.wait((renewal,))
            if is_loaded(renewal):
                await in_daemon_thread(self._unload, renewal.result(), name=f"unload {name}")
        if load := self._loads.get(name):
            await asyncio.wait((load,))
            if is_loaded(load):
                await asyncio.wait((self._start_unload(name),))

    async def _load_in_thread(self, name: str) -> T:
        if leaving := self._unloads.pop(name, None):
            await asyncio.wait((leaving,), timeout=UNLOAD_LIMIT_S)
        started = time.monotonic()
        try:
            model = await in_daemon_thread(self._load, name, name=f"load {name}")
        except Exception as error:
            del self._loads[name]
            failure = self._failure(name, error, time.monotonic() - started)
            self._failures[name] = failure
            raise failure.again() from (None if failure.error is error else error)
        self._used_at[name] = time.monotonic()
        logger.info("loaded %s in %.2f s", name, self._used_at[name] - started)
        if self._faults.pop(name, None):
            logger.info("%s is back", name)
        return model

    def _failure(self, name: str, error: Exception, load_s: float) -> Failure:
        """The failure to report after a load that took `load_s`."""
        pause_s = min(max(RETRY_AFTER_S, PAUSE_PER_LOAD * load_s), MAX_RETRY_AFTER_S)
        retry_at = time.monotonic() + pause_s
        if isinstance(error, ApiError):
            # Waiting does not bring absent files; a model that was loaded before may come back.
            logger.warning("%s can't be loaded: %s", name, error)
            return Failure(error, retry_at, says_when=name in self._faults)
        # The reason on one line; the traceback only if debugging.
        traceback = error if logger.isEnabledFor(logging.DEBUG) else None
        kind = type(error).__name__
        logger.error("loading %s failed: %s: %s", name, kind, error, exc_info=traceback)
        unavailable = ModelUnavailable(f"The model {name} could not be loaded: {error}", "model")
        return Failure(unavailable, retry_at, says_when=True)


def is_loaded(load: "asyncio.Future[T]") -> bool:
    return load.done() and not load.cancelled() and load.exception() is None


def log_failure(name: str, task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s could not be freed", name, exc_info=error)
