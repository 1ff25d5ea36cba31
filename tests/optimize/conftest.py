"""A separate cache for every test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decisions and weights; it does not exist yet."""
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "optimized"
