"""Chunk sizes on simulated machines: what streams wait for, and what prefill loses."""

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from idling import ToldCores

from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.prefill import Prefill, Unread
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController
from localinfra.engine.request import EngineSettings


class Machine(msgspec.Struct, frozen=True):
    """Milliseconds; the CPU's were measured with SmolLM2-135M on one thread of an EPYC."""

    base: float  # of a step with decoding rows
    row: float
    chunk: float  # of having prompt tokens in a step at all
    token: float

    def usual(self, num_rows: int) -> float:
        return (self.base + self.row * num_rows) / 1e3 if num_rows else 0.0

    def cost(self, num_tokens: int) -> float:
        return (self.chunk + self.token * num_tokens) / 1e3 if num_tokens else 0.0

    def efficiency(self, steps: "list[Step]") -> float:
        """Of prefill beside the decoding rows, against chunks of 512."""
        num_tokens = sum(step.num_tokens for step in steps)
        spent = sum(self.cost(step.num_tokens) for step in steps)
        return num_tokens * self.cost(512) / 512 / spent


Q4_1, Q8_0 = Machine(3.5, 7, 0, 7), Machine(9, 5, 4, 3.9)
GPU = Machine(8, 0.05, 5, 0.06)


MAX_STALL_S = EngineSettings().max_stall_s


class Pacer(Prefill):
    """On one thread, told what steps took."""

    def __init__(
        self, max_gap_ratio: float = 4.0, batch_size: int = 512, max_stall_s: float = MAX_STALL_S
    ):
        times = StepTimes()
        threads = ThreadController(times, [1], ToldCores())
        super().__init__(times, threads, max_gap_ratio, max_stall_s)
        self.times = times
        self._batch_size = batch_size

    def budget(self, num_rows: int, num_requests: int = 1, depth: int = 0) -> int:
        """For one prompt without end."""
        prompts = [Unread(depth, 10_000)]
        return self.chunk(num_rows, num_requests / num_rows, prompts, self._batch_size - num_rows)

    def observe(
        self, num_rows: int, num_prompt_tokens: int, seconds: float, depth: int = 0
    ) -> None:
        self.times.observe(num_rows, num_prompt_tokens, 1, seconds, depth)


class Step(msgspec.Struct, frozen=True):
    num_tokens: int
    gap: float  # in usual steps of the moment


def simulate(
    pacer: Pacer,
    machine: Machine,
    num_steps: int = 300,
    num_rows: Callable[[int], int] = lambda step: 1,
    slowdown: Callable[[int], float] = lambda step: 1.0,
    outliers: float = 0.0,  # share of steps that take 100 ms more
    seed: int = 0,
) -> Iterator[Step]:
    """A short cold prompt, twenty steps of its answer, then a prompt without end."""
    rng = random.Random(seed)
    pacer.observe(0, 30, 2 * machine.cost(30))
    for _ in range(20):
        pacer.observe(num_rows(0), 0, machine.usual(num_rows(0)) * rng.uniform(0.9, 1.1))
    for step in range(num_steps):
        rows = num_rows(step)
        size = pacer.budget(rows)
        usual = machine.usual(rows) * slowdown(step)
        seconds = (usual + machine.cost(size) * slowdown(step)) * rng.uniform(0.9, 1.1)
        seconds += 0.1 * (rng.random() < outliers)
        pacer.observe(rows, size, seconds)
        yield Step(size, seconds / usual)


def late_share(steps: list[Step]) -> float:
    return sum(step.gap > 4 for step in steps) / len(steps)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_rows", [1, 2, 8, 32])
@pytest.mark.parametrize("machine", [Q4_1, Q8_0])
def test_on_a_cpu_no_stream_waits_four_steps_and_chunks_stay_efficient(
    machine: Machine, num_rows: int, seed: int
) -> None:
    steps = list(simulate(Pacer(), machine, num_rows=lambda _: num_rows, seed=seed))
    assert max(step.gap for step in steps) <= 4  # the first one included
    assert machine.efficiency(steps) >= 0.85
    assert statistics.median(step.gap for step in steps) >= 2.9  # what is allowed is used


@pytest.mark.parametrize("num_rows", [1, 8, 32])
def test_where_small_chunks_are_inefficient_they_grow_but_not_beyond_eight_steps(
    num_rows: int,
) -> None:
    steps = list(simulate(Pacer(), GPU, num_rows=lambda _: num_rows))
    assert max(step.gap for step in steps) <= 8
    assert late_share(steps) <= 0.1
    assert GPU.efficiency(steps) >= 0.85


@pytest.mark.parametrize("slowdown", [3, 1 / 3])
@pytest.mark.parametrize("machine", [Q4_1, Q8_0, GPU])
def test_another_speed_of_the_machine_is_followed_within_tens_of_steps(
    machine: Machine, slowdown: float
) -> None:
    before, after = 100, 140
    steps = list(
        simulate(
            Pacer(),
            machine,
            num_rows=lambda _: 2,
            slowdown=lambda step: slowdown if step >= before else 1.0,
        )
    )
    assert late_share(steps[after:]) <= 0.02
    assert max(step.gap for step in steps[before:]) <= 7
    sizes = [step.num_tokens for step in steps if step.num_tokens]
    settled = [step.num_tokens for step in steps[after:] if step.num_tokens]
    assert statistics.median(settled) >= 0.8 * statistics.median(sizes[50:100])


@pytest.mark.parametrize("machine", [Q4_1, Q8_0])
def test_when_streams_come_and_go_the_chunk_follows(machine: Machine) -> None:
    def num_rows(step: int) -> int:
        return (1, 8, 2, 16)[step // 40 % 4]

    steps = list(simulate(Pacer(), machine, 640, num_rows))
    assert late_share(steps) <= 0.02
    assert max(step.gap for step in steps) <= 6
    for start in range(0, 640, 40):
        assert statistics.median(step.gap for step in steps[start : start + 40]) >= 2.5


@pytest.mark.parametrize("machine", [Q4_1, Q8_0, GPU])
def test_a_descheduled_step_now_and_then_changes_nothing(machine: Machine) -> None:
    steps = list(simulate(Pacer(), machine, 600, num_rows=lambda _: 4, outliers=0.03, seed=1))[100:]
    sizes = sorted(step.num_tokens for step in steps if step.num_tokens)
    assert sizes[len(sizes) * 98 // 100] <= 1.4 * sizes[len(sizes) * 2 // 100]
    assert late_share(steps) <= 0.05  # the descheduled ones themselves


@pytest.mark.parametrize("machine", [Q4_1, Q8_0, GPU])
def test_chunk_sizes_do_not_oscillate(machine: Machine) -> None:
    steps = list(simulate(Pacer(), machine, 400, num_rows=lambda _: 8))[100:]
    sizes = [step.num_tokens for step in steps if step.num_tokens]
    assert max(sizes) <= 1.3 * min(sizes)


@pytest.mark.parametrize("seed", range(8))
def test_on_a_busy_machine_prompts_move_on(seed: int) -> None:
    """Where steps take half as long or two and a half times as long by chance, and streams come
    and go, chunks don't stay at one or two tokens."""
    rng, pacer, num_rows = random.Random(seed), Pacer(), 3
    pacer.observe(0, 30, 0.15)
    num_read = num_fitting = 0.0
    for _ in range(2000):
        if rng.random() < 0.1:
            num_rows = rng.randrange(1, 8)
        usual_s, size = 0.010 + 0.008 * num_rows, pacer.budget(num_rows)
        pacer.observe(num_rows, size, (usual_s + 0.008 * size) * rng.uniform(0.5, 2.5))
        num_read += size
        num_fitting += 2.4 * usual_s / 0.008
    assert num_read >= 0.5 * num_fitting


def test_prompts_move_though_no_step_tells_what_is_usual() -> None:
    """Where streams follow a grammar, each step may hold what it forces, and is not reported."""
    pacer = Pacer()
    pacer.observe(0, 30, 0.2)
    budgets = [pacer.budget(8) for _ in range(60)]
    assert budgets.count(0) <= NUMBERS.max_pauses
    assert sum(budgets) > 400


def test_the_target_can_be_chosen() -> None:
    def median_gap(ratio: float) -> float:
        return statistics.median(step.gap for step in simulate(Pacer(ratio), Q4_1))

    assert 7 <= median_gap(10) <= 10
    assert max(step.num_tokens for step in simulate(Pacer(math.inf, batch_size=512), Q4_1)) == 511


REPORT = st.tuples(st.integers(1, 40), st.booleans(), st.floats(1e-5, 10))


@given(st.lists(REPORT, max_size=120))
def test_whatever_is_observed_batches_are_not_exceeded_and_prompts_move(
    reports: list[tuple[int, bool, float]],
) -> None:
    pacer = Pacer(batch_size=128)
    for rows, is_used, seconds in reports:
        size = pacer.budget(rows)
        assert 0 <= size <= 128 - rows
        if rows or is_used:
            pacer.observe(rows, size if is_used else 0, seconds)
    num_empty = 0
    while not pacer.budget(3):
        pacer.observe(3, 0, 0.01)
        num_empty += 1
    assert num_empty <= NUMBERS.max_pauses


@pytest.mark.parametrize("num_requests", [2, 7, 30, 1000])
def test_however_many_requests_wait_no_stream_waits_longer_than_a_stall(num_requests: int) -> None:
    pacer = Pacer()
    gaps = []
    for _ in range(100):
        size = pacer.budget(1, num_requests)
        gaps.append(0.030 + 0.0045 * size)
        pacer.observe(1, size, gaps[-1])
    assert max(gaps) <= MAX_STALL_S
    allowed_s = min(0.030 * 4 * num_requests, MAX_STALL_S)
    assert max(gaps[50:]) >= 0.8 * allowed_s


def test_many_prompts_beside_one_stream_are_read_in_larger_chunks() -> None:
    pacer = Pacer(max_gap_ratio=4.0, batch_size=512)
    for _ in range(40):
        pacer.observe(1, 0, 0.010)
        budget = pacer.budget(1)
        if budget:
            pacer.observe(1, budget, 0.010 + 0.003 * budget)
    alone = pacer.budget(1)
    sizes = [pacer.budget(1, 7) for _ in range(10)]
    assert sizes[-1] > 6 * alone
    assert pacer.budget(1) <= alone


USUAL_S = 0.030


def read(pacer: Pacer, num_tokens: int) -> list[tuple[int, float]]:
    """The depths and seconds of a prompt's chunks beside four streams: attention row by row against
    in tiles, as measured with SmolLM2-135M on two cores."""
    pacer.observe(0, 30, 30 * 0.0045)
    for _ in range(3):
        pacer.observe(4, 0, USUAL_S)
    depth, chunks = 0, []
    while depth < num_tokens:
        size = min(pacer.budget(4, depth=depth), num_tokens - depth)
        slope = 0.0012 if size + 4 >= 64 else 0.004
        seconds = USUAL_S + size * (0.0045 + slope * depth / 1000)
        pacer.observe(4, size, seconds, depth)
        depth += size
        chunks.append((depth, seconds))
    return chunks


def test_deep_in_a_prompt_chunks_become_whole_tiles() -> None:
    pacer = Pacer()
    pacer.observe(0, 256, 256 * 0.0045)
    chunks = read(pacer, 2000)
    assert max(seconds for _, seconds in chunks) <= 0.75
    assert max(seconds for depth, seconds in chunks if depth <= 300) <= 4 * USUAL_S
    assert sum(seconds for _, seconds in chunks) < 17  # 29 without
    again = read(pacer, 2000)
    shallow, deep = ([one for one in again if (one[0] > 300) == is_deep] for is_deep in (0, 1))
    assert statistics.median(seconds for _, seconds in shallow) <= 4 * USUAL_S
    sizes = [stop - start for (start, _), (stop, _) in itertools.pairwise(deep)]
    in_small = sum(size for size in sizes if size < 60)
    assert in_small <= 60, "what small chunks cost there is known"


def test_tiles_are_found_where_no_prompt_was_read_before() -> None:
    chunks = read(Pacer(), 2000)
    assert max(seconds for _, seconds in chunks) <= MAX_STALL_S
    assert sum(seconds for _, seconds in chunks) < 17


@pytest.mark.parametrize("num_tokens", [300, 2000, 8000])
def test_without_stalls_no_stream_waits_four_steps_anywhere_in_a_prompt(num_tokens: int) -> None:
    chunks = read(Pacer(max_stall_s=0.0), num_tokens)
    assert max(seconds for _, seconds in chunks) <= 4 * USUAL_S


@pytest.mark.parametrize("slowness", [1.5, 3, 10])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_slow_step_of_a_tile_does_not_end_their_use(number: int, slowness: float) -> None:
    """It makes them seem dear, and what is not used is not corrected."""
    pacer, num_seen = Pacer(), 0
    pacer.observe(0, 80, 80 * 0.0045)
    for _ in range(3):
        pacer.observe(4, 0, USUAL_S)
    depth, spent_s = 0, 0.0
    while depth < 2000:
        size = pacer.budget(4, depth=depth)
        is_tile = size + 4 >= 64
        seconds = USUAL_S + size * (0.0045 + (0.0012 if is_tile else 0.004) * depth / 1000)
        if is_tile:
            spent_s += (slowness - 1) * seconds * (num_seen == number)
            seconds *= slowness if num_seen == number else 1
            num_seen += 1
        pacer.observe(4, size, seconds, depth)
        depth, spent_s = depth + size, spent_s + seconds
    assert num_seen > 15


@pytest.mark.parametrize("num_tokens", [20, 40, 59, 75, 100])
def test_the_end_of_a_deep_prompt_is_no_tile(num_tokens: int) -> None:
    """It is read in steps below one, where tokens cost more, and whose gaps are as promised."""
    pacer = Pacer()
    for _ in range(3):
        read(pacer, 4000)
    while num_tokens:
        size = pacer.chunk(4, 1 / 4, [Unread(4000, num_tokens)], 508)
        seconds = USUAL_S + size * (0.0045 + (0.0012 if size + 4 >= 64 else 0.004) * 4)
        assert seconds <= MAX_STALL_S
        pacer.observe(4, size, seconds, 4000)
        num_tokens -= size


@pytest.mark.parametrize("max_stall_s", [0.0, MAX_STALL_S])
def test_a_short_prompt_before_a_deep_one_does_not_hide_what_that_costs(
    max_stall_s: float,
) -> None:
    pacer = Pacer(max_stall_s=max_stall_s)
    for _ in range(2):
        read(pacer, 8000)
    prompts, slope = [Unread(0, 6), Unread(8000, 500)], 0.004
    for _ in range(20):
        size = pacer.chunk(4, 2 / 4, prompts, 508)
        slope = 0.0012 if size + 4 >= 64 else 0.004
        seconds = USUAL_S + size * 0.0045 + max(0, size - 6) * slope * 8
        assert seconds <= max(4 * USUAL_S, max_stall_s)
        pacer.observe(4, size, seconds, round(8000 * max(0, size - 6) / max(1, size)))


@pytest.mark.parametrize("num_rows", [1, 4, 40])
def test_a_step_of_prompts_apart_from_the_streams_is_a_whole_tile(num_rows: int) -> None:
    """As on GPUs, and of pictures: rows of streams fill no tile there."""
    pacer = Pacer()
    sizes = []
    for _ in range(40):
        pacer.observe(num_rows, 0, USUAL_S)
        size = pacer.chunk(num_rows, 1 / num_rows, [Unread(1000, 3000)], 512, is_apart=True)
        slope = 0.0012 if size >= 64 else 0.004
        pacer.observe(0, size, size * (0.0045 + slope), 1000)
        sizes.append(size)
    assert {size for size in sizes[5:] if size} <= {64, 128}


def test_requests_that_came_together_wait_no_longer_than_a_stall_deep_in_prompts() -> None:
    pacer = Pacer()
    read(pacer, 4000)
    size = pacer.chunk(4, math.inf, [Unread(4000, 3000)], 508)
    assert 0.8 * MAX_STALL_S <= USUAL_S + size * (0.0045 + 0.0012 * 4) <= MAX_STALL_S
    size = Pacer(max_stall_s=0.0).chunk(4, math.inf, [Unread(4000, 3000)], 508)
    assert size == 0, "what is usual is not known"


def deep_sizes(usual_s: float, small_s: float, tile_s: float) -> list[int]:
    """Of chunks beside four streams, 2,000 tokens deep, by seconds of a token in each kind."""
    pacer, rng = Pacer(), random.Random(1)
    pacer.observe(0, 256, 256 * tile_s, 2000)
    sizes = []
    for _ in range(200):
        size = pacer.budget(4, depth=2000)
        token_s = tile_s if size + 4 >= 64 else small_s
        pacer.observe(4, size, (usual_s + size * token_s) * rng.uniform(0.9, 1.1), 2000)
        sizes.append(size)
    return [size for size in sizes[20:] if size]


def test_where_tiles_are_no_cheaper_chunks_stay_small_deep_in_a_prompt() -> None:
    assert max(deep_sizes(0.03, 0.0045, 0.0045)) < 30
    assert max(deep_sizes(0.03, 0.009, 0.0075)) == 60
    assert max(deep_sizes(0.03, 0.008, 0.0045)) == 124  # two tiles


def test_streams_do_not_stand_still_for_a_second_for_the_sake_of_tiles() -> None:
    """With a large model on two cores."""
    assert max(deep_sizes(0.2, 0.04, 0.02)) < 30
