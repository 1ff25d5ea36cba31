"""Tokens per second of several contexts, measured in turn so that disturbances hit all of them.

Takes the best of a few short runs in which this process had its cores to itself: other programs
can slow a run by any factor, since threads wait for each other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from localinfra.engine.backend import Batch
from localinfra.optimize.choose import Speed

PHASE_S = 0.3  # one run of one kind of work on the original
MIN_ROUNDS, MAX_ROUNDS = 3, 8
MIN_SHARE = 0.9  # an undisturbed run's least share of its cores' time; waiting threads spin
STEADY = 1.10  # the second best run takes at most this many times as long as the best
STREAMS = 8
START_TOKENS = 16  # prefilled in each stream before they run together


class Runner(Protocol):
    """The part of `engine.backend.Backend` that is needed here."""

    num_sequences: int
    batch_size: int

    def decode(self, batch: Batch) -> None: ...
    def clear(self) -> None: ...


class SpeedPlan(msgspec.Struct, frozen=True):
    """How much of each kind of work a run does."""

    num_prompt: int  # tokens
    num_steps: int  # with one stream
    num_streams: int
    num_stream_steps: int


class WorkTiming(msgspec.Struct, frozen=True):
    """One run of one kind of work."""

    wall_s: float
    cpu_s: float  # all threads together

    def is_undisturbed(self, threads: int) -> bool:
        return self.cpu_s >= MIN_SHARE * threads * self.wall_s


Run = tuple[WorkTiming, WorkTiming, WorkTiming]  # prompt, one stream, streams


class Track:
    """The runs of one context so far."""

    def __init__(self, threads: Sequence[int]):
        self._threads = threads  # for each kind of work
        self._runs: list[Run] = []

    def add(self, run: Run) -> None:
        self._runs.append(run)

    @property
    def is_hopeless(self) -> bool:
        """Whether no run has been undisturbed yet."""
        return not any(self._undisturbed)

    @property
    def is_steady(self) -> bool:
        """Whether each kind of work has two undisturbed runs, the second nearly as fast as the
        best."""
        return all(len(times) >= 2 and times[1] <= STEADY * times[0] for times in self._undisturbed)

    def speed(self, plan: SpeedPlan) -> Speed:
        """The best of the undisturbed runs, or of all if there are none."""
        everything = [[timing.wall_s for timing in kind] for kind in self._kinds]
        prompt_s, one_s, streams_s = (
            min(good or every) for good, every in zip(self._undisturbed, everything, strict=True)
        )
        return Speed(
            prompt=plan.num_prompt / prompt_s,
            one_stream=plan.num_steps / one_s,
            streams=plan.num_streams * plan.num_stream_steps / streams_s,
        )

    @property
    def _kinds(self) -> list[tuple[WorkTiming, ...]]:
        return list(zip(*self._runs, strict=True))

    @property
    def _undisturbed(self) -> list[list[float]]:
        """Seconds of the undisturbed runs of each kind of work, ascending."""
        return [
            sorted(timing.wall_s for timing in kind if timing.is_undisturbed(threads))
            for kind, threads in zip(self._kinds, self._threads, strict=True)
        ]


def speeds(
    runners: Mapping[str, Runner],
    original: str,
    tokens: Sequence[int],
    room: int,
    threads: tuple[int, int],
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[dict[str, Speed], bool]:
    """Runner → speed, and whether the speeds are reliable.

    `room` is a context's size in tokens, at least 64; `threads` is for steps of one token, and of
    more.
    """
    for runner in runners.values():  # the first pass reads the mapped weights from disk
        run(runner, SpeedPlan(min(room, START_TOKENS), 1, 1, 1), tokens)
    plan = make_plan(runners[original], tokens, room)
    one, many = threads
    tracks = {name: Track((many, one, many)) for name in runners}
    for number in range(MAX_ROUNDS):
        for name in list(runners)[:: 1 if number % 2 else -1]:
            tracks[name].add(run(runners[name], plan, tokens))
        progress((number + 1) / MAX_ROUNDS)
        is_steady = all(track.is_steady for track in tracks.values())
        is_hopeless = all(track.is_hopeless for track in tracks.values())
        if number + 1 >= MIN_ROUNDS and (is_steady or is_hopeless):
            break
    best = {name: track.speed(plan) for name, track in tracks.items()}
    return best, is_steady


def make_plan(runner: Runner, tokens: Sequence[int], room: int) -> SpeedPlan:
    """The work that the runner does in PHASE_S, as far as it fits the context."""
    streams = min(STREAMS, runner.num_sequences, room // START_TOKENS // 2)
    trial = SpeedPlan(min(32, room // 2), 4, streams, 2)
    runs = [run(runner, trial, tokens) for _ in range(2)]
    prompt, one, many = (
        PHASE_S / min(timing.wall_s for timing in kind) for kind in zip(*runs, strict=True)
    )
    return SpeedPlan(
        num_prompt=within(32, prompt * trial.num_prompt, min(256, room // 2)),
        num_steps=within(4, one * trial.num_steps, min(32, room // 4)),
        num_streams=streams,
        num_stream_steps=within(2, many * trial.num_stream_steps, min(16, room // 4 // streams)),
    )


def within(least: int, value: float, most: int) -> int:
    return max(min(least, most), min(int(value), most))


def run(runner: Runner, plan: SpeedPlan, tokens: Sequence[int]) -> Run:
    def some(count: int, start: int) -> list[int]:
        return [tokens[(start + offset) % len(tokens)] for offset in range(count)]

    runner.clear()
    prompt = timed(lambda: read(runner, 0, some(plan.num_prompt, 0)))
    one = timed(lambda: step(runner, 1, plan.num_prompt, some(plan.num_steps, 7)))
    runner.clear()
    for slot in range(plan.num_streams):
        read(runner, slot, some(START_TOKENS, 100 * slot))
    many = timed(
        lambda: step(runner, plan.num_streams, START_TOKENS, some(plan.num_stream_steps, 7))
    )
    return prompt, one, many


def read(runner: Runner, slot: int, tokens: list[int]) -> None:
    """Prefills as the scheduler does: full batches, each with logits of its last token."""
    for start in range(0, len(tokens), runner.batch_size):
        part = tokens[start : start + runner.batch_size]
        batch = Batch()
        batch.extend(slot, start, part, 1)
        runner.decode(batch)


def step(runner: Runner, num_streams: int, position: int, tokens: list[int]) -> None:
    for offset in range(len(tokens)):
        batch = Batch()
        for slot in range(num_streams):
            batch.extend(slot, position + offset, [tokens[(offset + slot) % len(tokens)]], 1)
        runner.decode(batch)


def timed(work: Callable[[], None]) -> WorkTiming:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return WorkTiming(time.perf_counter() - wall, time.process_time() - cpu)
