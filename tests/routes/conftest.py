"""The server shared by the tests of this folder, and clients for it."""

from collections.abc import Iterator

import pytest
from asking import claude, client
from echo import EchoServer
from metering import costs_file, ledger, watch
from repeatable import repeatable

__all__ = ["claude", "client", "costs_file", "ledger", "repeatable", "watch"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"))
    yield server
    server.close()
