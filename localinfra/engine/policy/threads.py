"""How many compute threads a step gets: one count for prefill, one for decode.

Compute threads spin at barriers. With other work on the cores, a step waits until all its threads
happen to run together. One thread too many turns 10 ms into 0.2 to 3 s, and the 0.5 s of a chunk of
128 tokens into 8 s; one too few costs a third (SmolLM2-135M with two threads, on two cores that two
to five busy processes share). Three rules:

- *Down* at once, to the next lower count, when a step takes `collapse_s` more than twice its time
  with that count. The other kind of step goes down with it.
- *Up or down* on trial: every second step has the next count, until that has shown to be faster or
  slower. Each failure quadruples the pause before the next trial in its direction, from
  `first_pause_s` to `max_pause_s`. Failures that cost more than `loss_share` of the last
  `loss_memory_s` lengthen it. When one kind of step has gone up, the other tries to.
  After a fall, while too few cores are idle, more threads are tried only after `loss_memory_s`;
  when cores become idle, at once.
- *Start* after a rest of `rest_s` with no more threads than cores are idle.
"""

import math
import time
from collections.abc import Callable

import msgspec

from localinfra.engine.policy.numbers import NUMBERS
from localinfra.engine.policy.step_times import StepTimes


def rungs(max_threads: int) -> list[int]:
    """The thread counts worth trying, ascending: all but one, then steps of about a third."""
    sizes = [max_threads >> halvings for halvings in range(max_threads.bit_length())]
    counts = {max_threads - 1, *sizes, *(size * 3 // 4 for size in sizes)}
    return sorted(counts - {0})


class _Pause:
    """Before the next trial in one direction."""

    def __init__(self) -> None:
        self._debt_s = -math.inf  # the time by which all losses are made up for
        self.end()

    def end(self) -> None:
        self.until_s = -math.inf
        self._next_s = NUMBERS.first_pause_s

    def fail(self, now: float, loss_s: float) -> None:
        debt_s = max(self._debt_s, now - NUMBERS.loss_memory_s) + loss_s / NUMBERS.loss_share
        self._debt_s = min(debt_s, now + NUMBERS.loss_memory_s)
        self.until_s = max(now + self._next_s, self._debt_s)
        self._next_s = min(4 * self._next_s, NUMBERS.max_pause_s)


class _Trial(msgspec.Struct):
    """Pairs of steps, the first with another count and the second with the settled one."""

    threads: int
    num_steps: int = 0
    gain: float = 0.0  # in steps

    @property
    def is_next(self) -> bool:
        """Whether the next step has the other count."""
        return self.num_steps % 2 == 0

    @property
    def is_over(self) -> bool:
        is_long = self.num_steps == 2 * NUMBERS.trial_pairs
        return self.is_next and (is_long or self.gain <= -NUMBERS.trial_loss)


class _Lane:
    """The count of one kind of step."""

    other: "_Lane"  # that of the other kind

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts
        self.settled = counts[-1]
        self._trial: _Trial | None = None
        self._up, self._down = _Pause(), _Pause()
        self._fell_s: float | None = None  # when it last fell; None once more were tried
        self._is_crowded = False  # too few cores were idle at some time since then

    @property
    def threads(self) -> int:
        return self._trial.threads if self._trial and self._trial.is_next else self.settled

    def observe(
        self, threads: int, seconds: float, expected: Callable[[int], float], now: float
    ) -> None:
        """`expected`: seconds of the same step, by threads."""
        fewer = self._beside(threads, -1)
        if fewer < threads and seconds > 2 * expected(fewer) + NUMBERS.collapse_s:
            self.fall(fewer, now, seconds - expected(fewer))
            self.other.fall(self.settled, now)
        elif trial := self._trial:
            settled_s = expected(self.settled)
            trial.gain += (-1 if trial.is_next else 1) * seconds / settled_s
            trial.num_steps += 1
            if trial.is_over:
                self._end(trial, settled_s, now)

    def _end(self, trial: _Trial, settled_s: float, now: float) -> None:
        self._trial = None
        is_up = trial.threads > self.settled
        if trial.gain <= 0:
            (self._up if is_up else self._down).fail(now, -trial.gain * settled_s)
        elif is_up:
            self.settled = trial.threads
            self.retry()
            self.other.retry()
        else:
            self.fall(trial.threads, now)

    def fall(self, threads: int, now: float, loss_s: float = 0.0) -> None:
        """To so many threads at most, and no trial of more for a while."""
        self.settled = min(self.settled, threads)
        self._trial = None
        self._up.fail(now, loss_s)
        self._fell_s, self._is_crowded = now, False

    def retry(self) -> None:
        """More threads may be better now."""
        self._up.end()
        self._fell_s = None

    def plan(self, now: float, seconds: float, idle: float | None) -> None:
        """Begins a trial if one is due; the last step took `seconds`."""
        if self._trial:
            return
        above, below = self._beside(self.settled, 1), self._beside(self.settled, -1)
        due_s = self._up.until_s
        if self._fell_s is not None and idle is not None:
            if above - self.settled > idle + 0.5:
                self._is_crowded = True
                due_s = max(due_s, self._fell_s + NUMBERS.loss_memory_s)
            elif self._is_crowded:
                due_s = now
        if above > self.settled and now >= due_s:
            self._trial, self._fell_s = _Trial(above), None
        elif now >= self._down.until_s and seconds <= NUMBERS.max_down_trial_s:
            self._trial = _Trial(below) if below < self.settled else None

    def _beside(self, threads: int, step: int) -> int:
        at = self._counts.index(threads) + step
        return self._counts[min(max(at, 0), len(self._counts) - 1)]


class ThreadController:
    """Call `threads()` before and `observe()` after each step. The engine's thread only.

    `idle_cores` tells how many cores had nothing to do of late, and `idle_now` at this moment, as
    in `IdleCores`; None where that is not known.
    """

    def __init__(
        self,
        times: StepTimes,
        counts: list[int],
        idle_cores: Callable[[], float | None] = lambda: None,
        idle_now: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`counts`: to choose from, ascending."""
        self._times = times
        self._counts = counts
        self._lanes = decode, prefill = _Lane(counts), _Lane(counts)
        decode.other, prefill.other = prefill, decode
        self._idle_cores = idle_cores
        self._idle_now = idle_now
        self._clock = clock
        self._last_step_s = -math.inf

    def settled(self, is_prefill: bool) -> int:
        """The count for steps of this kind, trials aside."""
        return self._lanes[is_prefill].settled

    def threads(self, is_prefill: bool) -> int:
        """The count for the next step, which is of this kind.

        Give both arguments of `llama_set_n_threads` this number: llama.cpp does not know the kinds,
        and computes any step of several rows with `n_threads_batch`.
        """
        if len(self._counts) > 1 and self._clock() > self._last_step_s + NUMBERS.rest_s:
            self._begin()
        self._last_step_s = self._clock()
        return self._lanes[is_prefill].threads

    def observe(self, num_rows: int, num_prompt_tokens: int, threads: int, seconds: float) -> None:
        """A step took `seconds`. Call this before `StepTimes.observe`, which learns from it."""
        if len(self._counts) == 1:
            return

        def expected(count: int) -> float:
            return self._times.expected(num_rows, num_prompt_tokens, count) or seconds

        now = self._last_step_s = self._clock()
        lane = self._lanes[num_prompt_tokens > 0]
        lane.observe(threads, seconds, expected, now)
        lane.plan(now, seconds, self._idle_cores())

    def _begin(self) -> None:
        """No step ran, so what keeps cores busy is other work."""
        idle = self._idle_now()
        for _ in range(NUMBERS.num_looks - 1):
            if idle is None or idle >= self._counts[-1]:
                break
            time.sleep(NUMBERS.look_interval_s)
            idle = max(idle, self._idle_now() or 0.0)
        if idle is None:
            idle = self._idle_cores()
        if idle is None:
            return
        room = max(count for count in self._counts if count <= max(1.0, idle + 0.5))
        for lane in self._lanes:
            if room < lane.settled:
                lane.fall(room, self._clock())
