"""Whose prefixes a model takes over: only those whose numbers are the same as its own."""

import os
from pathlib import Path
from typing import Any

import pytest

from localinfra.llama.context import ContextSettings
from localinfra.models.entries import LoraAdapter, TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.text.loading import identity

SETTINGS: dict[str, Any] = {
    "context_length": 64, "num_cells": 256, "num_sequences": 3, "batch_size": 16, "threads": 1,
    "kv_type": "f16",
}  # fmt: skip


def identity_of(path: Path, lora: tuple[LoraAdapter, ...] = (), **changes: Any) -> list[str]:
    entry = TextModelEntry(source=PathSource(path), lora=lora)
    return identity(entry, path, ContextSettings(**{**SETTINGS, **changes}), is_offloaded=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("changes", [{"num_sequences": 8}, {"threads": 2}, {"batch_threads": 2}])
def test_how_many_compute_at_once_does_not_matter(model: Path, changes: dict[str, Any]) -> None:
    assert identity_of(model, **changes) == identity_of(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_type": "q8_0"}, {"flash_attention": False}, {"context_length": 32},
        {"num_cells": 512}, {"batch_size": 8},
    ],
)  # fmt: skip
def test_settings_of_the_cells_matter(model: Path, changes: dict[str, Any]) -> None:
    assert identity_of(model, **changes) != identity_of(model)


def test_so_do_the_files_and_the_scales_of_adapters(model: Path) -> None:
    adapter = model.with_name("lora.gguf")
    adapter.write_bytes(b"GGUF")
    plain = identity_of(model)
    full, half = (identity_of(model, (LoraAdapter(adapter, scale),)) for scale in (1.0, 0.5))
    os.utime(adapter, (0, 0))
    changed = identity_of(model, (LoraAdapter(adapter),))
    os.utime(model, (0, 0))
    replaced = identity_of(model)
    assert len({tuple(each) for each in (plain, full, half, changed, replaced)}) == 5
