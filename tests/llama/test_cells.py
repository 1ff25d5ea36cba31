"""The map of cells against llama.cpp's own, as seen in saved state, which lists cells in order."""

import random
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from llama_cpp import llama_cpp
from models.tiny_gguf import tiny_gemma3, tiny_llama
from models.tiny_hybrids import tiny_lfm2

from localinfra.engine.backend import Batch
from localinfra.engine.kvcache import KVCache
from localinfra.engine.radix import Prefix
from localinfra.llama.cells import CellMap
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.params import KV_TYPES
from localinfra.llama.saving import pointer_to
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import KvType
from localinfra.models.gguf.reader import BLOCKS

SETTINGS = ContextSettings(
    context_length=64,
    num_cells=256,
    num_sequences=3,
    batch_size=64,
    threads=2,
    kv_type="f16",
)


def test_kv_types_have_ggmls_numbers() -> None:
    assert {BLOCKS[number][0]: number for number in KV_TYPES.values()} == KV_TYPES
    assert KV_TYPES.keys() == set(get_args(KvType))


def positions_saved(context: LlamaContext, slot: int, is_window: bool = False) -> list[int]:
    """The positions of a slot's cells, in cell order, from llama.cpp's format: a magic number, the
    slot, the number of streams, the number of cells; for each cell its position, 1, the slot."""
    flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if is_window else 0
    words = np.empty(
        llama_cpp.llama_state_seq_get_size_ext(context._pointer, slot, flags), np.uint8
    )
    llama_cpp.llama_state_seq_get_data_ext(
        context._pointer, pointer_to(words), words.nbytes, slot, flags
    )
    _, _, _, count = words[:16].view(np.uint32)
    cells = words[16 : 16 + 12 * int(count)].view(np.int32).reshape(-1, 3)
    return [int(position) for position in cells[:, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_any_use_of_the_cache_is_mirrored(tmp_path: Path, seed: int) -> None:
    context = LlamaContext(
        Model(tiny_llama().write(tmp_path / "tiny.gguf"), ModelSettings()), SETTINGS
    )
    assert context._cells
    chance = random.Random(seed)
    held = [0, 0, 0]
    num_broken = 0
    saved: list[tuple[int, np.ndarray]] = []
    for _ in range(400):
        slot = chance.randrange(3)
        move = chance.random()
        if move < 0.6:  # extend several slots
            batch = Batch()
            for other in range(3):
                size = chance.choice([0, 1, 1, 2, 9])
                if held[other] + size > 64:
                    size = 0
                batch.extend(other, held[other], [40 + other] * size, 0)
            ordered = {s for s in range(3) if held[s] and in_order(context, s)}
            will = {s for s in ordered if context.stays_ordered(batch, {s})}
            if len(batch):
                context.decode(batch)
                for other in range(3):
                    held[other] += batch.slots.count(other)
            for other in ordered:
                assert in_order(context, other) == (other in will)
                num_broken += other not in will
        elif move < 0.75:  # drop the end of one, or all of it
            start = chance.choice([0, chance.randrange(held[slot] + 1)])
            context.drop(slot, start)
            held[slot] = start
        elif move < 0.85:  # copy one to another
            other = (slot + 1) % 3
            context.drop(other, 0)
            context.copy(slot, other, 0, held[slot])
            held[other] = held[slot]
        elif move < 0.95 and held[slot]:
            saved.append((held[slot], context.save(slot)))
        elif saved:
            size, data = chance.choice(saved)
            context.drop(slot, 0)
            assert context.restore(slot, data)
            held[slot] = size
        for other in range(3):
            assert context._cells[0].positions(other) == positions_saved(context, other)
    assert num_broken > 10
    context.close()


def in_order(context: LlamaContext, slot: int) -> bool:
    positions = positions_saved(context, slot)
    return positions == sorted(positions)


def test_attention_covers_multiples_of_the_padding() -> None:
    cells = CellMap(1000)
    assert cells.num_seen == 256
    cells.add([0] * 255, range(255))
    assert cells.num_seen == 256
    cells.add([0], [255])
    assert cells.num_seen == 512
    cells.drop(0, 10)
    assert cells.num_seen == 256


@pytest.mark.parametrize("seed", range(6))
def test_the_cells_of_a_sliding_window_are_mirrored_too(tmp_path: Path, seed: int) -> None:
    settings = msgspec.structs.replace(SETTINGS, context_length=600, num_cells=2048)
    model = Model(tiny_gemma3().write(tmp_path / "tiny.gguf"), ModelSettings())
    context = LlamaContext(model, settings)
    assert 0 < model.sliding_window < 100 and len(context._cells) == 2
    window = model.sliding_window
    chance = random.Random(seed)
    held = [0, 0, 0]
    num_broken = 0
    for _ in range(500):
        if chance.random() < 0.97:
            batch = Batch()
            for slot in range(3):
                size = chance.choice([0, 1, 1, 2, 9]) if held[slot] < 590 else 0
                batch.extend(slot, held[slot], [40 + slot] * size, 0)
            if not len(batch):
                continue
            ordered = {s for s in range(3) if context._cells[1].stays_ordered({s}, batch.slots)}
            context.decode(batch)
            for slot in range(3):
                held[slot] += batch.slots.count(slot)
            num_broken += len(set(batch.slots) - ordered)
        else:
            slot = chance.randrange(3)
            if chance.random() < 0.5:
                data = context.save(slot)
                context.drop(slot, 0)
                assert context.restore(slot, data)
            else:
                context.drop(slot, 0)
                held[slot] = 0
        for slot in range(3):
            assert context._cells[0].positions(slot) == positions_saved(context, slot)
            assert context._cells[1].positions(slot) == positions_saved(context, slot, True)
            # The oldest is outside the next token's window, so it may be gone.
            assert len(context._cells[1].positions(slot)) >= min(held[slot], window - 1)
    assert num_broken > 10
    context.close()


def test_after_a_relay_the_next_tokens_of_every_slot_get_cells_behind_its_own(
    tmp_path: Path,
) -> None:
    """If they were in order before: windows, which are states, are restored as they were."""
    settings = msgspec.structs.replace(
        SETTINGS, context_length=200, num_cells=1024, num_sequences=4
    )
    context = LlamaContext(
        Model(tiny_gemma3().write(tmp_path / "tiny.gguf"), ModelSettings()), settings
    )
    assert context.needs_states and len(context._cells) == 2
    chance = random.Random(1)
    num_ordered = 0
    for _ in range(100):
        cache = KVCache(context, 1 << 30)
        held = {cache.acquire(Prefix([]), 0)[0]: 0 for _ in range(4)}
        wanted = {slot: chance.choice([0, 1, 2, 16, 17, 40, 120]) for slot in held}
        while held != wanted:
            batch = Batch()
            for slot in chance.sample([*held], 4):
                size = min(chance.choice([1, 2, 9, 16]), wanted[slot] - held[slot])
                batch.extend(slot, held[slot], [40 + slot] * size, 0)
                cache.advance(slot, size)
                held[slot] += size
            context.decode(batch)
            for slot, length in held.items():
                if length and chance.random() < 0.3:
                    cache.record(slot, [40 + slot] * length)
        ordered = {slot for slot in held if context.stays_ordered(Batch(), {slot})}
        num_ordered += len(ordered)
        cache.relay()
        for size in (1, 2):
            batch = Batch()
            for slot in chance.sample([*held], 4):
                batch.extend(slot, held[slot], [40 + slot] * size, 0)
            assert context.stays_ordered(batch, ordered), held
        context.clear()
    assert num_ordered > 300
    context.close()


@pytest.mark.parametrize("max_rollback", [0, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_cells_of_a_hybrid_are_followed_by_the_parts_of_its_steps(
    tmp_path: Path, seed: int, max_rollback: int
) -> None:
    model = Model(tiny_lfm2().write(tmp_path / "tiny.gguf"), ModelSettings())
    context = LlamaContext(model, msgspec.structs.replace(SETTINGS, max_rollback=max_rollback))
    assert context.max_rollback == max_rollback
    assert context.is_canonical_alone and context._cells
    chance = random.Random(seed)
    held = [0, 0, 0]
    saved: list[tuple[int, np.ndarray]] = []
    num_mixed = 0
    for _ in range(300):
        slot = chance.randrange(3)
        move = chance.random()
        if move < 0.7:
            batch = Batch()
            for other in range(3):
                size = min(chance.choice([0, 1, 1, 2, 9]), 64 - held[other])
                batch.extend(other, held[other], [40 + other] * size, min(size, 1))
                held[other] += size
            if len(batch):
                context.decode(batch)
            num_mixed += len(set(batch.slots)) > 1
        elif move < 0.85:
            context.drop(slot, 0)
            held[slot] = 0
        elif move < 0.95 and held[slot]:
            saved.append((held[slot], context.save(slot)))
        elif saved:
            held[slot], data = chance.choice(saved)
            context.drop(slot, 0)
            assert context.restore(slot, data)
        for other in range(3):
            assert context._cells[0].positions(other) == positions_saved(context, other)
    assert num_mixed > 50
    context.close()
