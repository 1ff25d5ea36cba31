"""How many compute threads a step gets: one count for prefill, one for decode.

Compute threads spin at barriers. With other work on the cores, a step waits until all its threads
happen to run together. One thread too many turns 10 ms into 0.2 to 3 s; one too few costs a third
(SmolLM2-135M with two threads, on two cores that two to five busy processes share). Three rules:

- *Down* at once, to the next lower count, when a step takes `collapse_s` more than twice its time
  with that count. The other kind of step goes down with it.
- *Up or down* on trial: every second step has the next count, until that has shown to be faster or
  slower. Each failure quadruples the pause before the next one in its direction, and failures that
  cost more than `loss_share` of the last `loss_memory_s` lengthen it. When one kind of step has
  gone up, the other tries to. Prefill tries fewer threads only where decode gets by with fewer, and
  before fewer threads, pauses count time in steps: in a chat, each turn has one step of prefill,
  and its user would wait for the trial. While too few cores are idle, a failure rules out more
  threads for `loss_memory_s`; when cores become idle, they are tried at once.
- *Start* after a rest of `rest_s` with no more threads than cores are idle.
"""

import math
import time
from collections.abc import Callable

from localinfra.engine.policy.idle_cores import IdleCores
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
        self.failed_s = self.until_s = self._debt_s = -math.inf
        self._next_s = NUMBERS.first_pause_s

    def fail(self, now: float, loss_s: float) -> None:
        debt_s = max(self._debt_s, now - NUMBERS.loss_memory_s) + loss_s / NUMBERS.loss_share
        self._debt_s = min(debt_s, now + NUMBERS.loss_memory_s)
        self.failed_s, self.until_s = now, max(now + self._next_s, self._debt_s)
        self._next_s = min(4 * self._next_s, NUMBERS.max_pause_s)


class _Lane:
    """The count of one kind of step."""

    other: "_Lane"  # that of the other kind

    def __init__(
        self, counts: list[int], cores: IdleCores, clock: Callable[[], float], *, leads: bool
    ):
        """Which one `leads` is the first to try fewer threads."""
        self._counts, self._cores, self._clock, self._leads = counts, cores, clock, leads
        self.settled = counts[-1]
        self._tried: int | None = None  # the count on trial
        self._gains: list[float] = []  # of its steps, in steps
        self._up, self._down = _Pause(), _Pause()
        self._busy_s = 0.0  # in steps of this kind: the clock of `_down`
        self._is_crowded = False  # too few cores are idle for more

    @property
    def threads(self) -> int:
        """Of the next step; in a trial, every second one has the settled count."""
        return self.settled if self._tried is None or len(self._gains) % 2 else self._tried

    def observe(self, threads: int, seconds: float, expected: Callable[[int], float]) -> None:
        """`expected`: seconds of the same step, by threads."""
        self._busy_s += seconds
        fewer = self._beside(threads, -1)
        if fewer < threads and seconds > 2 * expected(fewer) + NUMBERS.collapse_s:
            self.fall(fewer, seconds - expected(fewer))
            self.other.fall(self.settled)
        elif self._tried is not None:
            settled_s = expected(self.settled)
            gain = 1 - seconds / settled_s
            self._gains.append(gain if threads == self._tried else -gain)
            gain = sum(self._gains)
            if len(self._gains) == 2 * NUMBERS.trial_pairs or gain <= -NUMBERS.trial_loss:
                self._end_trial(self._tried, gain * settled_s)
        else:
            self._begin_trial(seconds)

    def _end_trial(self, tried: int, gain_s: float) -> None:
        self._tried = None
        is_up = tried > self.settled
        if gain_s <= 0 and is_up:
            self._up.fail(self._clock(), -gain_s)
        elif gain_s <= 0:
            self._down.fail(self._busy_s, -gain_s)
        elif is_up:
            self.settled = tried
            self._up, self.other._up = _Pause(), _Pause()
        else:
            self.fall(tried)

    def fall(self, threads: int, loss_s: float = 0.0) -> None:
        """To so many threads at most, and no trial of more for a while."""
        self.settled = min(self.settled, threads)
        self._tried = None
        self._up.fail(self._clock(), loss_s)
        self._is_crowded = False  # until it shows: cores of late were idle before the fall, perhaps

    def _begin_trial(self, seconds: float) -> None:
        """If one is due; the last step took `seconds`."""
        now, idle = self._clock(), self._cores.of_late()
        above, below = self._beside(self.settled, 1), self._beside(self.settled, -1)
        due_s = self._up.until_s
        if idle is not None:
            was_crowded, self._is_crowded = self._is_crowded, above - self.settled > idle + 0.5
            if self._is_crowded:
                due_s = max(due_s, self._up.failed_s + NUMBERS.loss_memory_s)
            elif was_crowded:
                due_s = now
        may_go_down = seconds <= NUMBERS.max_down_trial_s
        may_go_down &= self._leads or self.other.settled < self.settled
        if above > self.settled and now >= due_s:
            self._tried, self._gains = above, []
        elif below < self.settled and may_go_down and self._busy_s >= self._down.until_s:
            self._tried, self._gains = below, []

    def _beside(self, threads: int, step: int) -> int:
        at = self._counts.index(threads) + step
        return self._counts[min(max(at, 0), len(self._counts) - 1)]


class ThreadController:
    """Call `threads()` before and `observe()` after each step. The engine's thread only."""

    def __init__(
        self,
        times: StepTimes,
        counts: list[int],
        cores: IdleCores,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`counts`: to choose from, ascending."""
        self._times = times
        self._counts = counts
        self._lanes = [_Lane(counts, cores, clock, leads=leads) for leads in (True, False)]
        decode, prefill = self._lanes
        decode.other, prefill.other = prefill, decode
        self._cores = cores
        self._clock = clock
        self._last_step_s = -math.inf

    def settled(self, is_prefill: bool) -> int:
        """The count for steps of this kind, trials aside."""
        return self._lanes[is_prefill].settled

    def threads(self, is_prefill: bool) -> int:
        """The count for the next step, which is of this kind."""
        if len(self._counts) > 1 and self._clock() > self._last_step_s + NUMBERS.rest_s:
            self._start()
        self._last_step_s = self._clock()
        return self._lanes[is_prefill].threads

    def observe(
        self,
        num_rows: int,
        num_prompt_tokens: int,
        threads: int,
        seconds: float,
        depth: float = 0,
    ) -> None:
        """A step took `seconds`. Call this before `StepTimes.observe`, which learns from it."""

        def expected(count: int) -> float:
            return self._times.expected(num_rows, num_prompt_tokens, count, depth) or seconds

        self._last_step_s = self._clock()
        if len(self._counts) > 1:
            self._lanes[num_prompt_tokens > 0].observe(threads, seconds, expected)

    def _start(self) -> None:
        """No step ran, so what keeps cores busy is other work."""
        idle = self._cores.at_once()
        if idle is None:
            return
        for _ in range(NUMBERS.num_looks - 1):
            if idle < self._counts[-1]:
                time.sleep(NUMBERS.look_interval_s)
                idle = max(idle, self._cores.at_once() or 0.0)
        room = max(count for count in self._counts if count <= max(1.0, idle + 0.5))
        for lane in self._lanes:
            if room < lane.settled:
                lane.fall(room)
