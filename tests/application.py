"""The whole application on a free port, over whatever models its runtime loads."""

import time
from collections.abc import Callable
from typing import ClassVar

from serving import Serving
from starlette.types import ASGIApp

from localinfra.api.app import create_app
from localinfra.costs import Ledger
from localinfra.engine.request import EngineStats
from localinfra.keys.holders import Holders
from localinfra.runtime import Runtime


class Application(Serving):
    """`stats` is what the engine of its `main_model` says of itself."""

    main_model: ClassVar[str]

    def __init__(
        self, runtime: Runtime, ledger: Ledger | None = None, holders: Holders | None = None
    ) -> None:
        self.runtime = runtime
        super().__init__(self.wrapped(create_app(runtime, ledger, holders)), runtime.settings)

    def wrapped(self, app: ASGIApp) -> ASGIApp:
        """What is served, over the application."""
        return app

    @property
    def stats(self) -> EngineStats:
        model = self.runtime.loaded_text_models().get(self.main_model)
        return model.stats if model else EngineStats(0, 0, 0, 0, 0)  # it is not loaded yet

    def wait_until(self, condition: Callable[[EngineStats], bool], timeout_s: float = 600) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition(self.stats):
            assert time.monotonic() < deadline, self.stats
            time.sleep(0.005)

    def wait_until_idle(self) -> None:
        self.wait_until(lambda stats: not stats.num_running and not stats.num_waiting)
