"""Tokens chosen where the logits are, on llama.cpp's CPU backend: the same, with fewer copies."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from best_logits import best_of
from grammar_writer import Writer

from localinfra.engine.backend import Batch, DecodeFailed
from localinfra.engine.engine import Engine
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from localinfra.engine.sampling import Sampler
from localinfra.llama import device_sampling
from localinfra.llama.context import LlamaContext
from localinfra.llama.library import llama_cpp
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings

SETTINGS = ContextSettings(
    context_length=256,
    num_cells=1024,
    num_sequences=4,
    batch_size=64,
    threads=1,
    kv_type="f16",
    device_sampling=True,
)
FOLLOWED = '%llguidance {"no_forcing": true}\n'
PROMPT = list(range(1000, 1024))
Open = Callable[..., LlamaContext]


@pytest.fixture
def opened(model: Model) -> Iterator[Open]:
    contexts: list[LlamaContext] = []

    def open_context(**changes: Any) -> LlamaContext:
        contexts.append(LlamaContext(model, msgspec.structs.replace(SETTINGS, **changes)))
        return contexts[-1]

    yield open_context
    for context in contexts:
        context.close()


class Counting:
    """How often whole rows are read."""

    def __init__(self, context: LlamaContext, monkeypatch: pytest.MonkeyPatch):
        self.num_rows = 0
        logits = context.logits

        def counted(row: int) -> "np.typing.NDArray[np.float32]":
            self.num_rows += 1
            return logits(row)

        monkeypatch.setattr(context, "logits", counted)


def decode(context: LlamaContext, *parts: tuple[int, int, list[int], int]) -> Batch:
    """`parts`: slot, position, tokens and rows with logits."""
    batch = Batch()
    for slot, position, tokens, num_outputs in parts:
        batch.extend(slot, position, tokens, num_outputs)
    context.decode(batch)
    return batch


def test_each_row_has_its_best_logits_and_can_be_read_whole(opened: Open) -> None:
    sampling, plain = opened(), opened(device_sampling=False)
    steps = [
        [(0, 0, PROMPT, 3), (1, 0, PROMPT[:5], 1)],  # several rows of a slot
        [(2, 0, PROMPT[3:9], 0)],  # no rows at all
        [(1, 5, [77], 1), (2, 6, [78], 1), (0, 24, [79], 1)],
        [(1, 6, [77], 1), (2, 7, [78], 1), (0, 25, [79], 1)],  # the graph before, used again
        [(2, 8, [80], 1)],
        [(3, 0, PROMPT, 1), (4, 0, [7], 1)],  # the last slot fills steps up
        [(4, 1, [7, 8], 2)],  # and has no sampler
    ]
    for parts in steps:
        batch = decode(sampling, *parts)
        decode(plain, *parts)
        for row in batch.output_rows:
            expected = plain.logits(row)
            assert np.array_equal(sampling.logits(row), expected)
            found = sampling.candidates(row)
            assert plain.candidates(row) is None
            if batch.slots[batch.output_rows[0]] == SETTINGS.num_sequences:
                assert found is None
                continue
            assert found
            assert np.array_equal(found.logits, expected[found.ids])
            assert np.array_equal(np.sort(found.logits), np.sort(expected)[-len(found.ids) :])
            shares = np.exp(expected.astype(np.float64) - expected.max())
            assert found.total == pytest.approx(shares.sum(), rel=1e-5)


def test_a_row_may_be_edited(opened: Open) -> None:
    context = opened()
    decode(context, (0, 0, PROMPT, 2))
    first, second = context.logits(22).copy(), context.logits(23).copy()
    context.logits(22)[:] = 0
    assert np.array_equal(context.logits(23), second) and not np.array_equal(first, second)


def answers(context: LlamaContext, requests: list[GenerationRequest]) -> list[list[int]]:
    async def run() -> list[list[int]]:
        engine = Engine(context, EngineSettings())
        async with engine.generate(requests) as generation:
            said: list[list[int]] = [[] for _ in requests]
            async for events in generation:
                for event in events:
                    assert isinstance(event, TokenEvent) and event.token is not None
                    said[event.choice].append(event.token)
        await asyncio.to_thread(engine.close)
        return said

    return asyncio.run(run())


def request(sampling: SamplingParams, **params: Any) -> GenerationRequest:
    return GenerationRequest(PROMPT, 12, GenerationParams(sampling, **params))


def test_seeded_answers_are_those_without_it(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside one with logprobs, for which whole rows are read: its own only. No request sets a
    sampler, which would reserve all graphs again."""

    def reserved_again(*_: object) -> None:
        raise AssertionError("all graphs are reserved again")

    requests = [
        request(SamplingParams(temperature=0, is_reproducible=True)),
        request(SamplingParams(top_k=20, top_p=0.9, seed=5, is_reproducible=True)),
        request(SamplingParams(min_p=0.1, seed=6, is_reproducible=True)),
        request(SamplingParams(top_k=40, seed=7, is_reproducible=True), top_logprobs=1),
        request(SamplingParams(seed=8, is_reproducible=True)),
    ]
    expected = answers(opened(device_sampling=False), requests)
    context = opened()
    counting = Counting(context, monkeypatch)
    monkeypatch.setattr(llama_cpp, "llama_set_sampler", reserved_again)
    assert answers(context, requests) == expected
    assert len(expected[3]) <= counting.num_rows < 2 * len(expected[3])


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0),
        SamplingParams(top_k=20, seed=1),
        SamplingParams(top_k=30, top_p=0.9, presence_penalty=1.0, seed=2),
        SamplingParams(min_p=0.05, seed=3),
        SamplingParams(top_p=0.9, seed=4),  # its share of what is allowed is not known
    ],
)
def test_grammars_leave_the_same_tokens(writer: Writer, sampling: SamplingParams) -> None:
    grammar = writer.compiler.compile(f"{FOLLOWED}start: /[a-z ]{{30,60}}/", "x")
    whole, among = grammar.follow(), grammar.follow()
    of_rows, of_candidates = Sampler(sampling, 0, []), Sampler(sampling, 0, [])
    chance = np.random.default_rng(5)
    num_decided = 0
    for _ in range(8):
        row = chance.standard_normal(grammar.vocabulary.size, np.float32) * np.float32(3)
        among.prepare()
        token = of_candidates.sample_among(best_of(row, 128), among)
        num_decided += token is not None
        if token is None:
            token = of_candidates.sample(row.copy(), among)
        assert token == of_rows.sample(row.copy(), whole)
        whole.accept(token)
        among.accept(token)
    if sampling.top_p < 1 and not sampling.top_k:
        assert num_decided == 0
    else:
        assert num_decided >= 5, "a row has few allowed tokens among its best ones"


@pytest.mark.slow
@pytest.mark.parametrize("full_window", [False, True])
def test_a_vocabulary_of_262144_tokens_beside_a_sliding_window(
    gemma_file: Path, full_window: bool
) -> None:
    model = Model(gemma_file, ModelSettings())
    settings = msgspec.structs.replace(SETTINGS, num_cells=4096, full_window=full_window)
    context = LlamaContext(model, settings)
    assert context.has_full_window == full_window
    batch = decode(context, (0, 0, PROMPT, 2), (2, 0, PROMPT[:9], 1))
    for row in batch.output_rows:
        found, logits = context.candidates(row), context.logits(row)
        assert found and np.array_equal(np.sort(found.logits), np.sort(logits)[-128:])
    context.close()


def test_it_is_given_up_where_it_does_not_work(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_sampling, "LOGITS", b"another name")
    context = opened()
    assert "not chosen on the device" in caplog.text
    batch = decode(context, (0, 0, PROMPT, 1))
    assert context.candidates(23) is None and len(batch) == 24
    expected = opened(device_sampling=False)
    decode(expected, (0, 0, PROMPT, 1))
    assert np.array_equal(context.logits(23), expected.logits(23))


def test_a_step_without_candidates_fails_and_is_the_last_one(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened()
    monkeypatch.setattr(device_sampling, "LOGITS", b"another name")
    with pytest.raises(DecodeFailed):
        decode(context, (0, 0, PROMPT, 1))
    context.clear()
    decode(context, (0, 0, PROMPT, 1))
    assert context.candidates(23) is None and np.isfinite(context.logits(23)).all()


def test_by_default_it_is_off_on_a_cpu(opened: Open) -> None:
    context = opened(device_sampling=None)
    decode(context, (0, 0, PROMPT, 1))
    assert context.candidates(23) is None
