"""Whatever status llama_decode gives at whichever step of a real context: the requests of that step
fail or are computed anew, all others get their answers, and no cell is lost."""

import asyncio
from typing import Any

import pytest
from models.tiny_gguf import tiny_llama

from localinfra.engine.engine import Engine
from localinfra.engine.radix import Prefix
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.errors import ApiError
from localinfra.llama.context import LlamaContext
from localinfra.llama.library import llama_cpp
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings

SETTINGS = ContextSettings(
    context_length=64, num_cells=160, num_sequences=2, batch_size=16, threads=1, kv_type="f16"
)
GREEDY = GenerationParams(SamplingParams(temperature=0))
LOAD = [  # more than run at once, with a prefix in common
    GenerationRequest(list(range(40, 70)), 5, GREEDY),
    GenerationRequest([*range(40, 60), 90], 5, GREEDY),
    GenerationRequest([100, 101, 102], 4, GREEDY),
]
AFTER = GenerationRequest([*range(40, 65), 91], 4, GREEDY)
# 1: no room for the batch. 2: aborted. Negative: invalid, no memory, the computation failed.
STATUSES = [1, 2, -1, -2, -3]


class Failing:
    """llama_decode that gives `status` in call `at`, counted from 1: before anything was computed,
    or after, when cells have changed already."""

    def __init__(self, status: int = 0, at: int = 0, *, is_late: bool = False):
        self.status, self.at, self.is_late = status, at, is_late
        self.num_calls = 0
        self.real = llama_cpp.llama_decode

    def __call__(self, *arguments: Any) -> int:
        self.num_calls += 1
        if self.num_calls != self.at:
            return int(self.real(*arguments))
        if self.is_late:
            self.real(*arguments)
        return self.status


async def answer(engine: Engine, request: GenerationRequest) -> list[int | None] | ApiError:
    tokens: list[int | None] = []
    try:
        async with engine.generate([request]) as generation:
            async for events in generation:
                tokens += [event.token for event in events]
    except ApiError as error:
        return error
    return tokens


async def serve(context: LlamaContext) -> list[list[int | None] | ApiError]:
    """The answers to the load, and to one after it; the cells are those of the prefix cache."""
    engine = Engine(context, EngineSettings(max_offloaded=1 << 20))
    try:
        answers = list(await asyncio.gather(*(answer(engine, each) for each in LOAD)))
        answers.append(await answer(engine, AFTER))
        while engine.stats.num_running or engine.stats.num_waiting:
            await asyncio.sleep(0.001)
        cache = engine._scheduler.cache
        assert cache.num_used == cache.num_cached and not cache.num_private
        for slot in range(context.num_slots):
            assert context.held(slot) == len(cache._recorded.get(slot, Prefix([])).tokens)
        return answers
    finally:
        await asyncio.to_thread(engine.close)


def served(model: Model, monkeypatch: pytest.MonkeyPatch, failing: Failing) -> list[Any]:
    context = LlamaContext(model, SETTINGS)  # it decodes too, to see how its kernels round
    monkeypatch.setattr(llama_cpp, "llama_decode", failing)
    try:
        return asyncio.run(asyncio.wait_for(serve(context), 300))
    finally:
        monkeypatch.setattr(llama_cpp, "llama_decode", failing.real)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_llama().write(tmp_path_factory.mktemp("m") / "tiny.gguf"), ModelSettings())


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "after computing"])
@pytest.mark.parametrize("status", STATUSES)
def test_a_status_at_any_step_harms_only_the_requests_of_that_step(
    model: Model, monkeypatch: pytest.MonkeyPatch, status: int, is_late: bool
) -> None:
    counted = Failing()
    expected = served(model, monkeypatch, counted)
    assert counted.num_calls > 10 and not any(isinstance(got, ApiError) for got in expected)
    num_failed = 0
    for at in range(1, counted.num_calls + 1):
        answers = served(model, monkeypatch, Failing(status, at, is_late=is_late))
        failed = [got for got in answers if isinstance(got, ApiError)]
        assert len(failed) <= SETTINGS.num_sequences, at
        assert all(error.status == 500 and str(status) in error.message for error in failed)
        for got, wanted in zip(answers, expected, strict=True):
            assert isinstance(got, ApiError) or got == wanted, at
        num_failed += len(failed)
    assert num_failed >= counted.num_calls
