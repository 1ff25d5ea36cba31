"""Prompt lookup: what a sequence may say next, read from its past, and how much of it to verify.

Pure: token ids and step times in, guesses out. Whoever decodes guesses draws from each of their
rows as from any other and keeps what agrees, so nothing here changes a text, only its speed.
(Saxena, "Prompt Lookup Decoding", 2023; the index is the hash chain of LZ77 compressors.)
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from math import expm1, log, log1p

INDEXED_PER_LOOKUP = 4096  # tokens, about a millisecond; longer prompts take several lookups
MAX_CANDIDATES = 32  # earlier occurrences of a pair that are compared, the most recent ones
MAX_COMPARED = 32  # tokens, backwards; longer matches are all certain enough

# How often the next token continues a match of 2 or 3 tokens, of 4 to 7, 8 to 15, and of more:
# between the rates of new prose and of edited files (this repository's, in SmolLM2's tokens).
PRIOR_CHANCES = (0.4, 0.65, 0.8, 0.95)
PRIOR_WEIGHT = 4.0  # tokens of its own after which a sequence's rate counts as much
MEMORY = 1 - 1 / 32  # what a hit or a miss still weighs after the next one
MIN_CHANCE = 0.05  # guesses less likely than this pay nowhere
MAX_GUESSES = 16  # per step; more pay only where rows are free, and there little

ENOUGH = 5  # samples before a cost is believed; a step gives two, one for each change of rows
WARNING = 3  # these are enough if all are dearer than hoped
REACH = 2  # so many times the rows whose cost is known can be estimated
REMEMBERED = 15  # the median of the last samples counts
STALE_STEPS = 300  # since a count was last seen; it may be tried again, later each time
MAX_STALE_STEPS = 20_000
MAX_ROWS = 64  # larger steps are not measured
TRIAL_TOKENS = 2.0  # what trials of unknown steps may lose at once
TRIAL_SHARE = 0.005  # tokens per step by which that is refilled
MIN_GAIN = 1.1  # costs are off by some percent, and the best of several is the luckiest


class PastIndex:
    """Where the last tokens of a growing list occurred before.

    Reads the list and keeps no copy; some 150 bytes a token, a hundredth of its KV cells.
    """

    def __init__(self, tokens: list[int]):
        self._tokens = tokens
        self._latest: dict[int, int] = {}  # a pair of tokens → the position after it
        self._earlier = array("i", (0, 0))  # by that position: the one before it, of the same pair

    def find(self) -> tuple[int, int]:
        """The longest match of the list's end with an earlier part: how many tokens back, and its
        length; of equals the most recent. (0, 0) where not even two tokens match."""
        self._catch_up()
        tokens, end = self._tokens, len(self._tokens)
        if end < 3:
            return 0, 0
        best, best_length = 0, 1
        candidate = self._latest.get(tokens[-2] << 32 | tokens[-1], 0)
        for _ in range(MAX_CANDIDATES):
            if not candidate or best_length >= MAX_COMPARED:
                break
            # Most are dismissed by the one token that a longer match must have.
            if tokens[max(0, candidate - 1 - best_length)] == tokens[end - 1 - best_length]:
                length = self._compare(candidate, end)
                if length > best_length:
                    best, best_length = candidate, length
            candidate = self._earlier[candidate]
        return (end - best, best_length) if best else (0, 0)

    def _compare(self, candidate: int, end: int) -> int:
        """How many tokens before `candidate` equal those before `end`."""
        tokens = self._tokens
        for length in range(min(candidate, MAX_COMPARED)):
            if tokens[candidate - 1 - length] != tokens[end - 1 - length]:
                return length
        return min(candidate, MAX_COMPARED)

    def _catch_up(self) -> None:
        tokens, latest, earlier = self._tokens, self._latest, self._earlier
        # Up to the last token and no further: nothing comes after the pair at the end yet.
        for after in range(len(earlier), min(len(tokens), len(earlier) + INDEXED_PER_LOOKUP)):
            pair = tokens[after - 2] << 32 | tokens[after - 1]
            earlier.append(latest.get(pair, 0))
            latest[pair] = after


class Drafter:
    """Guesses for one sequence. Reads its token list, to which others append.

    The tokens that came tell what a guess was worth, verified or not. So it learns from steps
    without drafts as well, and needs no trials to find out that drafts would pay again.
    """

    def __init__(self, tokens: list[int]):
        self._tokens = tokens
        self._past = PastIndex(tokens)
        self._num_seen = len(tokens)
        self._distance = 0  # of the match it follows, in tokens back; 0 where there is none
        self._length = 0  # of that match
        self._hits = [PRIOR_WEIGHT * chance for chance in PRIOR_CHANCES]
        self._trials = [PRIOR_WEIGHT for _ in PRIOR_CHANCES]
        self._chances: list[float] = []  # of the present guesses
        self._promise = 0.0  # how many of the last guesses should be right
        self._promised = self._kept = PRIOR_WEIGHT  # the same of those before, and how many were

    def chances(self, max_tokens: int) -> list[float]:
        """For 1, 2, ... guesses the chance that all of them are right; [] where there are none."""
        self._follow()
        max_guesses = min(max_tokens, MAX_GUESSES) if self._distance else 0
        chances: list[float] = []
        # Guesses are made where rates are high, some of them by luck: those disappoint.
        chance = min(1.0, self._kept / self._promised)
        for length in range(self._length, self._length + max_guesses):
            kind = length_class(length)
            chance *= self._hits[kind] / self._trials[kind]
            if chance < MIN_CHANCE:
                break
            chances.append(chance)
        self._chances = chances
        return chances

    def draft(self, num_tokens: int) -> list[int]:
        """The guesses that `chances`, called since the last token came, is about. A match that
        reaches the end of the list goes on periodically."""
        self._promise = sum(self._chances[:num_tokens])
        start = len(self._tokens) - self._distance
        guesses = self._tokens[start : start + num_tokens]
        while guesses and len(guesses) < num_tokens:
            guesses += guesses[: num_tokens - len(guesses)]
        return guesses

    def judged(self, num_right: int) -> None:
        """So many of the last draft's guesses were right."""
        self._promised += self._promise
        self._kept += num_right

    def _follow(self) -> None:
        """Goes along the match while it holds, which keeps it the longest; else finds another."""
        tokens = self._tokens
        if len(tokens) > self._num_seen:  # what was kept of guesses fades into a fresh start
            fading = (1 - MEMORY) * PRIOR_WEIGHT
            self._promised = MEMORY * self._promised + fading
            self._kept = MEMORY * self._kept + fading
        for position in range(self._num_seen, len(tokens)):
            if not self._distance:
                break
            hit = tokens[position] == tokens[position - self._distance]
            kind = length_class(self._length)
            self._hits[kind] = MEMORY * self._hits[kind] + hit
            self._trials[kind] = MEMORY * self._trials[kind] + 1
            self._distance, self._length = (self._distance, self._length + 1) if hit else (0, 0)
        self._num_seen = len(tokens)
        if not self._distance:
            self._distance, self._length = self._past.find()


def length_class(length: int) -> int:
    """Index into PRIOR_CHANCES of a match of `length` tokens, two at least."""
    return min(length.bit_length() - 2, len(PRIOR_CHANCES) - 1)


class RowCosts:
    """What a step costs by its number of rows, learned while the same sequences are decoded.

    Only ratios matter, so only steps that follow each other are compared: longer contexts and
    other programs slow both alike. A count that was not measured is assumed to cost in proportion,
    so that no guess pays. Trials find out: those that may well pay, by what the last rows cost,
    and others as far as a small allowance of lost tokens goes.
    """

    def __init__(self) -> None:
        self._last = (0, 0.0)  # rows and seconds of the step before
        self._anchor = 0  # rows of the first step seen, whose cost stays as it was assumed
        self._samples: dict[int, deque[float]] = {}  # costs, by rows
        self._known: dict[int, float] = {}  # their medians; assumed costs of usual counts
        self._seen: dict[int, int] = {}  # by rows: the number of the last such step
        self._patience: dict[int, int] = {}  # by rows: steps until the next trial
        self._num_steps = 0
        self._allowance = TRIAL_TOKENS
        self._rows, self._costs = [0, 1], [0.0, 1.0]  # the curve, both rising

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step that only decoded, without its draws; each row had its logits computed."""
        self._num_steps += 1
        self._allowance = min(self._allowance + TRIAL_SHARE, TRIAL_TOKENS)
        (before, seconds_before), self._last = self._last, (num_rows, seconds)
        if num_rows > MAX_ROWS:
            return
        self._seen[num_rows] = self._num_steps
        self._anchor = self._anchor or num_rows
        if num_rows not in self._known and num_rows in (before, self._anchor):
            self._known[num_rows] = self.cost(num_rows)  # others can be compared with it now
        if 0 < before <= MAX_ROWS and before != num_rows:
            self._compare(num_rows, before, seconds / seconds_before)
            self._compare(before, num_rows, seconds_before / seconds)
            self._draw_curve()

    def interrupt(self) -> None:
        """The next step follows others than those that were observed."""
        self._last = (0, 0.0)

    def cost(self, num_rows: int) -> float:
        """Between known counts linear, beyond them in proportion; in an arbitrary unit."""
        rows, costs = self._rows, self._costs
        if num_rows >= rows[-1]:
            return costs[-1] * num_rows / rows[-1]
        above = bisect_left(rows, num_rows, 1)
        share = (rows[above] - num_rows) / (rows[above] - rows[above - 1])
        return costs[above] - share * (costs[above] - costs[above - 1])

    def estimate(self, num_rows: int) -> float:
        """The same, but a bit beyond known counts a row more costs what the last ones did."""
        rows, costs = self._rows, self._costs
        if num_rows <= rows[-1]:
            return self.cost(num_rows)
        per_row = (costs[-1] - costs[-2]) / (rows[-1] - rows[-2])
        reach = min(num_rows, REACH * rows[-1])
        return (costs[-1] + per_row * (reach - rows[-1])) * num_rows / reach

    def take_trial(self, num_rows: int, loss: float) -> bool:
        """Whether to try a step of so many rows though it may lose the time of `loss` tokens. Only
        powers of two are tried; what lies between is close to the line."""
        if num_rows & (num_rows - 1) or num_rows > MAX_ROWS or loss > self._allowance:
            return False
        if self._last[0] not in self._known:
            return False  # there would be nothing to compare it with
        if len(self._samples.get(num_rows, ())) >= ENOUGH or num_rows == self._anchor:
            patience = self._patience.get(num_rows, STALE_STEPS)
            if self._num_steps - self._seen[num_rows] < patience:
                return False
            self._patience[num_rows] = min(2 * patience, MAX_STALE_STEPS)
        self._allowance -= max(0.0, loss)
        return True

    def _compare(self, num_rows: int, other: int, ratio: float) -> None:
        """A step of `num_rows` took `ratio` times one of `other` rows beside it."""
        if num_rows == self._anchor or other not in self._known:
            return
        samples = self._samples.setdefault(num_rows, deque(maxlen=REMEMBERED))
        samples.append(self._known[other] * ratio)
        least = ENOUGH if min(samples) < self.estimate(num_rows) else WARNING
        if len(samples) >= least:
            self._known[num_rows] = sorted(samples)[len(samples) // 2]

    def _draw_curve(self) -> None:
        """Where two counts disagree the lower cost holds: it gets used, and so corrected. None is
        above proportion: a batch could be split."""
        rows = sorted(self._known)
        costs = list(accumulate((self._known[count] for count in reversed(rows)), min))[::-1]
        per_row = costs[0] / rows[0]
        self._rows = [0, *rows]
        self._costs = [0.0, *(min(c, per_row * r) for c, r in zip(costs, rows, strict=True))]


def draft_sizes(
    chances: list[list[float]],
    num_rows: int,
    max_drafted: int,
    costs: RowCosts,
    size_of: Callable[[int], int] = int,
) -> list[int]:
    """How many guesses of each sequence to add to a step of `num_rows` rows, which draw a token
    each; at most `max_drafted` in all. `chances` is what each sequence's Drafter gave, `size_of`
    tells up to how many rows a step is filled.

    Makes the geometric mean of the sequences' speeds as large as it can be: alone, that is tokens
    per second; together, one that repeats itself may not slow the others for more than it gains.
    """
    ranked: list[tuple[float, int, float]] = []  # gain in log speed, sequence, chance
    for index, falling in enumerate(chances):
        made = 1.0
        for chance in falling:
            ranked.append((log1p(chance / made), index, chance))
            made += chance
    ranked.sort(reverse=True)  # in a sequence gains fall, so its first guesses come first
    del ranked[max_drafted:]
    sizes = [0] * len(chances)
    if not ranked:
        return sizes
    gains = list(accumulate((gain for gain, _, _ in ranked), initial=0.0))
    made_by = list(accumulate((chance for _, _, chance in ranked), initial=float(num_rows)))
    steps = [size_of(num_rows + count) for count in range(len(gains))]  # in rows
    speeds = [
        gain / num_rows - log(costs.cost(size)) for gain, size in zip(gains, steps, strict=True)
    ]
    best = max(range(len(speeds)), key=speeds.__getitem__)
    if speeds[best] < speeds[0] + log(MIN_GAIN):
        best = 0
    for count, gain in enumerate(gains):
        hoped = gain / num_rows - log(costs.estimate(steps[count]))
        loss = made_by[count] * expm1(speeds[best] - hoped)
        if steps[count] != steps[best] and costs.take_trial(steps[count], loss):
            best = count
            break
    for _, index, _ in ranked[:best]:
        sizes[index] += 1
    return sizes
