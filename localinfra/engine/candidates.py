"""The best logits of a row → the token that the sampler would draw from all of it, where these
decide that. So a device need not send whole rows: 128 candidates take 1 KiB, a row of 128k tokens
512.

What is not among the candidates has a logit of at most the least of theirs. So truncation that ends
above it is exact. Without truncation, the sum of the others bounds how early one of them may arrive
in the race. Everything else is left to the whole row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.draws import (
    NUM_BEST,
    Floats,
    Ids,
    has_groups,
    nucleus_size,
    race,
    race_against_rest,
    weights_of,
)
from localinfra.engine.request import SamplingParams

# Relative error of a device's sum over a vocabulary, with a margin: a nucleus that ends this close
# to its border is left to the whole row.
SUM_ERROR = 1e-4


class Candidates(NamedTuple):
    """The best tokens of a row of `num_vocab` logits, in any order."""

    ids: Ids  # [any number], each once
    logits: Floats  # of these
    total: float  # the sum of exp(logit - largest logit) over the whole row
    num_vocab: int


class Ranked(NamedTuple):
    """Candidates in the sampler's order, and what is known of the other tokens."""

    ids: Ids  # by descending logit, ties by id
    logits: Floats
    total: float | None  # as of Candidates; None where penalties have changed it
    floor: float  # no other token has a larger logit
    num_vocab: int

    def only(self, are_left: NDArray[np.bool_]) -> "Ranked":
        """Without the others of these tokens; nor are any others left that are forbidden."""
        ids, logits = self.ids[are_left], self.logits[are_left]
        return self._replace(ids=ids, logits=logits, total=None)

    @property
    def num_sure(self) -> int:
        """The first so many are the best of the whole row, ties included."""
        return int(np.searchsorted(-self.logits, -self.floor, side="left"))


def ranked(
    found: Candidates, lowered: Callable[[Ids, Floats], Floats] | None = None
) -> Ranked | None:
    """None if logits are not finite. `lowered`: what penalties make of the logits of some tokens;
    they raise none."""
    if not math.isfinite(found.total):
        return None
    ids, logits = found.ids, found.logits
    known: float | None = found.total
    floor = -math.inf if len(ids) == found.num_vocab else float(logits.min())
    if lowered:
        logits, known = lowered(ids, logits), None
    order = np.lexsort((ids, -logits))
    return Ranked(ids[order], logits[order], known, floor, found.num_vocab)


def may_decide(params: SamplingParams, found: Candidates) -> bool:
    """Whether looking at them is worth it: without truncation, it takes the best `NUM_BEST`."""
    is_truncated = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
    return is_truncated or len(found.ids) >= min(NUM_BEST, found.num_vocab)


def best(found: Ranked) -> int | None:
    """The likeliest token of the whole row."""
    return int(found.ids[0]) if found.num_sure else None


def draw_among(
    found: Ranked, params: SamplingParams, key: np.uint64, spare: np.uint64
) -> int | None:
    """The token that `draws.draw` draws from the whole row with the same numbers; None if the
    candidates don't decide it."""
    num_sure = found.num_sure
    if not num_sure:
        return None
    count = _num_left(found, params)
    if count is None and not params.top_k and params.top_p == 1:
        return _draw_against_rest(found, params, key, spare)
    if count is None or count > num_sure:
        return None
    ids, logits = found.ids[:count], found.logits[:count]
    top = logits[0]
    if params.min_p > 0:
        is_left = logits >= top + math.log(params.min_p)
        ids, logits = ids[is_left], logits[is_left]
    return race(ids, weights_of(logits, top, params.temperature), key)


def _draw_against_rest(
    found: Ranked, params: SamplingParams, key: np.uint64, spare: np.uint64
) -> int | None:
    """Without truncation, or with a min_p that reaches beyond the candidates."""
    if found.total is None or len(found.ids) < NUM_BEST or not has_groups(found.num_vocab):
        return None
    floor, top = found.logits[NUM_BEST - 1], found.logits[0]
    is_best = found.logits > floor
    ids, logits = found.ids[is_best], found.logits[is_best]
    if params.min_p > 0:
        is_left = logits >= top + math.log(params.min_p)
        ids, logits = ids[is_left], logits[is_left]
    rest = found.total * (1 + SUM_ERROR) - float(weights_of(logits, top).sum())
    highest = math.exp(floor - top)
    most = _most_at(params.temperature, max(0.0, rest), highest, found.num_vocab - len(ids))
    weights = weights_of(logits, top, params.temperature)
    return race_against_rest(ids, weights, most * (1 + SUM_ERROR), key, spare)


def _most_at(temperature: float, total: float, highest: float, count: int) -> float:
    """The most that `count` weights can sum to at a temperature, each of at most `highest` and all
    of `total` at 1: a power of them all, as high as they can be below 1, and equal above."""
    power = 1 / temperature
    if temperature < 1:
        return total * float(highest ** (power - 1))
    return count * float((total / count) ** power)


def _num_left(found: Ranked, params: SamplingParams) -> int | None:
    """How many of the best tokens are left by top_k and top_p, or at most by min_p alone."""
    if params.top_k:
        count = min(params.top_k, found.num_vocab)
        if count > len(found.ids) or params.top_p == 1:
            return count
        weights = weights_of(found.logits[:count], found.logits[0])
        return min(count, nucleus_size(weights, params.top_p * float(weights.sum())))
    if params.top_p < 1:
        return _nucleus(found, params.top_p)
    if params.min_p > 0:
        least = found.logits[0] + math.log(params.min_p)
        count = int(np.searchsorted(-found.logits, -least, side="right"))
        return count if least > found.floor else None
    return len(found.ids) if len(found.ids) == found.num_vocab else None


def _nucleus(found: Ranked, top_p: float) -> int | None:
    """How many tokens it takes to reach `top_p`; None where that is too close to call."""
    if found.total is None:
        return None
    weights = weights_of(found.logits, found.logits[0])
    least, most = (
        nucleus_size(weights, top_p * found.total * (1 + error))
        for error in (-SUM_ERROR, SUM_ERROR)
    )
    return least if least == most else None
