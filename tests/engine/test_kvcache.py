"""Which prefixes stay in the cells, over a fake backend that counts cells."""

import pytest
from fakes import FakeBackend

from localinfra.engine.backend import Batch
from localinfra.engine.kvcache import KVCache
from localinfra.engine.radix import Prefix
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

    def compute(tokens: list[int], *, is_canonical: bool = False) -> int:
        slot, _ = cache.acquire(Prefix(tokens), len(tokens) - 1, is_canonical=is_canonical)
        cache.tidy(len(tokens))
        batch = Batch()
        batch.extend(slot, 0, tokens, 0)
        backend.decode(batch)
        cache.advance(slot, len(tokens))
        return slot

    ordered = [99, *range(99)]
    lasting = compute(ordered, is_canonical=True)
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
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    tidying = Tidying(max_stall_s)
    with tidying.copying(num_cells=500):
        pass
    assert tidying.are_too_many(3000, 2000, beside_ordered=True) is leaves
    assert tidying.are_too_many(3000, 2000, beside_ordered=False)


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
