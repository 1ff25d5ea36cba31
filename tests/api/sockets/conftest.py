"""Servers of a minimal app, with TLS where a test says so."""

from collections.abc import Callable, Iterator

import pytest
from raw_http import app
from serving import Serving, with_tls

from localinfra.config.settings import ServerSettings


@pytest.fixture(scope="module")
def has_tls(request: pytest.FixtureRequest) -> bool:
    return bool(getattr(request, "param", False))


@pytest.fixture(scope="module")
def server(has_tls: bool) -> Iterator[Serving]:
    settings = ServerSettings()
    serving = Serving(app, with_tls(settings) if has_tls else settings)
    yield serving
    serving.close()


@pytest.fixture
def serve(has_tls: bool) -> Iterator[Callable[[ServerSettings], Serving]]:
    started: list[Serving] = []

    def start(settings: ServerSettings) -> Serving:
        started.append(Serving(app, with_tls(settings) if has_tls else settings))
        return started[-1]

    yield start
    for serving in started:
        serving.close()
