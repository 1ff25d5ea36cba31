"""What steps are expected to take, from those that were seen."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.engine.policy.step_times import StepTimes

Machine = Callable[[int], float]  # rows → seconds of a step


def measured(machine: Machine, counts: tuple[int, ...] = (1, 2, 4, 8, 16)) -> StepTimes:
    times = StepTimes()
    for num_rows in counts[1:]:
        for _ in range(4):
            times.observe(counts[0], 0, 1, machine(counts[0]))
            times.observe(num_rows, 0, 1, machine(num_rows))
    return times


def expected(
    times: StepTimes, num_rows: int, num_prompt_tokens: int = 0, threads: int = 1
) -> float:
    seconds = times.expected(num_rows, num_prompt_tokens, threads)
    assert seconds is not None
    return seconds


def test_nothing_is_expected_before_anything_was_seen() -> None:
    times = StepTimes()
    assert times.expected(1, 0, 1) is None
    assert times.expected(0, 8, 1) is None
    times.observe(0, 8, 1, 0.05)
    assert times.expected(1, 8, 1) is None


def test_what_was_never_seen_costs_in_proportion() -> None:
    times = StepTimes()
    times.observe(1, 0, 2, 0.01)
    assert expected(times, 8, threads=2) == pytest.approx(0.08)
    assert expected(times, 1, threads=1) == pytest.approx(0.02)
    assert expected(times, 1, threads=4) == pytest.approx(0.01)


def test_between_known_numbers_of_rows_the_cost_is_on_the_line() -> None:
    times = measured(lambda rows: 0.5 + 0.5 * rows, (1, 4, 8))
    assert [expected(times, rows) for rows in (2, 4, 6, 8, 16)] == pytest.approx(
        [1.5, 2.5, 3.5, 4.5, 8.5]
    )
    assert expected(times, 32) == pytest.approx(17)


def test_slow_steps_now_and_then_change_nothing() -> None:
    times = StepTimes()
    for turn in range(60):
        for num_rows in (1, 4):
            disturbed = turn % 7 == 3
            seconds = (1 if num_rows == 1 else 2.5) * (20 if disturbed else 1)
            times.observe(num_rows, 0, 1, seconds)
    assert expected(times, 4) / expected(times, 1) == pytest.approx(2.5, rel=0.01)


def test_a_machine_that_is_slower_for_a_while_costs_the_same_in_proportion() -> None:
    times = measured(lambda rows: 0.5 + 0.5 * rows)
    for _ in range(50):
        times.observe(1, 0, 1, 3.0)  # a long context, or another program
    assert expected(times, 1) == pytest.approx(3.0)
    assert expected(times, 4) == pytest.approx(7.5)


def test_costs_that_change_little_by_little_are_followed() -> None:
    times = StepTimes()
    for turn in range(300):
        times.observe(1, 0, 1, 1.0)
        times.observe(4, 0, 1, 2 + turn / 300)
    assert expected(times, 4) / expected(times, 1) == pytest.approx(3, rel=0.05)


def test_small_chunks_have_a_cost_of_their_own() -> None:
    times = StepTimes()
    for num_tokens, seconds in ((512, 3.5), (8, 0.09)):
        for _ in range(10):
            times.observe(0, num_tokens, 2, seconds)
    assert expected(times, 0, 8, 2) == pytest.approx(0.09, rel=0.05)
    assert expected(times, 0, 512, 2) == pytest.approx(3.5, rel=0.05)


def test_a_chunk_adds_to_what_its_decoding_rows_take() -> None:
    times = measured(lambda rows: 0.5 + 0.5 * rows)
    times.observe(4, 10, 1, 2.5 + 10 * 0.2)
    assert expected(times, 8, 20) == pytest.approx(4.5 + 20 * 0.2)


def test_a_usual_step_is_fresh_until_prompts_take_much_longer_or_some_time_has_passed() -> None:
    def learned() -> StepTimes:
        times = StepTimes()
        times.observe(0, 30, 1, 0.3)
        for _ in range(3):
            times.observe(2, 0, 1, 0.02)
        return times

    times = learned()
    assert times.is_fresh(2) and not times.is_fresh(3)
    for num_seen in range(31):
        assert times.is_fresh(2), num_seen
        times.observe(2, 10, 1, 0.12)
    times.observe(2, 10, 1, 0.12)
    assert not times.is_fresh(2)
    times = learned()
    for _ in range(2):
        assert times.is_fresh(2)
        times.observe(2, 10, 1, 0.4)
    assert not times.is_fresh(2)


@given(st.lists(st.tuples(st.integers(1, 70), st.floats(0.001, 10)), max_size=60))
def test_the_cost_of_rows_never_falls_and_is_never_above_proportion(
    steps: list[tuple[int, float]],
) -> None:
    times = StepTimes()
    times.observe(1, 0, 1, 1.0)
    for num_rows, seconds in steps:
        times.observe(num_rows, 0, 1, seconds)
    curve = [expected(times, rows) for rows in range(1, 90)]
    assert all(later >= sooner * (1 - 1e-9) for sooner, later in pairwise(curve))
    assert all(cost <= rows * curve[0] * (1 + 1e-9) for rows, cost in enumerate(curve, 1))


def seconds_at(num_rows: int, noise: float, draw: Random) -> float:
    return 0.02 * (1 + 0.2 * num_rows) * math.exp(draw.gauss(0, noise))


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_noise_does_not_add_up(noise: float, num_threads: int) -> None:
    """Over the steps of an hour on a busy machine, what is seen stays as expected, and what is not
    seen meanwhile."""
    draw, times = Random(3), StepTimes()
    for threads in range(1, num_threads + 1):
        for num_rows in (1, 2, 3, 4) * 5:
            times.observe(num_rows, 0, threads, seconds_at(num_rows, 0.01, draw))
            times.observe(num_rows, 64, threads, seconds_at(num_rows, 0.01, draw) + 0.064)
    for number in range(40_000):
        num_rows, threads = draw.choice((1, 2, 3, 4)), 1 + number // 50 % num_threads
        times.observe(num_rows, 0, threads, seconds_at(num_rows, noise, draw))
    for num_rows in (1, 4):
        ratio = expected(times, num_rows) / seconds_at(num_rows, 0, draw)
        assert 1 / 8 < ratio < 8
    assert 1 / 8 < expected(times, 0, 64) / 0.064 < 8


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(1e-12, 1e6)), min_size=1, max_size=40))
def test_steps_however_long_are_learned_from(steps: list[tuple[int, float]]) -> None:
    times = StepTimes()
    for num_rows, seconds in steps:
        times.observe(num_rows, 0, 1, seconds)
        assert 0 < expected(times, num_rows) < math.inf


@pytest.mark.parametrize("seconds", [0.0, -0.001, 5e-324])
def test_a_clock_that_stands_still_or_goes_back_breaks_nothing(seconds: float) -> None:
    times = StepTimes()
    for num_rows, num_prompt_tokens in ((1, 0), (2, 0), (0, 8), (1, 8), (1, 0)):
        times.observe(num_rows, num_prompt_tokens, 2, seconds)
        expected = times.expected(num_rows, num_prompt_tokens, 2)
        assert expected is not None and expected > 0
        assert times.num_tokens(0.01, num_rows, 2) >= 1


def test_tokens_cost_what_they_did_at_their_depth() -> None:
    times = StepTimes()
    for _ in range(60):  # prompts
        for depth, seconds in ((0, 1.0), (300, 2.0), (600, 3.0), (1500, 5.0)):
            times.observe(0, 100, 1, 100 * seconds, depth)
    for depth, seconds in ((0, 1.0), (255, 1.0), (511, 2.0), (900, 3.0), (1024, 5.0), (9000, 5.0)):
        assert times.expected(0, 100, 1, depth) == pytest.approx(100 * seconds, rel=0.01)


def test_where_only_one_kind_of_step_was_seen_deep_the_other_is_taken_to_rise_as_much() -> None:
    times = StepTimes()
    times.observe(0, 100, 1, 100 * 1.0)
    for _ in range(9):
        times.observe(0, 10, 1, 10 * 1.4)
    small = times.expected(0, 10, 1)
    assert small is not None and small == pytest.approx(14, rel=0.05)
    times.observe(0, 100, 1, 100 * 2.0, 600)
    assert times.expected(0, 10, 1, 600) == pytest.approx(small * 1.5)  # from 1 to halfway there
    times.observe(0, 10, 1, 10 * 4.0, 600)
    assert times.expected(0, 10, 1, 600) == pytest.approx((small * 1.5 + 40) / 2)
    assert times.expected(0, 10, 1) == pytest.approx(small), (
        "the next prompt begins as this one did"
    )


def test_what_only_other_threads_have_read_costs_what_it_did_for_them_at_that_depth() -> None:
    times = StepTimes()
    for depth, seconds in ((0, 1.0), (600, 3.0)) * 30:
        times.observe(0, 100, 1, 100 * seconds, depth)
    for threads, is_tile in ((1, False), (2, True), (2, False)):
        count = 100 if is_tile else 10
        for depth, seconds in ((0, 1.0), (600, 3.0), (5000, 3.0)):
            expected = times.expected(0, count, threads, depth)
            assert expected == pytest.approx(count * seconds, rel=0.01)
