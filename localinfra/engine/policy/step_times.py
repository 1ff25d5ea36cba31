"""What a step takes, learned from those before it: the one model that all policies ask.

A step of decoding rows takes `speed` times what its shape costs. The speed is the machine's and the
contexts' of the moment. What shapes cost beside each other is learned where one follows another,
for then both had the same speed. Prompt tokens come on top, in proportion. llama.cpp's attention on
CPUs is another one below a tile of rows, so tokens in steps of whole tiles have their own cost.
"""

from bisect import bisect_left
from itertools import accumulate

import msgspec


class StepTimesNumbers(msgspec.Struct, frozen=True):
    num_counting: int = 10  # samples that make a mean
    surprise: float = 1.34  # times what is expected, either way: 10 to 15 % are noise
    num_surprises: int = 3  # in a row that are no chance
    fresh_steps: int = 32  # for so long a usual step counts as known
    tile_rows: int = 64  # of llama.cpp's attention, decoding ones included


NUMBERS = StepTimesNumbers()


class StepTimes:
    """Seconds by decoding rows, prompt tokens and threads. The engine's thread only."""

    def __init__(self) -> None:
        self._curves: dict[int, _Curve] = {}  # by threads: what rows cost at speed 1
        self._speed = _Level(1.0)
        self._last = (0, 0)  # rows and threads of the last step without prompts
        # By threads, and whether in whole tiles: seconds of a prompt token.
        self._token_s: dict[tuple[int, bool], _Level] = {}
        self._num_odd = 0  # steps with prompts, in a row
        self._num_steps = 0
        self._confirmed: dict[int, int] = {}  # by rows: the last step that was as expected

    def expected(self, num_rows: int, num_prompt_tokens: int, threads: int) -> float | None:
        """None where no step tells. Shapes that were never seen are taken to cost in proportion to
        known ones: k times the rows, or a k-th of the threads, take k times as long."""
        seconds = self._cost(num_rows, threads) if num_rows else 0.0
        if seconds is None or not num_prompt_tokens:
            return None if seconds is None else seconds * self._speed.value
        token_s = self._prompt_cost(threads, num_rows + num_prompt_tokens >= NUMBERS.tile_rows)
        return (
            None if token_s is None else seconds * self._speed.value + token_s * num_prompt_tokens
        )

    def num_tokens(self, seconds: float, num_rows: int, threads: int) -> int | None:
        """Prompt tokens that take so long beside so many rows; None where no step tells."""
        small, tile = (self._prompt_cost(threads, is_tile) for is_tile in (False, True))
        if small is None or tile is None:
            return None
        in_tiles, below = int(seconds / tile), max(NUMBERS.tile_rows - 1 - num_rows, 0)
        return in_tiles if in_tiles > below else min(int(seconds / small), below)

    def is_fresh(self, num_rows: int) -> bool:
        """Whether a step of such rows without prompts was as expected not long ago."""
        confirmed = self._confirmed.get(num_rows)
        return confirmed is not None and self._num_steps - confirmed < NUMBERS.fresh_steps

    def observe(self, num_rows: int, num_prompt_tokens: int, threads: int, seconds: float) -> None:
        """A step took so many seconds; each of its rows counts, whether sampled from or not."""
        self._num_steps += 1
        expected = self.expected(num_rows, num_prompt_tokens, threads)
        odd = expected is None or is_odd(seconds / expected)
        if num_prompt_tokens:
            self._learn_prompt(num_rows, num_prompt_tokens, threads, seconds, odd)
        else:
            self._learn_rows(num_rows, threads, seconds, odd)

    def _learn_rows(self, num_rows: int, threads: int, seconds: float, odd: bool) -> None:
        curve = self._curves.setdefault(threads, _Curve())
        if not odd:
            self._confirmed[num_rows] = self._num_steps
        is_known = curve.is_known(num_rows)
        if not is_known or self._last != (num_rows, threads):
            curve.add(num_rows, seconds / self._speed.value, odd)
        before = self._speed.value
        if is_known and self._speed.add(seconds / curve.at(num_rows), odd):
            for level in self._token_s.values():  # a machine that is slower is so at all it does
                level.value *= self._speed.value / before
            self._num_odd = 0
        self._last = (num_rows, threads)

    def _learn_prompt(
        self, num_rows: int, num_tokens: int, threads: int, seconds: float, odd: bool
    ) -> None:
        usual_s = self.expected(num_rows, 0, threads) or 0.0
        token_s = max(seconds - usual_s, 1e-6) / num_tokens
        key = threads, num_rows + num_tokens >= NUMBERS.tile_rows
        level = self._token_s.get(key)
        if level is None:  # what other steps tell, if any, counts as a first sample
            level = self._token_s[key] = _Level(self._prompt_cost(*key) or token_s)
        elif odd:
            self._num_odd += 1
            if self._num_odd == NUMBERS.num_surprises:
                self._confirmed.clear()  # is it the machine? A usual step will show
            elif self._num_odd > NUMBERS.num_surprises:
                level.value = token_s
                self._num_odd = 0
            return
        self._num_odd = 0
        level.add(token_s, False)

    def _cost(self, num_rows: int, threads: int) -> float | None:
        curve = self._curves.get(threads)
        if curve and curve.is_known(num_rows):
            return curve.at(num_rows)
        costs = (
            curve.at(num_rows) * max(1.0, known / threads) for known, curve in self._curves.items()
        )
        return min(costs, default=None)

    def _prompt_cost(self, threads: int, is_tile: bool) -> float | None:
        if level := self._token_s.get((threads, is_tile)):
            return level.value
        costs = (
            (kind != is_tile, level.value * max(1.0, known / threads))
            for (known, kind), level in self._token_s.items()
        )
        return min(costs, default=(False, None))[1]


def is_odd(ratio: float) -> bool:
    """Whether seconds are far from so many times as many."""
    return not 1 / NUMBERS.surprise < ratio < NUMBERS.surprise


class _Level:
    """What noisy samples are about: their mean, until some in a row are odd and make a new one."""

    def __init__(self, first: float):
        self.value = first
        self.num_counting = 1
        self._odd: list[float] = []

    def add(self, sample: float, odd: bool) -> bool:
        """Whether it is a new one."""
        if not odd:
            self._odd.clear()
            self.num_counting = min(self.num_counting + 1, NUMBERS.num_counting)
            self.value += (sample - self.value) / self.num_counting
            return False
        self._odd.append(sample)
        if len(self._odd) < NUMBERS.num_surprises:
            return False
        self.value = sorted(self._odd)[len(self._odd) // 2]
        self._odd.clear()
        return True

    def add_first(self, sample: float) -> None:
        """One of the first: what they have above the least are page faults and the like."""
        self.num_counting += 1
        self.value = min(self.value, sample)


class _Curve:
    """What steps cost by their number of rows: on a line between known numbers, and up to twice the
    largest; beyond in proportion."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._rows, self._costs = [0, 1], [0.0, 1.0]

    def is_known(self, num_rows: int) -> bool:
        """Whether several steps tell, so that one more tells the speed."""
        level = self._levels.get(num_rows)
        return level is not None and level.num_counting >= NUMBERS.num_surprises

    def at(self, num_rows: int) -> float:
        rows, costs = self._rows, self._costs
        reached = min(num_rows, 2 * rows[-1])
        above = min(bisect_left(rows, reached, 1), len(rows) - 1)
        slope = (costs[above] - costs[above - 1]) / (rows[above] - rows[above - 1])
        cost = (costs[above] + slope * (reached - rows[above])) * num_rows / reached
        return min(cost, costs[1] * num_rows / rows[1])

    def add(self, num_rows: int, cost: float, odd: bool) -> None:
        """Where two numbers disagree the lower cost holds: it gets used, and so corrected. None is
        above proportion: a batch could be split."""
        level = self._levels.get(num_rows)
        if level is None:
            self._levels[num_rows] = _Level(cost)
        elif not self.is_known(num_rows):
            level.add_first(cost)
        else:
            level.add(cost, odd)
        rows = sorted(self._levels)
        costs = accumulate((self._levels[count].value for count in reversed(rows)), min)
        lowest = [*costs][::-1]
        per_row = lowest[0] / rows[0]
        self._rows = [0, *rows]
        self._costs = [0.0, *(min(c, per_row * r) for c, r in zip(lowest, rows, strict=True))]
