"""A separate cache for every test, and a model to measure."""

import sys
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_llama
from optimizing import PATCHED

from localinfra.llama.quantize import quantize
from localinfra.optimize import run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decisions and weights; it does not exist yet."""
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "optimized"


@pytest.fixture(scope="session")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights fit Q8_0 exactly."""
    folder = tmp_path_factory.mktemp("models")
    quantize(tiny_llama().write(folder / "f32.gguf"), folder / "tiny.gguf", "q4_0", 1)
    return folder / "tiny.gguf"


@pytest.fixture
def patched_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "COMMAND", [sys.executable, "-c", PATCHED])
