"""Servers of a minimal app."""

from collections.abc import Callable, Iterator

import pytest
from raw_http import app
from serving import Serving

from localinfra.config.settings import ServerSettings


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    serving = Serving(app)
    yield serving
    serving.close()


@pytest.fixture
def serve() -> Iterator[Callable[[ServerSettings], Serving]]:
    started: list[Serving] = []

    def start(settings: ServerSettings) -> Serving:
        started.append(Serving(app, settings))
        return started[-1]

    yield start
    for serving in started:
        serving.close()
