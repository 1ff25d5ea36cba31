"""How many drafted tokens a step verifies.

A drafted token costs a row, and gains a token if all are right up to it. What rows cost is learned
from steps that had them, so `allowance` pays for some with other numbers of rows than the best.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import expm1, log, log1p

from localinfra.engine.policy.numbers import NUMBERS


class Speculator:
    """The engine's thread only."""

    def __init__(self) -> None:
        self._allowance = NUMBERS.allowance
        self._num_trials: Counter[int] = Counter()  # by rows
        self.saved = 0.0  # share of the time that the last sizes save; negative for a trial
        self.least_chance = 0.0  # from which on a token is worth what theirs take on average

    def sizes(
        self,
        chances: list[list[float]],
        max_drafted: int,
        cost: Callable[[int], float],
        size_of: Callable[[int], int] = int,
        work: Sequence[float] = (),
    ) -> list[int]:
        """How many draft tokens of each sequence to add to a step in which each samples one; at
        most `max_drafted` in all. `chances` is what each sequence's drafter gave, `cost` what a
        step of so many rows takes, in any unit, `size_of` up to how many it is filled, and `work`
        what each drafter takes per token; none: nothing.

        They maximize the geometric mean of the sequences' speeds: of several, none may slow the
        others by more than it gains."""
        self._allowance = min(self._allowance + NUMBERS.refill, NUMBERS.allowance)
        ranked: list[tuple[float, int, float]] = []  # gain in log speed, sequence, chance
        for index, falling in enumerate(chances):
            made = accumulate(falling, initial=1.0)  # tokens before each
            ranked += [(log1p(p / m), index, p) for p, m in zip(falling, made, strict=False)]
        ranked.sort(reverse=True)  # in a sequence gains fall, so its first tokens come first
        del ranked[max_drafted:]
        if not ranked:
            return [0] * len(chances)
        gains = accumulate((gain for gain, _, _ in ranked), initial=0.0)
        totals = [*accumulate((chance for _, _, chance in ranked), initial=float(len(chances)))]
        steps = [size_of(len(chances) + count) for count in range(len(ranked) + 1)]  # in rows
        spent = accumulate((work[index] if work else 0.0 for _, index, _ in ranked), initial=0.0)
        seconds = [cost(rows) + extra for rows, extra in zip(steps, spent, strict=True)]
        speeds = [g / len(chances) - log(s) for g, s in zip(gains, seconds, strict=True)]
        best = max(speeds)
        losses = [total * expm1(best - s) for total, s in zip(totals, speeds, strict=True)]
        chosen = self._chosen(steps, losses)
        sizes = Counter(index for _, index, _ in ranked[:chosen])
        self.saved = -expm1(speeds[0] - speeds[chosen])
        share = 0.0 if losses[chosen] else (1 - seconds[0] / seconds[chosen]) / max(1, chosen)
        self.least_chance = share * totals[chosen]
        return [sizes[index] for index in range(len(chances))]

    def _chosen(self, steps: list[int], losses: list[float]) -> int:
        """Best, or on trial: powers of two in turn, as costs between them are close to the line."""
        best = losses.index(0.0)
        affordable = [
            (self._num_trials[size], count)
            for count, size in enumerate(steps)
            if size != steps[best] and not size & (size - 1) and losses[count] <= self._allowance
        ]
        if not affordable:
            return best
        _, count = min(affordable)
        self._num_trials[steps[count]] += 1
        self._allowance -= losses[count]
        return count
