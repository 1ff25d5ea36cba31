"""Each kind of model has its rows: what models.toml may say, who loads it, how it is asked."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from localinfra import kinds
from localinfra.api.deepinfra.inference import HANDLERS
from localinfra.cli.serve import EXAMPLES
from localinfra.config.settings import ServerSettings
from localinfra.kinds import Kind
from localinfra.models import entries
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource


def test_every_kind_of_entry_can_be_loaded_and_asked_natively() -> None:
    described = set(entries.KINDS.values())
    assert described == set(kinds.BY_ENTRY) == set(HANDLERS) == set(EXAMPLES)


@pytest.mark.parametrize(
    ("says", "num_loads"),
    [("AST constructor recursion depth mismatch (before=2, after=1)", 2), ("something else", 1)],
)
def test_threads_that_parse_source_at_once_cost_no_model(says: str, num_loads: int) -> None:
    loads: list[str] = []

    def loader(name: str, entry: TextModelEntry, settings: ServerSettings) -> Any:
        loads.append(name)
        if len(loads) == 1:
            raise SystemError(says)

    kind = Kind(TextModelEntry, loader)
    with pytest.raises(SystemError) if num_loads == 1 else contextlib.nullcontext():
        kind.load("m", TextModelEntry(source=PathSource(Path("m.gguf"))), ServerSettings())
    assert loads == ["m"] * num_loads
