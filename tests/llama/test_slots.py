"""Cells of slots in each kind of memory: whole where they should be, and in order."""

import random
from pathlib import Path

import pytest
from llama.test_cells import SETTINGS, positions_saved
from models.tiny_gguf import tiny_gemma3
from msgspec.structs import replace

from localinfra.engine.backend import Batch
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings

NUM_SLOTS = 4  # three that are decoded, and a cache slot


@pytest.mark.parametrize("seed", range(2))
def test_a_full_window_cache_keeps_every_cell_in_both_caches(tmp_path: Path, seed: int) -> None:
    settings = replace(SETTINGS, context_length=200, num_cells=1024, full_window=True)
    model = Model(tiny_gemma3().write(tmp_path / "tiny.gguf"), ModelSettings())
    context = LlamaContext(model, settings)
    size = context.max_saved
    assert size == model.sliding_window == 16
    transfer = context.num_sequences
    slots = [0, 1, 2, transfer + 1]
    held = dict.fromkeys(slots, 0)
    chance = random.Random(seed)
    for _ in range(150):
        slot, other = chance.sample(slots, 2)
        move = chance.random()
        if move < 0.6:
            batch = Batch()
            for each in slots[:3]:
                count = min(chance.choice([0, 1, 1, 2, 9, 20]), 200 - held[each])
                batch.extend(each, held[each], [40 + each] * count, 0)
                held[each] += count
            if len(batch):
                context.decode(batch)
        elif move < 0.75:
            held[slot] = chance.choice([0, chance.randrange(held[slot] + 1)])
            context.drop(slot, held[slot])
        elif move < 0.9:
            held[other] = chance.randrange(held[slot] + 1)
            context.drop(other, 0)
            context.copy(slot, other, 0, held[other])
        elif stop := held[slot]:
            start = max(0, stop - chance.randrange(1, size + 1))
            context.copy(slot, transfer, start, stop)
            data = context.save(transfer)
            context.drop(transfer, 0)
            context.drop(slot, start)
            assert context.accepts(data, start, stop) and context.restore(transfer, data)
            context.copy(transfer, slot, start, stop)
            context.drop(transfer, 0)
        for each in slots:
            if each < transfer:
                assert context._cells[0].positions(each) == positions_saved(context, each)
            for start in range(0, held[each], size):
                stop = min(held[each], start + size)
                context.copy(each, transfer, start, stop)
                full, window = (positions_saved(context, transfer, w) for w in (False, True))
                assert full == window and sorted(full) == list(range(start, stop))
                context.drop(transfer, 0)
    context.close()
