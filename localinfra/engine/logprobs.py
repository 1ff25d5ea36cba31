"""A row of raw logits → the logprob of a token and of its best alternatives."""

import math

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.request import TokenLogprob


def token_logprob(row: NDArray[np.float32], token: int, num_top: int) -> TokenLogprob:
    """Natural log-softmax over the whole vocabulary, for `token` and the `num_top` best.

    The same token has the very same number in both places (lm-eval compares them as floats), and
    equal logits are ordered by token id.
    """
    peak = row.max()
    log_sum = float(peak) + math.log(float(np.exp(row - peak).sum(dtype=np.float64)))
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        num_top = min(num_top, len(row))
        last = np.partition(row, -num_top)[-num_top]
        best = np.flatnonzero(row >= last)  # more than num_top where the last place is tied
        order = best[np.lexsort((best, -row[best]))][:num_top]
        top = tuple((int(index), float(row[index]) - log_sum) for index in order)
    return TokenLogprob(token, float(row[token]) - log_sum, top)
