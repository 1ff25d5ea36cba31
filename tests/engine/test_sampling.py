"""The sampler against a naive one in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localinfra.engine.backend import DecodeFailed
from localinfra.engine.draws import NUM_GROUPS, draw, left
from localinfra.engine.request import SamplingParams
from localinfra.engine.sampling import Sampler
from localinfra.errors import InvalidRequest

SIZES = [1, 2, 50, NUM_GROUPS, 5 * NUM_GROUPS, 5 * NUM_GROUPS + 77]


def logits(size: int, seed: int = 0, spread: float = 3.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(size, np.float32) * np.float32(spread)


def naive_probabilities(row: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    order = np.argsort(-row, kind="stable")
    keep = order[: params.top_k] if params.top_k else order
    weights = np.exp(row[keep].astype(np.float64) - row.max())
    reached = np.cumsum(weights) / weights.sum() >= params.top_p
    if params.top_p < 1:
        keep = keep[: int(np.argmax(reached)) + 1]
    keep = keep[np.exp(row[keep].astype(np.float64) - row.max()) >= params.min_p]
    weights = np.exp((row[keep].astype(np.float64) - row.max()) / params.temperature)
    probabilities = np.zeros(len(row))
    probabilities[keep] = weights / weights.sum()
    return probabilities


params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.01, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 40, 999]),
    top_p=st.sampled_from([0.001, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)


@settings(max_examples=80, deadline=None)
@given(params, st.sampled_from(SIZES), st.integers(0, 5), st.sampled_from([0.3, 3.0]))
def test_draws_follow_the_distribution_of_a_naive_sampler(
    params: SamplingParams, size: int, seed: int, spread: float
) -> None:
    row = logits(size, seed, spread)
    expected = naive_probabilities(row, params)
    keys = np.random.default_rng(seed).integers(1 << 64, size=(2000, 2), dtype=np.uint64)
    counts = np.bincount(
        [draw(row.copy(), row.max(), params, *key) for key in keys], minlength=size
    )
    # In float32, a token at a cutoff may fall on the other side.
    assert counts[expected == 0].sum() <= 1
    # Five standard deviations, for shares large enough for that to be meaningful.
    large = expected * len(keys) > 20
    deviation = np.sqrt(len(keys) * expected * (1 - expected)) + 1e-9
    assert (np.abs(counts - expected * len(keys)) / deviation)[large].max(initial=0) < 5
    small = ~large & (expected > 0)
    rest = expected[small].sum() * len(keys)
    assert abs(counts[small].sum() - rest) <= 5 * np.sqrt(rest) + 5


@pytest.mark.parametrize("size", SIZES)
def test_ties_are_kept_by_id(size: int) -> None:
    row = np.zeros(size, np.float32)
    kept = left(row, row.max(), SamplingParams(top_k=7))
    assert list(kept) == list(range(min(7, size)))


def test_extreme_random_numbers_never_give_a_forbidden_token() -> None:
    row = logits(5000)
    row[1000:] = -np.inf
    most = np.uint64(2**64 - 1)
    for settings_ in (SamplingParams(), SamplingParams(top_p=0.9999), SamplingParams(top_k=900)):
        for key in (most, np.uint64(0)):
            assert draw(row.copy(), row.max(), settings_, key, most) < 1000


def test_another_rounding_hardly_ever_changes_a_draw() -> None:
    """Noise of 0.01 on each logit, about the effect of another batch shape, changes few draws among
    a thousand likely tokens. Inverting the cumulative sums would change half of them."""
    keys = np.random.default_rng(1).integers(1 << 64, size=(1000, 2), dtype=np.uint64)
    row = logits(5 * NUM_GROUPS, 1, 1.0)
    other = row + logits(len(row), 2, 0.01)
    changed = sum(
        draw(row.copy(), row.max(), SamplingParams(), *key)
        != draw(other.copy(), other.max(), SamplingParams(), *key)
        for key in keys
    )
    assert 0 < changed < 30


def test_zero_temperature_is_greedy_whatever_else_is_set() -> None:
    sampler = Sampler(SamplingParams(temperature=0, top_p=0.1, seed=9), 0, [1])
    for seed in range(20):
        row = logits(300, seed)
        assert sampler.sample(row.copy()) == row.argmax()


def test_streams_of_one_seed_differ_and_are_reproducible() -> None:
    def text(seed: int, stream: int) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), stream, [])
        return [sampler.sample(logits(5000, i)) for i in range(12)]

    texts = [tuple(text(seed, stream)) for seed in (0, 1, 2**63 - 1) for stream in (0, 1, 127)]
    assert len(set(texts)) == len(texts)
    assert text(2**63 - 1, 127) == list(texts[-1])


def test_presence_and_frequency_penalties_count_only_the_output_repetition_the_prompt_too() -> None:
    greedy = SamplingParams(temperature=0, frequency_penalty=1.0, presence_penalty=0.5)
    sampler = Sampler(greedy, 0, [0])
    row = np.array([4.0, 3.0, 0.0], np.float32)
    # 4 - 0, then 4 - 1.5, then 3 - 1.5 against 2.5, ...
    assert [sampler.sample(row.copy()) for _ in range(5)] == [0, 1, 0, 0, 1]
    repeated = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0), 0, [0])
    assert repeated.sample(row.copy()) == 1  # 4 / 2 against 3
    negative = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0), 0, [0])
    assert negative.sample(np.array([-1.0, -1.5], np.float32)) == 1  # -1 x 2 against -1.5


def test_a_bias_of_minus_100_forbids_a_token_and_others_are_added() -> None:
    row = np.array([50.0, 3.0, 2.0], np.float32)
    forbid = Sampler(SamplingParams(temperature=0, logit_bias={0: -100, 2: 1.5}), 0, [])
    assert forbid.sample(row.copy()) == 2


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_bias_that_forbids_every_token_is_an_invalid_request(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, logit_bias=dict.fromkeys(range(3), -100.0))
    with pytest.raises(InvalidRequest, match="forbids every token of the model"):
        Sampler(params, 0, []).sample(np.array([5.0, 3.0, 2.0], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    row = logits(100)
    row[50 if bad != -np.inf else slice(None)] = bad
    with pytest.raises(DecodeFailed, match="not finite"):
        Sampler(SamplingParams(), 0, []).sample(row)
