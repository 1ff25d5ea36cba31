"""The server that all tests of this folder share, openai's client for it, and a writer."""

from collections.abc import Iterator

import pytest
from asking import claude, client
from grammar_writer import Writer
from live import CATALOGUE, SMOLLM2, LiveServer
from metering import costs_file, ledger, watch
from repeatable import repeatable

from localinfra.llama.model import Model, ModelSettings
from localinfra.models.sources import locate

__all__ = ["claude", "client", "costs_file", "ledger", "repeatable", "watch"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "damaged.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "models.toml").write_text(CATALOGUE)
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


@pytest.fixture(scope="session")
def model(server: LiveServer) -> Iterator[Model]:
    """Beside the server's own."""
    entry = server.runtime.catalog.entries[SMOLLM2]
    model = Model(locate(SMOLLM2, entry.source), ModelSettings())
    yield model
    model.close()


@pytest.fixture(scope="session")
def writer(model: Model) -> Iterator[Writer]:
    writer = Writer(model)
    yield writer
    writer.compiler.close()
