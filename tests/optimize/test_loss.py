"""Divergence and perplexity of models with known distributions."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.optimize.loss import CHUNK, losses

VOCAB = 8
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, VOCAB, 3 * CHUNK + 5)]


class Scripted:
    """Gives the same distribution at each position."""

    def __init__(self, probabilities: list[float]):
        self._row = np.log(np.array(probabilities, np.float32)) + 3  # any offset gives the same
        self.positions: list[int] = []

    def decode(self, batch: Batch) -> None:
        assert len(batch) <= CHUNK and batch.output_rows == list(range(len(batch)))
        self.positions += batch.positions

    def logits(self, row: int) -> NDArray[np.float32]:
        return self._row

    def clear(self) -> None:
        self.positions = []


def test_even_odds_have_the_vocabularys_size_as_perplexity_and_no_self_divergence() -> None:
    even = Scripted([1 / VOCAB] * VOCAB)
    found = losses({"f16": even, "same": even}, "f16", "same", TOKENS)
    assert found["same"].mean_kl == pytest.approx(0, abs=1e-6)
    assert found["same"].perplexity == pytest.approx(VOCAB, rel=1e-5)
    assert found["same"].perplexity_error == 0


def test_divergence_is_weighted_by_the_reference() -> None:
    one, other = [0.3, 0.7] + [1e-9] * 6, [0.5, 0.5] + [1e-9] * 6
    readers = {"f16": Scripted(one), "q": Scripted(other)}
    expected = 0.3 * math.log(0.3 / 0.5) + 0.7 * math.log(0.7 / 0.5)
    assert losses(readers, "f16", "q", TOKENS)["q"].mean_kl == pytest.approx(expected, rel=1e-4)


def test_perplexity_is_of_the_next_token_and_its_error_shrinks_with_the_text() -> None:
    half = Scripted([0.5] + [0.5 / 7] * 7)
    other = Scripted([0.4] + [0.6 / 7] * 7)
    found = losses({"f16": half, "q": other}, "f16", "f16", TOKENS)
    zeros = sum(token == 0 for token in TOKENS[1:])
    count = len(TOKENS) - 1
    surprise = -(zeros * math.log(0.5) + (count - zeros) * math.log(0.5 / 7)) / count
    assert found["f16"].perplexity == pytest.approx(math.exp(surprise), rel=1e-4)
    shorter = losses({"f16": half, "q": other}, "f16", "f16", TOKENS[: len(TOKENS) // 3])
    assert 0 < found["q"].perplexity_error < shorter["q"].perplexity_error


def test_the_whole_text_is_read_in_order_with_progress() -> None:
    reader = Scripted([1 / VOCAB] * VOCAB)
    parts: list[float] = []
    losses({"f16": reader}, "f16", "f16", TOKENS, parts.append)
    assert reader.positions == list(range(len(TOKENS) - 1))
    assert parts == sorted(parts) and parts[-1] == 1
