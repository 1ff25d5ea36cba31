"""How many compute threads a step gets, from what steps take: one count for prefill, one for
decode, between 1 and the core count.

Three rules:

- *Down* at once where steps have lost a step's time and 0.1 s against fewer threads: one collapse,
  or many steps that are somewhat slower.
- *Up or down* by one on trial: every second step has the other count, until it has shown to be
  faster or not. Each failure quadruples the pause before the next trial, and what it lost counts.
- *Start* after a rest with no more than as many as cores are idle. Where cores become idle after
  threads had to be fewer, more are tried at once.

Compute threads spin at barriers. With other work on the cores a step waits until all of them
happen to run together: one thread too many makes 0.2 to 3 s of 10 ms, and 8 s of the 0.5 s of a
prefill chunk of 128 tokens (SmolLM2-135M, two threads beside two to five busy processes on two
cores), while one too few costs a third.
"""

import enum
import math
import time
from collections.abc import Callable

import msgspec

from localinfra.engine.policy.step_times import StepTimes


class ThreadNumbers(msgspec.Struct, frozen=True):
    credit_s: float = 0.1  # that steps may lose, besides one: being preempted once is no collapse
    trial_steps: int = 8  # with 10 % noise their mean is known to 3.5 %
    trial_loss: float = 0.5  # steps; a trial that has lost so much ends early
    max_down_trial_s: float = 0.3  # longer steps are not tried with fewer; a collapse still shows
    first_pause_s: float = 0.1  # before a trial, four times that after each that failed
    max_up_pause_s: float = 15.0  # other work may have ended,
    max_down_pause_s: float = 4.0  # or begun: losses are small
    loss_share: float = 0.02  # of the time, the last two minutes', may go to failed trials
    loss_memory_s: float = 120.0  # as long; so seldom is more tried with no idle core in sight
    rest_s: float = 0.25  # after this long without a step, the idle cores say where to begin
    # They are looked at so often at once: the event loop, which has just submitted a request, may
    # run for another moment.
    num_looks: int = 8
    look_interval_s: float = 0.001


NUMBERS = ThreadNumbers()


def rungs(max_threads: int) -> list[int]:
    """The thread counts worth trying, ascending: all but one, then steps of about a third."""
    counts = {max_threads, max(1, max_threads - 1)}
    size = max_threads
    while size >= 1:
        counts |= {size, max(1, size * 3 // 4)}
        size //= 2
    return sorted(counts)


class Move(enum.Enum):
    """What a step made of a lane; the other one wants to know."""

    COLLAPSED = enum.auto()  # fewer threads
    RAISED = enum.auto()  # more threads, after a trial


class _Pause:
    """Before the next trial in one direction."""

    def __init__(self, now: float, max_s: float) -> None:
        self._max_s = max_s
        self._debt_s = -math.inf  # until then what was lost exceeds its share
        self.restart(now)

    def restart(self, now: float) -> None:
        """There is another count since now."""
        self._num_failures = 0
        self.until_s = now + NUMBERS.first_pause_s

    def fail(self, now: float, loss_s: float) -> None:
        grown_s = NUMBERS.first_pause_s * 4.0 ** min(self._num_failures, 9)
        self._num_failures += 1
        debt_s = max(self._debt_s, now - NUMBERS.loss_memory_s)
        debt_s += max(loss_s, 0.0) / NUMBERS.loss_share
        self._debt_s = min(debt_s, now + NUMBERS.loss_memory_s)
        self.until_s = max(now + min(grown_s, self._max_s), self._debt_s)


class _Trial:
    """Every second step has another count; both kinds are compared with what is expected."""

    def __init__(self, threads: int):
        self.threads = threads
        self.is_next = True  # the next step is one of them
        self.loss_s = 0.0
        self._num_pairs = 0
        self._gain = 0.0  # in steps

    def add(self, seconds: float, expected: float) -> bool | None:
        """Whether the other count is better; None while that is open."""
        ratio = min(seconds / expected, 2.0)  # outliers are no reason to move
        if self.is_next:
            self.is_next = False
            self._gain -= ratio
            self.loss_s += seconds - expected
            return None
        self.is_next = True
        self._gain += ratio
        self._num_pairs += 1
        if self._gain > -NUMBERS.trial_loss and self._num_pairs < NUMBERS.trial_steps:
            return None
        return self._gain > 0


class _Lane:
    """The count of one kind of step: where it is, and when it tries another."""

    def __init__(self, times: StepTimes, counts: list[int], now: float):
        self._times = times
        self._counts = counts
        self.settled = counts[-1]
        self._credit_s = math.inf  # that steps may lose against fewer; old gains are forgotten
        self._trial: _Trial | None = None
        self._up = _Pause(now, NUMBERS.max_up_pause_s)
        self._down = _Pause(now, NUMBERS.max_down_pause_s)
        self._fell_s: float | None = None  # when it had to be fewer, unless it was more since then
        self._is_crowded = False  # no core was idle since then

    @property
    def threads(self) -> int:
        return self._trial.threads if self._trial and self._trial.is_next else self.settled

    def observe(
        self, num_rows: int, num_prompt_tokens: int, threads: int, seconds: float, now: float
    ) -> Move | None:
        def expected(count: int) -> float:
            return self._times.expected(num_rows, num_prompt_tokens, count) or seconds

        below = self._beside(threads, -1)
        loss_s = seconds - expected(below)
        if threads >= self.settled and below < threads:
            self._credit_s = min(self._credit_s, expected(below) + NUMBERS.credit_s) - loss_s
            if self._credit_s < 0:
                self.fall(below, now, max(loss_s, 0.0))
                return Move.COLLAPSED
        if self._trial is None or threads != self.threads:
            return None
        is_better = self._trial.add(seconds, expected(self.settled))
        return None if is_better is None else self._end_trial(self._trial, is_better, now)

    def fall(self, threads: int, now: float, loss_s: float = 0.0) -> None:
        """To so many threads at most, and no trial of more for a while."""
        self.settled = min(self.settled, threads)
        self._credit_s = math.inf
        self._trial = None
        self._up.fail(now, loss_s)
        self._fell_s, self._is_crowded = now, False

    def retry(self) -> None:
        """More threads may be better now."""
        self._up.until_s = -math.inf
        self._fell_s = None

    def plan(self, now: float, seconds: float, idle: float | None) -> None:
        """Begins a trial if one is due; the last step took `seconds`."""
        if self._trial:
            return
        above, below = self._beside(self.settled, 1), self._beside(self.settled, -1)
        due_s = self._up.until_s
        if self._fell_s is not None and idle is not None:
            has_room = idle >= above - self.settled - 0.25
            if not has_room:
                self._is_crowded = True
                due_s = max(due_s, self._fell_s + NUMBERS.loss_memory_s)
            elif self._is_crowded:
                self.retry()
                due_s = -math.inf
        if above > self.settled and now >= due_s:
            self._trial = _Trial(above)
        elif (
            below < self.settled
            and now >= self._down.until_s
            and seconds <= NUMBERS.max_down_trial_s
        ):
            self._trial = _Trial(below)

    def _end_trial(self, trial: _Trial, is_better: bool, now: float) -> Move | None:
        self._trial = None
        is_up = trial.threads > self.settled
        if not is_better:
            (self._up if is_up else self._down).fail(now, trial.loss_s)
            return None
        self.settled, self._fell_s = trial.threads, None
        self._credit_s = math.inf
        self._up.restart(now)
        self._down.restart(now)
        return Move.RAISED if is_up else None

    def _beside(self, threads: int, step: int) -> int:
        at = self._counts.index(threads) + step
        return self._counts[min(max(at, 0), len(self._counts) - 1)]


class ThreadController:
    """Chooses the thread count of each step. The engine's thread only.

    `idle_cores` tells how many cores had nothing to do of late, and `idle_now` at this moment, as
    `IdleCores` does; None where that is not known. They only say when to look and where to begin:
    what is kept is what made steps faster.
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
        self._counts = counts
        self._decode, self._prefill = (_Lane(times, counts, clock()) for _ in range(2))
        self._idle_cores = idle_cores
        self._idle_now = idle_now
        self._clock = clock
        self._last_step_s = -math.inf

    def settled(self, is_prefill: bool) -> int:
        """The count that steps of this kind have, apart from trials."""
        return self._lanes(is_prefill)[0].settled

    def threads(self, is_prefill: bool) -> int:
        """The count for the next step, of this kind.

        llama.cpp counts by tokens, not by kind: a step of several rows takes `n_threads_batch`.
        So both arguments of `llama_set_n_threads` are to be this number.
        """
        if len(self._counts) > 1 and self._clock() > self._last_step_s + NUMBERS.rest_s:
            self._begin()
        self._last_step_s = self._clock()
        return self._lanes(is_prefill)[0].threads

    def observe(self, num_rows: int, num_prompt_tokens: int, threads: int, seconds: float) -> None:
        """A step took `seconds`. To be told before `StepTimes`, which learns from it."""
        if len(self._counts) == 1:
            return
        now = self._last_step_s = self._clock()
        lane, other = self._lanes(num_prompt_tokens > 0)
        move = lane.observe(num_rows, num_prompt_tokens, threads, seconds, now)
        if move is Move.COLLAPSED:
            other.fall(lane.settled, now)
        elif move is Move.RAISED:
            other.retry()
        lane.plan(now, seconds, self._idle_cores())

    def _lanes(self, is_prefill: bool) -> tuple[_Lane, _Lane]:
        """The one of this kind first."""
        return (self._prefill, self._decode) if is_prefill else (self._decode, self._prefill)

    def _begin(self) -> None:
        """Nothing of ours ran, so cores that are busy belong to others."""
        idle, now = self._most_idle(), self._clock()
        if idle is None:
            return
        room = max(count for count in self._counts if count <= max(1.0, idle + 0.5))
        for lane in (self._decode, self._prefill):
            if room < lane.settled:
                lane.fall(room, now)
            elif room > lane.settled:
                lane.retry()

    def _most_idle(self) -> float | None:
        """Of some looks within milliseconds; where that can't be seen, of late."""
        idle = self._idle_now()
        if idle is None:
            return self._idle_cores()
        for _ in range(NUMBERS.num_looks - 1):
            if idle + 0.5 >= self._counts[-1]:
                break
            time.sleep(NUMBERS.look_interval_s)
            idle = max(idle, self._idle_now() or 0.0)
        return idle
