"""Logits of one row → the next token: penalties, bias, top_k, top_p, min_p, temperature, draw.

All in numpy: llama.cpp's sampler chain first copies the vocabulary, 12 bytes per token (0.48 ms for
a row of 49k right after a decode without truncation, 0.38 ms here). Samples the exact distribution:
no token is left out for being unlikely.

Tokens are drawn by an exponential race: each gets a random time from the seed, the draw and its id,
divided by its probability, and the earliest wins. A batch of another shape changes the logits in
the last digits; that changes a race's winner far more rarely than the result of inverting the
cumulative probabilities, all of which shift. A draft model's tokens race with the same numbers, so
both models mostly draw the same token where they mostly agree (Daliri, Musco and Suresh, "Coupling
without Communication and Drafter-Invariant Speculative Decoding", 2024).
"""

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import DecodeFailed
from localinfra.engine.request import SamplingParams
from localinfra.errors import InvalidRequest

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Constraint

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

# Below this, logits / temperature overflows float32, and sampling is greedy anyway.
GREEDY_BELOW = 1e-4

NEVER = -100.0  # a logit_bias this low forbids the token

# The vocabulary is split into this many interleaved groups: few enough to sort, and more than any
# top_k, so that the maximum of the k-th best group is at most the k-th best logit.
NUM_GROUPS = 1024
USUAL_NUCLEUS = 512  # tokens; top_p rarely keeps more, and then all are sorted


class Penalties:
    """Repetition over prompt and output; presence and frequency over the output only."""

    def __init__(self, params: SamplingParams, prompt: list[int]):
        self._params = params
        self._seen = set[int]()
        if params.repetition_penalty != 1:
            self._seen = {token for token in prompt if token >= 0}  # others are of pictures
        self._counts: dict[int, int] = {}

    def accept(self, token: int) -> None:
        self._seen.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1

    def apply(self, row: Floats) -> None:
        """Edits logits [num_vocab] in place."""
        params = self._params
        if params.repetition_penalty != 1 and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            seen = row[ids]
            penalty = params.repetition_penalty
            row[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            row[ids] -= params.presence_penalty + params.frequency_penalty * counts


class Sampler:
    """One choice's sampling settings, token counts and random stream.

    Each sampled token takes two numbers of the stream, whatever the settings, so a choice's text
    depends only on its logits, its seed and its index.
    """

    def __init__(self, params: SamplingParams, stream: int, prompt: list[int]):
        self._params = params
        self._random = None
        self._keys: deque[NDArray[np.uint64]] = deque()  # the random numbers of the next tokens
        if params.temperature >= GREEDY_BELOW:
            self._random = np.random.Generator(np.random.PCG64([params.seed, stream]))
        penalised = (
            params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
        )
        self._penalties = Penalties(params, prompt) if penalised else None
        self._bias_ids = np.fromiter(params.logit_bias, np.int64, len(params.logit_bias))
        bias = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        self._bias = np.where(bias <= NEVER, -np.inf, bias)

    def sample(self, row: Floats, constraint: "Constraint | None" = None) -> int:
        """Samples an allowed token from logits [num_vocab], which it edits.

        Raises DecodeFailed if they are not finite, InvalidRequest if no token is left.
        """
        token, _ = self._choose(row, constraint, 0)
        if self._keys:
            self._keys.popleft()
        self.accept(token)
        return token

    def guess(
        self, row: Floats, num_ahead: int, constraint: "Constraint | None" = None
    ) -> tuple[int, float]:
        """Samples as `sample` will after `num_ahead` more tokens, from logits of another model.
        Counts nothing, so tokens ahead are not penalised.

        Returns the token, and the probability of the model's best one. Raises like `sample`.
        """
        return self._choose(row, constraint, num_ahead, rates=True)

    def _choose(
        self, row: Floats, constraint: "Constraint | None", num_ahead: int, *, rates: bool = False
    ) -> tuple[int, float]:
        if self._penalties:
            self._penalties.apply(row)
        if len(self._bias_ids):
            row[self._bias_ids] += self._bias
        best = int(row.argmax())  # a NaN counts as the largest
        # A greedy token that the grammar allows needs no mask, which takes longer to compute.
        if constraint and not (self._random is None and constraint.allows(best)):
            constraint.forbid(row)
            best = int(row.argmax())
        if row[best] == -np.inf and len(self._bias_ids):
            raise InvalidRequest(
                "logit_bias forbids every token"
                + (" that the grammar or schema allows here." if constraint else " of the model."),
                "logit_bias",
            )
        if not math.isfinite(row[best]):
            raise DecodeFailed("the model's logits are not finite; its file may be damaged")
        chance = 1 / float(weights_of(row, row[best]).sum()) if rates else 1.0
        if self._random is None:
            return best, chance
        while len(self._keys) <= num_ahead:
            self._keys.append(self._random.integers(1 << 64, size=2, dtype=np.uint64))
        return draw(row, row[best], self._params, *self._keys[num_ahead]), chance

    def accept(self, token: int) -> None:
        """Counts a token of the text, sampled or forced."""
        if self._penalties:
            self._penalties.accept(token)


def draw(
    row: Floats, top: np.float32, params: SamplingParams, key: np.uint64, spare: np.uint64
) -> int:
    """Draws one of the tokens left by the settings. Edits `row`.

    `top` is the largest logit; `key` and `spare` are random, and the draw is a function of them.
    """
    if params.top_k or params.top_p < 1:
        ids = candidates(row, top, params)
        return race(ids, weights_of(row[ids], top, params.temperature), key)
    if params.min_p > 0:
        row[row < top + math.log(params.min_p)] = -np.inf
    weights = weights_of(row, top, params.temperature, out=row)
    if len(row) < 4 * NUM_GROUPS:
        return race(np.arange(len(row)), weights, key)
    # First the groups race, then the members of the winning group.
    num_rows, num_left = divmod(len(row), NUM_GROUPS)
    sums = weights[: num_rows * NUM_GROUPS].reshape(num_rows, NUM_GROUPS).sum(axis=0)
    sums[:num_left] += weights[num_rows * NUM_GROUPS :]
    group = race(np.arange(NUM_GROUPS), sums, spare)
    members = weights[group::NUM_GROUPS]
    return race(np.arange(len(members)), members, key) * NUM_GROUPS + group


def candidates(row: Floats, top: np.float32, params: SamplingParams) -> Ids:
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
    """Ascending ids of the k largest logits, and of a few more."""
    if len(row) < 4 * NUM_GROUPS or k >= NUM_GROUPS:
        return np.arange(len(row))
    whole = len(row) - len(row) % NUM_GROUPS
    bests = row[:whole].reshape(-1, NUM_GROUPS).max(axis=0)
    return np.flatnonzero(row >= np.partition(bests, NUM_GROUPS - k)[NUM_GROUPS - k])


def descending(row: Floats, ids: Ids) -> Ids:
    """Ascending ids → the same by descending logit, ties by id."""
    return ids[np.argsort(-row[ids], kind="stable")]


def race(ids: Ids, weights: Floats, key: np.uint64) -> int:
    """Draws one of the ids, with probability proportional to its weight."""
    times = -np.log1p(-to_unit(scramble(ids.astype(np.uint64), key)))
    return int(ids[np.argmax(weights / times)])  # the earliest arrival


def scramble(ids: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Hashes key and ids to independent random 64-bit numbers: splitmix64 (Steele 2014)."""
    mixed = key + (ids + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return mixed ^ (mixed >> np.uint64(31))


def to_unit(bits: Any) -> Any:
    """Random 64 bits → (0, 1), as float64; arrays too."""
    return ((bits >> np.uint64(11)) + 0.5) * 2.0**-53
