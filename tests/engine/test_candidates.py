"""Tokens drawn from a row's best logits are those drawn from all of it, or none."""

import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from best_logits import best_of
from fakes import FakeBackend, collect, run, running, tokens
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localinfra.engine.candidates import Candidates
from localinfra.engine.request import GenerationParams, GenerationRequest, SamplingParams
from localinfra.engine.sampling import Sampler

COUNT = 128  # candidates
PROMPT = [3, 4, 5, 4, 3]


def row_of(size: int, seed: int, spread: float, *, ties: bool = False) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).standard_normal(size, np.float32) * np.float32(spread)
    return np.round(row) if ties else row


params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 64, COUNT - 1, COUNT, 300]),
    top_p=st.sampled_from([0.001, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.7]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    seed=st.integers(0, 1000),
)


@hypothesis_settings(max_examples=120, deadline=None)
@given(
    params,
    st.sampled_from([6, 50, COUNT, 1000, 5000, 49_152]),
    st.integers(0, 1000),
    st.sampled_from([0.3, 2.0, 6.0]),
    st.booleans(),
)
def test_they_give_the_token_that_the_whole_row_gives(
    params: SamplingParams, size: int, seed: int, spread: float, ties: bool
) -> None:
    whole, among = Sampler(params, 0, PROMPT), Sampler(params, 0, PROMPT)
    for step in range(4):
        row = row_of(size, seed + step, spread, ties=ties)
        token = among.sample_among(best_of(row, COUNT))
        expected = whole.sample(row.copy())
        if token is None:
            token = among.sample(row)
        assert token == expected, "undecided draws leave the random numbers to the row"


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"top_k": 1},
        {"top_k": 40, "top_p": 0.95},
        {"top_k": 64, "top_p": 0.95, "temperature": 0.7},
        {"top_k": 20, "presence_penalty": 1.5},
        {"top_p": 0.9},
        {"min_p": 0.05},
        {"top_p": 0.95, "min_p": 0.02, "temperature": 1.5},
        {},  # as OpenAI's clients ask
        {"temperature": 0.7},
        {"min_p": 1e-4},
    ],
)
def test_usual_settings_hardly_need_the_row(settings: Mapping[str, float]) -> None:
    params = msgspec.convert(settings, SamplingParams, strict=False)
    sampler = Sampler(params, 0, PROMPT)
    # As steep as a model's: the best of 49,152 tokens have nearly all of the probability.
    steep = (18 / np.sqrt(np.arange(1, 49_153))).astype(np.float32)
    rows = [row_of(49_152, seed, 1.0) + steep for seed in range(100)]
    decided = [sampler.sample_among(best_of(row, COUNT)) is not None for row in rows]
    assert sum(decided) >= 98


def test_draws_follow_the_probabilities_of_the_row() -> None:
    row = row_of(20_000, 7, 2.5)
    params = SamplingParams(top_k=12, temperature=1.2, top_p=0.9)
    found = best_of(row, COUNT)
    ids = np.argsort(-row)[:12]
    shares = np.exp(row[ids].astype(np.float64) - row.max())
    kept = int(np.searchsorted(np.cumsum(shares) / shares.sum(), 0.9)) + 1
    ids = ids[:kept]
    expected = np.exp(row[ids].astype(np.float64) / 1.2)
    expected *= 4000 / expected.sum()
    drawn = [
        Sampler(msgspec.structs.replace(params, seed=seed), 0, []).sample_among(found)
        for seed in range(4000)
    ]
    counts = np.array([drawn.count(int(token)) for token in ids])
    assert counts.sum() == 4000
    freedom = kept - 1
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_left_to_the_row(bad: float) -> None:
    found = Candidates(np.arange(3), np.array([1, 2, 3], np.float32), bad, 9)
    assert Sampler(SamplingParams(temperature=0), 0, []).sample_among(found) is None


def test_a_bias_and_a_nucleus_beyond_the_candidates_are_left_to_the_row() -> None:
    found = best_of(np.zeros(5000, np.float32), COUNT)
    for settings in (
        SamplingParams(logit_bias={4000: 5.0}),
        SamplingParams(top_p=0.9),
        SamplingParams(),
        SamplingParams(temperature=0),  # which of equal ones comes first is not known
    ):
        assert Sampler(settings, 0, []).sample_among(found) is None


@pytest.mark.parametrize("sampling", [SamplingParams(top_k=4, seed=3), SamplingParams(seed=3)])
def test_an_engine_says_the_same_with_and_without_them(sampling: SamplingParams) -> None:
    """Whatever runs beside: here a choice with logprobs, which needs whole rows."""
    wanted = GenerationRequest(PROMPT, 20, GenerationParams(sampling))
    scored = GenerationRequest(PROMPT, 20, GenerationParams(sampling, top_logprobs=2))

    async def answers(num_candidates: int) -> tuple[list[list[int]], int]:
        backend = FakeBackend(num_candidates=num_candidates)
        async with running(backend) as engine:
            said = [tokens(events) for events in await collect(engine, wanted, scored)]
        return said, backend.num_rows_read

    async def test() -> None:
        expected, num_rows = await answers(0)
        got, num_rows_with = await answers(12)
        assert got == expected
        assert num_rows == sum(map(len, expected))
        if sampling.top_k:
            assert num_rows_with == len(expected[1]), "rows of the scored choice only"

    run(test)
