"""One Ray of this machine for all tests of this folder."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from ray_process import RayServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'localinfra[ray]'")
    server = RayServer(tmp_path_factory.mktemp("ray"))
    yield server
    server.close()
