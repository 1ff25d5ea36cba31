"""Whose prefixes a model takes over: only those whose numbers are the same as its own."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from models.tiny_gguf import U32, Value, tiny_llama, write_parts

from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import LoraAdapter, TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PathSource
from localinfra.text.identity import identity

SETTINGS: dict[str, Any] = {
    "context_length": 64, "num_cells": 256, "num_sequences": 3, "batch_size": 16, "threads": 1,
    "kv_type": "f16",
}  # fmt: skip


def identity_of(path: Path, lora: tuple[LoraAdapter, ...] = (), **changes: Any) -> list[str]:
    entry = TextModelEntry(source=PathSource(path), lora=lora)
    settings = ContextSettings(**{**SETTINGS, **changes})
    return identity(entry, read_header(path), settings, is_offloaded=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(context_length=1024).write(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_sequences": 8}, {"threads": 2}, {"batch_threads": 2}, {"context_length": 32},
        {"num_cells": 512},
    ],
)  # fmt: skip
def test_how_much_is_computed_at_once_does_not_matter(model: Path, changes: dict[str, Any]) -> None:
    assert identity_of(model, **changes) == identity_of(model)


@pytest.mark.parametrize(
    "changes", [{"kv_type": "q8_0"}, {"flash_attention": False}, {"batch_size": 8}]
)
def test_settings_of_the_cells_matter(model: Path, changes: dict[str, Any]) -> None:
    assert identity_of(model, **changes) != identity_of(model)


def test_a_cache_beyond_what_positions_are_made_for_matters(tmp_path: Path) -> None:
    scaled = tiny_llama(context_length=1024)
    scaled.metadata["llama.rope.scaling.original_context_length"] = Value(U32, 512)
    path = scaled.write(tmp_path / "model.gguf")
    short, long, longer = (identity_of(path, num_cells=cells) for cells in (256, 600, 1000))
    assert short != long == longer


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_files_name_may_be_any_bytes(model: Path) -> None:
    named = model.rename(model.with_name(os.fsdecode(b"\xff.gguf")))
    assert all(fact.encode() for fact in identity_of(named))


def test_every_part_of_a_split_file_matters(tmp_path: Path) -> None:
    model = tiny_llama()
    first, second = write_parts(model, tmp_path, (5, len(model.tensors) - 5))
    before = identity_of(first)
    os.utime(second, (0, 0))
    assert identity_of(first) != before


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
