"""Models that broke, and loads that failed. A failed load is remembered for a while: requests get
its error at once, and not every one of them reads the model from disk again."""

import logging
import math
import time

import msgspec

from localinfra.errors import ApiError, ModelUnavailable

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 10.0
# Longer after a slow load, which must not run most of the time.
PAUSE_PER_LOAD = 2.0  # seconds per second that the load took
MAX_RETRY_AFTER_S = 120.0


class Fault(msgspec.Struct, frozen=True):
    """Why a loaded model broke."""

    reason: str
    since: float  # time.monotonic()


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


class Failures:
    """By the model's name."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._failures

    def check(self, name: str) -> None:
        """Raises the error of a load that failed a moment ago; forgets older ones."""
        if failure := self._failures.get(name):
            if time.monotonic() < failure.retry_at:
                raise failure.again()
            del self._failures[name]

    def add(self, name: str, error: Exception, load_s: float, *, was_loaded: bool) -> ApiError:
        """Remembers that a load failed after `load_s`; returns the error for its requests.
        `was_loaded`: the model was in memory before and broke."""
        pause_s = min(max(RETRY_AFTER_S, PAUSE_PER_LOAD * load_s), MAX_RETRY_AFTER_S)
        retry_at = time.monotonic() + pause_s
        if isinstance(error, ApiError):
            # Waiting does not bring absent files; a model that was loaded before may come back.
            logger.warning("%s can't be loaded: %s", name, error)
            failure = Failure(error, retry_at, says_when=was_loaded)
        else:
            # The reason on one line; the traceback only if debugging.
            traceback = error if logger.isEnabledFor(logging.DEBUG) else None
            kind = type(error).__name__
            logger.error("loading %s failed: %s: %s", name, kind, error, exc_info=traceback)
            told = ModelUnavailable(f"The model {name} could not be loaded: {error}", "model")
            failure = Failure(told, retry_at, says_when=True)
        self._failures[name] = failure
        return failure.again()

    def forget(self, name: str) -> None:
        """Unless it is final."""
        if name in self._failures and self._failures[name].retry_at < math.inf:
            del self._failures[name]

    def add_final(self, name: str, message: str) -> None:
        """The model is not loaded again."""
        error = ModelUnavailable(message, "model")
        self._failures[name] = Failure(error, math.inf, says_when=False)
