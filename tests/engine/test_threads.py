"""The thread controller on simulated machines, against the best thread count fixed."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idling import ToldCores

from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController, rungs

# Milliseconds of a step, by threads and rows or prompt tokens. The two-core machines are
# SmolLM2-135M on two cores of an EPYC, quiet and with a busy process per core.
Machine = Callable[[random.Random, int, int], float]


def quiet(rng: random.Random, threads: int, _rows: int) -> float:
    return (11.5, 7.5)[threads - 1] * rng.uniform(0.9, 1.1)


def busy(rng: random.Random, threads: int, _rows: int) -> float:
    if threads == 1:
        return 16 * rng.uniform(0.7, 1.3)
    return 7.5 if rng.random() < 0.5 else rng.uniform(150, 300)


def very_busy(rng: random.Random, threads: int, _rows: int) -> float:
    """Five processes on the two cores."""
    if threads == 1:
        return 40 * rng.uniform(0.7, 1.3)
    return 7.5 if rng.random() < 0.3 else rng.uniform(200, 3000)


def contended(rng: random.Random, threads: int, rows: int) -> float:
    """One process that wants a core now and then: slow steps, none of which collapses."""
    return quiet(rng, threads, rows) + (threads == 2) * rng.uniform(0, 40)


def hiccups(rng: random.Random, threads: int, rows: int) -> float:
    return quiet(rng, threads, rows) + 50 * (rng.random() < 1 / 200)


def without_gain(rng: random.Random, threads: int, _rows: int) -> float:
    return (11.5, 12.5)[threads - 1] * rng.uniform(0.9, 1.1)


def by_rows(rng: random.Random, threads: int, rows: int) -> float:
    return (3.5 + 7.2 * rows, 2.7 + 4.8 * rows)[threads - 1] * rng.uniform(0.9, 1.1)


class DeeperAndDeeper:
    """Chunks of one prompt after the other; the deepest take three times as long."""

    def __init__(self) -> None:
        self._num_steps = 0

    def __call__(self, rng: random.Random, threads: int, rows: int) -> float:
        self._num_steps += 1
        return quiet(rng, threads, rows) * (1 + self._num_steps % 30 / 15)


def sixteen_cores(num_taken: int) -> Machine:
    def seconds(rng: random.Random, threads: int, _rows: int) -> float:
        too_many = max(0, threads - (16 - num_taken))
        waiting = rng.uniform(5, 60) * too_many if rng.random() > 0.5**too_many else 0.0
        return (80 / threads + 1) * rng.uniform(0.9, 1.1) + waiting

    return seconds


class Simulation:
    """One controller on a machine whose load changes; the hint, if any, tells of free cores."""

    def __init__(self, num_cores: int = 2, has_hint: bool = False, seed: int = 0):
        self.now = 0.0
        self.num_free = float(num_cores)  # cores without other work
        self.counts: list[int] = []  # threads of each step
        self._rng = random.Random(seed)
        self._idle_s = self._window_s = 0.0
        self._idle: float | None = None
        self._times = StepTimes()
        cores = ToldCores(self._idle_cores) if has_hint else ToldCores()
        self.controller = ThreadController(
            self._times, rungs(num_cores), cores, clock=lambda: self.now
        )

    def step(self, machine: Machine, size: int = 1, is_prefill: bool = False) -> float:
        threads = self.controller.threads(is_prefill)
        seconds = machine(self._rng, threads, size) / 1e3
        self.rest(seconds, threads)
        shape = (0, size) if is_prefill else (size, 0)
        self.controller.observe(*shape, threads, seconds)
        self._times.observe(*shape, threads, seconds)
        self.counts.append(threads)
        return seconds

    def run(
        self, machine: Machine, num_steps: int, rows: Callable[[int], int] | None = None
    ) -> float:
        return sum(self.step(machine, rows(step) if rows else 1) for step in range(num_steps))

    def run_for(self, machine: Machine, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step(machine)

    def rest(self, seconds: float, num_used: int = 0) -> None:
        self.now += seconds
        self._idle_s += seconds * max(0.0, self.num_free - num_used)
        self._window_s += seconds

    def _idle_cores(self) -> float | None:
        if self._window_s >= 0.5:
            self._idle = self._idle_s / self._window_s
            self._idle_s = self._window_s = 0.0
        return self._idle


def best_fixed(
    machine: Machine, num_steps: int, num_cores: int = 2, rows: Callable[[int], int] | None = None
) -> float:
    """Seconds with the best count; the mean of four runs, whose luck differs."""
    totals = []
    for threads in rungs(num_cores):
        rng = random.Random(1)
        steps = range(4 * num_steps)
        total = sum(machine(rng, threads, rows(step) if rows else 1) for step in steps)
        totals.append(total / 4e3)
    return min(totals)


each_seed = pytest.mark.parametrize("seed", range(5))
with_and_without_hint = pytest.mark.parametrize("has_hint", [False, True])


@each_seed
@with_and_without_hint
@pytest.mark.parametrize("machine", [quiet, hiccups, without_gain])
def test_a_quiet_machine_loses_nothing_worth_mentioning(
    machine: Machine, has_hint: bool, seed: int
) -> None:
    simulation = Simulation(has_hint=has_hint, seed=seed)
    assert simulation.run(machine, 2000) <= 1.05 * best_fixed(machine, 2000)


@each_seed
@with_and_without_hint
def test_steps_that_grow_with_a_prompts_depth_do_not_mislead_it(has_hint: bool, seed: int) -> None:
    simulation = Simulation(has_hint=has_hint, seed=seed)
    total = simulation.run(DeeperAndDeeper(), 6000)
    assert total <= 1.01 * best_fixed(DeeperAndDeeper(), 6000)
    assert simulation.counts.count(1) < 100


@each_seed
@with_and_without_hint
@pytest.mark.parametrize("num_steps", [480, 4800])
def test_with_a_busy_process_per_core_one_thread_is_found_at_once_and_kept(
    has_hint: bool, num_steps: int, seed: int
) -> None:
    simulation = Simulation(has_hint=has_hint, seed=seed)
    simulation.num_free = 0
    limit = 1.3 if num_steps < 1000 else 1.1
    assert simulation.run(busy, num_steps) <= limit * best_fixed(busy, num_steps)


@each_seed
@pytest.mark.parametrize("before_s", [1, 100])
def test_steps_that_are_only_somewhat_slower_are_left_for_fewer_threads(
    before_s: float, seed: int
) -> None:
    simulation = Simulation(seed=seed)
    simulation.run_for(quiet, before_s)
    simulation.run_for(contended, 5)
    assert simulation.run(contended, 1500) <= 1.1 * best_fixed(contended, 1500)


@each_seed
def test_cores_that_only_seem_idle_are_not_tried_again_and_again(seed: int) -> None:
    """As in a container with a quota of processor time."""
    simulation = Simulation(has_hint=True, seed=seed)
    assert simulation.run(busy, 4800) <= 1.1 * best_fixed(busy, 4800)


@each_seed
@with_and_without_hint
def test_collapses_of_seconds_are_hardly_ever_risked(has_hint: bool, seed: int) -> None:
    simulation = Simulation(has_hint=has_hint, seed=seed)
    simulation.num_free = 0
    limit = 1.15 if has_hint else 1.2
    assert simulation.run(very_busy, 2000) <= limit * best_fixed(very_busy, 2000)


@each_seed
def test_other_work_that_begins_during_a_trial_of_fewer_threads_ends_it(seed: int) -> None:
    simulation = Simulation(seed=seed)
    while 1 not in simulation.counts:
        simulation.step(without_gain)
    simulation.counts.clear()
    simulation.run(lambda _rng, threads, _rows: (12, 200)[threads - 1], 8)
    assert simulation.counts.count(2) == 1


@each_seed
@with_and_without_hint
def test_other_work_that_comes_and_goes_is_followed(has_hint: bool, seed: int) -> None:
    simulation = Simulation(has_hint=has_hint, seed=seed)
    back_within_s = 2.0 if has_hint else NUMBERS.max_pause_s + 1
    for _ in range(3):
        simulation.num_free = 2
        simulation.run_for(quiet, back_within_s)
        simulation.counts.clear()
        simulation.run_for(quiet, 5)
        assert simulation.counts.count(2) >= 0.95 * len(simulation.counts)
        simulation.num_free = 0
        simulation.counts.clear()
        simulation.run_for(busy, 10)
        assert len(simulation.counts) >= 10 / 0.016 / 1.3


@with_and_without_hint
def test_a_hiccup_on_a_quiet_machine_costs_no_more_than_a_second_of_fewer_threads(
    has_hint: bool,
) -> None:
    simulation = Simulation(has_hint=has_hint)
    for _ in range(6):
        simulation.run_for(quiet, 20)
        simulation.step(lambda *_: 300.0)
        assert simulation.counts[-1] == 2
        simulation.step(quiet)
        assert simulation.counts[-1] == 1
        simulation.counts.clear()
        simulation.run_for(quiet, 4)
        assert simulation.counts.count(1) < 1 / 0.0115


def test_a_step_of_a_minute_is_forgotten_in_two_minutes() -> None:
    simulation = Simulation()
    simulation.run(quiet, 100)
    simulation.step(lambda *_: 60_000.0)  # the process was stopped, say
    simulation.run_for(quiet, 125)
    assert simulation.counts[-100:].count(2) > 90


@each_seed
def test_a_thread_that_is_no_gain_is_not_tried_again_and_again_when_cores_are_idle(
    seed: int,
) -> None:
    simulation = Simulation(has_hint=True, seed=seed)
    simulation.num_free = 0
    simulation.run_for(busy, 2)
    simulation.num_free = 2
    assert simulation.run(without_gain, 2000) <= 1.02 * best_fixed(without_gain, 2000)


@each_seed
@pytest.mark.parametrize(
    "rows", [lambda step: 1 + 7 * (step // 7 % 2), lambda step: 1 + step // 10 % 32]
)
def test_batches_of_changing_size_do_not_disturb_it(rows: Callable[[int], int], seed: int) -> None:
    total = Simulation(seed=seed).run(by_rows, 2000, rows)
    assert total <= 1.05 * best_fixed(by_rows, 2000, rows=rows)


@each_seed
@with_and_without_hint
@pytest.mark.parametrize("num_taken", [0, 2, 4, 8])
def test_of_sixteen_cores_it_takes_those_that_are_free(
    num_taken: int, has_hint: bool, seed: int
) -> None:
    simulation = Simulation(16, has_hint, seed)
    simulation.num_free = 16 - num_taken
    machine = sixteen_cores(num_taken)
    simulation.run(machine, 400)
    simulation.counts.clear()
    assert simulation.run(machine, 2000) <= 1.15 * best_fixed(machine, 2000, 16)
    most_common = max(set(simulation.counts), key=simulation.counts.count)
    assert most_common in {0: (15, 16), 2: (12,), 4: (12,), 8: (8,)}[num_taken]


def test_prefill_and_decode_have_counts_of_their_own() -> None:
    simulation = Simulation()
    for step in range(1500):
        if step % 3:
            simulation.step(without_gain)
        else:
            simulation.step(by_rows, 16, is_prefill=True)
    prefill, decode = simulation.counts[::3], simulation.counts[1::3] + simulation.counts[2::3]
    assert prefill.count(2) >= 0.95 * len(prefill)
    assert decode.count(1) >= 0.9 * len(decode)


def test_prefill_need_not_collapse_where_decode_did() -> None:
    simulation = Simulation()
    for _ in range(20):
        simulation.step(quiet)
        simulation.step(by_rows, 128, is_prefill=True)
    while simulation.step(busy) < 0.1:
        pass
    assert simulation.controller.threads(is_prefill=False) == 1
    assert simulation.controller.threads(is_prefill=True) == 1


def test_when_decode_has_gone_up_again_prefill_follows_though_no_core_is_idle_then() -> None:
    simulation = Simulation(has_hint=True)
    simulation.run(quiet, 100)
    simulation.step(lambda *_: 5000.0)
    assert simulation.controller.threads(True) == 1
    simulation.run_for(quiet, 20)
    assert simulation.counts[-1] == 2
    for _ in range(3):
        simulation.step(quiet, 1, is_prefill=True)
    assert simulation.counts[-3:] == [1, 2, 1]  # every second step of a trial has the old count


def test_a_collapse_of_one_kind_of_step_puts_off_trials_of_the_other() -> None:
    simulation = Simulation()
    for step in range(40):
        simulation.step(quiet, 1, is_prefill=step % 2 > 0)
    simulation.step(lambda *_: 5000.0)
    simulation.rest(130)
    simulation.step(quiet, 1, is_prefill=True)  # after it, both are due to try two threads
    simulation.step(quiet)
    simulation.step(lambda *_: 5000.0)
    assert simulation.counts[-3:] == [1, 1, 2]
    for _ in range(10):
        simulation.step(quiet, 1, is_prefill=True)
    assert set(simulation.counts[-10:]) == {1}


def test_after_a_rest_it_begins_with_as_many_threads_as_cores_are_idle() -> None:
    simulation = Simulation(16, has_hint=True)
    simulation.rest(1)
    simulation.run(sixteen_cores(0), 200)
    simulation.num_free = 8
    simulation.rest(5)
    assert simulation.controller.threads(is_prefill=True) == 8
    assert simulation.controller.threads(is_prefill=False) == 8


def test_a_long_prompt_is_not_slowed_by_trials_of_fewer_threads() -> None:
    simulation = Simulation()
    simulation.run(quiet, 1000)
    simulation.counts.clear()
    for _ in range(8):
        simulation.step(lambda _rng, threads, _size: (2400, 1500)[threads - 1], 512, True)
    assert set(simulation.counts) == {2}


@pytest.mark.parametrize("decode", [quiet, without_gain])
def test_in_a_chat_hardly_a_turn_waits_for_a_trial_of_fewer_threads(decode: Machine) -> None:
    simulation = Simulation(has_hint=True)
    for _ in range(40):
        simulation.rest(10)  # the user reads and writes
        simulation.step(by_rows, 40, is_prefill=True)
        simulation.run(decode, 48)
    assert simulation.counts[::49].count(1) <= 4


def test_a_long_chunk_collapses_though_fewer_threads_were_never_tried() -> None:
    simulation = Simulation()
    for seconds in (0.5, 0.5, 8.0, 1.0):
        simulation.step(lambda *_, seconds=seconds: 1000 * seconds, 128, is_prefill=True)
    assert simulation.counts == [2, 2, 2, 1]


def test_one_core_leaves_nothing_to_choose() -> None:
    simulation = Simulation(1)
    simulation.run(lambda rng, threads, rows: 10 * rng.random(), 100)
    assert set(simulation.counts) == {1}


def test_many_cores_are_searched_in_few_steps() -> None:
    assert rungs(1) == [1]
    assert rungs(2) == [1, 2]
    assert rungs(16) == [1, 2, 3, 4, 6, 8, 12, 15, 16]
    assert len(rungs(128)) <= 16


REPORT = st.tuples(st.booleans(), st.integers(1, 600), st.floats(1e-6, 100), st.floats(0, 20))


@given(st.integers(1, 20), st.lists(REPORT, max_size=80), st.none() | st.floats(0, 20))
def test_whatever_is_observed_the_count_is_possible(
    num_cores: int, reports: list[tuple[bool, int, float, float]], idle: float | None
) -> None:
    now = 0.0
    times = StepTimes()
    controller = ThreadController(times, rungs(num_cores), ToldCores(lambda: idle), lambda: now)
    for is_prefill, size, seconds, rest_s in reports:
        now += rest_s
        threads = controller.threads(is_prefill)
        assert threads in rungs(num_cores)
        now += seconds
        shape = (0, size) if is_prefill else (size, 0)
        controller.observe(*shape, threads, seconds)
        times.observe(*shape, threads, seconds)
