"""The servers and the clients' environments, each made once for all tests of this folder.

All run with one process and, where Ray is installed, with two replicas on a Ray of this machine:
`test_clients_on_ray.py` says so.
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from client_env import ALSO_ON_RAY, Environment, node_environment, python_environment
from live import CATALOGUE, FLUX, LiveServer, Served


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "damaged.gguf").write_bytes(b"")
    (folder / "flux").symlink_to(tiny_flux)
    (folder / "models.toml").write_text(CATALOGUE + FLUX)
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


@pytest.fixture(scope="session", params=ALSO_ON_RAY)
def server(request: pytest.FixtureRequest) -> Served:
    name = "ray_server" if request.param == "ray" else "live_server"
    found: Served = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Packages, as pip takes them → a Python that has them."""

    @functools.cache
    def with_packages(*requirements: str) -> Environment:
        return python_environment(tmp_path_factory.mktemp("python"), *requirements)

    return with_packages


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Packages, as npm takes them → a Node.js that has them."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")

    @functools.cache
    def with_packages(*packages: str) -> Environment:
        return node_environment(tmp_path_factory.mktemp("node"), *packages)

    return with_packages
