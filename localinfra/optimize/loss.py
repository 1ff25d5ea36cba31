"""How far quantised weights are from the same weights in F16: divergence and perplexity.

All models read the passage side by side, so that only one row of logits of each is held.
The passage is bundled: fiction and code written for this project.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.optimize.choose import Loss

PASSAGE = Path(__file__).parent / "passage.txt"
MAX_TOKENS = 1100  # a byte-level vocabulary would make several times that of the passage
CHUNK = 64  # tokens per batch, each with a row of logits


class RowReader(Protocol):
    """The part of `engine.backend.Backend` that is needed here."""

    def decode(self, batch: Batch) -> None: ...
    def logits(self, row: int) -> NDArray[np.float32]: ...
    def clear(self) -> None: ...


def losses(
    readers: Mapping[str, RowReader],
    reference: str,
    original: str,
    tokens: Sequence[int],
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Loss]:
    """Reader → loss; `reference` and `original` name two of them. Needs at least two tokens."""
    divergence = dict.fromkeys(readers, 0.0)
    surprise: dict[str, list[float]] = {name: [] for name in readers}  # -log p of the next token
    for reader in readers.values():
        reader.clear()
    for start in range(0, len(tokens) - 1, CHUNK):
        chunk = list(tokens[start : min(start + CHUNK, len(tokens) - 1)])
        for reader in readers.values():
            batch = Batch()
            batch.extend(0, start, chunk, len(chunk))
            reader.decode(batch)
        for row in range(len(chunk)):
            expected = log_probabilities(readers[reference].logits(row))
            weight = np.exp(expected)
            for name, reader in readers.items():
                found = log_probabilities(reader.logits(row))
                divergence[name] += float((weight * (expected - found)).sum(dtype=np.float64))
                surprise[name].append(-float(found[tokens[start + row + 1]]))
        progress((start + len(chunk)) / (len(tokens) - 1))
    num_rows = len(tokens) - 1
    return {
        name: Loss(
            mean_kl=max(divergence[name], 0.0) / num_rows,
            perplexity=math.exp(np.mean(surprise[name])),
            perplexity_error=perplexity_error(surprise[name], surprise[original]),
        )
        for name in readers
    }


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row of logits → natural-log probabilities."""
    shifted: NDArray[np.float32] = logits - logits.max()
    total: float = np.exp(shifted).sum(dtype=np.float64)
    shifted -= np.float32(math.log(total))
    return shifted


def perplexity_error(surprise: Sequence[float], original: Sequence[float]) -> float:
    """Standard error of the difference between two perplexities on the same tokens."""
    difference = np.subtract(surprise, original)
    error = float(difference.std()) / math.sqrt(len(difference))
    return error * math.exp(np.mean(surprise))
