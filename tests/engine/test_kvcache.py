"""Which prefixes stay in the cells, over a fake backend that counts cells."""

from types import SimpleNamespace

import pytest
from fakes import FakeBackend

from localinfra.engine import tidying
from localinfra.engine.backend import Batch
from localinfra.engine.kvcache import KVCache
from localinfra.engine.radix import Prefix
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.sequence import Sequence
from localinfra.engine.tidying import MANY_BESIDE_ORDERED, MANY_IDLE, Tidying


def test_idle_cells_are_offloaded_even_if_a_sequence_ends_at_every_step() -> None:
    backend = FakeBackend(
        num_cells=8000, num_slots=80, batch_size=100, context_length=900, idle_cells_slow_steps=True
    )
    cache = KVCache(backend, max_offloaded=1 << 22)
    most = 0
    slots: list[tuple[int, list[int]]] = []
    for first in range(70):
        tokens = [first, *range(99)]
        slot, length = cache.acquire(Prefix(tokens), len(tokens) - 1)
        assert length == 0
        cache.tidy(len(tokens))
        batch = Batch()
        batch.extend(slot, 0, tokens, 0)
        backend.decode(batch)
        cache.advance(slot, len(tokens))
        slots.append((slot, tokens))
        if len(slots) == 2:  # one is always running
            cache.finish(*slots.pop(0))
        most = max(most, backend.num_used)
        assert cache.num_used == backend.num_used
    assert most <= MANY_IDLE + 10 * 100
    assert cache.match(Prefix([0, *range(99)]), 99).num_known == 99


def test_more_idle_cells_stay_while_cells_in_order_would_have_to_move_for_their_holes() -> None:
    backend = FakeBackend(
        num_cells=8000, num_slots=80, batch_size=100, context_length=900, idle_cells_slow_steps=True
    )
    cache = KVCache(backend, max_offloaded=1 << 22)

    def compute(tokens: list[int]) -> int:
        slot, _ = cache.acquire(Prefix(tokens), len(tokens) - 1)
        cache.tidy(len(tokens), keeps_order=True)
        batch = Batch()
        batch.extend(slot, 0, tokens, 0)
        backend.decode(batch)
        cache.advance(slot, len(tokens))
        return slot

    ordered = [99, *range(99)]
    lasting = compute(ordered)
    counts = []
    for first in range(70):
        tokens = [first, *range(99)]
        cache.finish(compute(tokens), tokens)
        counts.append(cache.num_cached)
    assert MANY_IDLE * 3 < max(counts) <= MANY_BESIDE_ORDERED + 10 * 100
    cache.finish(lasting, ordered)
    for _ in range(100):
        cache.tidy(100)
    assert cache.num_cached < MANY_IDLE


@pytest.mark.parametrize(
    ("max_stall_s", "copied_s", "leaves"),
    [(0.75, 0.0, True), (0.75, 0.7, True), (0.75, 0.8, False), (0.0, 0.0, False)],
)
def test_no_idle_cell_leaves_if_copying_those_in_order_would_be_a_stall(
    max_stall_s: float, copied_s: float, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, copied_s / 10])
    monkeypatch.setattr(tidying, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    tidy = Tidying(max_stall_s)
    with tidy.copying(num_cells=500):
        pass
    assert tidy.are_too_many(3000, 2000, keeps_order=True) is leaves
    assert tidy.are_too_many(3000, 2000, keeps_order=False)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(is_reproducible=True), SamplingParams(temperature=0)]
)
def test_cells_of_greedy_answers_move_as_seldom_as_those_of_seeded_ones(
    sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are put in order, so idle cells stay beside both."""
    monkeypatch.setattr(tidying, "MANY_IDLE", 64)
    monkeypatch.setattr(tidying, "MANY_BESIDE_ORDERED", 256)
    backend = FakeBackend(
        num_cells=600, num_slots=60, context_length=300, canonical_rows=32,
        idle_cells_slow_steps=True,
    )  # fmt: skip
    scheduler = Scheduler(backend, EngineSettings(prompt_lookup=False, max_offloaded=1 << 22))
    lasting = GenerationRequest([*range(20)], 240, GenerationParams(sampling))
    scheduler.add(Sequence(lasting, 0))
    num_others = 0
    for number in range(200):
        if len(scheduler.running) + len(scheduler.waiting) < 3:
            num_others += 1
            prompt = [(num_others * 7 + i * (num_others + 1)) % 48 for i in range(16)]
            scheduler.add(Sequence(GenerationRequest(prompt, 3), 0))
        step = scheduler.schedule()
        backend.decode(step.batch)
        scheduler.advance(step)
        scheduler.observe(step, 0.01)
        for sequence in [chunk.sequence for chunk in step.chunks]:
            if sequence.num_pending:
                continue
            sequence.append((number * 5 + 3) % 48)
            if sequence.num_generated == sequence.request.max_tokens:
                sequence.finished = True
                scheduler.remove(sequence)
    assert num_others > 100
    assert backend.num_relaid <= 10


@pytest.mark.parametrize("max_offloaded", [0, 100, 1000, 1 << 22])
def test_prefixes_leave_in_pieces_from_their_ends(max_offloaded: int) -> None:
    """Whether host memory has room for the pieces or not."""
    backend = FakeBackend(num_cells=400, num_slots=20, batch_size=200, max_saved=16)
    cache = KVCache(backend, max_offloaded)
    for ending in (30, 70):
        tokens = [*range(10), *[ending] * ending]
        slot, length = cache.acquire(Prefix(tokens), len(tokens) - 1)
        batch = Batch()
        batch.extend(slot, length, tokens[length:], 0)
        backend.decode(batch)
        cache.advance(slot, len(tokens) - length)
        cache.finish(slot, tokens)
    assert cache.num_used == backend.num_used == 110
    cache.relay()
    assert cache.num_used == backend.num_used == 0
    if max_offloaded > 1000:
        assert cache.match(Prefix(tokens), len(tokens)).num_known == len(tokens)
