"""Pictures, as rows, in prompts of real kernels over tiny models."""

import asyncio
import itertools
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from fake_pictures import request_of
from fakes import collect, settle
from llama.test_mtp import contexts
from models.tiny_gguf import EMBD, TinyModel, tiny_gemma3, tiny_llama
from models.tiny_hybrids import tiny_lfm2, tiny_qwen35
from models.tiny_mtp import often_right, tiny_qwen35_mtp
from models.tiny_seeing import random_picture, tiny_qwen2vl

from localinfra.engine.drafting import Drafting
from localinfra.engine.engine import Engine
from localinfra.engine.pictures import Picture
from localinfra.engine.policy.speculation import Speculator
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.engine.scheduler import Scheduler
from localinfra.engine.step import Chunk
from localinfra.errors import EngineFailed
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings

SETTINGS = ContextSettings(
    context_length=400, num_cells=900, num_sequences=4, batch_size=64, threads=2, kv_type="f16"
)
# Of log-probabilities, where steps have other shapes. Another picture makes a difference
# of about 1.
# In steps below 64 rows, flash attention adds up the values of cells in 16 bits, in larger ones in
# 32 (ggml-cpu/ops.cpp): texts without pictures differ by up to 2e-3 too. Cells of 32 bits alone
# change nothing, since it reads them as 16.
TOLERANCE = 5e-3
SCORED = GenerationParams(SamplingParams(temperature=0), top_logprobs=20)


class Kind(NamedTuple):
    make: Callable[[], TinyModel]
    picture: dict[str, Any]
    settings: ContextSettings = SETTINGS


KINDS = {
    "non-causal, with windows as states": Kind(tiny_gemma3, {"is_causal": False}),
    "non-causal, with full windows": Kind(
        tiny_gemma3, {"is_causal": False}, msgspec.structs.replace(SETTINGS, full_window=True)
    ),
    "causal": Kind(tiny_llama, {}),
    "M-RoPE": Kind(tiny_qwen2vl, {"grid": (3, 4)}),
    "hybrid": Kind(tiny_lfm2, {}),
    "hybrid with M-RoPE": Kind(tiny_qwen35, {"grid": (3, 4)}),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def path(kind: Kind, tmp_path: Path) -> Path:
    return kind.make().write(tmp_path / "tiny.gguf")


def conversation(kind: Kind, number: int, num_pictures: int = 3) -> list[int | Picture]:
    """Text and pictures in turn; the first picture is the same in all."""
    chance = random.Random(number)
    parts: list[int | Picture] = [40, 41, 42]
    for at in range(num_pictures):
        parts.append(random_picture(1000 * number + at if at else 0, **kind.picture))
        parts += [chance.randrange(40, 190) for _ in range(5)]
    return parts


def engine_of(kind: Kind, path: Path, **options: Any) -> Engine:
    settings = msgspec.structs.replace(kind.settings, **options)
    backend = LlamaContext(Model(path, ModelSettings()), settings)
    return Engine(backend, EngineSettings(max_offloaded=1 << 22))


class Steps(NamedTuple):
    """How a request is computed, and how far its log-probabilities may be from others."""

    params: GenerationParams
    tolerance: float
    options: dict[str, Any]  # of its context


ONE_SHAPE = SamplingParams(temperature=0, is_reproducible=True, seed=7)
IN_32_BITS = {"flash_attention": False, "kv_type": "f32"}
STEPS = {
    "in steps of any shape": Steps(SCORED, TOLERANCE, {}),
    "in steps of one shape": Steps(GenerationParams(ONE_SHAPE, top_logprobs=20), 1e-3, {}),
    "in steps of any shape, all in 32 bits": Steps(SCORED, 1e-3, IN_32_BITS),
}


class Said(NamedTuple):
    scores: dict[int, float]  # of the first token: what the whole prompt has done
    tokens: list[int]
    num_cached: int


async def ask(
    engine: Engine, *parts: int | Picture, max_tokens: int = 4, params: GenerationParams = SCORED
) -> Said:
    [events] = await collect(engine, request_of(*parts, max_tokens=max_tokens, params=params))
    first = events[0].logprob
    assert first
    tokens = [event.token or 0 for event in events]
    return Said(dict(first.top), tokens, events[0].num_cached)


def assert_alike(left: Said, right: Said, tolerance: float = TOLERANCE) -> None:
    both = left.scores.keys() & right.scores.keys()
    assert len(both) >= 15  # the last ones of the list may differ
    assert max(abs(left.scores[token] - right.scores[token]) for token in both) < tolerance


@pytest.mark.parametrize("steps", STEPS)
def test_a_picture_reads_the_same_alone_beside_others_restored_and_in_the_next_turn(
    kind: Kind, path: Path, steps: str
) -> None:
    params, tolerance, options = STEPS[steps]
    engine_with = partial(engine_of, kind, path, **options)
    ask_for = partial(ask, params=params)
    assert_same = partial(assert_alike, tolerance=tolerance)
    prompts = [conversation(kind, number) for number in range(1, 6)]

    async def test() -> None:
        alone = []
        for prompt in prompts:
            engine = engine_with()
            alone.append(await ask_for(engine, *prompt))
            assert alone[-1].num_cached == 0
            await asyncio.to_thread(engine.close)
        for left, right in itertools.pairwise(alone):
            with pytest.raises(AssertionError):  # each picture matters
                assert_alike(left, right)

        engine = engine_with()
        together = await asyncio.gather(*(ask_for(engine, *prompt) for prompt in prompts))
        later = [await ask_for(engine, *prompt) for prompt in prompts]  # some from host memory
        for first, second, third in zip(alone, together, later, strict=True):
            assert_same(first, second)
            assert_same(first, third)
            assert third.num_cached >= 40, "no picture is read again"

        turn = [*prompts[0], *later[0].tokens, 60, random_picture(9, **kind.picture), 61]
        next_turn = await ask_for(engine, *turn)
        assert next_turn.num_cached >= 49
        await asyncio.to_thread(engine.close)
        fresh = engine_with()
        assert_same(next_turn, await ask_for(fresh, *turn))
        await asyncio.to_thread(fresh.close)

    asyncio.run(test())


def test_ten_pictures_are_read_in_one_conversation_whose_cells_are_few(
    kind: Kind, path: Path
) -> None:
    """Idle prefixes leave, and come back from host memory."""

    async def test() -> None:
        engine = engine_of(kind, path, num_cells=512)
        parts = conversation(kind, 7, num_pictures=10)
        said = [await ask(engine, *parts)]
        for number in range(8, 12):
            await ask(engine, *conversation(kind, number, num_pictures=10))
        said.append(await ask(engine, *parts))
        assert_alike(said[0], said[1])
        assert said[1].num_cached >= 150
        await asyncio.to_thread(engine.close)

    asyncio.run(test())


def test_a_damaged_step_leaves_attention_causal(tmp_path: Path) -> None:
    """A non-causal step that fails, and texts before and after it."""
    kind = KINDS["non-causal, with full windows"]
    path = kind.make().write(tmp_path / "tiny.gguf")
    text = [50 + at % 90 for at in range(40)]

    async def test() -> None:
        engine = engine_of(kind, path)
        before = await ask(engine, *text)
        with pytest.raises(EngineFailed, match="don't belong together"):
            narrow = Picture(b"narrow", np.zeros((4, EMBD - 1), np.float32), None, False)
            engine.generate([request_of(50, narrow, 51)])
        await ask(engine, 70, random_picture(1, **kind.picture), 71)
        await settle(engine)
        assert_alike(before, await ask(engine, 49, *text[1:]), 30)
        engine_again = engine_of(kind, path)
        other = [90, *text]
        assert_alike(await ask(engine_again, *other), await ask(engine, *other))
        for each in (engine, engine_again):
            await asyncio.to_thread(each.close)

    asyncio.run(test())


LARGE = Kind(
    tiny_qwen2vl,
    {"is_causal": False, "size": 70},
    msgspec.structs.replace(SETTINGS, batch_size=128, num_cells=1600),
)


@pytest.mark.parametrize("kind", [*KINDS.values(), LARGE], ids=[*KINDS, "in tiles"])
def test_a_seeded_text_after_a_picture_is_the_same_in_any_company(kind: Kind, path: Path) -> None:
    params = GenerationParams(SamplingParams(is_reproducible=True, seed=7), top_logprobs=0)

    async def text(engine: Engine, request: GenerationRequest) -> list[tuple[int | None, float]]:
        [events] = await collect(engine, request)
        return [(e.token, e.logprob.logprob or 0.0) for e in events if e.logprob]

    async def test() -> None:
        engine = engine_of(kind, path)
        seeded = [
            request_of(*conversation(kind, number), max_tokens=20, params=params)
            for number in range(1, 4)
        ]
        alone = [await text(engine, request) for request in seeded]
        for attempt in range(3):
            others = [
                request_of(*conversation(kind, 10 * attempt + n), max_tokens=20)
                for n in range(10, 14)
            ]
            flat = [request for pair in zip(others, seeded, strict=False) for request in pair]
            got = await asyncio.gather(*(text(engine, request) for request in flat))
            assert got[1::2] == alone
        await asyncio.to_thread(engine.close)

    asyncio.run(test())


def test_mtp_layers_draft_for_texts_beside_pictures_and_never_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, mtp = contexts(often_right(tiny_qwen35_mtp()), tmp_path, context_length=256)
    drafted: list[bool] = []
    plain = Scheduler.accept

    def accept(scheduler: Scheduler, chunk: Chunk) -> None:
        if chunk.draft:
            drafted.append(bool(chunk.sequence.request.pictures))
        plain(scheduler, chunk)

    monkeypatch.setattr(Scheduler, "accept", accept)
    monkeypatch.setattr(Drafting, "_is_worth_reading", lambda *_: True)
    monkeypatch.setattr(
        Speculator, "sizes", lambda _, chances, limit, *__: [min(len(c), 2) for c in chances]
    )
    seen = request_of(40, 41, random_picture(1, grid=(3, 4)), 42, max_tokens=30, params=SCORED)
    texts = [GenerationRequest([*range(start, start + 30)], 60, SCORED) for start in (40, 60)]

    async def test() -> None:
        engine = Engine(verifier, EngineSettings(prompt_lookup=False), drafter=mtp)
        both = await collect(engine, seen, *texts)
        alone = [await collect(engine, request) for request in (seen, *texts)]
        assert [len(events) for events in both] == [len(events) for [events] in alone]
        await asyncio.to_thread(engine.close)

    asyncio.run(test())
    assert drafted and not any(drafted)
