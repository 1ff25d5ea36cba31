"""Llama 4: layers that look back to the last multiple of 8,192 positions, never beyond it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from llama.test_states import WITH_EXPERTS, logits_of
from models.tiny_others import CHUNK, tiny_llama4
from numpy.typing import NDArray

from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings

BEFORE, AFTER = CHUNK - 20, CHUNK + 250
TOKENS = [40 + (i * i) % 150 for i in range(AFTER + 40)]

pytestmark = pytest.mark.slow


class Read(NamedTuple):
    """`context` has the tokens in an idle slot; `expected`: the logits after 40 more, from where
    the key says."""

    context: LlamaContext
    idle: int
    expected: dict[int, NDArray[np.float32]]

    def error(self, slot: int, start: int) -> float:
        """How far off the slot is that has the tokens before `start`."""
        return float(np.abs(on_from(self.context, slot, start) - self.expected[start]).max())


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    path = tiny_llama4(context_length=2 * CHUNK).write(tmp_path_factory.mktemp("tiny") / "t.gguf")
    settings = ContextSettings(
        context_length=2 * CHUNK, num_cells=3 * CHUNK, num_sequences=3, batch_size=512, threads=1,
        kv_type="f16",
    )  # fmt: skip
    context = LlamaContext(Model(path, ModelSettings()), settings)
    assert context.has_full_window and not context.needs_states
    idle = context.num_sequences + 1
    read(context, 0, 0, CHUNK)
    expected = {CHUNK: on_from(context, 0, CHUNK)}
    context.clear()
    read(context, 0, 0, BEFORE)
    expected[BEFORE] = on_from(context, 0, BEFORE)
    read(context, 0, BEFORE + 40, AFTER)
    context.copy(0, idle, 0, AFTER)
    expected[AFTER] = on_from(context, 0, AFTER)
    context.drop(0, 0)
    yield Read(context, idle, expected)
    context.close()


def read(context: LlamaContext, slot: int, start: int, stop: int) -> None:
    for at in range(start, stop, context.batch_size):
        logits_of(context, slot, at, TOKENS[at : min(at + context.batch_size, stop)])


def on_from(context: LlamaContext, slot: int, start: int) -> NDArray[np.float32]:
    return logits_of(context, slot, start, TOKENS[start : start + 40])


@pytest.mark.parametrize("start", [BEFORE, CHUNK, AFTER])
def test_whoever_shares_a_beginning_goes_on_from_it(known: Read, start: int) -> None:
    context = known.context
    for slot in (0, 2):
        context.copy(known.idle, slot, 0, start)
        read(context, 1, 0, 700)  # takes cells, those of a chunk that is over among the first ones
        assert known.error(slot, start) < WITH_EXPERTS
        context.drop(slot, 0)
        context.drop(1, 0)


@pytest.mark.parametrize("start", [BEFORE, CHUNK, AFTER])
@pytest.mark.parametrize("piece", [512, 900, CHUNK])
def test_so_do_those_whose_cells_were_in_host_memory(known: Read, start: int, piece: int) -> None:
    context, transfer = known.context, known.context.num_sequences
    assert piece <= context.max_saved
    parts = []
    for at in range(0, start, piece):
        stop = min(at + piece, start)
        context.copy(known.idle, transfer, at, stop)
        parts.append((at, stop, context.save(transfer)))
        assert context.held(transfer) == stop  # as it was
        context.drop(transfer, 0)
    for at, stop, data in parts:
        assert context.accepts(data, at, stop) and not context.accepts(data, at, stop + 1)
        assert not any(context.accepts(data[:size], at, stop) for size in (0, 7, 8, len(data) - 8))
        assert context.restore(transfer, data)
        context.copy(transfer, 0, at, stop)
        context.drop(transfer, 0)
    assert known.error(0, start) < WITH_EXPERTS
    context.drop(0, 0)


def test_one_that_waits_at_the_end_of_a_chunk_keeps_its_cells(known: Read) -> None:
    """llama.cpp gives the cells of a chunk to others once the next token is beyond it."""
    context = known.context
    read(context, 0, 0, CHUNK)
    for _ in range(3):
        read(context, 1, 0, 3000)
        context.drop(1, 0)
    assert context.held(0) == CHUNK
    assert known.error(0, CHUNK) < WITH_EXPERTS
    context.drop(0, BEFORE)
    assert known.error(0, BEFORE) < WITH_EXPERTS
    context.drop(0, 0)
