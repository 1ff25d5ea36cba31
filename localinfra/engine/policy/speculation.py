"""How many drafted tokens a step verifies.

A drafted token costs a row, and gains a token if all are right up to it. What rows cost is learned
from steps that had them, so at times a step has another number of rows than what seems best, as far
as `allowance` covers what may be lost.
"""

from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from math import expm1, log, log1p

from localinfra.engine.policy.numbers import NUMBERS


class Speculator:
    """The engine's thread only."""

    def __init__(self) -> None:
        self._allowance = NUMBERS.allowance
        self._num_trials: Counter[int] = Counter()  # by rows

    def sizes(
        self,
        chances: list[list[float]],
        max_drafted: int,
        cost: Callable[[int], float],
        size_of: Callable[[int], int] = int,
    ) -> list[int]:
        """How many draft tokens of each sequence to add to a step in which each samples one; at
        most `max_drafted` in all. `chances` is what each sequence's Drafter gave, `cost` what a
        step of so many rows takes, in any unit, and `size_of` up to how many it is filled.

        They maximize the geometric mean of the sequences' speeds. Of one sequence that is tokens
        per second; of several, none may slow the others by more than it gains.
        """
        self._allowance = min(self._allowance + NUMBERS.refill, NUMBERS.allowance)
        ranked: list[tuple[float, int, float]] = []  # gain in log speed, sequence, chance
        for index, falling in enumerate(chances):
            made = accumulate(falling, initial=1.0)  # tokens before each
            ranked += [(log1p(p / m), index, p) for p, m in zip(falling, made, strict=False)]
        ranked.sort(reverse=True)  # in a sequence gains fall, so its first tokens come first
        del ranked[max_drafted:]
        sizes = [0] * len(chances)
        if not ranked:
            return sizes
        gains = accumulate((gain for gain, _, _ in ranked), initial=0.0)
        totals = accumulate((chance for _, _, chance in ranked), initial=float(len(chances)))
        steps = [size_of(len(chances) + count) for count in range(len(ranked) + 1)]  # in rows
        speeds = [g / len(chances) - log(cost(s)) for g, s in zip(gains, steps, strict=True)]
        best = max(speeds)
        losses = [total * expm1(best - s) for total, s in zip(totals, speeds, strict=True)]
        for _, index, _ in ranked[: self._chosen(steps, losses)]:
            sizes[index] += 1
        return sizes

    def _chosen(self, steps: list[int], losses: list[float]) -> int:
        """How many drafted tokens are best, or on trial. Only powers of two are tried, in turn:
        costs between them are close to the line."""
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
