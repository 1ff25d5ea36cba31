"""Seeded texts of real kernels over tiny models of other memories: the same in any company."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama, tiny_mamba

from localinfra.engine.engine import Engine
from localinfra.engine.request import EngineSettings, GenerationRequest, SamplingParams
from localinfra.llama.context import ContextSettings, LlamaContext
from localinfra.llama.model import Model, ModelSettings

SEEDED = SamplingParams(is_reproducible=True, seed=7)


async def text(engine: Engine, request: GenerationRequest) -> list[int | None]:
    async with engine.generate([request]) as generation:
        return [event.token async for events in generation for event in events]


def seeded(number: int) -> GenerationRequest:
    size = [3, 17, 70, 120, 18][number % 5]
    return GenerationRequest([40 + (number + i * i) % 150 for i in range(size)], 60, SEEDED)


def other(number: int) -> GenerationRequest:
    chance = random.Random(number)
    prompt = [chance.randrange(40, 190) for _ in range(chance.randrange(1, 200))]
    return GenerationRequest(prompt, chance.randrange(1, 60), num_choices=chance.choice([1, 2]))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3, tiny_mamba])
@pytest.mark.parametrize("kv_type", ["f16", "bf16"])
def test_seeded_texts_are_the_same_in_any_company(
    tmp_path: Path, make: Callable[[], TinyModel], kv_type: str
) -> None:
    model = Model(make().write(tmp_path / "tiny.gguf"), ModelSettings())
    settings = ContextSettings(
        context_length=400, num_cells=1000, num_sequences=4, batch_size=128, threads=2,
        kv_type=kv_type,
    )  # fmt: skip

    async def run() -> None:
        engine = Engine(LlamaContext(model, settings), EngineSettings(max_parked=1 << 20))
        alone = [await text(engine, seeded(number)) for number in range(5)]
        for attempt in range(4):
            requests = [(seeded(n), other(100 * attempt + n)) for n in range(5)]
            flat = [request for pair in requests for request in pair]
            got = await asyncio.gather(*(text(engine, request) for request in flat))
            assert got[::2] == alone
        await asyncio.to_thread(engine.close)

    asyncio.run(run())
