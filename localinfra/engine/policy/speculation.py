"""How many drafted tokens a step verifies, from what steps of more rows take."""

from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from math import expm1, log, log1p

import msgspec


class SpeculationNumbers(msgspec.Struct, frozen=True):
    allowance: float = 2.0  # tokens that trials of other numbers of rows may lose at once
    refill: float = 0.005  # of it, tokens per step


NUMBERS = SpeculationNumbers()


class Speculator:
    """How many drafted tokens a step verifies. The engine's thread only."""

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

        Makes the geometric mean of the sequences' speeds as large as it can be: alone, that is
        tokens per second; together, one that repeats itself may not slow the others for more than
        it gains. Costs are learned from what is tried, so now and then a number is tried that may
        lose some tokens' time.
        """
        self._allowance = min(self._allowance + NUMBERS.refill, NUMBERS.allowance)
        ranked: list[tuple[float, int, float]] = []  # gain in log speed, sequence, chance
        for index, falling in enumerate(chances):
            made = 1.0
            for chance in falling:
                ranked.append((log1p(chance / made), index, chance))
                made += chance
        ranked.sort(reverse=True)  # in a sequence gains fall, so its first tokens come first
        del ranked[max_drafted:]
        num_rows, sizes = len(chances), [0] * len(chances)
        if not ranked:
            return sizes
        gains = accumulate((gain for gain, _, _ in ranked), initial=0.0)
        steps = [size_of(num_rows + count) for count in range(len(ranked) + 1)]  # in rows
        speeds = [gain / num_rows - log(cost(s)) for gain, s in zip(gains, steps, strict=True)]
        best = max(range(len(speeds)), key=speeds.__getitem__)
        totals = accumulate((chance for _, _, chance in ranked), initial=float(num_rows))
        losses = [
            total * expm1(speeds[best] - speed) for total, speed in zip(totals, speeds, strict=True)
        ]
        for _, index, _ in ranked[: self._tried(steps, losses, best)]:
            sizes[index] += 1
        return sizes

    def _tried(self, steps: list[int], losses: list[float], best: int) -> int:
        """Only powers of two are tried, in turn; what lies between is close to the line."""
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
