"""A limit per minute, over any order of uses and waits. No real clock."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.keys.bucket import MinuteBucket

START_S = 1000.0
STEP = st.tuples(st.floats(0, 200), st.floats(0, 60))  # seconds to wait, amount to use


def test_a_new_bucket_is_full_and_fills_within_a_minute() -> None:
    bucket = MinuteBucket(60, START_S)
    bucket.take(60, START_S)
    assert bucket.level(START_S) == 0 and bucket.full_in_s(START_S) == 60
    assert bucket.level(START_S + 1) == pytest.approx(1)
    assert bucket.level(START_S + 60) == bucket.level(START_S + 600) == 60


def test_a_larger_amount_than_fits_is_served_from_a_full_bucket_and_then_owed() -> None:
    bucket = MinuteBucket(60, START_S)
    assert bucket.wait_s(1000, START_S) == 0
    bucket.take(1000, START_S)
    assert bucket.wait_s(1, START_S) == pytest.approx(941)
    assert bucket.wait_s(1, START_S + 941) == 0


def test_what_is_given_back_never_makes_it_fuller_than_full() -> None:
    bucket = MinuteBucket(60, START_S)
    bucket.take(10, START_S)
    bucket.give_back(10_000, START_S + 1)
    assert bucket.level(START_S + 1) == 60


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = MinuteBucket(60, START_S)
    bucket.take(60, START_S)
    for time_s in (START_S, START_S - 500, 0.0):
        assert bucket.level(time_s) == 0


@given(st.integers(1, 100_000), st.lists(STEP, max_size=60))
def test_the_wait_it_tells_is_exact(per_minute: int, steps: list[tuple[float, float]]) -> None:
    bucket, now_s = MinuteBucket(per_minute, START_S), START_S
    for pause_s, amount in steps:
        now_s += pause_s
        wait_s = bucket.wait_s(amount, now_s)
        if wait_s > 0.01:
            assert bucket.wait_s(amount, now_s + wait_s - 0.005) > 0
        now_s += wait_s + 1e-6
        assert bucket.wait_s(amount, now_s) == 0
        bucket.take(amount, now_s)


@pytest.mark.parametrize("seed", range(20))
def test_no_window_sees_more_than_the_limit_promises(seed: int) -> None:
    """Greedy clients with pauses: who may, uses."""
    chance = random.Random(seed)
    per_minute = chance.choice([1, 3, 60, 1000])
    bucket, now_s = MinuteBucket(per_minute, START_S), START_S
    used: list[float] = []
    for _ in range(400):
        now_s += chance.choice([0.0, 0.01, 0.5, 20.0, 90.0]) * chance.random()
        while bucket.wait_s(1, now_s) == 0 and len(used) < 4000:
            bucket.take(1, now_s)
            used.append(now_s)
    for first in range(0, len(used), 7):
        for last in range(first, len(used), 11):
            window_s = used[last] - used[first]
            assert last - first + 1 <= per_minute * (1 + window_s / 60) + 1e-6
