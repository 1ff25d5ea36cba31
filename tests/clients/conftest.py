"""The server and the clients' environments, each made once for all tests of this folder."""

import functools
import shutil
from collections.abc import Callable, Iterator

import pytest
from client_env import Environment, node_environment, python_environment
from live import CATALOGUE, LiveServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    (path.parent / "damaged.gguf").write_bytes(b"")
    path.write_text(CATALOGUE)
    server = LiveServer(path)
    yield server
    server.close()


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
