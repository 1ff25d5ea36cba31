"""Idle cores as a test tells them."""

from collections.abc import Callable

from localinfra.engine.policy.idle_cores import IdleCores


class ToldCores(IdleCores):
    def __init__(
        self,
        of_late: Callable[[], float | None] = lambda: None,
        at_once: Callable[[], float | None] | None = None,
    ):
        self._of_late = of_late
        self._at_once = at_once or of_late

    def of_late(self) -> float | None:
        return self._of_late()

    def at_once(self) -> float | None:
        return self._at_once()
