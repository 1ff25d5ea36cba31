"""How kernels round is found out once, and known at later loads."""

from pathlib import Path

import numpy as np
import pytest
from models.tiny_gguf import tiny_llama

from localinfra.engine.backend import Batch
from localinfra.llama.context import LlamaContext
from localinfra.llama.quantize import quantize
from localinfra.llama.rounding import find_rounding, possible_roundings
from localinfra.llama.settings import Rounding
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PathSource
from localinfra.text.placing import place, plan_text, roundings


class Loads:
    """Loads a file again and again; counts the rows of the steps that each load takes."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        self.path, self.probed = path, list[int]()
        real = LlamaContext._logits_of_steps

        def counted(context: LlamaContext, num_rows: int) -> object:
            self.probed.append(num_rows)
            return real(context, num_rows)

        monkeypatch.setenv("LOCALINFRA_CACHE", str(path.parent / "cache"))
        monkeypatch.setattr(LlamaContext, "_logits_of_steps", counted)

    def load(self) -> tuple[Rounding | None, list[int]]:
        context = self.context()
        context.close()
        return context.rounding, list(self.probed)

    def context(self) -> LlamaContext:
        self.probed.clear()
        entry = TextModelEntry(source=PathSource(self.path), context_length=256)
        plan = plan_text("tiny", entry, self.path, read_header(self.path), {})
        context, _ = place("tiny", entry, plan)
        return context


def test_a_later_load_takes_no_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(tiny_llama().write(tmp_path / "tiny.gguf"), tmp_path / "q4_0.gguf", "q4_0", 1)
    loads = Loads(tmp_path / "q4_0.gguf", monkeypatch)
    first, probed = loads.load()
    assert first and first.canonical_rows and len(probed) > 1
    assert loads.load() == (first, [])


def test_the_weights_are_read_at_rest_unless_a_step_has_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(tiny_llama().write(tmp_path / "tiny.gguf"), monkeypatch)
    loads.load()
    context = loads.context()
    context.rest()
    context.rest()
    assert loads.probed == [4]
    assert context.held(context.num_sequences) == 0
    context.close()
    context = loads.context()
    batch = Batch()
    batch.extend(0, 0, [1, 2], 1)
    context.decode(batch)
    context.rest()
    assert loads.probed == [] and context.held(0) == 2
    context.close()


def test_other_weights_in_the_same_place_are_probed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(tiny_llama().write(tmp_path / "tiny.gguf"), monkeypatch)
    loads.load()
    tiny_llama(layers=4).write(loads.path)
    assert len(loads.load()[1]) > 1


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"canonical_rows": 100000}',
        b'{"canonical_rows": -1}',
        b'{"canonical_rows": 1, "least_rows": 1000000}',
        b'{"least_rows": 0}',
        b'{"canonical_rows": 18446744073709551616}',
        b'{"more": ' + b"[" * 100_000,
        b'{"canonical_rows": "512"}',
    ],
)
def test_a_kept_file_that_no_probe_has_written_is_not_believed(
    damaged: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(tiny_llama().write(tmp_path / "tiny.gguf"), monkeypatch)
    first, _ = loads.load()
    (kept,) = roundings.place("").parent.glob("*.json")
    kept.write_bytes(damaged)
    found, probed = loads.load()
    assert found == first and len(probed) > 1


@pytest.mark.parametrize("most_rows", [1, 2, 7, 8, 63, 512])
@pytest.mark.parametrize("least", [1, 2, 3, 8, 16, 1000])
@pytest.mark.parametrize("few_are_alike", [True, False])
def test_whatever_is_found_is_possible(most_rows: int, least: int, few_are_alike: bool) -> None:
    def logits_of(num_rows: int) -> "np.typing.NDArray[np.float32]":
        is_whole = num_rows >= least and (least <= 2 or num_rows % least == 0)
        rounded = 0 if is_whole else 1 if few_are_alike and num_rows < 4 else num_rows
        return np.full((4, 3), rounded, np.float32)

    assert find_rounding(most_rows, logits_of) in possible_roundings(most_rows)
