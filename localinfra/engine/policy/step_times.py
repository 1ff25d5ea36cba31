"""What a step takes, learned from those before it: the one model that all policies ask.

A step of decoding rows takes what its number of rows costs, times a speed. The speed is that of the
moment: it falls as contexts grow and as other work takes the machine. Costs are learned where one
number of rows follows another, since both steps had the same speed. Each prompt token adds a cost
of its own, which is lower in steps of at least a tile: llama.cpp's attention on CPUs works on tiles
of 64 rows and is slower below. It grows with the tokens that come before, so it is learned for
depths up to 256, 512, 1,024 and so on.
"""

import math
from bisect import bisect_left
from collections.abc import Collection
from itertools import accumulate

from localinfra.engine.policy.numbers import NUMBERS

LEVEL = 256  # tokens, of the first depth; each further one is as deep as all before
FEW_ROWS = 8  # a step of so many tells of one row
LEAST_S = 1e-6  # a clock that stood still during a step must not make it cost nothing


class StepTimes:
    """Seconds by decoding rows, prompt tokens and threads. The engine's thread only."""

    def __init__(self) -> None:
        self._curves: dict[int, _Curve] = {}  # by threads: what rows cost at speed 1
        # of a token, by threads and "is a tile", then by level
        self._tokens: dict[tuple[int, bool], dict[int, _Mean]] = {}
        self._speed = _Mean(1.0)  # seconds for a cost of 1
        self._last = (0, 0)  # rows and threads of the last step without prompts
        self._num_steps = 0
        self._confirmed: dict[int, int] = {}  # by rows: the last step that was as expected

    def expected(
        self, num_rows: int, num_prompt_tokens: int, threads: int, depth: float = 0
    ) -> float | None:
        """None where no step tells. What was never seen is taken to cost in proportion to what was:
        k times the rows, or a k-th of the threads, take k times as long. `depth`: tokens before
        those of prompts."""
        cost = self._cost(num_rows, threads) if num_rows else 0.0
        is_tile = num_rows + num_prompt_tokens >= NUMBERS.tile_rows
        level = level_of(depth)
        token = self._bounded(threads, is_tile, level) if num_prompt_tokens else 0.0
        if cost is None or token is None:
            return None
        return (cost + token * num_prompt_tokens) * self._speed.value

    def num_tokens(
        self,
        seconds: float,
        num_rows: int,
        threads: int,
        depth: float = 0,
        most: float = math.inf,
    ) -> int:
        """Prompt tokens that take so long beside so many rows, of `most` that there are: one at
        least; a tile where no step tells."""
        level = level_of(depth)
        small, in_tile = (self._bounded(threads, is_tile, level) for is_tile in (False, True))
        if small is None or in_tile is None:
            return NUMBERS.tile_rows
        cost = min(seconds, 1e6) / self._speed.value  # an int, even of infinitely many
        in_tiles, below = int(cost / in_tile), max(NUMBERS.tile_rows - 1 - num_rows, 0)
        is_tile = min(in_tiles, most) > below
        return max(1, in_tiles if is_tile else min(int(cost / small), below))

    def ratio(self, depth: float, other: float, threads: int, is_tile: bool) -> float:
        """What a prompt token costs at `depth`, of what it costs at the `other` one."""
        costs = (self._token_cost(threads, is_tile, level_of(each)) for each in (depth, other))
        cost, other_cost = (each or 1.0 for each in costs)  # None for both, or for neither
        return cost / other_cost

    def knows_tiles(self, threads: int, depth: float) -> bool:
        """Whether two steps of at least a tile were seen, near such a depth."""
        means = self._tokens.get((threads, True), {})
        return bool(means) and means[nearest(means, level_of(depth))].is_confirmed

    def is_fresh(self, num_rows: int) -> bool:
        """Whether a step of such rows without prompts was as expected not long ago."""
        confirmed = self._confirmed.get(num_rows, -NUMBERS.fresh_steps)
        return self._num_steps - confirmed < NUMBERS.fresh_steps

    def observe(
        self,
        num_rows: int,
        num_prompt_tokens: int,
        threads: int,
        seconds: float,
        depth: float = 0,
    ) -> None:
        """A step took so many seconds; each of its rows counts, whether sampled from or not."""
        seconds = max(seconds, LEAST_S)
        self._num_steps += 1
        expected = self.expected(num_rows, num_prompt_tokens, threads, depth)
        surprise = NUMBERS.surprise
        odd = expected is not None and not 1 / surprise < seconds / expected < surprise
        if num_prompt_tokens:
            usual_s = self.expected(num_rows, 0, threads) or 0.0
            token_s = max(seconds - usual_s, LEAST_S) / num_prompt_tokens
            is_tile = num_rows + num_prompt_tokens >= NUMBERS.tile_rows
            self._learn_token(threads, is_tile, level_of(depth), token_s, odd)
        else:
            self._learn_rows(num_rows, threads, seconds, odd)

    def _learn_rows(self, num_rows: int, threads: int, seconds: float, odd: bool) -> None:
        curve = self._curves.setdefault(threads, _Curve())
        if not odd:
            self._confirmed[num_rows] = self._num_steps
        if self._last != (num_rows, threads):
            rise = curve.add(num_rows, seconds / self._speed.value, odd)
            self._keep_level(threads, rise)
        self._last = (num_rows, threads)
        self._speed.add(seconds / curve.at(num_rows), odd)

    def _keep_level(self, threads: int, rise: float) -> None:
        """Costs tell only what steps take beside each other. Else noise would lower them and raise
        the speed again and again, without end, and all that is not seen meanwhile would be off."""
        if self._last[1] == threads:
            changed = [self._curves[threads]]
        else:
            changed = [*self._curves.values()]
        share = rise ** (1 / len(changed))
        for curve in changed:
            curve.scale(1 / share)
        self._speed.value *= share

    def _learn_token(
        self, threads: int, is_tile: bool, level: int, seconds: float, odd: bool
    ) -> None:
        cost = seconds / self._speed.value
        guess = self._token_cost(threads, is_tile, level)
        means = self._tokens.setdefault((threads, is_tile), {})
        mean = means.get(level)
        # What is known of other depths was a guess, and what small chunks tell of tiles. What tiles
        # tell of small chunks is better than the first of these, whose few tokens hide beside rows.
        odd &= mean is not None or not (means or is_tile)
        if mean is None:
            mean = means[level] = _Mean(guess or cost)
        elif is_tile and not mean.is_confirmed:
            cost = mean.value = min(mean.value, cost)  # the other one may be slow by chance
            odd = False
        mean.add(cost, odd)
        if mean.num_odd == NUMBERS.num_surprises - 1:
            self._confirmed.clear()  # is it the machine? A usual step will show

    def _cost(self, num_rows: int, threads: int) -> float | None:
        if curve := self._curves.get(threads):
            return curve.at(num_rows)
        known = ((count, curve.at(num_rows)) for count, curve in self._curves.items())
        return min((cost * max(1.0, count / threads) for count, cost in known), default=None)

    def _bounded(self, threads: int, is_tile: bool, level: int) -> float | None:
        """What a prompt's token costs: never more than a step of a single row, or than two at the
        next level, and so on. On a busy machine, small chunks would seem to cost far more than they
        do, and so would stay small: what little they take is lost in the noise."""
        cost, curve = self._token_cost(threads, is_tile, level), self._curves.get(threads)
        row = curve.of_one if curve else None
        return cost if cost is None or row is None else min(cost, (1 + level) * row)

    def _token_cost(self, threads: int, is_tile: bool, level: int) -> float | None:
        """At a depth that was not seen, it differs from the next one as the other kind's does.

        Tiles cost no more than small chunks until two of them say so: since what seems dear is not
        used, no other step would correct the first."""
        if means := self._tokens.get((threads, is_tile)):
            near = nearest(means, level)
            other = self._tokens.get((threads, not is_tile), {})
            rise = 1.0
            if near != level and near in other and level in other:
                rise = other[level].value / other[near].value
            cost = means[near].value * rise
            if is_tile and other and not means[near].is_confirmed:
                cost = min(cost, other[nearest(other, level)].value)
            return cost
        known = (
            means[nearest(means, level)].value * max(1.0, count / threads)
            for (count, _), means in self._tokens.items()
        )
        return min(known, default=None)


def nearest(levels: Collection[int], level: int) -> int:
    return min(levels, key=lambda known: abs(known - level))


def level_of(depth: float) -> int:
    return (int(depth) // LEVEL).bit_length()


class _Mean:
    """Of noisy samples, until some in a row are odd: then the last of them begins a new one."""

    def __init__(self, first: float):
        self.value = first
        self._num_counting = 1
        self.num_odd = 0  # in a row
        self._num_added = 0

    @property
    def is_confirmed(self) -> bool:
        """Whether two samples count."""
        return self._num_added > 1

    def add(self, sample: float, odd: bool) -> None:
        self.num_odd = self.num_odd + 1 if odd else 0
        if 0 < self.num_odd < NUMBERS.num_surprises:
            return
        self._num_added += 1
        self._num_counting = 1 if odd else min(self._num_counting + 1, NUMBERS.num_counting)
        share = 1 / self._num_counting
        self.value = share * sample + (1 - share) * self.value  # above 0, however far apart
        self.num_odd = 0


class _Curve:
    """What steps cost by their number of rows: on a line between known numbers, and up to twice the
    largest; beyond in proportion."""

    def __init__(self) -> None:
        self._means: dict[int, _Mean] = {}
        self._rows, self._costs = [0, 1], [0.0, 1.0]

    @property
    def of_one(self) -> float | None:
        """None where only many rows were seen, of which one costs more than its share."""
        return self.at(1) if self._means and self._rows[1] <= FEW_ROWS else None

    def at(self, num_rows: int) -> float:
        """Never above proportion, since a batch could be split."""
        rows, costs = self._rows, self._costs
        reached = min(num_rows, 2 * rows[-1])
        above = min(bisect_left(rows, reached, 1), len(rows) - 1)
        slope = (costs[above] - costs[above - 1]) / (rows[above] - rows[above - 1])
        cost = (costs[above] + slope * (reached - rows[above])) * num_rows / reached
        return min(cost, costs[1] * num_rows / rows[1])

    def add(self, num_rows: int, cost: float, odd: bool) -> float:
        """Returns by what factor the level rose: the geometric mean of the costs.

        Where two numbers disagree the lower cost holds: it gets used, and so corrected."""
        mean = self._means.setdefault(num_rows, _Mean(cost))
        before = mean.value
        mean.add(cost, odd)
        self._draw()
        return float((mean.value / before) ** (1 / len(self._means)))

    def scale(self, factor: float) -> None:
        for mean in self._means.values():
            mean.value *= factor
        self._draw()

    def _draw(self) -> None:
        rows = sorted(self._means)
        costs = accumulate((self._means[count].value for count in reversed(rows)), min)
        self._rows, self._costs = [0, *rows], [0.0, *[*costs][::-1]]
