"""Which models are in memory: loads each once, on demand, off the event loop.

Knows nothing of what a model is. A memory budget, and who leaves when room is needed, belong here.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from localinfra.errors import ApiError, ModelUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

# After a failed load, requests get its error at once for this long: a model that can't be loaded
# must not be read from disk again for every request.
RETRY_AFTER_S = 10


class LoadState(StrEnum):
    """absent → loading → loaded | failed; failed → loading once RETRY_AFTER_S have passed."""

    ABSENT = "not loaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


class Pool(Generic[T]):
    """Loaded models by name. Event loop only; `load` runs in a thread."""

    def __init__(self, load: Callable[[str], T], unload: Callable[[T], None]):
        self._load = load
        self._unload = unload
        self._loads: dict[str, asyncio.Future[T]] = {}
        self._failed_at: dict[str, float] = {}
        self._unloads: dict[str, asyncio.Future[None]] = {}
        self._is_closed = False

    def state(self, name: str) -> LoadState:
        load = self._loads.get(name)
        if load is None:
            return LoadState.ABSENT
        if not load.done():
            return LoadState.LOADING
        return LoadState.FAILED if load.cancelled() or load.exception() else LoadState.LOADED

    def loaded(self) -> dict[str, T]:
        """The models that are ready."""
        return {
            name: load.result()
            for name, load in self._loads.items()
            if self.state(name) is LoadState.LOADED
        }

    async def get(self, name: str) -> T:
        """The model, after loading it if need be; all who ask meanwhile wait for one load.

        Raises ModelUnavailable where it can't be loaded.
        """
        if self._is_closed:
            raise ModelUnavailable("The server is shutting down.")
        failed_at = self._failed_at.get(name)
        if failed_at is not None and time.monotonic() - failed_at > RETRY_AFTER_S:
            del self._failed_at[name], self._loads[name]
        if name not in self._loads:
            self._loads[name] = asyncio.ensure_future(self._load_in_thread(name))
        # Shielded: a client that leaves must not stop the load others wait for.
        return await asyncio.shield(self._loads[name])

    async def unload(self, name: str) -> None:
        """Frees a loaded model; the next request loads it again, once its memory is free."""
        if self.state(name) is LoadState.LOADED:
            model = self._loads.pop(name).result()
            self._unloads[name] = asyncio.ensure_future(asyncio.to_thread(self._unload, model))
            await asyncio.shield(self._unloads[name])
            logger.info("unloaded %s", name)

    async def close(self) -> None:
        """Unloads everything; loads under way are finished first, since they can't be stopped."""
        self._is_closed = True
        loads = list(self._loads.values())
        self._loads.clear()
        await asyncio.gather(*self._unloads.values(), return_exceptions=True)
        for outcome in await asyncio.gather(*loads, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                await asyncio.to_thread(self._unload, outcome)

    async def _load_in_thread(self, name: str) -> T:
        if leaving := self._unloads.pop(name, None):
            await asyncio.wait((leaving,))
        started = time.monotonic()
        try:
            model = await asyncio.to_thread(self._load, name)
        except Exception as error:
            self._failed_at[name] = time.monotonic()
            if isinstance(error, ApiError):
                logger.warning("%s can't be loaded: %s", name, error)
                raise
            # The reason on one line; where it was raised is for who asks for it.
            traceback = error if logger.isEnabledFor(logging.DEBUG) else None
            kind = type(error).__name__
            logger.error("loading %s failed: %s: %s", name, kind, error, exc_info=traceback)
            raise ModelUnavailable(
                f"The model {name} could not be loaded: {error}", "model", RETRY_AFTER_S
            ) from error
        logger.info("loaded %s in %.2f s", name, time.monotonic() - started)
        return model
