"""Logits of one row → the next token: penalties, bias, top_k, top_p, min_p, temperature, draw.

All in numpy: llama.cpp's sampler chain first copies the vocabulary, 12 bytes per token (0.48 ms for
a row of 49k right after a decode without truncation, 0.38 ms here). Samples the exact distribution:
no token is left out for being unlikely.

Where a device sends only the best of a row, these are tried first (`candidates.py`).
"""

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import DecodeFailed
from localinfra.engine.candidates import Candidates, best, draw_among, may_decide, ranked
from localinfra.engine.draws import Floats, Ids, draw, weights_of
from localinfra.engine.request import SamplingParams
from localinfra.errors import InvalidRequest

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Constraint

# Below this, logits / temperature overflows float32, and sampling is greedy anyway.
GREEDY_BELOW = 1e-4

NEVER = -100.0  # a logit_bias this low forbids the token


class Penalties:
    """Repetition over prompt and output; presence and frequency over the output only."""

    def __init__(self, params: SamplingParams, prompt: list[int]):
        self._params = params
        self._seen = set[int]()
        if params.repetition_penalty != 1:
            self._seen = {token for token in prompt if token >= 0}  # others are of pictures
        self._counts: dict[int, int] = {}

    @property
    def only_lower(self) -> bool:
        """Whether no token gets a larger logit."""
        params = self._params
        is_positive = params.presence_penalty >= 0 and params.frequency_penalty >= 0
        return is_positive and params.repetition_penalty >= 1

    def accept(self, token: int) -> None:
        self._seen.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1

    def apply(self, row: Floats) -> None:
        """Edits logits [num_vocab] in place."""
        if self._params.repetition_penalty != 1:
            self._repetition(row, np.fromiter(self._seen, np.int64, len(self._seen)))
        ids = np.fromiter(self._counts, np.int64, len(self._counts))
        self._counted(row, ids, np.fromiter(self._counts.values(), np.float32, len(self._counts)))

    def applied(self, ids: Ids, logits: Floats) -> Floats:
        """These logits of some tokens, as `apply` changes them in a row."""
        tokens, logits = ids.tolist(), logits.copy()
        self._repetition(logits, np.flatnonzero([token in self._seen for token in tokens]))
        counts = np.array([self._counts.get(token, 0) for token in tokens], np.float32)
        places = np.flatnonzero(counts)
        self._counted(logits, places, counts[places])
        return logits

    def _repetition(self, logits: Floats, places: Ids) -> None:
        penalty = self._params.repetition_penalty
        if penalty != 1 and len(places):
            seen = logits[places]
            logits[places] = np.where(seen > 0, seen / penalty, seen * penalty)

    def _counted(self, logits: Floats, places: Ids, counts: Floats) -> None:
        params = self._params
        if len(places) and (params.presence_penalty or params.frequency_penalty):
            logits[places] -= params.presence_penalty + params.frequency_penalty * counts


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
        self._take(token)
        return token

    def sample_among(self, found: Candidates, constraint: "Constraint | None" = None) -> int | None:
        """Samples the token that `sample` would from the row of these candidates. Returns None, and
        changes nothing, if they don't decide it."""
        penalties = self._penalties
        if len(self._bias_ids) or (penalties and not penalties.only_lower):
            return None
        if self._random and not may_decide(self._params, found):
            return None
        order = ranked(found, penalties.applied if penalties else None)
        if order is None:
            return None
        token = best(order) if self._random is None else None
        if constraint and not (token is not None and constraint.allows(token)):
            order = order.only(constraint.allows_each(order.ids, order.num_vocab))
            token = best(order) if self._random is None else None
        if self._random:
            token = draw_among(order, self._params, *self._key(0))
        if token is not None:
            self._take(token)
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
        return draw(row, row[best], self._params, *self._key(num_ahead)), chance

    def _key(self, num_ahead: int) -> NDArray[np.uint64]:
        """The random numbers of the token after `num_ahead` others."""
        assert self._random
        while len(self._keys) <= num_ahead:
            self._keys.append(self._random.integers(1 << 64, size=2, dtype=np.uint64))
        return self._keys[num_ahead]

    def _take(self, token: int) -> None:
        if self._keys:
            self._keys.popleft()
        self.accept(token)

    def accept(self, token: int) -> None:
        """Counts a token of the text, sampled or forced."""
        if self._penalties:
            self._penalties.accept(token)
