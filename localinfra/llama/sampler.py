"""SamplingParams → a llama.cpp sampler chain; penalties and biases go into the row before it.

llama.cpp's own penalty sampler walks the whole vocabulary and counts every token it accepted.
Here only the tokens that were seen are touched, and the two kinds of penalty can count
different tokens (API.md section 4).
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llama_cpp import llama_cpp
from numpy.typing import NDArray

from localinfra.engine.backend import DecodeFailed
from localinfra.engine.request import SamplingParams

# Below this temperature logits / temperature overflows float32 and the draw is greedy anyway.
GREEDY_BELOW = 1e-4

NEVER = -100.0  # a logit_bias of this much forbids the token


def stream_seed(seed: int, stream: int) -> int:
    """The 32-bit seed of one random stream; independent between streams."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % 0xFFFF_FFFF  # that value itself asks for a random one


def make_chain(params: SamplingParams, seed: int) -> Any:
    """top_k, top_p, min_p, temperature, draw; what is off is left out. None for a greedy choice:
    llama.cpp's greedy sampler copies the whole row first, which takes ten times as long."""
    if params.temperature < GREEDY_BELOW:
        return None
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    add = llama_cpp.llama_sampler_chain_add
    if params.top_k:
        add(chain, llama_cpp.llama_sampler_init_top_k(params.top_k))
    if params.top_p < 1:
        add(chain, llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0:
        add(chain, llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
    if params.temperature != 1:
        add(chain, llama_cpp.llama_sampler_init_temp(params.temperature))
    add(chain, llama_cpp.llama_sampler_init_dist(seed))
    return chain


class Penalties:
    """Repetition over prompt and output; presence and frequency over the output alone."""

    def __init__(self, params: SamplingParams, prompt: list[int]):
        self._params = params
        self._seen = set(prompt) if params.repetition_penalty != 1 else set()
        self._counts: dict[int, int] = {}

    def accept(self, token: int) -> None:
        self._seen.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1

    def apply(self, row: NDArray[np.float32]) -> None:
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


class ChainSampler:
    """One choice's chain and counts: an `engine.backend.Sampler`."""

    def __init__(
        self,
        context: Any,
        logits: Callable[[int], NDArray[np.float32]],
        params: SamplingParams,
        stream: int,
        prompt: list[int],
    ):
        self._context = context
        self._logits = logits
        self._chain = make_chain(params, stream_seed(params.seed, stream))
        penalised = (
            params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
        )
        self._penalties = Penalties(params, prompt) if penalised else None
        self._bias_ids = np.fromiter(params.logit_bias, np.int64, len(params.logit_bias))
        bias = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        self._bias = np.where(bias <= NEVER, -np.inf, bias)

    def sample(self, row: int) -> int:
        logits = self._logits(row)
        if self._penalties:
            self._penalties.apply(logits)
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        best = int(logits.argmax())  # a NaN counts as the largest
        if not math.isfinite(logits[best]):
            raise DecodeFailed("the model's logits are not finite; its file may be damaged")
        token: int = best
        if self._chain is not None:
            token = llama_cpp.llama_sampler_sample(self._chain, self._context, row)
        if self._penalties:
            self._penalties.accept(token)
        return token

    def close(self) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
