"""Batches: similar lengths together, within the budget, and no request starves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.embed.batcher import Batcher, BatchPart, EncodeJob
from localinfra.embed.encoder import Tokens

BUDGET = 100


def job(*lengths: int) -> EncodeJob:
    return EncodeJob([Tokens([0] * length) for length in lengths], 1)


def padded(batch: list[BatchPart]) -> int:
    return len(batch) * max(len(part.tokens) for part in batch)


def drained(batcher: Batcher) -> list[list[BatchPart]]:
    batches = []
    while batcher:
        batches.append(batcher.next())
    return batches


JOBS = st.lists(st.lists(st.integers(1, 150), min_size=1, max_size=30), min_size=1, max_size=12)


@settings(deadline=None)
@given(JOBS)
def test_every_text_is_computed_once_in_batches_within_the_budget(lengths: list[list[int]]) -> None:
    batcher = Batcher(BUDGET)
    jobs = [job(*each) for each in lengths]
    for each in jobs:
        batcher.add(each)
    batches = drained(batcher)
    assert all(len(batch) == 1 or padded(batch) <= BUDGET for batch in batches)
    taken = sorted((jobs.index(part.job), part.at) for batch in batches for part in batch)
    assert taken == [
        (at, index) for at, each in enumerate(jobs) for index in range(len(each.texts))
    ]
    assert all(each.num_waiting_tokens == 0 for each in jobs)


@settings(deadline=None)
@given(JOBS)
def test_large_jobs_take_turns_of_one_batch(
    lengths: list[list[int]],
) -> None:
    batcher = Batcher(BUDGET)
    for each in lengths:
        batcher.add(job(*each))
    large = job(*[10] * 100)
    batcher.add(large)
    since: dict[EncodeJob, int] = {}
    for batch in drained(batcher):
        if batch[0].job is large:
            assert all(count <= 1 for count in since.values())
            since = {}
        else:
            leader = batch[0].job
            since[leader] = since.get(leader, 0) + 1


def test_small_requests_share_a_batch() -> None:
    batcher = Batcher(BUDGET)
    for _ in range(20):
        batcher.add(job(5))
    assert [len(batch) for batch in drained(batcher)] == [20]


def test_similar_lengths_are_chosen_first() -> None:
    batcher = Batcher(BUDGET)
    for length in (10, 50, 11, 9, 48, 10):
        batcher.add(job(length))
    first = batcher.next()
    assert sorted(len(part.tokens) for part in first) == [9, 10, 10, 11]
    assert sorted(len(part.tokens) for part in batcher.next()) == [48, 50]


def test_a_small_request_waits_for_at_most_one_batch_of_a_large_one() -> None:
    batcher = Batcher(BUDGET)
    large = job(*[10] * 1000)
    batcher.add(large)
    assert len(batcher.next()) == 10
    small = job(3)
    batcher.add(small)
    assert batcher.next()[0].job is large
    assert [part.job for part in batcher.next()] == [small]


def test_small_requests_do_not_starve_a_large_one() -> None:
    batcher = Batcher(BUDGET)
    large = job(*[10] * 40)
    batcher.add(large)
    turns = []
    for _ in range(6):
        batcher.add(job(3))
        turns.append(batcher.next()[0].job is large)
    assert turns.count(True) >= 3


def test_a_text_beyond_the_budget_is_a_batch_of_its_own() -> None:
    batcher = Batcher(BUDGET)
    batcher.add(job(500, 20, 20))
    assert [[len(part.tokens) for part in batch] for batch in drained(batcher)] == [[500], [20, 20]]


def test_dropped_texts_are_not_computed() -> None:
    batcher = Batcher(BUDGET)
    left, stays = job(*[10] * 50), job(4)
    batcher.add(left)
    batcher.add(stays)
    batcher.next()
    batcher.drop(left)
    batcher.drop(left)
    assert [[part.job for part in batch] for batch in drained(batcher)] == [[stays]]
