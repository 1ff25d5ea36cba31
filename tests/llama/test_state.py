"""Saved states from files: only what is formed as it was saved reaches llama.cpp."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_pictures import with_pictures
from models.tiny_gguf import TinyModel, tiny_llama
from models.tiny_latent import tiny_deepseek2
from models.tiny_seeing import random_picture, tiny_qwen2vl
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.engine.pictures import PictureRows
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings

SETTINGS = ContextSettings(
    context_length=64, num_cells=256, num_sequences=2, batch_size=64, threads=1, kv_type="f16"
)
START, STOP = 5, 17


KINDS: dict[str, tuple[Callable[[], TinyModel], bool | None]] = {
    "": (tiny_llama, None), "transposed": (tiny_llama, False), "latent": (tiny_deepseek2, None)
}  # fmt: skip


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def context(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LlamaContext]:
    make, flash = request.param
    model = Model(make().write(tmp_path / "tiny.gguf"), ModelSettings())
    context = LlamaContext(model, msgspec.structs.replace(SETTINGS, flash_attention=flash))
    batch = Batch()
    batch.extend(0, 0, list(range(40, 60)), 0)
    context.decode(batch)
    yield context
    context.close()


@pytest.fixture
def grid_context(tmp_path: Path) -> Iterator[LlamaContext]:
    """Slot 0 has a picture at [8, 14) whose rows share a position."""
    model = Model(tiny_qwen2vl().write(tmp_path / "grid.gguf"), ModelSettings())
    context = LlamaContext(model, SETTINGS)
    prompt, [placed] = with_pictures(*range(40, 48), random_picture(1, 6, grid=(2, 3)), 50, 51, 52)
    for start, stop in ((0, 8), (8, 14), (14, 17)):
        batch = Batch()
        if start == placed.at:
            batch.picture = PictureRows(placed.picture, 0, 6)
        batch.extend(0, start, prompt[start:stop], 0)
        context.decode(batch)
    yield context
    context.close()


@pytest.mark.parametrize("start", [0, 5, 8, 14])
def test_what_was_saved_with_a_picture_is_accepted_and_has_its_positions(
    grid_context: LlamaContext, start: int
) -> None:
    context, slot = grid_context, grid_context.num_sequences
    assert context.held(0) == 14, "8, and 3 for the picture, and 3"
    context.copy(0, slot, start, 17)
    data = context.save(slot)
    context.drop(slot, 0)
    assert context.accepts(data, start, 17)
    assert not context.accepts(data, start, 18) and not context.accepts(data, start + 1, 17)
    assert context.restore(slot, data) and context.held(slot) == 14
    context.drop(slot, 14)
    assert context.held(slot) in (0, 9), "the picture's rows, or nothing"
    context.drop(slot, 0)
    for at in range(data.nbytes):
        changed = data.copy()
        changed[at] ^= 0x80
        if context.accepts(changed, start, 17) and context.restore(slot, changed):
            assert context.held(slot) == 14
            context.drop(slot, 0)


@pytest.fixture
def data(context: LlamaContext) -> NDArray[np.uint8]:
    slot = context.num_sequences
    context.copy(0, slot, START, STOP)
    data = context.save(slot)
    context.drop(slot, 0)
    return data


def test_what_was_saved_is_accepted_for_its_positions_alone(
    context: LlamaContext, data: NDArray[np.uint8]
) -> None:
    assert context.accepts(data, START, STOP)
    for start, stop in ((START + 1, STOP + 1), (START, STOP - 1), (START, STOP + 1), (0, 12)):
        assert not context.accepts(data, start, stop)


def test_whatever_was_cut_is_refused(context: LlamaContext, data: NDArray[np.uint8]) -> None:
    assert not any(context.accepts(data[:size], START, STOP) for size in range(data.nbytes))
    assert not any(context.accepts(data[size:], START, STOP) for size in range(1, 600))
    assert not context.accepts(np.concatenate((data, data)), START, STOP)


def test_no_changed_byte_does_harm(context: LlamaContext, data: NDArray[np.uint8]) -> None:
    """It is refused here, or by llama.cpp, or is one of a number in a cell."""
    num_refused = 0
    slot = context.num_sequences
    for at in range(data.nbytes):
        for mask in (0x01, 0x80):
            changed = data.copy()
            changed[at] ^= mask
            if not context.accepts(changed, START, STOP):
                num_refused += 1
            elif context.restore(slot, changed):
                assert context.held(slot) == STOP
                context.drop(slot, 0)
    # Magic, two counts, position and number of sequences of each cell, the positions at the end.
    assert num_refused >= 2 * 4 * (1 + 2 + 2 * (STOP - START) + (STOP - START) + 1)
    assert context.held(0) == 20
