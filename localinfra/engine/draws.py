"""Arrays of logits → the tokens left by the settings, and one of them. All functions are pure.

Tokens are drawn by an exponential race: each gets a random time from the seed, the draw and its id,
divided by its probability, and the earliest wins. A batch of another shape changes the logits in
the last digits; that changes a race's winner far more rarely than the result of inverting the
cumulative probabilities, all of which shift. A draft model's tokens race with the same numbers, so
both models mostly draw the same token where they mostly agree (Daliri, Musco and Suresh, "Coupling
without Communication and Drafter-Invariant Speculative Decoding", 2024).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.request import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

# The vocabulary is split into this many interleaved groups: few enough to sort, and more than any
# top_k, so that the maximum of the k-th best group is at most the k-th best logit.
NUM_GROUPS = 1024
NUM_BEST = 128  # as many as a device sends: more than a usual top_k, or than top_p usually leaves
USUAL_NUCLEUS = 512  # tokens; top_p rarely keeps more, and then all are sorted
FLOAT_MAX = float(np.finfo(np.float32).max)
REST = np.array([NUM_GROUPS], np.uint64)  # the number in its race of all tokens that are not best


def draw(
    row: Floats, top: np.float32, params: SamplingParams, key: np.uint64, spare: np.uint64
) -> int:
    """Draws one of the tokens left by the settings. Edits `row`.

    `top` is the largest logit; `key` and `spare` are random, and the draw is a function of them.
    """
    if params.top_k or params.top_p < 1:
        ids = left(row, top, params)
        return race(ids, weights_of(row[ids], top, params.temperature), key)
    if params.min_p > 0:
        is_left = row >= top + math.log(params.min_p)
        ids = np.flatnonzero(is_left)
        if len(ids) < NUM_BEST:
            return race(ids, weights_of(row[ids], top, params.temperature), key)
        row[~is_left] = -np.inf
    if not has_groups(len(row)):
        return race(np.arange(len(row)), weights_of(row, top, params.temperature, out=row), key)
    ids = best_ids(row)
    weights = weights_of(row, top, params.temperature, out=row)
    best = weights[ids]
    weights[ids] = 0
    token = race_against_rest(ids, best, float(weights.sum()), key, spare)
    return race_in_groups(weights, key, spare) if token is None else token


def best_ids(row: Floats) -> Ids:
    """Ascending ids of the tokens with a larger logit than the NUM_BEST-th one. Without truncation
    each of these races for itself, and all others as one, so that a few logits and the sum of the
    others mostly decide a draw."""
    ids = top_set(row, NUM_BEST)
    if len(ids) < NUM_BEST:
        return ids
    logits, place = row[ids], len(ids) - NUM_BEST
    best: Ids = ids[logits > np.partition(logits, place)[place]]
    return best


def race_against_rest(
    ids: Ids, weights: Floats, rest: float, key: np.uint64, spare: np.uint64
) -> int | None:
    """One of the ids, or None where one of the others wins, whose weights sum to `rest`."""
    speeds = speeds_of(ids, weights, key)
    if not len(ids) or speeds.max() < rest / time_of(REST, spare)[0]:
        return None
    return int(ids[speeds.argmax()])


def race_in_groups(weights: Floats, key: np.uint64, spare: np.uint64) -> int:
    """One of the tokens with these weights: groups race first, then the winner's members."""
    num_rows, num_left = divmod(len(weights), NUM_GROUPS)
    sums = weights[: num_rows * NUM_GROUPS].reshape(num_rows, NUM_GROUPS).sum(axis=0)
    sums[:num_left] += weights[num_rows * NUM_GROUPS :]
    group = race(np.arange(NUM_GROUPS), sums, spare)
    members = np.arange(group, len(weights), NUM_GROUPS)
    return race(members, weights[members], key)


def has_groups(num_vocab: int) -> bool:
    return num_vocab >= 4 * NUM_GROUPS


def left(row: Floats, top: np.float32, params: SamplingParams) -> Ids:
    """The tokens left by top_k or top_p, and then by min_p."""
    if params.top_k:
        ids = top_ids(row, params.top_k)
        if params.top_p < 1:
            weights = weights_of(row[ids], top)
            ids = ids[: nucleus_size(weights, params.top_p * float(weights.sum()))]
    else:
        ids = nucleus(row, top, params.top_p)
    if params.min_p > 0:
        ids = ids[row[ids] >= top + math.log(params.min_p)]
    return ids


def nucleus(row: Floats, top: np.float32, top_p: float) -> Ids:
    """The smallest set of best tokens whose probabilities sum to `top_p`; at least one."""
    weights = weights_of(row, top)
    total = float(weights.sum())
    ids = top_ids(row, USUAL_NUCLEUS)
    if float(weights[ids].sum()) < top_p * total:
        # Tokens below this don't sum to 1 - top_p even all together, so none of them is needed.
        ids = descending(row, np.flatnonzero(weights > total * (1 - top_p) / len(row)))
    return ids[: nucleus_size(weights[ids], top_p * total)]


def nucleus_size(weights: Floats, wanted: float) -> int:
    """How many of the descending weights it takes to reach `wanted`."""
    return int(np.searchsorted(np.cumsum(weights, dtype=np.float64), wanted)) + 1


def weights_of(
    row: Floats, top: np.float32, temperature: float = 1.0, out: Floats | None = None
) -> Floats:
    """Probabilities scaled so that the largest is 1. `out` may be `row` itself."""
    weights: Floats = np.subtract(row, top, out=out)
    if temperature != 1:
        weights *= np.float32(1 / temperature)
    np.exp(weights, out=weights)
    return weights


def top_ids(row: Floats, k: int) -> Ids:
    """The ids of the k largest logits, best first, ties by id."""
    return descending(row, top_set(row, k))[:k]


def top_set(row: Floats, k: int) -> Ids:
    """Ascending ids of the k largest logits, and of a few more; fewer where others are -inf."""
    if not has_groups(len(row)) or k >= NUM_GROUPS:
        return np.arange(len(row))
    whole = len(row) - len(row) % NUM_GROUPS
    bests = row[:whole].reshape(-1, NUM_GROUPS).max(axis=0)
    least = np.partition(bests, NUM_GROUPS - k)[NUM_GROUPS - k]
    return np.flatnonzero(row >= max(least, -FLOAT_MAX))


def descending(row: Floats, ids: Ids) -> Ids:
    """Ascending ids → the same by descending logit, ties by id."""
    return ids[np.argsort(-row[ids], kind="stable")]


def race(ids: Ids, weights: Floats, key: np.uint64) -> int:
    """Draws one of the ids, with probability proportional to its weight."""
    return int(ids[speeds_of(ids, weights, key).argmax()])


def speeds_of(ids: Ids, weights: Floats, key: np.uint64) -> NDArray[np.float64]:
    """The larger, the earlier each arrives."""
    speeds: NDArray[np.float64] = weights / time_of(ids.astype(np.uint64), key)
    return speeds


def time_of(ids: NDArray[np.uint64], key: np.uint64) -> NDArray[np.float64]:
    """Random times of a race, exponentially distributed."""
    times: NDArray[np.float64] = -np.log1p(-to_unit(scramble(ids, key)))
    return times


def scramble(ids: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Hashes key and ids to independent random 64-bit numbers: splitmix64 (Steele 2014)."""
    mixed = key + (ids + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return mixed ^ (mixed >> np.uint64(31))


def to_unit(bits: Any) -> Any:
    """Random 64 bits → (0, 1), as float64; arrays too."""
    return ((bits >> np.uint64(11)) + 0.5) * 2.0**-53
