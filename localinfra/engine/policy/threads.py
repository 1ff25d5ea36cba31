"""How many compute threads a step gets, from how long steps took: one count for prefill, one for
decode, between 1 and the core count.

Arithmetic on observed seconds; what else the machine does it is told (`IdleCores`). Who steps
calls `threads` before and `observe` after each step.

Compute threads spin at barriers. With other work on the cores a step waits until all of them
happen to run together: one thread too many makes 0.2 to 3 s of 10 ms, and 8 s of the 0.5 s of a
prefill chunk of 128 tokens (SmolLM2-135M, two threads beside two to five busy processes on two
cores), while one too few costs a third. Hence: down at the first step that costs more than was
gained, up by short trials whose losses are budgeted.
"""

import enum
import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable

# Of an estimate's error this much is taken over per step: half of it by the shape observed, half by
# all of them, since depth and clock rate slow all thread counts alike.
LEARNING_RATE = 0.1
MAX_SURPRISE = 2.0  # an outlier counts as this many times the estimate, either way
NUM_SURPRISES = 3  # the median of so many steps tells by how much estimates are off now
NUM_FIRST = 3  # of a shape's first steps the fastest counts: the others hold page faults

HICCUP_S = 0.1  # one preemption of this length is no reason to move; a collapse is longer
TRIAL_STEPS, MAX_TRIAL_STEPS = 8, 32  # with 10 % noise their mean is known to 3.5 % and 2 %
CLOSE = 0.1  # a smaller difference takes the longer trial
MIN_GAIN = 0.03  # another count must be better by this
TRIAL_NOISE = 0.4  # a trial ends early if it lost this many steps times the root of their number

LOSS_BUDGET = 0.02  # of the time may go to failed trials
FIRST_PAUSE_S = 0.1  # before the first attempt to go back up, four times that before the next
MAX_PAUSE_S = 15.0  # as above, unless the budget asks for more
MAX_BUDGET_PAUSE_S = 120.0
FIRST_DOWN_PAUSE_S, MAX_DOWN_PAUSE_S = 1.0, 60.0  # between trials of fewer threads, doubling
REACH = 3  # rungs down in sight: the next one may collapse as well

ROOM_PAUSE_S = 1.0  # with idle cores in sight, the same; holds two windows of IdleCores
NO_ROOM_PAUSE_S = 120.0  # with none: they may still be busy with work of low priority
QUIET_DOWN_PAUSE_S = 20.0  # between trials of fewer threads while others use hardly anything
MAX_DOWN_TRIAL_S = 0.3  # a step that takes longer is not tried with fewer; a collapse still shows
QUIET_CORES = 0.2  # that is, less than this
# Whether other work goes on is looked at a few times at once, for the event loop has just submitted
# a request and may run for another moment; and later, for threads spin on after their work.
NUM_FIRST_LOOKS, FIRST_LOOK_INTERVAL_S = 4, 0.001
NUM_DOUBTFUL_LOOKS = 12  # at first, where cores that are busy now were idle a moment before
NUM_LOOKS, LOOK_INTERVAL_S = 25, 0.02
REST_S = 0.25  # after this long without a step, the idle cores say where to begin


def rungs(max_threads: int) -> list[int]:
    """The thread counts worth trying, ascending: all but one, then steps of about a third."""
    counts = {max_threads, max(1, max_threads - 1)}
    size = max_threads
    while size >= 1:
        counts |= {size, max(1, size * 3 // 4)}
        size //= 2
    return sorted(counts)


class StepCosts:
    """Expected seconds of a step by its number of tokens and threads, learnt from observed ones."""

    def __init__(self) -> None:
        # tokens → threads → what times the scale gives seconds
        self._shapes: dict[int, dict[int, float]] = {}
        self._num_seen: Counter[tuple[int, int]] = Counter()
        self._scale = 1.0

    def expected(self, num_tokens: int, threads: int) -> float | None:
        """None before the first observation. For an unknown shape the least that follows from
        known ones: k times the tokens, or a k-th of the threads, take at most k times as long."""
        size = _size_class(num_tokens)
        shape = self._shapes.get(size, {}).get(threads)
        if shape is None:
            sizes = [size] if size in self._shapes else list(self._shapes)
            shape = min(
                (
                    known * max(1.0, size / known_size) * max(1.0, known_threads / threads)
                    for known_size in sizes
                    for known_threads, known in self._shapes[known_size].items()
                ),
                default=None,
            )
        return None if shape is None else shape * self._scale

    def learn(self, num_tokens: int, threads: int, seconds: float) -> None:
        expected = self.expected(num_tokens, threads)
        if expected is None:
            expected = seconds
        seconds = min(seconds, expected * MAX_SURPRISE)
        size = _size_class(num_tokens)
        shapes = self._shapes.setdefault(size, {})
        self._num_seen[size, threads] += 1
        if self._num_seen[size, threads] <= NUM_FIRST:  # what was expected was an upper bound
            shapes[threads] = min(shapes.get(threads, math.inf), seconds / self._scale)
        else:
            seconds = max(seconds, expected / MAX_SURPRISE)
            step = 1 + LEARNING_RATE / 2 * (seconds / expected - 1)
            shapes[threads] *= step
            self._scale *= step


def _size_class(num_tokens: int) -> int:
    """Exact up to 8 tokens, then within 10 %."""
    if num_tokens <= 8:
        return num_tokens
    return round(8 * 1.2 ** round(math.log(num_tokens / 8, 1.2)))


def is_collapse(seconds: float, expected: float) -> bool:
    """Whether a step's threads waited for each other, rather than being a little too many."""
    return seconds > 2 * expected + HICCUP_S


class Move(enum.Enum):
    """What a step made of a lane; the other one wants to know."""

    COLLAPSED = enum.auto()  # fewer threads again, as a step took several times too long
    RAISED = enum.auto()  # more threads, after a trial


class _Trial:
    """Some steps with another thread count, against what they would have cost with the present;
    every second step, which has the present count, tells how that has changed."""

    def __init__(self, threads: int):
        self.threads = threads
        self.is_next = True  # the next step is one of them
        self._num_steps = 0
        self._gain = 0.0  # in steps
        self.gain_s = 0.0

    def add(self, expected: float, seconds: float) -> bool | None:
        """Whether the other count is better; None while that is open."""
        self._num_steps += 1
        self._gain += (expected - seconds) / expected
        self.gain_s += expected - seconds
        if self._gain < -TRIAL_NOISE * math.sqrt(self._num_steps):
            return False
        mean_gain = self._gain / self._num_steps
        if self._num_steps < (MAX_TRIAL_STEPS if abs(mean_gain) < CLOSE else TRIAL_STEPS):
            return None
        return mean_gain >= MIN_GAIN


class _Lane:
    """The thread count of one kind of step: where it is, and when it tries another."""

    def __init__(self, counts: list[int], now: float):
        self._rungs = counts
        self._settled = counts[-1]
        self._trial: _Trial | None = None
        self._costs = StepCosts()
        self._surprises: deque[float] = deque([1.0], NUM_SURPRISES)  # settled steps, per expected
        self._arrive(counts[-1])
        self._num_steps = TRIAL_STEPS - 1  # the first step may be a collapse already: compare
        # Upwards:
        self._num_failures = 0  # attempts that did not pay, in a row
        self._begin_pause(0.0, 0.0)
        self._is_crowded = False  # no core was idle, after what we left had had time to show
        # Downwards:
        self._down_at_s = now
        self._down_reach = 1

    @property
    def threads(self) -> int:
        return self._trial.threads if self._trial and self._trial.is_next else self._settled

    def observe(
        self,
        num_tokens: int,
        seconds: float,
        threads: int,
        now: float,
        idle: float | None,
        is_quiet: bool,
    ) -> Move | None:
        move = None
        if self._trial and threads == self._trial.threads:
            self._trial.is_next = False
            move = self._judge_trial(self._trial, num_tokens, seconds, now)
        elif threads == self._settled:
            expected = self._costs.expected(num_tokens, threads) or seconds
            self._surprises.append(seconds / expected)
            if not self._trial:
                move = self._judge_step(num_tokens, seconds, now)
            elif self._trial.threads < threads and is_collapse(seconds, expected):
                self._accept(self._trial, now)
                move = Move.COLLAPSED
            else:
                self._trial.is_next = True
        self._costs.learn(num_tokens, threads, seconds)
        if self._trial is None:
            self._plan(now, idle, is_quiet, seconds)
        return move

    def yield_to(self, threads: int, now: float) -> None:
        """Fewer threads because of what was seen elsewhere; up again when that is over."""
        if threads < self._settled:
            self._num_failures = 1
            self._fall(threads, now, MAX_PAUSE_S)
        elif self._trial and self._trial.threads > threads:
            self._begin_pause(now, MAX_PAUSE_S)
        self._trial = None

    def retry_now(self) -> None:
        """Others can go up again, or cores have become idle."""
        self._num_failures = min(self._num_failures, 1)
        self._since_s = -math.inf

    def _arrive(self, threads: int) -> None:
        self._settled = threads
        self._num_steps = 0  # since then
        self._gain_s = 0.0  # by being here and not on the best rung below; may be negative
        self._credit_s = math.inf  # the same, forgetting old gains; below 0 it is time to go
        self._down_pause_s = FIRST_DOWN_PAUSE_S

    def _judge_step(self, num_tokens: int, seconds: float, now: float) -> Move | None:
        """Goes down where steps cost more than they would there (a CUSUM test): at once if one
        costs much more, after some dozens if they cost little more."""
        self._num_steps += 1
        at = self._rungs.index(self._settled)
        below = [
            (expected, rung)
            for rung in self._rungs[max(0, at - REACH) : at]
            if (expected := self._costs.expected(num_tokens, rung)) is not None
        ]
        if not below:
            return None
        expected, rung = min(below)
        self._gain_s += expected - seconds
        self._credit_s = min(self._credit_s, expected + HICCUP_S) + expected - seconds
        if self._credit_s >= 0:
            return None
        # After a time that paid, whatever happened may be over at once, unless it was a collapse:
        # then idle cores have to be seen. After one that did not, going up was a mistake.
        loss_s = -self._gain_s
        has_collapsed = is_collapse(seconds, expected)
        self._num_failures = self._num_failures + 1 if loss_s > 0 else int(has_collapsed)
        self._fall(rung, now, self._pause_after(loss_s))
        return Move.COLLAPSED if has_collapsed else None

    def _fall(self, threads: int, now: float, pause_s: float) -> None:
        came_from = self._settled
        self._arrive(threads)
        self._begin_pause(now, pause_s)
        self._target = came_from

    def _begin_pause(self, now: float, pause_s: float) -> None:
        self._since_s, self._pause_s = now, pause_s
        self._target = 0  # the next attempt goes here, or one rung up if that is more

    def _pause_after(self, loss_s: float) -> float:
        growing = min(FIRST_PAUSE_S * 4.0 ** min(self._num_failures, 9), MAX_PAUSE_S)
        return max(growing, min(loss_s / LOSS_BUDGET, MAX_BUDGET_PAUSE_S))

    def _judge_trial(
        self, trial: _Trial, num_tokens: int, seconds: float, now: float
    ) -> Move | None:
        expected = self._costs.expected(num_tokens, self._settled)
        if expected is not None:
            # Steps take longer the deeper a prompt is, which the costs follow slowly.
            surprise = statistics.median(self._surprises)
            expected *= min(max(surprise, 1 / MAX_SURPRISE), MAX_SURPRISE)
        if expected is None or (is_better := trial.add(expected, seconds)) is None:
            return None
        self._trial = None
        is_up = trial.threads > self._settled
        if is_better:
            self._accept(trial, now)
            self._gain_s = trial.gain_s if is_up else 0.0
        elif is_up:
            self._num_failures += 1
            self._begin_pause(now, self._pause_after(-trial.gain_s))
        else:
            self._down_at_s = now + max(self._down_pause_s, -trial.gain_s / LOSS_BUDGET)
            self._down_pause_s = min(2 * self._down_pause_s, MAX_DOWN_PAUSE_S)
        if is_up and is_better:
            return Move.RAISED
        # The other lane would meet the same: its steps are longer, and cost more.
        return Move.COLLAPSED if is_up and is_collapse(seconds, expected) else None

    def _accept(self, trial: _Trial, now: float) -> None:
        self._trial = None
        self._arrive(trial.threads)
        self._num_failures = max(1, self._num_failures)
        self._begin_pause(now, FIRST_PAUSE_S)

    def _plan(self, now: float, idle: float | None, is_quiet: bool, seconds: float) -> None:
        """Begins a trial if one is due; the last step took `seconds`."""
        at = self._rungs.index(self._settled)
        if at + 1 < len(self._rungs):
            step_up = self._rungs[at + 1]
            # Rung by rung, unless it may only have been a moment's trouble.
            target = max(self._target, step_up) if self._num_failures <= 1 else step_up
            pause_s = self._pause_s
            if idle is not None and self._num_failures:
                has_room = idle >= target - self._settled - 0.25
                if has_room and self._is_crowded:
                    self.retry_now()
                self._is_crowded = not has_room and now >= self._since_s + ROOM_PAUSE_S
                room_pause_s = ROOM_PAUSE_S * 4.0 ** (min(self._num_failures, 9) - 1)
                pause_s = min(self._pause_s, room_pause_s)
                if not has_room:
                    pause_s = self._pause_s + NO_ROOM_PAUSE_S
            if now >= self._since_s + pause_s:
                self._trial = _Trial(target)
                return
        down_at_s = self._down_at_s + (QUIET_DOWN_PAUSE_S if is_quiet else 0.0)
        is_cheap = seconds <= MAX_DOWN_TRIAL_S
        if at and self._num_steps >= TRIAL_STEPS and now >= down_at_s and is_cheap:
            self._trial = _Trial(self._rungs[max(0, at - self._down_reach)])
            self._down_reach = self._down_reach % min(REACH, at) + 1


class ThreadController:
    """Chooses the thread count of each step. The engine's thread only.

    `idle_cores` tells how many cores had nothing to do of late (None: not known), `idle_now` at
    this moment, and `others` how many other processes kept busy, as `IdleCores` does. They only
    say when to look, and where to begin: what is kept is what made steps faster. Without them,
    going back up after other work has ended takes MAX_PAUSE_S or, where the last attempt was dear,
    up to MAX_BUDGET_PAUSE_S.
    """

    def __init__(
        self,
        max_threads: int,
        idle_cores: Callable[[], float | None] | None = None,
        idle_now: Callable[[], float | None] | None = None,
        others: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._rungs = rungs(max_threads)
        self._decode, self._prefill = _Lane(self._rungs, clock()), _Lane(self._rungs, clock())
        self._idle_cores = idle_cores
        self._idle_now = idle_now
        self._others = others
        self._clock = clock
        self._last_step_s = -math.inf
        self._num_looks = 0  # left, since it began with fewer threads than there are
        self._next_look_s = 0.0

    def threads(self, is_prefill: bool) -> int:
        """The count for the next step of this kind.

        llama.cpp counts by tokens, not by kind: a step of several rows takes `n_threads_batch`.
        So both arguments of `llama_set_n_threads` are to be this number.
        """
        now = self._clock()
        if len(self._rungs) > 1 and now > self._last_step_s + REST_S:
            self._begin(now)
        elif self._num_looks and now >= self._next_look_s:
            self._look_again(now)
        self._last_step_s = now
        return (self._prefill if is_prefill else self._decode).threads

    def observe(self, is_prefill: bool, num_tokens: int, seconds: float, threads: int) -> None:
        """A step of so many tokens (rows of decoding ones included) took `seconds`."""
        if len(self._rungs) == 1:
            return
        now = self._last_step_s = self._clock()
        idle = self._idle_cores() if self._idle_cores else None
        # Not known yet is as good as quiet: a collapse shows without trials.
        is_quiet = self._others is not None and (self._others() or 0.0) < QUIET_CORES
        lane, other = self._decode, self._prefill
        if is_prefill:
            lane, other = other, lane
        move = lane.observe(num_tokens, seconds, threads, now, idle, is_quiet)
        if move is Move.COLLAPSED:
            other.yield_to(lane.threads, now)
        elif move is Move.RAISED:
            other.retry_now()

    def _begin(self, now: float) -> None:
        """Nothing of ours ran, so cores that are busy, look after look, belong to others."""
        self._num_looks = 0
        idle = self._idle_cores() if self._idle_cores else None
        if idle is None:
            return
        if self._idle_now:
            idle = self._most_idle(idle, self._idle_now)
            if self._room(idle) < self._rungs[-1]:
                self._num_looks, self._next_look_s = NUM_LOOKS, now + LOOK_INTERVAL_S
        room = self._room(idle)
        self._decode.yield_to(room, now)
        self._prefill.yield_to(room, now)

    def _most_idle(self, idle: float, idle_now: Callable[[], float | None]) -> float:
        """The most cores that some looks find idle, within milliseconds. Work of a moment ago may
        have ended, and some may have begun only now: then what was `idle` of late tells nothing."""
        # By half a core of others' work, as `_room` rounds; this process computed a moment ago.
        others = self._others() if self._others else None
        was_busy = self._room(idle) < self._rungs[-1] and (others is None or others >= 0.5)
        most = idle if was_busy else 0.0
        for _ in range(NUM_FIRST_LOOKS if was_busy else NUM_DOUBTFUL_LOOKS):
            seen = idle_now()
            most = max(most, idle if seen is None else seen)
            if self._room(most) == self._rungs[-1]:
                break
            time.sleep(FIRST_LOOK_INTERVAL_S)
        return most

    def _look_again(self, now: float) -> None:
        """Work that has just ended was no reason to hold back."""
        self._num_looks -= 1
        self._next_look_s = now + LOOK_INTERVAL_S
        idle = self._idle_now() if self._idle_now else None
        if idle is not None and self._room(idle) > max(self._decode.threads, self._prefill.threads):
            self._num_looks = 0
            self._decode.retry_now()
            self._prefill.retry_now()

    def _room(self, idle: float) -> int:
        return max(count for count in self._rungs if count <= max(1.0, idle + 0.5))
