"""Speeds are those of undisturbed runs; without any, they count as unreliable."""

from collections.abc import Iterator

import pytest

from localinfra.engine.backend import Batch
from localinfra.optimize import speed
from localinfra.optimize.speed import WorkTiming

TOKENS = list(range(50))
THREADS = 2


class Clock:
    """Wall and CPU time of a process whose threads get `share` of their cores."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def compute(self, seconds: float, share: float) -> None:
        self.wall_s += seconds / share
        self.cpu_s += THREADS * seconds


class Scripted:
    """Takes `step_s` and more per step: longer for large batches and small `shares`."""

    num_sequences = 8
    batch_size = 512

    def __init__(self, clock: Clock, step_s: float, shares: Iterator[float]):
        self._clock, self._step_s, self._shares = clock, step_s, shares
        self.num_steps = 0
        self.num_held = 0
        self.longest = 0

    def decode(self, batch: Batch) -> None:
        self._clock.compute(self._step_s * (1 + len(batch) / 8), next(self._shares))
        self.num_steps += 1
        self.num_held += len(batch)
        self.longest = max(self.longest, self.num_held)

    def clear(self) -> None:
        self.num_held = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def timed(work):  # type: ignore[no-untyped-def]
        wall, cpu = clock.wall_s, clock.cpu_s
        work()
        return WorkTiming(clock.wall_s - wall, clock.cpu_s - cpu)

    monkeypatch.setattr(speed, "timed", timed)
    return clock


def always(share: float) -> Iterator[float]:
    while True:
        yield share


def test_a_context_twice_as_fast_measures_twice_as_fast(clock: Clock) -> None:
    runners = {"slow": Scripted(clock, 0.01, always(1)), "fast": Scripted(clock, 0.005, always(1))}
    found, is_steady = speed.speeds(runners, "slow", TOKENS, 512, (THREADS, THREADS))
    assert is_steady
    for kind in ("prompt", "one_stream", "streams"):
        assert getattr(found["fast"], kind) == pytest.approx(2 * getattr(found["slow"], kind))
    assert found["slow"].one_stream == pytest.approx(1 / (0.01 * 9 / 8))


def test_a_disturbed_run_does_not_count(clock: Clock) -> None:
    bumpy = iter([1.0] * 40 + [0.1] * 30 + [1.0] * 10_000)
    runners = {"a": Scripted(clock, 0.01, bumpy), "b": Scripted(clock, 0.01, always(1))}
    found, is_steady = speed.speeds(runners, "a", TOKENS, 512, (THREADS, THREADS))
    assert is_steady
    assert found["a"].prompt == pytest.approx(found["b"].prompt)
    assert found["a"].one_stream == pytest.approx(found["b"].one_stream)


def test_a_busy_machine_is_given_up_early(clock: Clock) -> None:
    runner = Scripted(clock, 0.01, always(0.6))
    _, is_steady = speed.speeds({"a": runner}, "a", TOKENS, 512, (THREADS, THREADS))
    few_steps = runner.num_steps
    assert not is_steady
    half = Scripted(clock, 0.01, iter([1.0] * 60 + [0.6] * 100_000))
    _, is_steady = speed.speeds({"a": half}, "a", TOKENS, 512, (THREADS, THREADS))
    assert not is_steady and half.num_steps > 2 * few_steps


@pytest.mark.parametrize("room", [64, 100, 512, 8192])
def test_no_run_exceeds_the_context(clock: Clock, room: int) -> None:
    for step_s in (1e-5, 1e-2, 10):
        runner = Scripted(clock, step_s, always(1))
        speed.speeds({"a": runner}, "a", TOKENS, room, (THREADS, THREADS))
        assert runner.longest <= room
